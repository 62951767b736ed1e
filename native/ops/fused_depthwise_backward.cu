// Fused depthwise convolution, backward, in one kernel (ops/fused.h): the gradient of the raw output is made from g and
// y on the way in, and of it the input's gradient with the norm's sums, and the kernel's gradient:
//   d_x[iy,ix] = sum over taps (r,q) of dy[(iy + pad - r) / stride, (ix + pad - q) / stride] w[r,q], where these divide
//   d_w[r,q]   = sum over input pixels of x[iy,ix] dy[the same]
// Both look at the same window of dy around an input pixel, so only dy needs a halo and lies in registers; an input
// pixel is read once, when its window is whole, and gives act(u), act'(u) and xhat together.
//
// Bytes at least: g, y and x in, g out: 8 bytes an element at stride 1 in bfloat16, so 80 lane instructions an element
// at 12.9 bytes a clock; the 3x3 kernel needs about 55 (18 multiply-adds, 10 for dy, 8 to read and unpack it, 15 for
// activation, slope and sums), the 5x5 kernel about 90 (50 multiply-adds). So the 3x3 kernel is bound by memory if it
// keeps two thirds of the issue slots busy, the 5x5 kernel by its arithmetic. bfloat16 registers: 128 (3x3: 256
// threads, two blocks a multiprocessor), 168 (5x5, stride 1: 192 threads, two blocks). The walk is that of
// fused_depthwise.cuh. A step takes one row of dy and finishes `stride` input rows. With stride 2, output pixel j is
// grouped with the 2x2 input pixels 2j - phase + {0,1} - pad, phase chosen so that their window reaches no further than
// it must.
#include "ops/fused_depthwise.cuh"
#include "ops/norm_finish.cuh"
#include "ops/partial_sums.h"

namespace lgd {
namespace {

template <int R, int S>
struct Backward {
  static constexpr int lane_channels = R == 3 ? 2 : 1,
                       strip = (R == 3   ? 2
                                : S == 1 ? 4
                                         : 2) /
                               S,
                       reach = (R - 1) / S + 1, threads = R == 5 && S == 1 ? 192 : 256, blocks = 2;
  static constexpr int seen = strip + reach - 1;  // columns of a dy row that a strip sees
  static constexpr int finished = S * strip;      // columns of an input row that a strip finishes
  static constexpr int phase = S == 2 && R == 3 ? 1 : 0;
  static constexpr int numbers = R * R + 2;  // sums of a channel: the taps, g, g xhat
};

inline int first_step(int pad, int phase, int stride) { return (pad + phase) / stride; }
inline int steps_over(int size, int pad, int phase, int stride) {
  return (size - 1 + pad + phase) / stride - first_step(pad, phase, stride) + 1;
}

// The input: how its activation is made, and what becomes of its gradient.
template <class T>
struct InputSide {
  const T* x;
  const float *scale, *shift;
  ActForm form;
  // of the gradient. normed: times act'(u), and the sums of its norm, which is the one of x
  bool wanted, accumulate, normed;
  const float *mean, *rstd;
};

// Makes dy in place of g, for the pixels that the thread copied: a g + b y + c, or with a gate a (g gate + pooled)
// act'(u) + b y + c.
template <class T>
__device__ __forceinline__ void make_gradient(const DepthwiseWalk& walk, T* g, const T* y, const StageSource& source,
                                              const Pixel* table, const StagePlace& place, const Share& share,
                                              const LazyGradient& dy, const ActForm& form, int first_channel) {
  const int to_y = int(y - g);
  each_half(walk, g, source, table, place, share, [&](const Pixel& pixel, int of_block, auto rows) {
    const int channel = first_channel + of_block;
    F4 a = load4(dy.a + channel);
    const F4 b = load4(dy.b + channel), c = load4(dy.c + channel);
    if (!dy.gate) {
      return rows([&](T* at) {
        F4 h = load4(at);
        const F4 raw = load4(at + to_y);
#pragma unroll
        for (int k = 0; k < 4; ++k) h.v[k] = fmaf(a.v[k], h.v[k], fmaf(b.v[k], raw.v[k], c.v[k]));
        store4(at, h);
      });
    }
    const int64_t nc = int64_t(place.image + pixel.image()) * source.c + channel;
    const F4 gate = load4(static_cast<const T*>(dy.gate) + nc), scale = load4(dy.scale + channel),
             shift = load4(dy.shift + channel);
    F4 pooled = load4(dy.pooled + nc);
#pragma unroll
    for (int k = 0; k < 4; ++k) {  // a goes into gate and pooled
      pooled.v[k] *= a.v[k];
      a.v[k] *= gate.v[k];
    }
    rows([&](T* at) {
      F4 h = load4(at);
      const F4 raw = load4(at + to_y);
      float u[4];
#pragma unroll
      for (int k = 0; k < 4; ++k) u[k] = fmaf(raw.v[k], scale.v[k], shift.v[k]);
      act_each(form, u, [&](int k, float, float slope) {
        h.v[k] = fmaf(fmaf(h.v[k], a.v[k], pooled.v[k]), slope, fmaf(b.v[k], raw.v[k], c.v[k]));
      });
      store4(at, h);
    });
  });
}

// The registers of one thread.
template <class T, int R, int S>
struct BackwardLane {
  using B = Backward<R, S>;
  static constexpr int channels = B::lane_channels, reach = B::reach, finished = B::finished;
  float taps[R * R][channels], window[reach][B::seen][channels];
  float sums[B::numbers][channels];  // of the taps' gradients, of g, of g (y - mean)
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

  // Finishes the strip's pixels of input row i of a step. raw: its first pixel in shared memory; d_x: the same of the
  // gradient; valid: bits of the pixels that are inside.
  __device__ __forceinline__ void finish_row(const InputSide<T>& in, T* d_x, int i, int newest, const T* raw, int width,
                                             int64_t pitch, uint32_t valid) {
    float x[finished][channels], u[finished * channels], value[finished][channels], slope[finished][channels],
        dx[finished][channels] = {};
#pragma unroll
    for (int column = 0; column < finished; ++column, raw += width) {
      load_lane(raw, x[column]);
#pragma unroll
      for (int c = 0; c < channels; ++c) u[column * channels + c] = fmaf(x[column][c], scale[c], shift[c]);
    }
    act_each(in.form, u, [&](int k, float act, float derivative) {
      value[k / channels][k % channels] = valid >> k / channels & 1 ? act : 0.f;
      slope[k / channels][k % channels] = derivative;
    });
#pragma unroll
    for (int column = 0; column < finished; ++column) add_taps(i, column, newest, value[column], dx[column]);
    if (in.accumulate) {
#pragma unroll
      for (int column = 0; column < finished; ++column) {
        if (!(valid >> column & 1)) continue;
        float old[channels];
        load_lane(d_x + column * pitch, old);
#pragma unroll
        for (int c = 0; c < channels; ++c) dx[column][c] += old[c];
      }
    }
#pragma unroll
    for (int column = 0; column < finished; ++column) {
      if (!(valid >> column & 1)) continue;
      if (in.normed) {
#pragma unroll
        for (int c = 0; c < channels; ++c) dx[column][c] *= slope[column][c];
        store_lane(d_x + column * pitch, dx[column]);
#pragma unroll
        for (int c = 0; c < channels; ++c) {
          sums[R * R][c] += dx[column][c];
          sums[R * R + 1][c] = fmaf(dx[column][c], x[column][c] - mean[c], sums[R * R + 1][c]);
        }
      } else if (in.wanted) {
        store_lane(d_x + column * pitch, dx[column]);
      }
    }
  }

 private:
  // All taps through which an input pixel met the window: dx += dy w, and the taps' gradients.
  __device__ __forceinline__ void add_taps(int i, int column, int newest, const float (&value)[channels],
                                           float (&dx)[channels]) {
#pragma unroll
    for (int r = 0; r < R; ++r)
#pragma unroll
      for (int q = 0; q < R; ++q) {
        const int down = B::phase + r - i, across = B::phase + q - column % S;
        if (down % S != 0 || across % S != 0) continue;
        const float (&dy)[channels] = window[(newest - down / S + reach) % reach][column / S + reach - 1 - across / S];
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
    backward_kernel(const __grid_constant__ ConvShape s, const __grid_constant__ DepthwiseWalk walk, int first,
                    int step_rows, const __grid_constant__ StageSource out_source,
                    const __grid_constant__ StageSource in_source, const __grid_constant__ InputSide<T> in,
                    const __grid_constant__ LazyGradient dy, const __grid_constant__ ActForm dy_form, const T* w,
                    T* d_x, float* partial_taps, float* partial_norm) {
  wait_for_inputs();
  using B = Backward<R, S>;
  LGD_DYNAMIC_SHARED(char, shared);
  const int first_channel = blockIdx.y * walk.width, channels = min(walk.width, s.c - first_channel),
            width = walk.width;
  T *g_tiles = reinterpret_cast<T*>(shared), *y_tile = g_tiles + 2 * out_source.elements,
    *x_tiles = y_tile + (dy.y ? out_source.elements : 0);
  Pixel *out_table = reinterpret_cast<Pixel*>(x_tiles + 2 * in_source.elements),
        *in_table = out_table + out_source.pixels;
  fill_table(walk, out_source, out_table);
  fill_table(walk, in_source, in_table);
  const Share share = share_of(walk, channels);
  const LanePlace lane = lane_place<B::lane_channels>(walk, channels);
  const int channel = first_channel + lane.channel;
  const int64_t row_pitch = int64_t(s.w) * s.c;
  BackwardLane<T, R, S> me;
  if (lane.image < walk.images) me.start(in, w, channel, s.c);
  __syncthreads();

  // Step t of a tile takes row first + place.row - (reach - 1) + t of dy and finishes rows from S times as far on of x,
  // those from `begin` to `end`.
  struct Rows {
    int begin, end;
  };
  const auto top_of = [&](const TilePlace& place) { return S * (first + place.row) - B::phase - s.pad; };
  const auto finished_rows = [&](const TilePlace& place) {
    return Rows{max(0, top_of(place)), min(s.h, top_of(place) + S * rows_of(walk, place, step_rows))};
  };
  const auto stage_of_g = [&](const TilePlace& place, int step) {
    const int row = first + place.row, end = min(s.oh, row + rows_of(walk, place, step_rows));
    return StagePlace{place.image,      row + step - (B::reach - 1), first + place.column - (B::reach - 1), 0, end,
                      s.n - place.image};
  };
  const auto copy = [&](const TilePlace& place, int step, int buffer) {
    const Rows wanted = finished_rows(place);
    const StagePlace of_g = stage_of_g(place, step);
    const StagePlace of_x{place.image,
                          S * of_g.row - B::phase - s.pad,
                          S * (first + place.column) - B::phase - s.pad,
                          wanted.begin,
                          wanted.end,
                          of_g.images};
    copy_stage<true>(walk, out_source, out_table, of_g, share, static_cast<const T*>(dy.g) + first_channel,
                     g_tiles + buffer * out_source.elements,
                     dy.y ? static_cast<const T*>(dy.y) + first_channel : nullptr, y_tile);
    copy_stage<false>(walk, in_source, in_table, of_x, share, in.x + first_channel,
                      x_tiles + buffer * in_source.elements, static_cast<const T*>(nullptr), static_cast<T*>(nullptr));
    cp_commit();
  };
  const auto compute = [&](const TilePlace& place, int step, int buffer) {
    const int n = place.image + lane.image,
              left = S * (first + place.column + lane.strip * B::strip) - B::phase - s.pad;
    if (n >= s.n) return;
    uint32_t valid = 0;
#pragma unroll
    for (int column = 0; column < B::finished; ++column)
      valid |= uint32_t(unsigned(left + column) < unsigned(s.w)) << column;
    const T* g_line = g_tiles + buffer * out_source.elements +
                      (lane.image * out_source.columns + lane.strip * B::strip) * width + lane.channel;
    const T* x_line = x_tiles + buffer * in_source.elements +
                      (lane.image * in_source.columns + lane.strip * B::finished) * width + lane.channel;
    const Rows wanted = finished_rows(place);
    int iy = top_of(place) + S * (step - (B::reach - 1));
    T* out = d_x + ((int64_t(n) * s.h + iy) * s.w + left) * s.c + channel;
    for (int block = 0; block < walk.stage_steps; block += B::reach) {
#pragma unroll
      for (int p = 0; p < B::reach; ++p, g_line += out_source.line) {
        if (iy >= wanted.end) return;
        me.take_row(g_line, width, p);
#pragma unroll
        for (int i = 0; i < S; ++i, ++iy, x_line += in_source.line, out += row_pitch)
          if (iy >= wanted.begin && (i == 0 || iy < wanted.end))
            me.finish_row(in, out, i, p, x_line, width, s.c, valid);
      }
    }
  };

  const auto make = [&](const TilePlace& place, int step, int buffer) {
    if (dy.y)
      make_gradient(walk, g_tiles + buffer * out_source.elements, y_tile, out_source, out_table,
                    stage_of_g(place, step), share, dy, dy_form, first_channel);
  };
  walk_stages(walk, step_rows, B::reach, copy, make, compute);
  sum_strips(walk, lane, reinterpret_cast<float*>(shared), me.sums, [&](int k, int of, float sum) {
    if (of >= channels) return;
    const int c = first_channel + of;
    if (k < R * R) partial_taps[(int64_t(blockIdx.x) * R * R + k) * s.c + c] = sum;
    else if (in.normed)
      partial_norm[(int64_t(blockIdx.x) * 2 + k - R * R) * s.c + c] = k == R * R ? sum : sum * in.rstd[c];
  });
}

template <int R, int S>
StageSource out_source_of(const ConvShape& s, const DepthwiseWalk& walk) {
  return {walk, s.oh, s.ow, s.c, walk.stage_steps, walk.columns + Backward<R, S>::reach - 1};
}
template <int R, int S>
StageSource in_source_of(const ConvShape& s, const DepthwiseWalk& walk) {
  return {walk, s.h, s.w, s.c, S * walk.stage_steps, S * walk.columns};
}

template <class T, int R, int S>
DepthwiseWalk plan(const Card& card, const ConvShape& s, int rows, bool with_y) {
  using B = Backward<R, S>;
  const auto size = [&](const DepthwiseWalk& walk) {
    const StageSource g = out_source_of<R, S>(s, walk), x = in_source_of<R, S>(s, walk);
    const size_t stages = (size_t(g.elements) * (with_y ? 3 : 2) + size_t(x.elements) * 2) * sizeof(T) +
                          g.table_bytes() + x.table_bytes();
    return std::max(stages, size_t(walk.threads) * B::lane_channels * B::numbers * 4);
  };
  const int blocks = resident_blocks(&backward_kernel<T, R, S>, B::threads, 0, B::blocks);  // by their registers
  return plan_walk(card, {B::lane_channels, B::strip, B::reach, B::threads, blocks}, s.n, rows,
                   steps_over(s.w, s.pad, B::phase, S), s.c, size);
}

// normed: the target's norm is the one of x.
template <class T, int R, int S>
void run(Context& ctx, const ConvShape& s, const LazyInput& x, const LazyGradient& dy, const T* w, float* dw,
         const GradientTarget* target, bool normed) {
  using B = Backward<R, S>;
  const int rows = steps_over(s.h, s.pad, B::phase, S);
  DepthwiseWalk walk = plan<T, R, S>(ctx.card, s, rows, dy.y != nullptr);
  walk.back = ctx.turn();
  const InputSide<T> in{static_cast<const T*>(x.y),
                        x.scale,
                        x.shift,
                        form_of(x.scale ? x.act : Act::none),
                        target != nullptr,
                        target && target->accumulate,
                        normed,
                        normed ? target->norm.mean : nullptr,
                        normed ? target->norm.rstd : nullptr};
  const ActForm dy_form = form_of(dy.act);
  T* d_x = target ? static_cast<T*>(target->g) : nullptr;
  const int64_t taps = int64_t(R) * R * s.c;
  float* partial_taps = partial_sums(ctx).take(ctx, walk.parts, taps);
  float* partial_norm = normed ? static_cast<float*>(ctx.scratch(size_t(walk.parts) * 2 * s.c * 4)) : nullptr;
  allow_shared_memory(&backward_kernel<T, R, S>, walk.shared_bytes);
  LGD_LAUNCH(ctx, (backward_kernel<T, R, S>), dim3(walk.parts, walk.groups), walk.threads, walk.shared_bytes, s, walk,
             first_step(s.pad, B::phase, S), rows, out_source_of<R, S>(s, walk), in_source_of<R, S>(s, walk), in, dy,
             dy_form, w, d_x, partial_taps, partial_norm);
  partial_sums(ctx).add(ctx, {{partial_taps, dw, taps, walk.parts}});
  if (normed) finish_gradient(ctx, partial_norm, walk.parts, s.c, int64_t(s.n) * s.h * s.w, target->norm);
}

}  // namespace

void depthwise_norm_backward_cuda(Context& ctx, const ConvShape& s, DType type, const LazyInput& x,
                                  const LazyGradient& dy, const void* w, float* dw, const GradientTarget* target) {
  check_fused_depthwise(s, x);
  const bool norm = target && target->y;
  const bool normed = norm && target->y == x.y && x.scale && target->scale == x.scale && target->shift == x.shift &&
                      target->act == x.act && !target->activated;
  with_type(type, [&]<class T>(T) {
    const auto call = [&](auto run) { run(ctx, s, x, dy, static_cast<const T*>(w), dw, target, normed); };
    if (s.r == 3) s.stride == 1 ? call(run<T, 3, 1>) : call(run<T, 3, 2>);
    else s.stride == 1 ? call(run<T, 5, 1>) : call(run<T, 5, 2>);
  });
  // The norm under an input that was stored activated (no network here has a depthwise convolution on one): a pass of
  // its own.
  if (norm && !normed) norm_gradient_cuda(ctx, {s.n, int64_t(s.h) * s.w, s.c}, type, target->g, nullptr, *target);
}

}  // namespace lgd
