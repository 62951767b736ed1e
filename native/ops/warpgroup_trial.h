// A trial of dense products by warpgroups (core/cuda_warpgroup.cuh).
#pragma once
#include "core/context.h"

namespace lgd {

// Forms products by warps and twice by warpgroups, in every tile of theirs, with operands of either order, stored, made
// on the way and gathered. Returns the largest |by warpgroups - by warps| / |by warps|, as norms of whole results: both
// round alike, so more than a rounding of bfloat16 (2^-8) is a fault. DEVICE_UNAVAILABLE where the device has none;
// DEVICE_ERROR if two runs differ. On the device's thread; waits.
double warpgroup_difference(Context& ctx);

}  // namespace lgd
