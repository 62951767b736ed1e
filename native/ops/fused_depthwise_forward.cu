// Fused depthwise convolution, forward (ops/fused.h): y = conv(act(scale x + shift)), and the statistics of y as it is
// stored.
//
// Bytes at least: x and y once, 4 bytes an element at stride 1 in bfloat16. An H100 brings 12.9 bytes a clock to a
// multiprocessor, which issues 128 lane instructions in that time: 40 instructions an element at stride 1, of which the
// 3x3 kernel needs about 25 (9 multiply-adds, 5 to read and unpack, 7 to activate, 5 for storing and sums) and the 5x5
// kernel about 42. bfloat16 registers: 80 (3x3: 256 threads) and 96 (5x5: 192 threads), three blocks a multiprocessor.
// The walk is that of fused_depthwise.cuh; a step gives one output row and takes `stride` input rows, each added to all
// output rows that it is part of, which wait in registers.
#include "ops/fused_depthwise.cuh"
#include "ops/norm_finish.cuh"

namespace lgd {
namespace {

template <int R, int S>
struct Forward {
  static constexpr int lane_channels = R == 3 ? 2 : 1,
                       strip = R == 3   ? 2
                               : S == 1 ? 4
                                        : 2,
                       reach = (R - 1) / S + 1, threads = R == 3 ? 256 : 192, blocks = 3;
  static constexpr int loaded = S * (strip - 1) + R;  // columns of an input row that a strip sees
};

// The registers of one thread.
template <class T, int R, int S>
struct ForwardLane {
  using F = Forward<R, S>;
  static constexpr int channels = F::lane_channels, strip = F::strip, reach = F::reach;
  float taps[R * R][channels], pending[reach][strip][channels], sums[2][channels], centre[channels];

  __device__ __forceinline__ void start(const T* w, const float* centres, int pitch) {
#pragma unroll
    for (int k = 0; k < R * R; ++k) load_lane(w + k * pitch, taps[k]);
    load_lane(centres, centre);
#pragma unroll
    for (int c = 0; c < channels; ++c) sums[0][c] = sums[1][c] = 0;
#pragma unroll
    for (int a = 0; a < reach; ++a)
#pragma unroll
      for (int o = 0; o < strip; ++o)
#pragma unroll
        for (int c = 0; c < channels; ++c) pending[a][o][c] = 0;
  }

  __device__ __forceinline__ void begin_row(int newest) {
#pragma unroll
    for (int o = 0; o < strip; ++o)
#pragma unroll
      for (int c = 0; c < channels; ++c) pending[newest][o][c] = 0;
  }

  // Adds the i-th input row of a step to the output rows that see it; pending[newest] began with this step, the one
  // before it a step earlier.
  __device__ __forceinline__ void add_row(const T* line, int width, int newest, int i) {
    float v[F::loaded][channels];
#pragma unroll
    for (int k = 0; k < F::loaded; ++k, line += width) load_lane(line, v[k]);
#pragma unroll
    for (int a = 0; a < reach; ++a) {
      const int r = S * a + i;
      if (r >= R) continue;
#pragma unroll
      for (int q = 0; q < R; ++q)
#pragma unroll
        for (int o = 0; o < strip; ++o)
#pragma unroll
          for (int c = 0; c < channels; ++c) {
            float& sum = pending[(newest - a + reach) % reach][o][c];
            sum = fmaf(v[S * o + q][c], taps[r < R ? r * R + q : 0][c], sum);
          }
    }
  }

  // y: the strip's first pixel; valid: how many of its pixels are inside.
  __device__ __forceinline__ void emit(int row, T* y, int pitch, int valid) {
#pragma unroll
    for (int o = 0; o < strip; ++o)
      if (o < valid) {
        float (&out)[channels] = pending[row][o];
        store_lane(y + int64_t(o) * pitch, out);
#pragma unroll
        for (int c = 0; c < channels; ++c) {
          const float d = out[c] - centre[c];
          sums[0][c] += d;
          sums[1][c] = fmaf(d, d, sums[1][c]);
        }
      }
  }
};

template <class T, int R, int S>
__global__ void __launch_bounds__((Forward<R, S>::threads), (Forward<R, S>::blocks))
    forward_kernel(const __grid_constant__ ConvShape s, const __grid_constant__ DepthwiseWalk walk,
                   const __grid_constant__ StageSource source, const __grid_constant__ LazyInput x,
                   const __grid_constant__ ActForm form, const T* w, const float* centre, T* y, float* partial) {
  wait_for_inputs();
  using F = Forward<R, S>;
  LGD_DYNAMIC_SHARED(char, shared);
  const int first_channel = blockIdx.y * walk.width, channels = min(walk.width, s.c - first_channel);
  T* tiles = reinterpret_cast<T*>(shared);
  Pixel* table = reinterpret_cast<Pixel*>(tiles + 2 * source.elements);
  fill_table(walk, source, table);
  const Share share = share_of(walk, channels);
  const LanePlace lane = lane_place<F::lane_channels>(walk, channels);
  const int64_t row_pitch = int64_t(s.ow) * s.c;
  ForwardLane<T, R, S> me;
  if (lane.image < walk.images) me.start(w + first_channel + lane.channel, centre + first_channel + lane.channel, s.c);
  __syncthreads();

  // The stage of steps from `step` on of a tile; a tile's first reach - 1 steps only fill the window.
  const auto stage_of = [&](const TilePlace& place, int step) {
    const int first = S * place.row - s.pad;
    return StagePlace{place.image,
                      first + S * step,
                      S * place.column - s.pad,
                      0,
                      min(s.h, first + S * (rows_of(walk, place, s.oh) - 1) + R),
                      s.n - place.image};
  };
  const auto copy = [&](const TilePlace& place, int step, int buffer) {
    copy_stage<false>(walk, source, table, stage_of(place, step), share, static_cast<const T*>(x.y) + first_channel,
                      tiles + buffer * source.elements, static_cast<const T*>(nullptr), static_cast<T*>(nullptr));
    cp_commit();
  };
  const auto make = [&](const TilePlace& place, int step, int buffer) {
    if (x.scale)
      activate_stage(walk, tiles + buffer * source.elements, source, table, stage_of(place, step), share, x, form,
                     first_channel);
  };
  const auto compute = [&](const TilePlace& place, int step, int buffer) {
    const int n = place.image + lane.image, column = place.column + lane.strip * F::strip;
    const int valid = n < s.n ? s.ow - column : 0;
    if (valid <= 0) return;
    T* out = y + ((int64_t(n) * s.oh + place.row + step - (F::reach - 1)) * s.ow + column) * s.c + first_channel +
             lane.channel;
    const T* mine = tiles + buffer * source.elements +
                    (lane.image * source.columns + lane.strip * S * F::strip) * walk.width + lane.channel;
    const int rows = rows_of(walk, place, s.oh);
    int row = step - (F::reach - 1), iy = S * (place.row + step) - s.pad;
    for (int block = 0; block < walk.stage_steps; block += F::reach) {
#pragma unroll
      for (int p = 0; p < F::reach; ++p, ++row, out += row_pitch) {
        if (row >= rows) return;
        me.begin_row(p);
#pragma unroll
        for (int i = 0; i < S; ++i, ++iy, mine += source.line)
          if (unsigned(iy) < unsigned(s.h)) me.add_row(mine, walk.width, p, i);
        if (row >= 0) me.emit((p + 1) % F::reach, out, s.c, valid);
      }
    }
  };

  walk_stages(walk, s.oh, F::reach, copy, make, compute);
  sum_strips(walk, lane, reinterpret_cast<float*>(shared), me.sums, [&](int k, int channel, float sum) {
    if (channel < channels) partial[(int64_t(blockIdx.x) * 2 + k) * s.c + first_channel + channel] = sum;
  });
}

template <int R, int S>
StageSource source_of(const ConvShape& s, const DepthwiseWalk& walk) {
  return {walk, s.h, s.w, s.c, S * walk.stage_steps, S * walk.columns + R - S};
}

template <class T, int R, int S>
DepthwiseWalk plan(const Card& card, const ConvShape& s) {
  using F = Forward<R, S>;
  const auto size = [&](const DepthwiseWalk& walk) {
    const StageSource source = source_of<R, S>(s, walk);
    return std::max(size_t(2) * source.elements * sizeof(T) + source.table_bytes(),
                    size_t(walk.threads) * F::lane_channels * 2 * 4);
  };
  const int blocks = resident_blocks(&forward_kernel<T, R, S>, F::threads, 0, F::blocks);  // by their registers
  return plan_walk(card, {F::lane_channels, F::strip, F::reach, F::threads, blocks}, s.n, s.oh, s.ow, s.c, size);
}

template <class T, int R, int S>
void run(Context& ctx, const ConvShape& s, const LazyInput& x, const T* w, const NormTarget& norm, T* y) {
  DepthwiseWalk walk = plan<T, R, S>(ctx.card, s);
  walk.back = ctx.turn();
  const ActForm form = form_of(x.act);
  float* partial = static_cast<float*>(ctx.scratch(size_t(walk.parts) * 2 * s.c * 4));
  allow_shared_memory(&forward_kernel<T, R, S>, walk.shared_bytes);
  LGD_LAUNCH(ctx, (forward_kernel<T, R, S>), dim3(walk.parts, walk.groups), walk.threads, walk.shared_bytes, s, walk,
             source_of<R, S>(s, walk), x, form, w, norm.running_mean, y, partial);
  finish_statistics(ctx, partial, walk.parts, s.c, s.rows(), norm);
}

}  // namespace

void depthwise_norm_forward_cuda(Context& ctx, const ConvShape& s, DType type, const LazyInput& x, const void* w,
                                 const NormTarget& norm, void* y) {
  check_fused_depthwise(s, x);
  with_type(type, [&]<class T>(T) {
    const auto call = [&](auto run) { run(ctx, s, x, static_cast<const T*>(w), norm, static_cast<T*>(y)); };
    if (s.r == 3) s.stride == 1 ? call(run<T, 3, 1>) : call(run<T, 3, 2>);
    else s.stride == 1 ? call(run<T, 5, 1>) : call(run<T, 5, 2>);
  });
}

}  // namespace lgd
