// The two products of the loss on tensor cores: scores that are stored, and sums of anchors in shares.
//   scores  2 B N D multiply-adds; reads 2 B D + N D float16, writes 2 B N float32
//   sums    B N D multiply-adds; reads B N + N D float16, writes parts B D float32
// Both are bound by what the tiles read from L2 (products_f16.cuh), the scores of long banks by their stores.
#include <algorithm>

#include "semantic/products_f16.cuh"

namespace lgd::loss_cuda {

namespace {

using namespace products;

int64_t tiles_of(int64_t count, int tile) { return (count + tile - 1) / tile; }

template <class Tile>
__global__ void __launch_bounds__(Tile::threads, Tile::resident)
    scores_kernel(const __grid_constant__ ScoreFeed problem, int tiles_each, float* scores, int stride) {
  wait_for_inputs();
  LGD_DYNAMIC_SHARED(f16, shared);
  const Warp<Tile> at;
  ScoreFeed feed = problem;
  feed.image = int(blockIdx.x) * (Tile::BM / 2);
  feed.first_anchor = int(blockIdx.y) * tiles_each * Tile::BN;
  feed.tile_anchors = Tile::BN;
  const int tiles = min(tiles_each, (feed.anchor_count - feed.first_anchor + Tile::BN - 1) / Tile::BN);
  run<Tile, false>(feed, tiles, feed.steps(), shared, at, [&](const float (&acc)[Tile::MI][Tile::NI][4], int tile) {
    // the stride is even, so pairs fit or do not
    const int first = feed.first_anchor + tile * Tile::BN + at.column_of(0), left = stride - first;
#pragma unroll
    for (int i = 0; i < Tile::MI; ++i)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int r = at.row_of(i, half);
        const int image = feed.image + ScoreFeed::image_of(r);
        if (image >= feed.batch) continue;
        float* row = scores + int64_t(r / 16 % 2 * feed.batch + image) * stride + first;
#pragma unroll
        for (int j = 0; j < Tile::NI; ++j)
          if (j * 8 < left) store_as<float2>(row + j * 8, make_float2(acc[i][j][half * 2], acc[i][j][half * 2 + 1]));
      }
  });
}

// A block takes several tiles of anchors where there are many, so that its stores run beside the next tile's products.
template <class Tile>
void launch_scores(Context& device, const ScoreFeed& feed, float* scores, int stride) {
  allow_shared_memory(&scores_kernel<Tile>, stage_bytes<Tile>());
  const int64_t image_tiles = tiles_of(feed.batch, Tile::BM / 2), anchor_tiles = tiles_of(feed.anchor_count, Tile::BN);
  const int resident = resident_blocks(&scores_kernel<Tile>, Tile::threads, stage_bytes<Tile>(), Tile::resident);
  const int each =
      int(std::clamp<int64_t>(image_tiles * anchor_tiles / (resident * device.card.multiprocessors), 1, 4));
  const dim3 grid(unsigned(image_tiles), unsigned(tiles_of(anchor_tiles, each)));
  LGD_LAUNCH(device, scores_kernel<Tile>, grid, Tile::threads, stage_bytes<Tile>(), feed, each, scores, stride);
}

struct SumFeed {
  const f16 *weights, *anchors;  // at the tile's first image; at its first value
  int64_t weight_stride, anchor_stride;
  int images, values;  // in the tile
  int end;             // of the share
  int n;               // of the step

  int begin = 0;
  __device__ void choose(int, int s) { n = begin + s * step; }
  __device__ const f16* a(int r, int c, bool& valid) const {
    valid = r < images && n + c * chunk < end;
    return valid ? weights + r * weight_stride + n + c * chunk : weights;
  }
  __device__ const f16* b(int r, int c, bool& valid) const {
    valid = n + r < end && c * chunk < values;
    return valid ? anchors + (n + r) * anchor_stride + c * chunk : anchors;
  }
};

template <class Tile>
__global__ void __launch_bounds__(Tile::threads, Tile::resident)
    sums_kernel(const __grid_constant__ SumProduct problem, int share) {
  wait_for_inputs();
  LGD_DYNAMIC_SHARED(f16, shared);
  const Warp<Tile> at;
  const int image = int(blockIdx.x) * Tile::BM, value = int(blockIdx.y) * Tile::BN, begin = int(blockIdx.z) * share;
  const int end = min(begin + share, int(problem.anchor_count)),
            steps = end > begin ? (end - begin + step - 1) / step : 0;
  SumFeed feed = {problem.weights + image * problem.weight_stride,
                  problem.anchors + value,
                  problem.weight_stride,
                  problem.layout.stride(),
                  int(problem.batch) - image,
                  problem.layout.plane - value,
                  end,
                  begin,
                  begin};
  run<Tile, true>(feed, 1, steps, shared, at, [&](const float (&acc)[Tile::MI][Tile::NI][4], int) {
    const int dimension = int(problem.dimension), left = dimension - value - at.column_of(0);
    float* sums = problem.sums + (int64_t(blockIdx.z) * problem.batch + image) * dimension + value + at.column_of(0);
#pragma unroll
    for (int i = 0; i < Tile::MI; ++i)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = at.row_of(i, half);
        if (row >= feed.images) continue;
        float* to = sums + int64_t(row) * dimension;
#pragma unroll
        for (int j = 0; j < Tile::NI; ++j, to += 8) {
          if (dimension % 2 == 0) {
            if (j * 8 >= left) continue;
            const float2 before = problem.add ? load_as<float2>(to) : make_float2(0.f, 0.f);
            store_as<float2>(to, make_float2(before.x + acc[i][j][half * 2], before.y + acc[i][j][half * 2 + 1]));
          } else {
            for (int q = 0; q < 2; ++q)
              if (j * 8 + q < left) to[q] = (problem.add ? to[q] : 0.f) + acc[i][j][half * 2 + q];
          }
        }
      }
  });
}

// Anchors of a part: whole steps, so that fewer parts may do than were asked for.
int share_of(int64_t anchor_count, int64_t parts) {
  return int(std::max<int64_t>(1, tiles_of(anchor_count, int(parts) * step))) * step;
}

template <class Tile>
void launch_sums(Context& device, const SumProduct& problem) {
  const int share = share_of(problem.anchor_count, problem.parts);
  allow_shared_memory(&sums_kernel<Tile>, stage_bytes<Tile>());
  const dim3 grid(unsigned(tiles_of(problem.batch, Tile::BM)), unsigned(tiles_of(problem.dimension, Tile::BN)),
                  unsigned(problem.parts));
  LGD_LAUNCH(device, sums_kernel<Tile>, grid, Tile::threads, stage_bytes<Tile>(), problem, share);
}

bool suits_large(const Context& device, int64_t batch, int64_t dimension) {
  return tiles_of(batch, Large::BM) * tiles_of(dimension, Large::BN) * 4 >= device.card.multiprocessors;
}

}  // namespace

void form_scores(Context& device, const ScoreProduct& product, float* scores, int64_t stride) {
  if (product.anchor_count == 0) return;
  const ScoreFeed feed = feed_of(product, 0, product.anchor_count);
  const int64_t large = tiles_of(product.batch, Large::BM / 2) * tiles_of(product.anchor_count, Large::BN);
  if (large >= 2 * device.card.multiprocessors) launch_scores<Large>(device, feed, scores, int(stride));
  else launch_scores<Small>(device, feed, scores, int(stride));
}

// The results are few (B D) and the sums long: shares of the anchors fill the chip, two blocks a multiprocessor, of
// four steps at least.
int64_t sum_parts(const Context& device, int64_t batch, int64_t dimension, int64_t anchor_count) {
  const bool large = suits_large(device, batch, dimension);
  const int tile = large ? Large::BM : Small::BM;
  const int64_t fill = 2 * device.card.multiprocessors / (tiles_of(batch, tile) * tiles_of(dimension, tile)),
                most = anchor_count / (4 * step);
  const int64_t parts = std::max<int64_t>(1, std::min(fill, most));
  return std::max<int64_t>(1, tiles_of(anchor_count, share_of(anchor_count, parts)));
}

void form_sums(Context& device, const SumProduct& product) {
  if (suits_large(device, product.batch, product.dimension)) launch_sums<Large>(device, product);
  else launch_sums<Small>(device, product);
}

}  // namespace lgd::loss_cuda
