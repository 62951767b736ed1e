// Language-guided knowledge aggregation on the device, in one launch where the loss left the teacher's unit rows and
// categories: a block an image (the first image of each category moves its anchor, and every image enters the queue),
// and one more that counts. Bytes at least: the batch's rows, and of the bank the rows that were hit, read and written,
// with their float16 rows: 256 x 1024 with 200 categories hit 1 + 1.6 + 0.4 MB, 1 us. The time is that of a launch, 3
// us, but for long banks: the block that counts walks over their flags in windows of 8,192 categories, each an access
// to L2 cache between three barriers, so about 1 us a window (an estimate): 13 for K = 100,000. More blocks would have
// to add their counts up in the record, which lies in the host's memory. Without them it first normalises, forms scores
// in float32 and looks for the nearest: three launches more.
#include <algorithm>

#include "semantic/bank_update.h"
#include "semantic/block_reduce.cuh"
#include "semantic/kernels.h"

namespace lgd {

namespace {

__global__ void nearest_kernel(int64_t n, const float* scores, int64_t stride, int32_t* nearest) {
  wait_for_inputs();
  Candidate first[1] = {thread_first(n, scores + blockIdx.x * stride)};
  block_first(first);
  if (threadIdx.x == 0) nearest[blockIdx.x] = first[0].column == no_column ? 0 : first[0].column;
}

struct Update {
  int64_t rows, dimension;
  float momentum;
  const float *unit, *norm;   // [rows, D], [rows]
  const int32_t* assignment;  // [rows]; null without banks
  BankTargets targets;
  int64_t categories;  // 0 without banks
  // of more rows than the queue has slots the first do not enter it; where the next one goes
  int64_t skipped, first_slot;
  UpdateRecord* record;
};

// The images of one category: a bit each in shared memory, how many, the first of them.
struct Members {
  const uint32_t* bits;
  int count, first;
};
constexpr int no_image = 0x7fffffff;

// Marks the images of a category; says whether a row of the batch is faulty. A warp looks at 32 images at a time, and
// loads of `windows` times as many are under way at once.
__device__ bool mark_members(const Update& args, int32_t category, uint32_t* bits, Members& members) {
  constexpr int windows = 4;
  __shared__ int faults[reduce_warps], counts[reduce_warps], firsts[reduce_warps];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int fault = 0, count = 0, first = no_image;
  for (int64_t base = warp * 32; base < args.rows; base += windows * reduce_threads) {
    int32_t categories[windows];
    float norms[windows];
#pragma unroll
    for (int w = 0; w < windows; ++w) {
      const int64_t i = base + w * reduce_threads + lane;
      categories[w] = args.assignment && i < args.rows ? args.assignment[i] : -1;
      norms[w] = i < args.rows ? args.norm[i] : 1;
    }
#pragma unroll
    for (int w = 0; w < windows; ++w) {
      const int64_t start = base + w * reduce_threads;
      const uint32_t found = ballot(categories[w] == category);
      fault |= !(norms[w] > 0);
      if (lane == 0 && start < args.rows) bits[start / 32] = found;
      count += __popc(found);
      if (found != 0 && first == no_image) first = int(start) + __ffs(int(found)) - 1;
    }
  }
  fault = ballot(fault) != 0;
  if (lane == 0) {
    faults[warp] = fault;
    counts[warp] = count;
    firsts[warp] = first;
  }
  __syncthreads();
  members = {bits, 0, no_image};
  for (int w = 0; w < reduce_warps; ++w) {
    fault |= faults[w];
    members.count += counts[w];
    members.first = min(members.first, firsts[w]);
  }
  return fault != 0;
}

__device__ void write_row(const OperandLayout& layout, void* operands, int64_t row, int64_t d, float value) {
  if (operands) write_operand(layout, static_cast<f16*>(operands) + row * layout.stride() + d, value);
}

__device__ void enqueue_row(const Update& args, int64_t image) {
  const BankTargets& to = args.targets;
  if (image < args.skipped) return;
  int64_t slot = args.first_slot + image - args.skipped;
  if (slot >= to.queue_size) slot -= to.queue_size;
  for (int64_t d = threadIdx.x; d < args.dimension; d += reduce_threads) {
    const float value = args.unit[image * args.dimension + d];
    to.queue[slot * args.dimension + d] = value;
    write_row(to.layout, to.queue_operands, slot, d, value);
  }
}

// sums[i] <- values d + 256 i of the members' rows, added in the members' order, in float32; of values that a row lacks
// whatever comes. The rows of four members are under way at once: a category may have many images, and the block that
// adds them nobody to hide behind.
constexpr int values_each = 4;
__device__ __forceinline__ void add_members(const Update& args, const Members& members, int64_t d,
                                            float (&sums)[values_each]) {
  constexpr int at_once = 4;
  int offsets[values_each];
#pragma unroll
  for (int i = 0; i < values_each; ++i) {
    offsets[i] = d + i * reduce_threads < args.dimension ? i * reduce_threads : 0;
    sums[i] = 0;
  }
  const float* unit = args.unit + d;
  int word = members.first / 32;
  uint32_t bits = members.bits[word];
  for (int left = members.count; left > 0; left -= at_once) {
    float values[at_once][values_each];
    int image = members.first;  // in the place of a member that is not there
#pragma unroll
    for (int m = 0; m < at_once; ++m) {
      if (m < left) {
        while (bits == 0) bits = members.bits[++word];
        image = word * 32 + __ffs(int(bits)) - 1;
        bits &= bits - 1;
      }
      const float* row = unit + image * args.dimension;
#pragma unroll
      for (int i = 0; i < values_each; ++i) values[m][i] = row[offsets[i]];
    }
#pragma unroll
    for (int m = 0; m < at_once; ++m)
#pragma unroll
      for (int i = 0; i < values_each; ++i) sums[i] += m < left ? values[m][i] : 0.f;
  }
}

__device__ void move_anchor(const Update& args, int64_t image, uint32_t* bits) {
  const int32_t category = args.assignment ? args.assignment[image] : 0;
  Members members;
  const bool faulty = mark_members(args, category, bits, members);
  if (!faulty && args.targets.queue) enqueue_row(args, image);
  if (faulty || !args.assignment || image != members.first) return;
  const bool known = args.targets.seen[category] != 0;
  const float keep = known ? args.momentum : 0.f, take = (1 - keep) / float(members.count);
  float* anchor = args.targets.visual + category * args.dimension;
  for (int64_t first = threadIdx.x; first < args.dimension; first += values_each * reduce_threads) {
    float sums[values_each];
    add_members(args, members, first, sums);
#pragma unroll
    for (int i = 0; i < values_each; ++i) {
      const int64_t d = first + i * reduce_threads;
      if (d >= args.dimension) continue;
      const float value = known ? keep * anchor[d] + take * sums[i] : take * sums[i];
      anchor[d] = value;
      write_row(args.targets.layout, args.targets.visual_operands, category, d, value);
    }
  }
  __syncthreads();  // every thread has read the flag
  if (threadIdx.x == 0) args.targets.seen[category] = 1;
}

constexpr int window = 8192;  // categories whose flags lie in shared memory at once

__device__ int ones(uint32_t flags) { return int(flags * 0x01010101u >> 24); }  // of four bytes 0 or 1
__device__ int ones(const uint4& flags) { return ones(flags.x) + ones(flags.y) + ones(flags.z) + ones(flags.w); }
__device__ uint4 either(const uint4& a, const uint4& b) {
  return make_uint4(a.x | b.x, a.y | b.y, a.z | b.z, a.w | b.w);
}

// The other blocks set flags of `seen` meanwhile: those of the categories that are hit, which count as seen whichever
// is read.
__device__ void count_categories(const Update& args, uint8_t* hit) {
  Candidate faults[2];
  mark_faults(args.rows, args.norm, faults[0], faults[1]);
  block_first(faults);
  const RowFaults found = faults_of(faults[0], faults[1]);
  const int64_t moving = found.zero > 0 || found.non_finite > 0 ? 0 : args.rows;
  int hits = 0, seen_after = 0;
  for (int64_t begin = 0; begin < args.categories; begin += window) {
    const int size = int(min(int64_t(window), args.categories - begin));
    const uint8_t* seen = args.targets.seen + begin;
    uint4* hit_vectors = reinterpret_cast<uint4*>(hit);
    for (int k = threadIdx.x; k < (size + 15) / 16; k += reduce_threads) hit_vectors[k] = make_uint4(0, 0, 0, 0);
    __syncthreads();
    for (int64_t i = threadIdx.x; i < moving; i += reduce_threads) {
      const int64_t k = args.assignment[i] - begin;
      if (k >= 0 && k < size) store_unordered(hit + k, uint8_t(1));  // several images may have this category
    }
    __syncthreads();
    for (int k = threadIdx.x; k < size / 16; k += reduce_threads) {
      const uint4 flags = hit_vectors[k];
      hits += ones(flags);
      seen_after += ones(either(flags, load_unordered(reinterpret_cast<const uint4*>(seen) + k)));
    }
    for (int k = size / 16 * 16 + threadIdx.x; k < size; k += reduce_threads) {
      hits += hit[k];
      seen_after += hit[k] | load_unordered(seen + k);
    }
    __syncthreads();
  }
  double counts[2] = {double(hits), double(seen_after)};
  block_sum(counts);
  if (threadIdx.x == 0) *args.record = {counts[0], counts[1], found};
}

// Two blocks a multiprocessor are what a batch makes; for more the compiler would keep to 40 registers, and spill.
__global__ void __launch_bounds__(reduce_threads, 2) update_kernel(const __grid_constant__ Update args) {
  wait_for_inputs();
  LGD_DYNAMIC_SHARED(uint4, shared);
  if (blockIdx.x < args.rows) move_anchor(args, blockIdx.x, reinterpret_cast<uint32_t*>(shared));
  else count_categories(args, reinterpret_cast<uint8_t*>(shared));
}

struct UpdateMemory {
  float *unit, *norm, *scores;
  int32_t* assignment;

  UpdateMemory(Carver& carver, const KnownTeachers& known, bool wanted, int64_t rows, int64_t dimension,
               int64_t score_values) {
    unit = known.unit ? nullptr : carver.take<float>(rows * dimension);
    norm = known.unit ? nullptr : carver.take<float>(rows);
    scores = carver.take<float>(score_values);
    assignment = known.unit || wanted ? nullptr : carver.take<int32_t>(rows);
  }
};

}  // namespace

void bank_update_cuda(Context& device, int64_t dimension, int64_t categories, float momentum,
                      const std::vector<TeacherBatch>& batches, const BankTargets& targets, const KnownTeachers& known,
                      int32_t* assignment, UpdateRecord* record) {
  int64_t rows = 0;
  for (const TeacherBatch& batch : batches) rows += batch.rows;
  // Beside the images' bits a block has its reductions'.
  const size_t members = size_t((rows + 31) / 32) * sizeof(uint32_t),
               most = device.card.block_shared_bytes - (size_t(4) << 10);
  LGD_CHECK(members <= most, "BAD_SHAPE", "a bank update of ", rows, " images. Allowed on this GPU: ", most * 8,
            ". Use a smaller batch, or accumulate fewer");
  const int64_t stride = score_stride(categories);
  const int64_t rows_at_once = rows_at_a_time(rows, stride);
  const int64_t score_values = known.unit || !targets.textual ? 0 : rows_at_once * stride;
  const auto memory = carve<UpdateMemory>(device, known, assignment != nullptr, rows, dimension, score_values);

  Update update = {rows,       dimension,
                   momentum,   known.unit,
                   known.norm, targets.textual ? known.assignment : nullptr,
                   targets,    targets.textual ? categories : 0,
                   0,          0,
                   record};
  if (targets.queue) {
    update.skipped = std::max<int64_t>(0, rows - targets.queue_size);
    update.first_slot = (targets.queue_position + update.skipped) % targets.queue_size;
  }
  if (!known.unit) {
    int64_t begin = 0;
    for (const TeacherBatch& batch : batches) {
      normalise_rows_cuda(device, batch.rows, dimension, batch.embeddings, memory.unit + begin * dimension,
                          memory.norm + begin);
      begin += batch.rows;
    }
    int32_t* nearest = assignment ? assignment : memory.assignment;
    for (begin = 0; targets.textual && begin < rows; begin += rows_at_once) {
      const int64_t count = std::min(rows_at_once, rows - begin);
      similarities_cuda(device, count, categories, dimension, memory.unit + begin * dimension, targets.textual,
                        memory.scores, stride);
      LGD_LAUNCH(device, nearest_kernel, unsigned(count), reduce_threads, 0, categories, memory.scores, stride,
                 nearest + begin);
    }
    update.unit = memory.unit;
    update.norm = memory.norm;
    update.assignment = targets.textual ? nearest : nullptr;
  }
  const size_t flags = size_t(std::min<int64_t>(window, (update.categories + 15) / 16 * 16));
  const size_t bytes = std::max(members, flags);
  allow_shared_memory(&update_kernel, bytes);
  LGD_LAUNCH(device, update_kernel, unsigned(rows + 1), reduce_threads, bytes, update);
}

}  // namespace lgd
