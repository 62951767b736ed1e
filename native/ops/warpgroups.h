// Whether dense products of bfloat16 are formed by warpgroups (core/cuda_warpgroup.cuh).
#pragma once
#include "ops/context.h"

namespace lgd {

// LGDISTILL_WGMMA=1, a device of compute capability 9.0, and code that was built for sm_90a. Off by default until a GPU has run it.
bool use_warpgroups(const Context& ctx);

}  // namespace lgd
