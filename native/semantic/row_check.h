// What is wrong with the rows of a caller's array, before it is used.
#pragma once
#include "semantic/bank_loss.h"

namespace lgd {

// The first row of zeros alone and the first with a value that is not finite, by the values' bits; device thread only.
// Host memory of any device: one pass at the speed of memory, shared among the device's threads.
RowFaults check_rows(Context& device, int64_t rows, int64_t dimension, const float* values);

}  // namespace lgd
