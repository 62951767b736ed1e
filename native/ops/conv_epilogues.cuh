// Epilogues of the matrix core (ops/store_output.cuh has the plain one): a raw output with its norm's statistics and
// the gradient of an activation, which leave sums per channel, and the means of an output's windows.
// Sums are of the values as stored, in float32, over the rows of a block; parts of blocks are added by
// ops/norm_finish.cuh.
#pragma once
#include <limits>

#include "core/cuda_device.cuh"
#include "ops/conv_loaders.cuh"
#include "ops/fused.h"
#include "ops/store_output.cuh"

namespace lgd {

// y, and the sums of d and d^2 with d = y - running_mean.
template <class T>
struct StoreStatistics {
  static constexpr int sums = 2;
  static constexpr int tables = 1;
  T* y;
  int channels;
  const float* running_mean;
  float* partial;
  struct Fetched {};

  __device__ __forceinline__ void fill(float* table, int, int column) const { table[0] = running_mean[column]; }
  __device__ __forceinline__ Fetched fetch(int, int) const { return {}; }
  __device__ __forceinline__ void store(int row, int column, const F8& x, const Fetched&, const float* table, int count,
                                        F8& sum, F8& squares) const {
    store8(y + int64_t(row) * channels + column, x);
    const F8 stored = rounded8<T>(x), mean = load_halves(table, count / 2);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const float d = stored.v[i] - mean.v[i];
      sum.v[i] += d;
      squares.v[i] = fmaf(d, d, squares.v[i]);
    }
  }
  __device__ __forceinline__ float finish(int, int, float total) const { return total; }
};

// The mean of act(scale * value + shift + residual) over each 2x2 window, and itself: the rows are those of
// where::WindowPatches.
template <class T>
struct StoreMean {
  static constexpr int sums = 0;
  static constexpr bool means = true;
  T *out, *mean;  // out null: the mean alone, of no residual
  int channels;
  const float *scale, *shift;  // [channels] or null
  const T* residual;           // like out, or null
  OutputAct act;               // none, relu or relu6
  where::WindowGeometry windows;

  __device__ __forceinline__ void prepare(int64_t column, F8& scales, F8& shifts) const {
    load_affine(scale, shift, column, scales, shifts);
  }
  // Of an output pixel, by its row of the product.
  __device__ __forceinline__ int64_t at(int row, int column) const {
    int y, x;
    const int n = windows.pixel(row, y, x);
    return (int64_t(n * windows.shape.oh + y) * windows.shape.ow + x) * channels + column;
  }
  __device__ __forceinline__ void prefetch(int row, int column) const {
    if (residual) prefetch_far(residual + at(row, column));
  }
  __device__ __forceinline__ void store(int window, int column, F8 (&rows)[4], const F8& scales,
                                        const F8& shifts) const {
    const int width = windows.shape.ow;
    const int64_t first = out ? at(window * 4, column) : 0;
    const auto of = [&](int row) { return first + int64_t(row / 2 * width + row % 2) * channels; };
    Raw8<T> residuals[4];
    if (residual)
#pragma unroll
      for (int row = 0; row < 4; ++row) residuals[row] = load_raw8(residual + of(row));
    F8 sum = zero8();
#pragma unroll
    for (int row = 0; row < 4; ++row) {
      F8& v = rows[row];
#pragma unroll
      for (int i = 0; i < 8; ++i) v.v[i] = fmaf(v.v[i], scales.v[i], shifts.v[i]);
      if (residual) {
        const F8 r = unpack8(residuals[row]);
#pragma unroll
        for (int i = 0; i < 8; ++i) v.v[i] += r.v[i];
      }
      if (act.bounds) act.bound(v);
      if (out) store8(out + of(row), v);
#pragma unroll
      for (int i = 0; i < 8; ++i) sum.v[i] += v.v[i];
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) sum.v[i] *= 0.25f;
    store8(mean + int64_t(window) * channels + column, sum);
  }
};

// Which pixel of an image a row of a phase is (every pixel in turn with stride 1).
struct PhaseRows {
  int stride, py, px, h, w;
  FastDivide by_width, by_height;
  PhaseRows(const ConvShape& s, const where::Phase& p)
      : stride(s.stride), py(p.py), px(p.px), h(s.h), w(s.w), by_width(p.x.size), by_height(p.y.size) {}
  __device__ __forceinline__ int pixel(int row) const {
    if (stride == 1) return row;
    uint32_t j, i;
    const uint32_t n = by_height.divide(by_width.divide(uint32_t(row), j), i);
    return int((n * h + i * stride + py) * w + j * stride + px);
  }
};

// GradientTarget: g = (dx [+ g]) [act'(u)], and the sums of g and of g xhat.
template <class T>
struct ReachTarget {
  static constexpr int sums = 2;
  static constexpr int tables = 3;
  T* g;
  int channels;
  bool accumulate;
  const T *y, *activated;
  const float *scale, *shift, *mean, *rstd;
  Act act;
  float low = 0, high = 0;  // between them the slope of relu and relu6 is 1; equal for other functions
  PhaseRows rows;
  float* partial = nullptr;
  struct Fetched {
    Raw8<T> old, y, activated;
  };

  ReachTarget(const ConvShape& s, const where::Phase& phase, const GradientTarget& t)
      : g(static_cast<T*>(t.g)),
        channels(s.c),
        accumulate(t.accumulate),
        y(static_cast<const T*>(t.y)),
        activated(static_cast<const T*>(t.activated)),
        scale(t.scale),
        shift(t.shift),
        mean(t.norm.mean),
        rstd(t.norm.rstd),
        act(t.act),
        rows(s, phase) {
    if (act == Act::relu) high = std::numeric_limits<float>::infinity();
    if (act == Act::relu6) high = 6;
  }

  __device__ __forceinline__ void fill(float* table, int count, int column) const {
    if (!y) return;
    const bool argument = !activated && act != Act::none;
    table[0] = argument ? scale[column] : 0.f;
    table[count] = argument ? shift[column] : 0.f;
    table[2 * count] = mean[column];
  }
  __device__ __forceinline__ int64_t at(int row, int column) const {
    return int64_t(rows.pixel(row)) * channels + column;
  }
  __device__ __forceinline__ void prefetch(int row, int column) const {
    const int64_t from = at(row, column);
    if (accumulate) prefetch_far(g + from);
    if (y) prefetch_far(y + from);
    if (activated) prefetch_far(activated + from);
  }
  __device__ __forceinline__ Fetched fetch(int row, int column) const {
    Fetched f;
    const int64_t from = at(row, column);
    if (accumulate) f.old = load_raw8(g + from);
    if (y) f.y = load_raw8(y + from);
    if (activated) f.activated = load_raw8(activated + from);
    return f;
  }
  __device__ __forceinline__ void store(int row, int column, F8 x, const Fetched& f, const float* table, int count,
                                        F8& sum, F8& product) const {
    if (accumulate) {
      const F8 old = unpack8(f.old);
#pragma unroll
      for (int i = 0; i < 8; ++i) x.v[i] += old.v[i];
    }
    T* to = g + at(row, column);
    if (!y) return store8(to, x);
    const F8 raw = unpack8(f.y);
    if (act != Act::none) {
      F8 u;
      if (activated) {
        u = unpack8(f.activated);
      } else {
        const F8 k = load_halves(table, count / 2), b = load_halves(table + count, count / 2);
#pragma unroll
        for (int i = 0; i < 8; ++i) u.v[i] = fmaf(k.v[i], raw.v[i], b.v[i]);
      }
      times_slope(u, x);
    }
    store8(to, x);
    const F8 stored = rounded8<T>(x), middle = load_halves(table + 2 * count, count / 2);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      sum.v[i] += stored.v[i];
      product.v[i] = fmaf(stored.v[i], raw.v[i] - middle.v[i], product.v[i]);
    }
  }
  __device__ __forceinline__ void times_slope(const F8& u, F8& x) const {
    if (low < high) {
#pragma unroll
      for (int i = 0; i < 8; ++i) x.v[i] = u.v[i] > low && u.v[i] < high ? x.v[i] : 0.f;
    } else if (act == Act::hardswish) {
#pragma unroll
      for (int i = 0; i < 8; ++i) x.v[i] *= act_slope<Act::hardswish>(u.v[i]);
    } else if (act == Act::silu) {
#pragma unroll
      for (int i = 0; i < 8; ++i) x.v[i] *= act_slope<Act::silu>(u.v[i]);
    } else {
      const SigmoidFunction function{act == Act::hardsigmoid};
#pragma unroll
      for (int i = 0; i < 8; ++i) x.v[i] *= function.slope(u.v[i]);
    }
  }
  __device__ __forceinline__ float finish(int which, int column, float total) const {
    return which == 0 ? total : total * rstd[column];
  }
};

// The GELU of value + shift, and its slope there, which costs next to nothing beside it.
template <class T>
struct StoreActivated {
  static constexpr int sums = 0;
  T *slope, *y;
  int channels;
  const float* shift;
  Act act;
  struct Fetched {};

  __device__ __forceinline__ void prepare(int64_t column, F8& scales, F8& shifts) const {
    load_affine(nullptr, shift, column, scales, shifts);
  }
  __device__ __forceinline__ Fetched fetch(int, int) const { return {}; }
  __device__ __forceinline__ void store(int row, int column, F8 x, const Fetched&, const F8&, const F8& shifts) const {
    const int64_t at = int64_t(row) * channels + column;
    F8 slopes;
    const auto each = [&](auto function) {
#pragma unroll
      for (int i = 0; i < 8; ++i) x.v[i] = function.with_slope(x.v[i] + shifts.v[i], slopes.v[i]);
    };
    if (act == Act::gelu) each(ActFunction<Act::gelu>{});
    else if (act == Act::gelu_tanh) each(ActFunction<Act::gelu_tanh>{});
    else each(ActFunction<Act::quick_gelu>{});
    store8(slope + at, slopes);
    store8(y + at, x);
  }
};

// value slope, and the sums of that.
template <class T>
struct TimesSlope {
  static constexpr int sums = 1, tables = 0;
  T* out;
  const T* slope;  // like out
  int channels;
  float* partial;
  struct Fetched {
    Raw8<T> slope;
  };

  __device__ __forceinline__ void fill(float*, int, int) const {}
  __device__ __forceinline__ int64_t at(int row, int column) const { return int64_t(row) * channels + column; }
  __device__ __forceinline__ void prefetch(int row, int column) const { prefetch_far(slope + at(row, column)); }
  __device__ __forceinline__ Fetched fetch(int row, int column) const { return {load_raw8(slope + at(row, column))}; }
  __device__ __forceinline__ void store(int row, int column, F8 x, const Fetched& f, const float*, int, F8& sum,
                                        F8&) const {
    const F8 factor = unpack8(f.slope);
#pragma unroll
    for (int i = 0; i < 8; ++i) x.v[i] *= factor.v[i];
    store8(out + at(row, column), x);
    x = rounded8<T>(x);
#pragma unroll
    for (int i = 0; i < 8; ++i) sum.v[i] += x.v[i];
  }
  __device__ __forceinline__ float finish(int, int, float total) const { return total; }
};

}  // namespace lgd
