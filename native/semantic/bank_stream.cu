// The softmaxes of long banks: nothing of size B N is stored. One kernel forms scores tile by tile and keeps, for every
// image and part, the peaks and sums of an online softmax; one merges them over the blocks; and for each chunk of
// anchors one forms the same scores again (bit for bit) and writes the chunk's weights, as float16, for the gradient's
// product. Storing the scores would write 8 bytes for an image and an anchor and read 16 (8 ps at 2.98 TB/s); forming
// them again takes 4 D operations (5 ps for D = 512 at 400 TF, 10 for 1024) and no memory. The exponentials, two each
// time, run beside the products of the other block on the multiprocessor. A thread holds student's and teacher's score
// of an image and an anchor (products_f16.cuh); four lanes share the columns of a row.
#include <algorithm>

#include "semantic/block_reduce.cuh"
#include "semantic/products_f16.cuh"

namespace lgd::loss_cuda {

// Of some columns of one image: peaks, sums of e_s = exp((s - s_peak) / t_S), of e_t alike, of e_t (s - s_peak) / t_S
// and e_t (t - t_peak) / t_T, and where the peaks are.
struct alignas(16) StreamMemory::Sums {
  float s_peak, s_sum, t_peak, t_sum, cross, self;
  int32_t s_column, t_column;
};

namespace {

using namespace products;
using Sums = StreamMemory::Sums;
constexpr int images = Large::BM / 2;  // of a tile
static_assert(Large::BN == stream_columns);

__device__ Sums no_sums() {
  const Candidate none = no_candidate();
  return {none.score, 0, none.score, 0, 0, 0, none.column, none.column};
}

__device__ Sums of_other_lane(const Sums& mine, int mask) {
  return {shfl_xor(mine.s_peak, mask),   shfl_xor(mine.s_sum, mask),   shfl_xor(mine.t_peak, mask),
          shfl_xor(mine.t_sum, mask),    shfl_xor(mine.cross, mask),   shfl_xor(mine.self, mask),
          shfl_xor(mine.s_column, mask), shfl_xor(mine.t_column, mask)};
}

__device__ Sums merged(const Sums& a, const Sums& b, const Softmax& args) {
  if (b.s_sum == 0) return a;  // no columns
  if (a.s_sum == 0) return b;
  const bool s_from_b = before({b.s_peak, b.s_column}, {a.s_peak, a.s_column}),
             t_from_b = before({b.t_peak, b.t_column}, {a.t_peak, a.t_column});
  Sums sum;
  sum.s_peak = s_from_b ? b.s_peak : a.s_peak;
  sum.t_peak = t_from_b ? b.t_peak : a.t_peak;
  sum.s_column = s_from_b ? b.s_column : a.s_column;
  sum.t_column = t_from_b ? b.t_column : a.t_column;
  const float a_ds = (a.s_peak - sum.s_peak) * args.student_factor,
              b_ds = (b.s_peak - sum.s_peak) * args.student_factor;
  const float a_dt = (a.t_peak - sum.t_peak) * args.teacher_factor,
              b_dt = (b.t_peak - sum.t_peak) * args.teacher_factor;
  const float a_t = expf(a_dt), b_t = expf(b_dt);
  sum.s_sum = a.s_sum * expf(a_ds) + b.s_sum * expf(b_ds);
  sum.t_sum = a.t_sum * a_t + b.t_sum * b_t;
  sum.cross = a_t * (a.cross + a.t_sum * a_ds) + b_t * (b.cross + b.t_sum * b_ds);
  sum.self = a_t * (a.self + a.t_sum * a_dt) + b_t * (b.self + b.t_sum * b_dt);
  return sum;
}

// One part's columns and how blocks share them.
struct Share {
  int64_t begin;  // anchor of column 0
  int count, tiles, splits;
};
struct Shares {
  Share part[2];  // textual, visual
};

int tiles_of(int64_t count, int tile) { return int((count + tile - 1) / tile); }

// Both kernels have the same threads, registers and shared memory.
int blocks_at_once(const Context& device);

// As many blocks as run at once, shared by the parts by their size: on a card, the order of sums depends on the shape
// only.
Shares shares_of(const Context& device, const ScoreProduct& product, const Softmax& softmax) {
  const int64_t counts[2] = {softmax.textual, softmax.total - softmax.textual}, begins[2] = {0, softmax.textual};
  const int blocks = std::max(1, blocks_at_once(device) / tiles_of(product.batch, images)),
            all = tiles_of(counts[0], Large::BN) + tiles_of(counts[1], Large::BN);
  Shares shares;
  for (int part = 0; part < 2; ++part) {
    const int tiles = tiles_of(counts[part], Large::BN);
    const int splits = tiles == 0 ? 0 : std::clamp(int(int64_t(blocks) * tiles / all), 1, tiles);
    // none without a tile
    shares.part[part] = {begins[part], int(counts[part]), tiles,
                         splits == 0 ? 0 : tiles_of(tiles, tiles_of(tiles, splits))};
  }
  return shares;
}

// Student's and teacher's scores of one image in this lane, and the columns they belong to.
template <int MI, int NI>
struct RowScores {
  const float (&acc)[MI][NI][4];
  int i, half;
  __device__ float student(int e) const { return acc[i][e / 2][half * 2 + e % 2]; }
  __device__ float teacher(int e) const { return acc[i + 1][e / 2][half * 2 + e % 2]; }
};

// The sums of one row over a tile, given to its four lanes; columns from `count` on do not exist.
template <class Row>
__device__ __forceinline__ Sums row_sums(const Row& row, const Warp<Large>& at, int first, int count,
                                         const Softmax& args) {
  constexpr int values = 2 * Large::NI;
  Candidate s_first = no_candidate(), t_first = no_candidate();
#pragma unroll
  for (int e = 0; e < values; ++e) {
    const int column = first + at.column_of(e / 2) + e % 2;
    if (column < count && row.student(e) > s_first.score) s_first = {row.student(e), column};
    if (column < count && row.teacher(e) > t_first.score) t_first = {row.teacher(e), column};
  }
#pragma unroll
  for (int mask = 1; mask <= 2; mask *= 2) {
    exchange_first(s_first, mask);
    exchange_first(t_first, mask);
  }
  float s_sum = 0, t_sum = 0, cross = 0, self = 0;
#pragma unroll
  for (int e = 0; e < values; ++e) {
    if (first + at.column_of(e / 2) + e % 2 >= count) continue;
    const float ds = (row.student(e) - s_first.score) * args.student_factor,
                dt = (row.teacher(e) - t_first.score) * args.teacher_factor;
    const float et = exp_of(dt);
    s_sum += exp_of(ds);
    t_sum += et;
    cross += et * ds;
    self += et * dt;
  }
#pragma unroll
  for (int mask = 1; mask <= 2; mask *= 2) {
    s_sum += shfl_xor(s_sum, mask);
    t_sum += shfl_xor(t_sum, mask);
    cross += shfl_xor(cross, mask);
    self += shfl_xor(self, mask);
  }
  return {s_first.score, s_sum, t_first.score, t_sum, cross, self, s_first.column, t_first.column};
}

// Grid: tiles of images, shares of the columns. Of the four rows that a quad of lanes shares each lane keeps the
// running sums of one, in registers: beside the stages nothing but the tile's results has to fit shared memory, and the
// stages are free by then.
__global__ void __launch_bounds__(Large::threads, Large::resident)
    stream_sums_kernel(const __grid_constant__ ScoreFeed problem, const __grid_constant__ Softmax args,
                       const __grid_constant__ Shares shares, Sums* partial) {
  wait_for_inputs();
  // as many rows as lanes: 16 students beside their teachers, and again, each in two halves
  static_assert(Large::MI == 4);
  LGD_DYNAMIC_SHARED(f16, shared);
  const Warp<Large> at;
  const bool is_visual = int(blockIdx.y) >= shares.part[0].splits;
  const Share& share = shares.part[is_visual];
  const int split = int(blockIdx.y) - (is_visual ? shares.part[0].splits : 0),
            each = (share.tiles + share.splits - 1) / share.splits;
  const int first_tile = split * each, tiles = min(each, share.tiles - first_tile);
  ScoreFeed feed = problem;
  feed.anchors += share.begin * feed.stride;
  feed.anchor_count = share.count;
  feed.image = int(blockIdx.x) * images;
  feed.first_anchor = first_tile * Large::BN;
  feed.tile_anchors = Large::BN;
  Sums running = no_sums();
  run<Large, false>(feed, tiles, feed.steps(), shared, at, [&](const float (&acc)[Large::MI][Large::NI][4], int tile) {
    Sums mine = no_sums();
#pragma unroll
    for (int i = 0; i < Large::MI; i += 2)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const Sums sums = row_sums(RowScores<Large::MI, Large::NI>{acc, i, half}, at,
                                   feed.first_anchor + tile * Large::BN, share.count, args);
        if (at.lane % 4 == i + half) mine = sums;
      }
    running = merged(running, mine, args);
  });
  Sums* columns = reinterpret_cast<Sums*>(shared);  // [WN][images]
  static_assert(Large::WN * images * sizeof(Sums) <= stage_bytes<Large>());
  __syncthreads();  // the last step of the last tile is multiplied
  const int row = at.row_of(at.lane % 4 / 2 * 2, at.lane % 2);
  columns[at.column / Large::TN * images + ScoreFeed::image_of(row)] = running;
  __syncthreads();
  for (int local = threadIdx.x; local < images && feed.image + local < feed.batch; local += Large::threads) {
    Sums sums = columns[local];
    for (int column = 1; column < Large::WN; ++column) sums = merged(sums, columns[column * images + local], args);
    partial[int64_t(blockIdx.y) * feed.batch + feed.image + local] = sums;
  }
}

struct PartResult {
  double loss, entropy;
  float4 factors;  // peaks, then the weight over the sums
};
__device__ PartResult finish_part(const Sums& sums, float weight) {
  return {log(double(sums.s_sum)) - double(sums.cross) / sums.t_sum,
          log(double(sums.t_sum)) - double(sums.self) / sums.t_sum,
          make_float4(sums.s_peak, sums.t_peak, weight / sums.s_sum, weight / sums.t_sum)};
}

// A warp an image: its lanes merge every 32nd share, then each other's; lane 0 has the result.
__global__ void __launch_bounds__(reduce_threads)
    merge_kernel(const __grid_constant__ Softmax args, const __grid_constant__ Shares shares, const Sums* partial,
                 float4* factors) {
  wait_for_inputs();
  const int64_t image = int64_t(blockIdx.x) * reduce_warps + threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  if (image >= args.batch) return;  // whole warps leave
  const auto sums_of = [&](int begin, int end) {
    Sums sums = no_sums();
    for (int split = begin + lane; split < end; split += 32)
      sums = merged(sums, partial[split * args.batch + image], args);
#pragma unroll 1
    for (int mask = 16; mask > 0; mask /= 2) sums = merged(sums, of_other_lane(sums, mask), args);
    return sums;
  };
  const int textual_splits = shares.part[0].splits;
  const Sums textual = sums_of(0, textual_splits);
  Sums visual = sums_of(textual_splits, textual_splits + shares.part[1].splits);
  if (lane != 0) return;
  RowStats row = {};
  row.agreement = args.textual > 0 && textual.s_column == textual.t_column;
  float own_weight = 0;
  if (args.textual_part) {
    const PartResult part = finish_part(textual, args.textual_weight);
    row.loss_textual = part.loss;
    row.entropy_textual = part.entropy;
    factors[image] = part.factors;
  }
  if (args.visual_part) {
    const float own = args.own_score[image];
    visual = merged(visual, {own, 1, 1, 1, 0, 0, -1, -1}, args);
    const PartResult part = finish_part(visual, args.visual_weight);
    const float own_student = expf((own - visual.s_peak) * args.student_factor),
                own_teacher = expf((1 - visual.t_peak) * args.teacher_factor);
    row.loss_visual = part.loss;
    row.entropy_visual = part.entropy;
    row.own_mass = double(own_teacher) / visual.t_sum;
    own_weight = own_student * part.factors.z - own_teacher * part.factors.w;
    factors[args.batch + image] = part.factors;
  }
  args.own_weight[image] = own_weight;
  args.stats[image] = row;
  if (args.assignment) args.assignment[image] = textual.t_column == no_column ? 0 : textual.t_column;
}

__device__ __forceinline__ uint32_t pair_of(float low, float high) {
  const f16 pair[2] = {__float2half_rn(low), __float2half_rn(high)};
  uint32_t word;
  memcpy(&word, pair, 4);
  return word;
}

// How many tiles of columns a block takes, one after another, so that copies of the next hide behind the exponentials
// of the last: the number with which the grid ends first, in waves of blocks that run at once, where a block waits half
// a tile's time for its first copies. No sum depends on it.
int tiles_a_block(const Context& device, int64_t image_tiles, int tiles) {
  const int64_t at_once = blocks_at_once(device);
  int64_t least = 0;
  int best = 0;
  for (int each = 1; each <= std::min(tiles, 64); ++each) {
    const int64_t blocks = image_tiles * tiles_of(tiles, each),
                  time = (blocks + at_once - 1) / at_once * (2 * each + 1);
    if (best != 0 && time >= least) continue;
    least = time;
    best = each;
  }
  return best;
}

// weights[image, column] = e_s weight / Z_S - e_t weight / Z_T. Grid: tiles of images, `each` tiles of columns.
__global__ void __launch_bounds__(Large::threads, Large::resident)
    stream_weights_kernel(const __grid_constant__ ScoreFeed problem, int each, float student_factor,
                          float teacher_factor, const float4* factors, f16* weights, int64_t weight_stride) {
  wait_for_inputs();
  LGD_DYNAMIC_SHARED(f16, shared);
  const Warp<Large> at;
  const int first_tile = int(blockIdx.y) * each, all = (problem.anchor_count + Large::BN - 1) / Large::BN;
  ScoreFeed feed = problem;
  feed.image = int(blockIdx.x) * images;
  feed.first_anchor = first_tile * Large::BN;
  feed.tile_anchors = Large::BN;
  run<Large, false>(feed, min(each, all - first_tile), feed.steps(), shared, at,
                    [&](const float (&acc)[Large::MI][Large::NI][4], int tile) {
                      const int first = feed.first_anchor + tile * Large::BN;
#pragma unroll
                      for (int i = 0; i < Large::MI; i += 2)
#pragma unroll
                        for (int half = 0; half < 2; ++half) {
                          const int image = feed.image + ScoreFeed::image_of(at.row_of(i, half));
                          if (image >= feed.batch) continue;
                          const RowScores<Large::MI, Large::NI> row = {acc, i, half};
                          const float4 factor = factors[image];
                          const auto weight = [&](int e) {
                            if (first + at.column_of(e / 2) + e % 2 >= feed.anchor_count) return 0.f;
                            return exp_of((row.student(e) - factor.x) * student_factor) * factor.z -
                                   exp_of((row.teacher(e) - factor.y) * teacher_factor) * factor.w;
                          };
                          f16* to = weights + int64_t(image) * weight_stride + first;
#pragma unroll
                          for (int j = 0; j < Large::NI; ++j)
                            store_as<uint32_t>(to + at.column_of(j), pair_of(weight(2 * j), weight(2 * j + 1)));
                        }
                    });
}

int blocks_at_once(const Context& device) {
  allow_shared_memory(&stream_sums_kernel, stage_bytes<Large>());
  return device.card.multiprocessors *
         resident_blocks(&stream_sums_kernel, Large::threads, stage_bytes<Large>(), Large::resident);
}

}  // namespace

StreamMemory stream_memory(const Context& device, Carver& carver, const ScoreProduct& product, const Softmax& softmax) {
  const Shares shares = shares_of(device, product, softmax);
  StreamMemory memory;
  memory.partial = carver.take<Sums>((shares.part[0].splits + shares.part[1].splits) * product.batch);
  memory.factors = carver.take<float4>(2 * product.batch);
  return memory;
}

void stream_softmax(Context& device, const ScoreProduct& product, const Softmax& softmax, const StreamMemory& memory) {
  const Shares shares = shares_of(device, product, softmax);
  const dim3 grid(unsigned(tiles_of(product.batch, images)), unsigned(shares.part[0].splits + shares.part[1].splits));
  if (grid.y > 0)
    LGD_LAUNCH(device, stream_sums_kernel, grid, Large::threads, stage_bytes<Large>(),
               feed_of(product, 0, product.anchor_count), softmax, shares, memory.partial);
  LGD_LAUNCH(device, merge_kernel, blocks_for(product.batch, reduce_warps), reduce_threads, 0, softmax, shares,
             memory.partial, memory.factors);
}

void stream_weights(Context& device, const ScoreProduct& product, const Softmax& softmax, const StreamMemory& memory,
                    int64_t begin, int64_t count, f16* weights, int64_t weight_stride) {
  const ScoreFeed feed = feed_of(product, begin, count);
  const float4* factors = memory.factors + (begin >= softmax.textual ? product.batch : 0);
  allow_shared_memory(&stream_weights_kernel, stage_bytes<Large>());
  const int image_tiles = tiles_of(product.batch, images), tiles = tiles_of(count, Large::BN),
            each = tiles_a_block(device, image_tiles, tiles);
  const dim3 grid(unsigned(image_tiles), unsigned(tiles_of(tiles, each)));
  LGD_LAUNCH(device, stream_weights_kernel, grid, Large::threads, stage_bytes<Large>(), feed, each,
             softmax.student_factor, softmax.teacher_factor, factors, weights, weight_stride);
}

}  // namespace lgd::loss_cuda
