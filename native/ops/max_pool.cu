// Max-pooling of an activation as stored, or made from a raw output by a norm and an activation on the way (ops/pool.h, ops/fused.h).
// Memory-bound; bytes at least, with x the input and y the output (a quarter of it in a ResNet): forward x + y, backward 2 x + y, also where it
// finishes the gradient of an activation over a norm, whose values the windows have brought into L1 and L2.
//
// Forward: a thread has 8 channels of one output and loads its whole window before it looks at it; windows overlap in L1 and L2. With 3 x 3 and
// relu that is about 310 lane instructions for 80 bytes of bfloat16, which an H100 brings in the time of 790.
// Backward: a block has 16 x 16 input pixels of up to 64 channels. First it finds, once for each window that reaches into its pixels,
// which position won, and leaves that with the window's gradient in shared memory; then each pixel gathers from its windows (at most four
// with 3 x 3 and stride 2). Were every pixel to search its windows itself, each input would be read 36 times, not 9/4. Blocks stay and take
// tile after tile, each thread with channels of its own (ColumnWalk); between tiles its sums of a norm's gradient wait in shared memory, as
// the window's values want the registers.
// Positions of a window outside the image are clamped to its border: they stand for elements that the window has anyway, in the same order.
#include <algorithm>
#include <type_traits>

#include "ops/multiprocessors.h"
#include "ops/norm_finish.cuh"

namespace lgd {

namespace {

constexpr int tile = 16;                       // input pixels a side of a backward block
constexpr int largest_window = 8;
// What a block may have unasked, less what sum_walk_rows keeps beside it. Windows of 8 pixels and stride 1 take 37 KiB for one chunk of channels in float32.
constexpr size_t shared_most = (48 << 10) - 8 * 128 * sizeof(float);
template <int kernel> using Size = std::integral_constant<int, kernel>;  // of the window; 0: known at run time only

struct AnyAct {
  Act act;
  __device__ __forceinline__ float operator()(float u) const { return act_any(act, u); }
  __device__ __forceinline__ float slope(float u) const {
    float slope = 0;
    choose_act(act, [&](auto function) { slope = function.slope(u); });
    return slope;
  }
};

// How values come from what is stored.
template <class Function>
struct Reader {
  // relu keeps what is more, more: it may come after the maximum, or be no more than where the maximum begins. (A NaN becomes 0 on the way.)
  static constexpr bool is_relu = std::is_same_v<Function, ActFunction<Act::relu>>;
  static constexpr float least = is_relu ? 0.f : -INFINITY;
  static constexpr bool as_stored = std::is_same_v<Function, ActFunction<Act::none>>;  // with no norm
  const float *scales, *shifts;  // null: 1 and 0
  Function act;
  F8 scale, shift;
  __device__ __forceinline__ void choose(int chunk) {
#pragma unroll
    for (int i = 0; i < 8; ++i) scale.v[i] = 1;
    shift = zero8();
    if (!scales) return;
    scale = load8(scales + chunk * 8);
    shift = load8(shifts + chunk * 8);
  }
  __device__ __forceinline__ float input(float y, int i) const { return as_stored ? y : fmaf(y, scale.v[i], shift.v[i]); }
  // What is compared: where it is more than `best`, begun at `least`, it takes its place. A NaN does, and stays.
  __device__ __forceinline__ float operator()(float y, int i) const { return is_relu ? input(y, i) : act(input(y, i)); }
  static __device__ __forceinline__ bool more(float v, float best) { return is_relu ? v > best : v > best || v != v; }
  static __device__ __forceinline__ float larger(float v, float best) { return is_relu ? fmaxf(best, v) : more(v, best) ? v : best; }
  __device__ __forceinline__ float slope(float y, int i) const { return act.slope(input(y, i)); }
};

__device__ __forceinline__ int within(int i, int size) { return min(max(i, 0), size - 1); }

// Calls body(position, values as stored) for the positions of window (oy, ox), in row-major order; image: the image's pixels from the
// thread's channel on. A window's first position is first_position().
template <int kernel, class T, class Body>
__device__ __forceinline__ void for_window(const PoolShape& s, const T* image, int oy, int ox, const Body& body) {
  const int top = oy * s.stride - s.pad, left = ox * s.stride - s.pad;
  if constexpr (kernel > 0) {
    const T* rows[kernel];
    int columns[kernel];
#pragma unroll
    for (int r = 0; r < kernel; ++r) rows[r] = image + int64_t(within(top + r, s.h)) * s.w * s.c;
#pragma unroll
    for (int q = 0; q < kernel; ++q) columns[q] = within(left + q, s.w) * s.c;
    Raw8<T> raw[kernel * kernel];
#pragma unroll
    for (int e = 0; e < kernel * kernel; ++e) raw[e] = load_raw8(rows[e / kernel] + columns[e % kernel]);
#pragma unroll
    for (int e = 0; e < kernel * kernel; ++e) body((within(top + e / kernel, s.h) - top) * kernel + within(left + e % kernel, s.w) - left, unpack8(raw[e]));
  } else {
    for (int r = 0; r < s.kernel; ++r)
      for (int q = 0; q < s.kernel; ++q) {
        const int iy = within(top + r, s.h), ix = within(left + q, s.w);
        body((iy - top) * s.kernel + ix - left, load8(image + (int64_t(iy) * s.w + ix) * s.c));
      }
  }
}
__device__ __forceinline__ int first_position(const PoolShape& s, int kernel, int oy, int ox) {
  return max(0, s.pad - oy * s.stride) * kernel + max(0, s.pad - ox * s.stride);
}

// An output pixel. A thread's next one lies a fixed number of pixels on, which needs no division.
struct OutputPlace {
  int image, y, x;
  __device__ __forceinline__ OutputPlace(const PoolShape& s, int pixel) : image(pixel / s.ow / s.oh), y(pixel / s.ow % s.oh), x(pixel % s.ow) {}
  __device__ __forceinline__ void advance(const PoolShape& s, const OutputPlace& by) {
    x += by.x;
    y += by.y;
    image += by.image;
    if (x >= s.ow) x -= s.ow, ++y;
    if (y >= s.oh) y -= s.oh, ++image;
  }
};

template <class T, int kernel, class Function>
__global__ void __launch_bounds__(256, 2) max_pool_kernel(const __grid_constant__ PoolShape s, int64_t vectors, const T* x, Reader<Function> read, T* y) {
  const int chunks = s.c / 8, threads = gridDim.x * 256, stride = threads - threads % chunks;  // so a thread keeps its channels
  const int first = blockIdx.x * 256 + threadIdx.x, chunk = first % chunks;
  if (first >= stride) return;
  read.choose(chunk);
  OutputPlace place(s, first / chunks);
  const OutputPlace step(s, stride / chunks);
  for (int64_t e = first; e < vectors; e += stride, place.advance(s, step)) {
    F8 best;
#pragma unroll
    for (int i = 0; i < 8; ++i) best.v[i] = read.least;
    for_window<kernel>(s, x + int64_t(place.image) * s.h * s.w * s.c + chunk * 8, place.y, place.x, [&](int, const F8& stored) {
#pragma unroll
      for (int i = 0; i < 8; ++i) best.v[i] = read.larger(read(stored.v[i], i), best.v[i]);
    });
    store8(y + e * 8, best);
  }
}

struct BackwardTiles {
  int rows, columns, images;     // tiles of an image
  int windows;                   // that can reach into a tile, a side
  ColumnWalk walk;               // channels: groups of chunks, and blocks that share a group's tiles
  constexpr int count() const { return windows * windows * walk.width; }
};
constexpr size_t sums_bytes = 16 * 256 * sizeof(float);

// Where the gradient goes, and what finishes it (mean null: nothing does).
template <class T>
struct PoolTarget {
  T* g;
  bool accumulate;
  const float *mean, *rstd;
  float* partial;
};

// First window that holds input row or column i.
__device__ __forceinline__ int first_window(const PoolShape& s, int i) { return max(0, i + s.pad - s.kernel + s.stride) / s.stride; }
__device__ __forceinline__ int last_window(const PoolShape& s, int i, int outputs) { return min(outputs - 1, (i + s.pad) / s.stride); }

// Which position of the window won, a byte a channel.
template <int kernel, class T, class Function>
__device__ __forceinline__ uint2 winners(const PoolShape& s, const T* image, int oy, int ox, const Reader<Function>& read) {
  const uint32_t first = uint32_t(first_position(s, kernel > 0 ? kernel : s.kernel, oy, ox));
  float best[8];
  uint32_t won[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    best[i] = read.least;
    won[i] = first;  // where nothing is more than the least
  }
  for_window<kernel>(s, image, oy, ox, [&](int position, const F8& stored) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const float v = read(stored.v[i], i);
      const bool more = read.more(v, best[i]);
      best[i] = more ? v : best[i];
      won[i] = more ? uint32_t(position) : won[i];
    }
  });
  return {won[0] | won[1] << 8 | won[2] << 16 | won[3] << 24, won[4] | won[5] << 8 | won[6] << 16 | won[7] << 24};
}

template <class T, int kernel, class Function>
__global__ void __launch_bounds__(256, 2) max_pool_backward_kernel(const __grid_constant__ PoolShape s, const __grid_constant__ BackwardTiles tiles, const T* x,
                                                                Reader<Function> read, const T* dy, const __grid_constant__ PoolTarget<T> target) {
  LGD_DYNAMIC_SHARED(Raw8<T>, gradients);
  uint2* won = reinterpret_cast<uint2*>(gradients + tiles.count());
  const ColumnWalk& walk = tiles.walk;
  const int first_chunk = blockIdx.y * walk.width, chunks = min(walk.width, walk.chunks - first_chunk);
  const int mine = threadIdx.x % walk.width, row = threadIdx.x / walk.width;
  const bool valid = mine < chunks && row < walk.rows_per_pass;
  float* const sums = reinterpret_cast<float*>(won + tiles.count()) + threadIdx.x;  // [16][256]: this thread's
  if (target.mean)
    for (int i = 0; i < 16; ++i) sums[i * 256] = 0;

  for (int place = blockIdx.x; place < tiles.rows * tiles.columns * tiles.images; place += gridDim.x) {
    const int left = place % tiles.columns * tile, top = place / tiles.columns % tiles.rows * tile, image = place / tiles.columns / tiles.rows;
    const int bottom = min(s.h, top + tile), right = min(s.w, left + tile);
    const int oy0 = first_window(s, top), ox0 = first_window(s, left);
    const int high = last_window(s, bottom - 1, s.oh) - oy0 + 1, wide = last_window(s, right - 1, s.ow) - ox0 + 1;
    const T* pixels = x + int64_t(image) * s.h * s.w * s.c;

    for (int e = threadIdx.x; e < high * wide * chunks; e += 256) {
      const int chunk = first_chunk + e % chunks, oy = oy0 + e / chunks / wide, ox = ox0 + e / chunks % wide;
      read.choose(chunk);
      gradients[e] = load_raw8(dy + ((int64_t(image) * s.oh + oy) * s.ow + ox) * s.c + chunk * 8);
      won[e] = winners<kernel>(s, pixels + chunk * 8, oy, ox, read);
    }
    __syncthreads();

    const int width = right - left;
    F8 mean = zero8(), sum = zero8(), product = zero8();
    if (valid) read.choose(first_chunk + mine);
    if (valid && target.mean) mean = load8(target.mean + (first_chunk + mine) * 8);
    for (int e = row; valid && e < (bottom - top) * width; e += walk.rows_per_pass) {
      const int y = top + e / width, x_ = left + e % width;
      F8 g = zero8();
      for (int oy = first_window(s, y); oy <= last_window(s, y, s.oh); ++oy)
        for (int ox = first_window(s, x_); ox <= last_window(s, x_, s.ow); ++ox) {
          const int window = ((oy - oy0) * wide + ox - ox0) * chunks + mine;
          const uint32_t position = uint32_t((y + s.pad - oy * s.stride) * s.kernel + x_ + s.pad - ox * s.stride);
          const uint2 winner = won[window];
          const F8 d = unpack8(gradients[window]);
#pragma unroll
          for (int i = 0; i < 8; ++i) g.v[i] += ((i < 4 ? winner.x : winner.y) >> i % 4 * 8 & 255) == position ? d.v[i] : 0.f;
        }
      const int64_t at = (int64_t(y) * s.w + x_) * s.c + (first_chunk + mine) * 8;
      T* to = target.g + int64_t(image) * s.h * s.w * s.c + at;
      if (!target.mean) {
        put8(to, g, target.accumulate);
        continue;
      }
      const F8 before = target.accumulate ? load8(to) : zero8(), stored = load8(pixels + at);
#pragma unroll
      for (int i = 0; i < 8; ++i) g.v[i] = (g.v[i] + before.v[i]) * read.slope(stored.v[i], i);
      store8(to, g);
      g = rounded8<T>(g);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        sum.v[i] += g.v[i];
        product.v[i] = fmaf(g.v[i], stored.v[i] - mean.v[i], product.v[i]);
      }
    }
    if (target.mean)
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        sums[i * 256] += sum.v[i];
        sums[(8 + i) * 256] += product.v[i];
      }
    __syncthreads();  // the next tile's windows take the place of these
  }
  if (!target.mean) return;
  F8 sum, product;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    sum.v[i] = sums[i * 256];
    product.v[i] = sums[(8 + i) * 256];
  }
  if (valid) {
    const F8 rstd = load8(target.rstd + (first_chunk + mine) * 8);
#pragma unroll
    for (int i = 0; i < 8; ++i) product.v[i] *= rstd.v[i];
  }
  write_column_sums(sum, walk, target.partial, 2 * s.c, 0);
  write_column_sums(product, walk, target.partial, 2 * s.c, s.c);
}

// Calls launch(size, function) with what is known of the window (`three`: that it has 3 pixels a side) and the activation at compile time.
template <class Launch>
void with_window(bool three, const LazyInput& x, Launch&& launch) {
  if (!three) launch(Size<0>{}, AnyAct{x.act});
  else if (x.act == Act::none && !x.scale) launch(Size<3>{}, ActFunction<Act::none>{});
  else if (x.act == Act::relu) launch(Size<3>{}, ActFunction<Act::relu>{});
  else launch(Size<3>{}, AnyAct{x.act});
}

BackwardTiles backward_tiles(const PoolShape& s, size_t bytes) {
  BackwardTiles tiles{(s.h + tile - 1) / tile, (s.w + tile - 1) / tile, s.n, (tile + s.kernel - 2) / s.stride + 1, {}};
  ColumnWalk& walk = tiles.walk;
  walk.chunks = s.c / 8;
  walk.width = 8;
  while (tiles.count() * bytes + sums_bytes > shared_most) walk.width /= 2;
  walk.rows_per_pass = 256 / walk.width;
  walk.groups = (walk.chunks + walk.width - 1) / walk.width;
  walk.splits = std::min(tiles.rows * tiles.columns * s.n, std::max(1, 4 * multiprocessors / walk.groups));
  return tiles;
}

}  // namespace

void lazy_max_pool_forward_cuda(Context& ctx, const PoolShape& s, DType type, const LazyInput& x, void* out) {
  const int64_t vectors = int64_t(s.n) * s.oh * s.ow * s.c / 8;
  with_type(type, [&](auto zero) {
    using T = decltype(zero);
    with_window(s.kernel == 3, x, [&](auto size, auto function) {
      using Function = decltype(function);
      const Reader<Function> read{x.scale, x.shift, function, {}, {}};
      LGD_LAUNCH(ctx, (max_pool_kernel<T, decltype(size)::value, Function>), blocks_for(vectors, 256, 132 * 16), 256, 0, s, vectors,
                 static_cast<const T*>(x.y), read, static_cast<T*>(out));
    });
  });
}

void lazy_max_pool_backward_cuda(Context& ctx, const PoolShape& s, DType type, const LazyInput& x, const void* d_out, const GradientTarget& target) {
  LGD_CHECK(s.kernel <= largest_window, "BAD_SHAPE", "max-pooling windows are at most ", largest_window, " pixels a side, found ", s.kernel);
  LGD_CHECK(!target.y || (target.y == x.y && target.act == x.act && !target.activated), "NATIVE_ERROR", "max-pooling finishes the gradient of what it reads alone");
  with_type(type, [&](auto zero) {
    using T = decltype(zero);
    const size_t bytes = sizeof(Raw8<T>) + sizeof(uint2);
    const BackwardTiles tiles = backward_tiles(s, bytes);
    const int splits = tiles.walk.splits;
    PoolTarget<T> to{static_cast<T*>(target.g), target.accumulate, nullptr, nullptr, nullptr};
    if (target.y) to = {to.g, to.accumulate, target.norm.mean, target.norm.rstd, static_cast<float*>(ctx.scratch(size_t(splits) * 2 * s.c * sizeof(float)))};
    with_window(s.kernel == 3, x, [&](auto size, auto function) {
      using Function = decltype(function);
      const Reader<Function> read{x.scale, x.shift, function, {}, {}};
      const auto kernel = max_pool_backward_kernel<T, decltype(size)::value, Function>;
      const size_t shared = tiles.count() * bytes + (target.y ? sums_bytes : 0);
      LGD_LAUNCH(ctx, kernel, dim3(splits, tiles.walk.groups), 256, shared, s, tiles, static_cast<const T*>(x.y), read, static_cast<const T*>(d_out), to);
    });
    if (target.y) finish_gradient(ctx, to.partial, splits, s.c, int64_t(s.n) * s.h * s.w, target.norm);
  });
}

void max_pool_forward_cuda(Context& ctx, const PoolShape& s, DType type, const void* x, void* y) { lazy_max_pool_forward_cuda(ctx, s, type, {x}, y); }

void max_pool_backward_cuda(Context& ctx, const PoolShape& s, DType type, const void* x, const void* dy, void* dx, bool accumulate) {
  GradientTarget target;
  target.g = dx;
  target.accumulate = accumulate;
  lazy_max_pool_backward_cuda(ctx, s, type, {x}, dy, target);
}

}  // namespace lgd
