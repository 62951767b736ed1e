// Bytes: the parts once, from the level-2 cache as far as they still lie there, and the gradients read and written.
//
// A block has 1024 columns of a gradient and takes all parts of them, a thread four; where many parts would be a long
// way for few threads, 4 or 32 rows of threads share them and the block has fewer columns.
#include "ops/partial_sums.h"

#include <algorithm>

#include "core/cuda_device.cuh"

namespace lgd {
namespace {

constexpr int most_waiting = 32;
constexpr size_t most_waiting_bytes = 16 << 20;  // of parts: a third of an H100's level-2 cache
constexpr int threads = 256;

struct Job {
  PartialSum sum;
  int rows;  // of threads
  unsigned first_block;
};
struct Jobs {
  int count = 0;
  Job jobs[most_waiting];
};

int rows_for(int splits) { return splits <= 8 ? 1 : splits <= 64 ? 4 : 32; }
unsigned blocks_of(const Job& job) {
  const int64_t columns = threads / job.rows * 4;
  return unsigned((job.sum.count + columns - 1) / columns);
}

__device__ __forceinline__ void add_to(float4& sum, const float4& x) {
  sum.x += x.x;
  sum.y += x.y;
  sum.z += x.z;
  sum.w += x.w;
}

__global__ void __launch_bounds__(threads) partial_sums_kernel(const __grid_constant__ Jobs all) {
  wait_for_inputs();
  __shared__ float4 sums[threads];
  int number = 0;
  while (number + 1 < all.count && blockIdx.x >= all.jobs[number + 1].first_block) ++number;
  const Job& job = all.jobs[number];
  const int width = threads / job.rows, row = int(threadIdx.x) / width;
  const int64_t column = (int64_t(blockIdx.x - job.first_block) * width + threadIdx.x % width) * 4,
                count = job.sum.count;
  float4 sum = make_float4(0, 0, 0, 0);
  if (column < count) {
#pragma unroll 4
    for (int split = row; split < job.sum.splits; split += job.rows)
      add_to(sum, load_as<float4>(job.sum.partial + split * count + column));
  }
  if (job.rows > 1) {
    sums[threadIdx.x] = sum;
    __syncthreads();
    if (row == 0)
      for (int other = 1; other < job.rows; ++other) add_to(sum, sums[other * width + threadIdx.x]);
  }
  if (row != 0 || column >= count) return;
  float* const out = job.sum.out + column;
  float4 total = load_as<float4>(out);
  add_to(total, sum);
  store_as<float4>(out, total);
}

}  // namespace

PartialSums& partial_sums(Context& ctx) {
  if (!ctx.sums) ctx.sums = new PartialSums;  // the device deletes it
  return static_cast<PartialSums&>(*ctx.sums);
}

PartialSums::~PartialSums() {
  if (memory_) cuda::release(memory_);
}

float* PartialSums::take(Context& ctx, int splits, int64_t count) {
  const size_t bytes = (size_t(splits) * size_t(count) * sizeof(float) + 255) / 256 * 256;
  if (used_ + bytes > bytes_ || waiting_.size() + most_at_once > most_waiting) flush(ctx);
  if (bytes > bytes_) {
    ctx.release(memory_, bytes_);
    memory_ = nullptr;
    bytes_ = 0;
    memory_ = static_cast<float*>(ctx.allocate(std::max(bytes, most_waiting_bytes)));
    bytes_ = std::max(bytes, most_waiting_bytes);
  }
  float* partial = memory_ + used_ / sizeof(float);
  used_ += bytes;
  return partial;
}

void PartialSums::add(Context& ctx, std::initializer_list<PartialSum> sums) {
  LGD_CHECK(sums.size() <= most_at_once, "NATIVE_ERROR", "too many sums at once: ", sums.size());
  // Two sums for one gradient must not be under way in one launch.
  const auto waits = [&](const PartialSum& sum) {
    return std::any_of(waiting_.begin(), waiting_.end(), [&](const PartialSum& other) {
      return other.out < sum.out + sum.count && sum.out < other.out + other.count;
    });
  };
  const bool again = std::any_of(sums.begin(), sums.end(), waits);
  if (again) flush(ctx);
  waiting_.insert(waiting_.end(), sums);
  if (again || !deferring_) flush(ctx);
}

void PartialSums::defer() {
  waiting_.clear();
  used_ = 0;
  deferring_ = true;
}

void PartialSums::finish(Context& ctx) {
  deferring_ = false;
  flush(ctx);
}

void PartialSums::flush(Context& ctx) {
  used_ = 0;
  if (waiting_.empty()) return;
  Jobs all{};
  unsigned blocks = 0;
  for (const PartialSum& sum : waiting_) {
    Job& job = all.jobs[all.count++];
    job = {sum, rows_for(sum.splits), blocks};
    blocks += blocks_of(job);
  }
  waiting_.clear();
  LGD_LAUNCH(ctx, partial_sums_kernel, blocks, threads, 0, all);
}

void defer_sums_cuda(Context& ctx) { partial_sums(ctx).defer(); }
void finish_sums_cuda(Context& ctx) { partial_sums(ctx).finish(ctx); }

}  // namespace lgd
