// Calls of the emulated CUDA runtime that fail as told, and a list of all calls.
//   LGDISTILL_EMULATION_FAULT=cudaMalloc|cudaHostAlloc:3:cudaErrorMemoryAllocation
//     the third call of these, counted from when the variable got this value; *: of any
//   LGDISTILL_EMULATION_CALLS=file
//     a line for each call, with the error of one that fails
// An error that CUDA says ends the process's use of the GPU is what all calls give from then on, until the variable
// says something else. As on a GPU, work that fails so is enqueued without an error: whoever waits for it hears of it,
// or whoever calls after that.
#pragma once
#include "streams.h"

namespace lgd::emulation {

// The first thing that a call does, by its name: what is no success is returned.
cudaError_t begin_call(const char* function);
// The same of a call that enqueues work.
cudaError_t begin_work(const char* function, Stream& stream);
// The same of a call that asks nothing of the GPU, and works on one that is lost.
cudaError_t begin_question(const char* function);

bool is_lost();

// Thrown where work runs that fails; from then on the GPU is lost.
struct Fault {
  cudaError_t status;
};

}  // namespace lgd::emulation

// How a call that gives nothing back unless it succeeds begins, by one of the functions above.
#define LGD_BEGIN(begin)                               \
  const std::lock_guard lock(::lgd::emulation::mutex); \
  if (const cudaError_t status = begin; status != cudaSuccess) return status
