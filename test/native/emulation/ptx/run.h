// Runs kernels by the PTX that nvcc makes of them, instead of by what the host's compiler makes of the same source:
// with LGDISTILL_EMULATION_PTX=<folder of .ptx files> (scripts/kernels/ptx.mjs makes one). What it is strict about:
// instructions of a warp together that not all its lanes reach, misaligned accesses, shared memory beyond the launch's,
// copies that nobody waits for, and memory as elsewhere here (NaN where nobody wrote). Who watches meanwhile: watch.h.
#pragma once
#include "core/cuda_device.cuh"

namespace lgd::emulation::ptx {

bool is_asked_for();
// As run_kernel of emulation.cpp, which gives it the order of blocks.
void run(const Launch& launch, const std::vector<int64_t>& blocks, Order how);

}  // namespace lgd::emulation::ptx
