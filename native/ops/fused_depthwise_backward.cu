// Fused depthwise convolution, backward, in one kernel (ops/fused.h): the gradient of the raw output is made from g and y on the way in,
// and of it the input's gradient with the norm's sums, and the kernel's gradient:
//   d_x[iy,ix] = sum over taps (r,q) of dy[(iy + pad - r) / stride, (ix + pad - q) / stride] w[r,q]      (where these divide)
//   d_w[r,q]   = sum over input pixels of x[iy,ix] dy[the same]
// Both look at the same window of dy around an input pixel, so only dy needs a halo and lies in registers; an input pixel is read once,
// when its window is whole, and gives act(u), act'(u) and xhat together.
//
// Bytes at least: g, y and x in, g out: 8 bytes an element at stride 1 in bfloat16, so 80 lane instructions an element at 12.9 bytes a
// clock; the 3x3 kernel needs about 55 (18 multiply-adds, 10 for dy, 8 to read and unpack it, 15 for activation, slope and sums), the 5x5
// kernel about 90 (50 multiply-adds). So the 3x3 kernel is bound by memory if it keeps two thirds of the issue slots busy, the 5x5 kernel
// by its arithmetic. bfloat16 registers: 128 (3x3: 256 threads, two blocks a multiprocessor), 168 (5x5, stride 1: 192 threads, two blocks).
// The walk is that of fused_depthwise.cuh. A step takes one row of dy and finishes `stride` input rows. With stride 2, output pixel j
// is grouped with the 2x2 input pixels 2j - phase + {0,1} - pad, phase chosen so that their window reaches no further than it must.
#include "ops/fused_depthwise.cuh"
#include "ops/norm_finish.cuh"
#include "ops/partial_sums.h"

namespace lgd {
namespace {

template <int R, int S>
struct Backward {
  static constexpr int lane_channels = R == 3 ? 2 : 1, strip = (R == 3 ? 2 : S == 1 ? 4 : 2) / S, reach = (R - 1) / S + 1, threads = R == 5 && S == 1 ? 192 : 256, blocks = 2;
  static constexpr int seen = strip + reach - 1;            // columns of a dy row that a strip sees
  static constexpr int finished = S * strip;                // columns of an input row that a strip finishes
  static constexpr int phase = S == 2 && R == 3 ? 1 : 0;
  static constexpr int numbers = R * R + 2;                 // sums of a channel: the taps, g, g xhat
};

__host__ __device__ inline int first_step(int pad, int phase, int stride) { return (pad + phase) / stride; }
inline int steps_over(int size, int pad, int phase, int stride) { return (size - 1 + pad + phase) / stride - first_step(pad, phase, stride) + 1; }

// The input: how its activation is made, and what becomes of its gradient.
template <class T>
struct InputSide {
  const T *x, *gate;
  const float *scale, *shift;
  ActForm form;
  bool accumulate, normed;           // of the gradient. normed: times act'(u), and the sums of its norm, which is the one of x
  const float *mean, *rstd;
};

// Makes dy in place of g, for the pixels that the thread copied.
template <class T>
__device__ __forceinline__ void make_gradient(const DepthwiseWalk& walk, T* g, const T* y, uint32_t all_inside, const StageSource& source, const Share& share, const LazyGradient& dy,
                                              const ActForm& form, int first_channel, int image) {
  if (!all_inside) return;
#pragma unroll 1
  for (int half = first_half<T>(), k = 0; k < 2; ++k, half ^= 4) {
    const int channel = first_channel + share.channel + half;
    const F4 a = load4(dy.a + channel), b = load4(dy.b + channel), c = load4(dy.c + channel);
    uint32_t inside = all_inside;
    for (int i = share.first; inside; i += walk.copied, inside >>= 1) {
      if (!(inside & 1)) continue;
      T* at = g + i * walk.width + share.channel + half;
      F4 h = load4(at);
      const F4 raw = load4(y + i * walk.width + share.channel + half);
      if (dy.gate) {
        const int64_t nc = int64_t(image + source.table[i].image()) * source.c + channel;
        const F4 gate = load4(static_cast<const T*>(dy.gate) + nc), pooled = load4(dy.pooled + nc), scale = load4(dy.scale + channel), shift = load4(dy.shift + channel);
        float u[4];
#pragma unroll
        for (int k = 0; k < 4; ++k) u[k] = fmaf(raw.v[k], scale.v[k], shift.v[k]);
        act_each(form, u, [&](int k, float, float slope) { h.v[k] = fmaf(h.v[k], gate.v[k], pooled.v[k]) * slope; });
      }
#pragma unroll
      for (int k = 0; k < 4; ++k) h.v[k] = fmaf(a.v[k], h.v[k], fmaf(b.v[k], raw.v[k], c.v[k]));
      store4(at, h);
    }
  }
}

// The registers of one thread.
template <class T, int R, int S>
struct BackwardLane {
  using B = Backward<R, S>;
  static constexpr int channels = B::lane_channels, reach = B::reach, finished = B::finished;
  float taps[R * R][channels], window[reach][B::seen][channels];
  float sums[B::numbers][channels];                     // of the taps' gradients, of g, of g (y - mean)
  float scale[channels], shift[channels], mean[channels];

  __device__ __forceinline__ void start(const InputSide<T>& in, const T* w, int channel, int pitch) {
#pragma unroll
    for (int k = 0; k < R * R; ++k) load_lane(w + k * pitch + channel, taps[k]);
#pragma unroll
    for (int c = 0; c < channels; ++c) {
      scale[c] = in.scale ? in.scale[channel + c] : 1.f;
      shift[c] = in.scale ? in.shift[channel + c] : 0.f;
      mean[c] = in.normed ? in.mean[channel + c] : 0.f;
#pragma unroll
      for (int k = 0; k < B::numbers; ++k) sums[k][c] = 0;
#pragma unroll
      for (int a = 0; a < reach; ++a)
#pragma unroll
        for (int k = 0; k < B::seen; ++k) window[a][k][c] = 0;
    }
  }

  __device__ __forceinline__ void take_row(const T* line, int width, int newest) {
#pragma unroll
    for (int k = 0; k < B::seen; ++k, line += width) load_lane(line, window[newest][k]);
  }

  // Finishes the strip's pixels of input row i of a step. raw: its first pixel in shared memory; at: the same in the images;
  // valid: bits of the pixels that are inside; gate: of the image, at the lane's channels.
  __device__ __forceinline__ void finish_row(const InputSide<T>& in, T* d_x, int i, int newest, const T* raw, int width, int64_t at, int pitch, uint32_t valid, const T* gate) {
    float x[finished][channels], u[finished * channels], value[finished][channels], slope[finished][channels], dx[finished][channels];
#pragma unroll
    for (int column = 0; column < finished; ++column, raw += width) {
      load_lane(raw, x[column]);
#pragma unroll
      for (int c = 0; c < channels; ++c) {
        u[column * channels + c] = fmaf(x[column][c], scale[c], shift[c]);
        dx[column][c] = 0;
      }
    }
    if (in.accumulate) {
#pragma unroll
      for (int column = 0; column < finished; ++column)
        if (valid >> column & 1) load_lane(d_x + at + int64_t(column) * pitch, dx[column]);
    }
    act_each(in.form, u, [&](int k, float act, float derivative) {
      value[k / channels][k % channels] = valid >> k / channels & 1 ? act : 0.f;
      slope[k / channels][k % channels] = derivative;
    });
    if (!in.normed) {
#pragma unroll
      for (int k = 0; k < finished * channels; ++k) slope[k / channels][k % channels] = 1;
    }
    if (in.gate) {
      float factor[channels];
      load_lane(gate, factor);
#pragma unroll
      for (int k = 0; k < finished * channels; ++k) value[k / channels][k % channels] *= factor[k % channels];
    }
#pragma unroll
    for (int column = 0; column < finished; ++column) add_taps(i, column, newest, value[column], dx[column]);
    if (!d_x) return;
#pragma unroll
    for (int column = 0; column < finished; ++column)
      if (valid >> column & 1) {
#pragma unroll
        for (int c = 0; c < channels; ++c) dx[column][c] *= slope[column][c];
        store_lane(d_x + at + int64_t(column) * pitch, dx[column]);
#pragma unroll
        for (int c = 0; c < channels; ++c) {
          sums[R * R][c] += dx[column][c];
          sums[R * R + 1][c] = fmaf(dx[column][c], x[column][c] - mean[c], sums[R * R + 1][c]);
        }
      }
  }

 private:
  // All taps through which an input pixel met the window: dx += dy w, and the taps' gradients.
  __device__ __forceinline__ void add_taps(int i, int column, int newest, const float (&value)[channels], float (&dx)[channels]) {
#pragma unroll
    for (int r = 0; r < R; ++r)
#pragma unroll
      for (int q = 0; q < R; ++q) {
        const int down = B::phase + r - i, across = B::phase + q - column % S;
        if (down % S != 0 || across % S != 0) continue;
        const float(&dy)[channels] = window[(newest - down / S + reach) % reach][column / S + reach - 1 - across / S];
#pragma unroll
        for (int c = 0; c < channels; ++c) {
          dx[c] = fmaf(dy[c], taps[r * R + q][c], dx[c]);
          sums[r * R + q][c] = fmaf(dy[c], value[c], sums[r * R + q][c]);
        }
      }
  }
};

template <class T, int R, int S>
__global__ void __launch_bounds__((Backward<R, S>::threads), (sizeof(T) == 4 ? 1 : Backward<R, S>::blocks))
    backward_kernel(const __grid_constant__ ConvShape s, const __grid_constant__ DepthwiseWalk walk, int step_rows, const __grid_constant__ InputSide<T> in,
                    const __grid_constant__ LazyGradient dy, const __grid_constant__ ActForm dy_form, const T* w, T* d_x, float* partial_taps, float* partial_norm) {
  using B = Backward<R, S>;
  LGD_DYNAMIC_SHARED(char, shared);
  const int first_channel = blockIdx.y * walk.width, channels = min(walk.width, s.c - first_channel), width = walk.width;
  const int seen = walk.columns + B::reach - 1, finished = S * walk.columns, steps = walk.stage_steps;
  const int g_elements = steps * walk.images * seen * width, x_elements = S * steps * walk.images * finished * width;
  T *g_tiles = reinterpret_cast<T*>(shared), *y_tile = g_tiles + 2 * g_elements, *x_tiles = y_tile + (dy.y ? g_elements : 0);
  Pixel* table = reinterpret_cast<Pixel*>(x_tiles + 2 * x_elements);
  const StageSource out_source = make_source(s.oh, s.ow, s.c, steps, walk.images, seen, table);
  const StageSource in_source = make_source(s.h, s.w, s.c, S * steps, walk.images, finished, table + out_source.pixels);
  const Share share = share_of(walk, channels);
  const LanePlace lane = lane_place<B::lane_channels>(walk, channels);
  const int channel = first_channel + lane.channel, first = first_step(s.pad, B::phase, S);
  const int64_t row_pitch = int64_t(s.w) * s.c;
  BackwardLane<T, R, S> me;
  if (lane.image < walk.images) me.start(in, w, channel, s.c);
  __syncthreads();

  // Step t of a tile takes row first + place.row - (reach - 1) + t of dy.
  const auto copy = [&](const TilePlace& place, int step, int buffer) {
    const int row = first + place.row + step - (B::reach - 1), column = first + place.column, top = S * (first + place.row) - B::phase - s.pad;
    const StagePlace of_g{place.image, row, column - (B::reach - 1), 0, min(s.oh, first + place.row + place.rows), s.n - place.image};
    const StagePlace of_x{place.image, S * row - B::phase - s.pad, S * column - B::phase - s.pad, max(0, top), min(s.h, top + S * place.rows), s.n - place.image};
    const uint32_t inside = copy_stage<T>(walk, out_source, of_g, share, static_cast<const T*>(dy.g) + first_channel, g_tiles + buffer * g_elements,
                                          dy.y ? static_cast<const T*>(dy.y) + first_channel : nullptr, y_tile);
    copy_stage<T>(walk, in_source, of_x, share, in.x + first_channel, x_tiles + buffer * x_elements, nullptr, nullptr);
    cp_commit();
    return inside;
  };
  const auto compute = [&](const TilePlace& place, int step, int buffer) {
    const int n = place.image + lane.image, left = S * (first + place.column + lane.strip * B::strip) - B::phase - s.pad;
    if (n >= s.n) return;
    uint32_t valid = 0;
#pragma unroll
    for (int column = 0; column < B::finished; ++column) valid |= uint32_t(unsigned(left + column) < unsigned(s.w)) << column;
    const T* g_line = g_tiles + buffer * g_elements + (lane.image * seen + lane.strip * B::strip) * width + lane.channel;
    const T* x_line = x_tiles + buffer * x_elements + (lane.image * finished + lane.strip * B::finished) * width + lane.channel;
    const int g_pitch = walk.images * seen * width, x_pitch = walk.images * finished * width;
    int row = step - (B::reach - 1), iy = S * (first + place.row + row) - B::phase - s.pad;
    int64_t at = ((int64_t(n) * s.h + iy) * s.w + left) * s.c + channel;
    for (int block = 0; block < steps; block += B::reach) {
#pragma unroll
      for (int p = 0; p < B::reach; ++p, ++row, g_line += g_pitch) {
        if (row >= place.rows) return;
        me.take_row(g_line, width, p);
#pragma unroll
        for (int i = 0; i < S; ++i, ++iy, x_line += x_pitch, at += row_pitch)
          if (row >= 0 && unsigned(iy) < unsigned(s.h)) me.finish_row(in, d_x, i, p, x_line, width, at, s.c, valid, in.gate + n * s.c + channel);
      }
    }
  };

  int tile = blockIdx.x, step = 0, buffer = 0;
  TilePlace place = place_of(walk, tile, step_rows);
  uint32_t inside = copy(place, 0, 0);
  while (tile < walk.tiles) {
    cp_wait<0>();
    if (dy.y) make_gradient(walk, g_tiles + buffer * g_elements, y_tile, inside, out_source, share, dy, dy_form, first_channel, place.image);
    __syncthreads();  // this stage is whole, and the other buffers have been read
    const TilePlace here = place;
    const int from = step, now = buffer;
    step += steps;
    if (step >= place.rows + B::reach - 1) {
      step = 0;
      tile += gridDim.x;
      place = place_of(walk, tile, step_rows);
    }
    buffer ^= 1;
    if (tile < walk.tiles) inside = copy(place, step, buffer);
    compute(here, from, now);
  }
  sum_strips(walk, lane, reinterpret_cast<float*>(shared), me.sums, [&](int k, int of, float sum) {
    if (of >= channels) return;
    const int c = first_channel + of;
    if (k < R * R) partial_taps[(int64_t(blockIdx.x) * R * R + k) * s.c + c] = sum;
    else if (in.normed) partial_norm[(int64_t(blockIdx.x) * 2 + k - R * R) * s.c + c] = k == R * R ? sum : sum * in.rstd[c];
  });
}

template <class T, int R, int S>
DepthwiseWalk plan(const ConvShape& s, int rows, bool with_y) {
  using B = Backward<R, S>;
  const auto size = [&](const DepthwiseWalk& walk) {
    const size_t g_pixels = size_t(walk.stage_steps) * walk.images * (walk.columns + B::reach - 1), x_pixels = size_t(S) * walk.stage_steps * walk.images * S * walk.columns;
    const size_t stages = (g_pixels * (with_y ? 3 : 2) + x_pixels * 2) * walk.width * sizeof(T) + (g_pixels + x_pixels) * sizeof(Pixel);
    return StageSize{std::max(stages, size_t(walk.threads) * B::lane_channels * B::numbers * 4), int64_t(g_pixels)};
  };
  return plan_walk({B::lane_channels, B::strip, B::reach, B::threads, B::blocks}, s.n, rows, steps_over(s.w, s.pad, B::phase, S), s.c, size);
}

// normed: the target's norm is the one of x.
template <class T, int R, int S>
void run(Context& ctx, const ConvShape& s, const LazyInput& x, const LazyGradient& dy, const T* w, float* dw, const GradientTarget* target, bool normed) {
  using B = Backward<R, S>;
  const int rows = steps_over(s.h, s.pad, B::phase, S);
  const DepthwiseWalk walk = plan<T, R, S>(s, rows, dy.y != nullptr);
  const InputSide<T> in{static_cast<const T*>(x.y), static_cast<const T*>(x.gate), x.scale, x.shift, form_of(x.scale ? x.act : Act::none), target && target->accumulate, normed,
                        normed ? target->norm.mean : nullptr, normed ? target->norm.rstd : nullptr};
  const ActForm dy_form = form_of(dy.act);
  T* d_x = target ? static_cast<T*>(target->g) : nullptr;
  const int64_t taps = int64_t(R) * R * s.c;
  float* partial_taps = partial_sums(ctx).take(ctx, walk.parts, taps);
  float* partial_norm = normed ? static_cast<float*>(ctx.scratch(size_t(walk.parts) * 2 * s.c * 4)) : nullptr;
  allow_shared_memory(&backward_kernel<T, R, S>, walk.shared_bytes);
  LGD_LAUNCH(ctx, (backward_kernel<T, R, S>), dim3(walk.parts, walk.groups), walk.threads, walk.shared_bytes, s, walk, rows, in, dy, dy_form, w, d_x, partial_taps, partial_norm);
  partial_sums(ctx).add(ctx, {partial_taps, dw, taps, walk.parts});
  if (normed) finish_gradient(ctx, partial_norm, walk.parts, s.c, int64_t(s.n) * s.h * s.w, target->norm);
}

}  // namespace

void depthwise_norm_backward_cuda(Context& ctx, const ConvShape& s, DType type, const LazyInput& x, const LazyGradient& dy, const void* w, float* dw, const GradientTarget* target) {
  check_fused_depthwise(s);
  const bool norm = target && target->y;
  const bool normed = norm && target->y == x.y && x.scale && target->scale == x.scale && target->shift == x.shift && target->act == x.act && !target->activated;
  with_type(type, [&](auto zero) {
    using T = decltype(zero);
    const auto call = [&](auto run) { run(ctx, s, x, dy, static_cast<const T*>(w), dw, target, normed); };
    if (s.r == 3) s.stride == 1 ? call(run<T, 3, 1>) : call(run<T, 3, 2>);
    else s.stride == 1 ? call(run<T, 5, 1>) : call(run<T, 5, 2>);
  });
  // The norm under an input that was stored activated (no network here has a depthwise convolution on one): a pass of its own.
  if (norm && !normed) norm_gradient_cuda(ctx, {s.n, int64_t(s.h) * s.w, s.c}, type, target->g, nullptr, *target);
}

}  // namespace lgd
