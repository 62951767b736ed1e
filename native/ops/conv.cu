// Dense convolution and linear layers on the matrix core (ops/matrix_core.cuh): how each operand is found in memory.
//
// forward:          M = N*OH*OW output pixels, N = K channels, reduction over (r, s, c):  A gathers patches of x, B = weights [K][RSC].
// backward data:    M = N*H*W input pixels,    N = C channels, reduction over (r, s, k):  A gathers dy, B = weights with k outer.
// backward weight:  M = K, N = (r, s, c),      reduction over the output pixels, split over blocks and added in a fixed order.
#include "ops/conv.h"
#include "ops/matrix_core.cuh"
#include "ops/reduce.cuh"
#include "ops/store_output.cuh"

namespace lgd {

namespace {

using matrix::BK;
using matrix::chunk;

// Division of numbers below 2^31 by a constant: one multiplication (Granlund and Montgomery, PLDI 1994).
struct FastDivide {
  uint32_t divisor, magic, shift;
  explicit FastDivide(uint32_t d) : divisor(d) {
    shift = 0;
    while ((uint64_t(1) << shift) < d) ++shift;
    magic = uint32_t(((uint64_t(1) << 32) * ((uint64_t(1) << shift) - d)) / d + 1);
  }
  __device__ __forceinline__ uint32_t divide(uint32_t n) const { return (__umulhi(n, magic) + n) >> shift; }
  __device__ __forceinline__ uint32_t divide(uint32_t n, uint32_t& rest) const {
    const uint32_t q = divide(n);
    rest = n - q * divisor;
    return q;
  }
};

// [rows][width] in memory, the reduction along the width (k inner) ...
template <class T>
struct RowsOf {
  static constexpr bool k_outer = false;
  const T* base;
  int64_t rows;
  int width;
  template <int slots> struct State {
    int64_t row0;
    int k;
    int row_step;
    __device__ void init(const RowsOf&, int64_t first, int thread, int threads, int chunks) {
      row0 = first + thread / chunks;
      row_step = threads / chunks;
      k = thread % chunks * chunk<T>;
    }
    __device__ void begin(const RowsOf&, int) {}
    __device__ const T* source(const RowsOf& of, int tile, int slot, bool& valid) const {
      const int64_t row = row0 + int64_t(slot) * row_step;
      const int at = tile * BK<T> + k;
      valid = row < of.rows && at < of.width;
      return valid ? of.base + row * of.width + at : of.base;
    }
  };
};

// ... and the reduction along the rows (k outer).
template <class T>
struct ColumnsOf {
  static constexpr bool k_outer = true;
  const T* base;
  int64_t rows;
  int width;
  template <int slots> struct State {
    int64_t column[slots];
    int row[slots];
    __device__ void init(const ColumnsOf&, int64_t first, int thread, int threads, int chunks) {
#pragma unroll
      for (int slot = 0; slot < slots; ++slot) {
        const int e = thread + slot * threads;
        column[slot] = first + e % chunks * chunk<T>;
        row[slot] = e / chunks;
      }
    }
    __device__ void begin(const ColumnsOf&, int) {}
    __device__ const T* source(const ColumnsOf& of, int tile, int slot, bool& valid) const {
      const int64_t at = int64_t(tile) * BK<T> + row[slot];
      valid = at < of.rows && column[slot] < of.width;
      return valid ? of.base + at * of.width + column[slot] : of.base;
    }
  };
};

struct Geometry {
  ConvShape shape;
  FastDivide by_ow, by_oh, by_w, by_h, by_c, by_k, by_s;
  explicit Geometry(const ConvShape& c)
      : shape(c), by_ow(c.ow), by_oh(c.oh), by_w(c.w), by_h(c.h), by_c(c.c), by_k(c.k), by_s(c.s) {}
};

// Patches of x for the forward pass: row = output pixel, k = (r, s, c).
template <class T>
struct PatchesOf {
  static constexpr bool k_outer = false;
  const T* x;
  Geometry g;
  template <int slots> struct State {
    const T* image[slots];
    int y0[slots], x0[slots];
    int k, dy, dx, c;
    bool k_valid;
    __device__ void init(const PatchesOf& of, int64_t first, int thread, int threads, int chunks) {
      const ConvShape& s = of.g.shape;
      k = thread % chunks * chunk<T>;
#pragma unroll
      for (int slot = 0; slot < slots; ++slot) {
        const int64_t row = first + (thread + slot * threads) / chunks;
        uint32_t ox, oy;
        const uint32_t n = of.g.by_oh.divide(of.g.by_ow.divide(uint32_t(row), ox), oy);
        const bool inside = row < s.rows();
        image[slot] = of.x + int64_t(inside ? n : 0) * s.h * s.w * s.c;
        y0[slot] = inside ? int(oy) * s.stride - s.pad : -(1 << 28);
        x0[slot] = int(ox) * s.stride - s.pad;
      }
    }
    __device__ void begin(const PatchesOf& of, int tile) {
      const ConvShape& s = of.g.shape;
      uint32_t channel, column;
      const uint32_t tap = of.g.by_c.divide(uint32_t(tile * BK<T> + k), channel);
      const uint32_t r = of.g.by_s.divide(tap, column);
      k_valid = int(r) < s.r;
      dy = int(r) * s.dilation;
      dx = int(column) * s.dilation;
      c = int(channel);
    }
    __device__ const T* source(const PatchesOf& of, int, int slot, bool& valid) const {
      const ConvShape& s = of.g.shape;
      const int y = y0[slot] + dy, x = x0[slot] + dx;
      valid = k_valid && unsigned(y) < unsigned(s.h) && unsigned(x) < unsigned(s.w);
      return valid ? image[slot] + (int64_t(y) * s.w + x) * s.c + c : of.x;
    }
  };
};

// What of dy reaches an input pixel: row = input pixel, k = (r, s, k).
template <class T>
struct GradientsOf {
  static constexpr bool k_outer = false;
  const T* dy;
  Geometry g;
  template <int slots> struct State {
    const T* image[slots];
    int y0[slots], x0[slots];
    int k, dr, ds, channel;
    bool k_valid;
    __device__ void init(const GradientsOf& of, int64_t first, int thread, int threads, int chunks) {
      const ConvShape& s = of.g.shape;
      k = thread % chunks * chunk<T>;
#pragma unroll
      for (int slot = 0; slot < slots; ++slot) {
        const int64_t row = first + (thread + slot * threads) / chunks;
        uint32_t ix, iy;
        const uint32_t n = of.g.by_h.divide(of.g.by_w.divide(uint32_t(row), ix), iy);
        const bool inside = row < int64_t(s.n) * s.h * s.w;
        image[slot] = of.dy + int64_t(inside ? n : 0) * s.oh * s.ow * s.k;
        y0[slot] = inside ? int(iy) + s.pad : -(1 << 28);
        x0[slot] = int(ix) + s.pad;
      }
    }
    __device__ void begin(const GradientsOf& of, int tile) {
      const ConvShape& s = of.g.shape;
      uint32_t ch, column;
      const uint32_t tap = of.g.by_k.divide(uint32_t(tile * BK<T> + k), ch);
      const uint32_t r = of.g.by_s.divide(tap, column);
      k_valid = int(r) < s.r;
      dr = int(r) * s.dilation;
      ds = int(column) * s.dilation;
      channel = int(ch);
    }
    __device__ const T* source(const GradientsOf& of, int, int slot, bool& valid) const {
      const ConvShape& s = of.g.shape;
      int y = y0[slot] - dr, x = x0[slot] - ds;
      valid = k_valid && y >= 0 && x >= 0;
      if (s.stride == 2) {
        valid = valid && !((y | x) & 1);
        y >>= 1;
        x >>= 1;
      } else if (s.stride > 2) {
        valid = valid && y % s.stride == 0 && x % s.stride == 0;
        y /= s.stride;
        x /= s.stride;
      }
      valid = valid && y < s.oh && x < s.ow;
      return valid ? image[slot] + (int64_t(y) * s.ow + x) * s.k + channel : of.dy;
    }
  };
};

// Weights for the data gradient: row = c, k = (r, s, k), the reduction outer.
template <class T>
struct WeightsTransposed {
  static constexpr bool k_outer = true;
  const T* w;
  Geometry g;
  template <int slots> struct State {
    int c[slots], row[slots];
    __device__ void init(const WeightsTransposed&, int64_t first, int thread, int threads, int chunks) {
#pragma unroll
      for (int slot = 0; slot < slots; ++slot) {
        const int e = thread + slot * threads;
        c[slot] = int(first) + e % chunks * chunk<T>;
        row[slot] = e / chunks;
      }
    }
    __device__ void begin(const WeightsTransposed&, int) {}
    __device__ const T* source(const WeightsTransposed& of, int tile, int slot, bool& valid) const {
      const ConvShape& s = of.g.shape;
      uint32_t k;
      const int tap = int(of.g.by_k.divide(uint32_t(tile * BK<T> + row[slot]), k));
      valid = tap < s.r * s.s && c[slot] < s.c;
      return valid ? of.w + (int64_t(k) * s.r * s.s + tap) * s.c + c[slot] : of.w;
    }
  };
};

// Patches of x for the weight gradient: row = (r, s, c), k = output pixel, the reduction outer.
template <class T>
struct PatchColumns {
  static constexpr bool k_outer = true;
  const T* x;
  Geometry g;
  template <int slots> struct State {
    int offset_y[slots], offset_x[slots], c[slots], row[slots];
    __device__ void init(const PatchColumns& of, int64_t first, int thread, int threads, int chunks) {
      const ConvShape& s = of.g.shape;
#pragma unroll
      for (int slot = 0; slot < slots; ++slot) {
        const int e = thread + slot * threads;
        uint32_t channel, column;
        const uint32_t tap = of.g.by_c.divide(uint32_t(first) + e % chunks * chunk<T>, channel);
        const uint32_t r = of.g.by_s.divide(tap, column);
        c[slot] = int(channel);
        offset_y[slot] = int(r) < s.r ? int(r) * s.dilation - s.pad : -(1 << 28);
        offset_x[slot] = int(column) * s.dilation - s.pad;
        row[slot] = e / chunks;
      }
    }
    __device__ void begin(const PatchColumns&, int) {}
    __device__ const T* source(const PatchColumns& of, int tile, int slot, bool& valid) const {
      const ConvShape& s = of.g.shape;
      const int64_t pixel = int64_t(tile) * BK<T> + row[slot];
      uint32_t ox, oy;
      const uint32_t n = of.g.by_oh.divide(of.g.by_ow.divide(uint32_t(pixel), ox), oy);
      const int y = int(oy) * s.stride + offset_y[slot], x = int(ox) * s.stride + offset_x[slot];
      valid = pixel < s.rows() && unsigned(y) < unsigned(s.h) && unsigned(x) < unsigned(s.w);
      return valid ? of.x + ((int64_t(n) * s.h + y) * s.w + x) * s.c + c[slot] : of.x;
    }
  };
};

struct StorePartial {
  float* out;
  int64_t pitch, split_pitch;
  __device__ __forceinline__ void store(int64_t row, int64_t column, const F8& x) const {
    store8(out + blockIdx.z * split_pitch + row * pitch + column, x);
  }
};

// Sums over the rows of [rows][channels].
template <class T>
__global__ void __launch_bounds__(256) column_sum_kernel(const T* x, int64_t rows, ColumnWalk walk, float* partial) {
  const int chunk_index = int(blockIdx.y) * walk.width + threadIdx.x % walk.width, row0 = threadIdx.x / walk.width;
  F8 sum = zero8();
  if (row0 < walk.rows_per_pass && chunk_index < walk.chunks)
    for (int64_t row = int64_t(blockIdx.x) * walk.rows_per_pass + row0; row < rows; row += int64_t(gridDim.x) * walk.rows_per_pass) {
      const F8 v = load8(x + (row * walk.chunks + chunk_index) * 8);
#pragma unroll
      for (int i = 0; i < 8; ++i) sum.v[i] += v.v[i];
    }
  write_column_sums(sum, walk, partial, int64_t(walk.chunks) * 8, 0);
}

void check_shape(const ConvShape& s) {
  LGD_CHECK(s.c % 8 == 0 && s.k % 8 == 0, "BAD_SHAPE", "channels must be multiples of 8 on CUDA, found ", s.c, " and ", s.k);
  LGD_CHECK(s.rows() < (int64_t(1) << 31) && int64_t(s.n) * s.h * s.w < (int64_t(1) << 31), "BAD_SHAPE", "too many pixels in one batch");
}

}  // namespace

void conv_forward_cuda(Context& ctx, const ConvShape& s, DType type, const void* x, const void* w, const Epilogue& e, void* y) {
  check_shape(s);
  with_type(type, [&](auto zero) {
    using T = decltype(zero);
    const StoreOutput<T> out{static_cast<T*>(y), s.k, e.scale, e.shift, static_cast<const T*>(e.residual), e.act, false};
    const RowsOf<T> weights{static_cast<const T*>(w), s.k, s.r * s.s * s.c};
    const int64_t M = s.rows(), N = s.k, K = int64_t(s.r) * s.s * s.c;
    matrix::with_tile<T>(M, N, [&](auto tile) {
      matrix::launch<T, decltype(tile)>(ctx, PatchesOf<T>{static_cast<const T*>(x), Geometry(s)}, weights, out, M, N, K);
    });
  });
}

void conv_backward_data_cuda(Context& ctx, const ConvShape& s, DType type, const void* dy, const void* w, void* dx, bool accumulate) {
  check_shape(s);
  with_type(type, [&](auto zero) {
    using T = decltype(zero);
    const StoreOutput<T> out{static_cast<T*>(dx), s.c, nullptr, nullptr, nullptr, Act::none, accumulate};
    const int64_t M = int64_t(s.n) * s.h * s.w, N = s.c, K = int64_t(s.r) * s.s * s.k;
    matrix::with_tile<T>(M, N, [&](auto tile) {
      matrix::launch<T, decltype(tile)>(ctx, GradientsOf<T>{static_cast<const T*>(dy), Geometry(s)},
                                        WeightsTransposed<T>{static_cast<const T*>(w), Geometry(s)}, out, M, N, K);
    });
  });
}

void conv_backward_weight_cuda(Context& ctx, const ConvShape& s, DType type, const void* x, const void* dy, float* dw, float* d_bias) {
  check_shape(s);
  const int64_t M = s.k, N = int64_t(s.r) * s.s * s.c, K = s.rows();
  with_type(type, [&](auto zero) {
    using T = decltype(zero);
    matrix::with_tile<T>(M, N, [&](auto tile) {
      using Tile = decltype(tile);
      const int64_t tiles = ((M + Tile::BM - 1) / Tile::BM) * ((N + Tile::BN - 1) / Tile::BN), k_tiles = (K + BK<T> - 1) / BK<T>;
      int64_t splits = std::max<int64_t>(1, std::min<int64_t>(2 * 132 / tiles, k_tiles / 8));
      const int64_t per_split = (k_tiles + splits - 1) / splits;
      splits = (k_tiles + per_split - 1) / per_split;  // no empty part
      float* partial = static_cast<float*>(ctx.scratch(size_t(splits * M * N) * 4));
      matrix::launch<T, Tile>(ctx, ColumnsOf<T>{static_cast<const T*>(dy), K, s.k}, PatchColumns<T>{static_cast<const T*>(x), Geometry(s)},
                              StorePartial{partial, N, M * N}, M, N, K, int(splits));
      add_partials(ctx, partial, int(splits), M * N, dw);
    });
    if (d_bias) {
      const ColumnWalk walk = column_walk(K, s.k);
      float* partial = static_cast<float*>(ctx.scratch(size_t(walk.splits) * s.k * 4));
      LGD_LAUNCH(ctx, column_sum_kernel<T>, dim3(walk.splits, walk.groups), 256, 0, static_cast<const T*>(dy), K, walk, partial);
      add_partials(ctx, partial, walk.splits, s.k, d_bias);
    }
  });
}

}  // namespace lgd
