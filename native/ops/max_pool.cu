// Max-pooling of an activation as stored, or made from a raw output by a norm and an activation on the way (ops/pool.h,
// ops/fused.h). Memory-bound; bytes at least, with x the input and y the output (a quarter of it in a ResNet): forward
// x + y, backward 2 x + y, also where it finishes the gradient of an activation over a norm, whose values the windows
// have brought into L1 and L2.
//
// Forward: a thread has 8 channels of one output and loads its whole window before it looks at it; windows overlap in
// L1 and L2. With 3 x 3 and relu that is about 310 lane instructions for 80 bytes of bfloat16, which an H100 brings in
// the time of 790. Backward: a block has 16 x 16 input pixels of up to 64 channels. First it finds, once for each
// window that reaches into its pixels, which position won, and leaves that with the window's gradient in shared memory;
// then each pixel gathers from its windows (at most four with 3 x 3 and stride 2, where a thread has 2 x 2 pixels,
// which look at four windows in all). Were every pixel to search its windows itself, each input would be read 36 times,
// not 9/4. Blocks stay and take tile after tile, each thread with channels of its own (ColumnWalk); between tiles its
// sums of a norm's gradient wait in shared memory, as the window's values want the registers. A ResNet's stem takes
// about 350 lane instructions for a pixel's 36 bytes of 8 channels (a window 510, a pixel 190), as long as these bytes.
// Positions of a window outside the image are clamped to its border: they stand for elements that the window has
// anyway, in the same order.
#include <algorithm>
#include <type_traits>

#include "ops/grids.cuh"
#include "ops/norm_finish.cuh"

namespace lgd {

namespace {

constexpr int tile = 16;  // input pixels a side of a backward block
constexpr int largest_window = 8;
// What a block may have unasked, less what sum_walk_rows keeps beside it. Windows of 8 pixels and stride 1 take 37 KiB
// for one chunk of channels in float32.
constexpr size_t shared_most = (48 << 10) - 8 * 128 * sizeof(float);
template <int kernel>
using Size = std::integral_constant<int, kernel>;  // of the window; 0: known at run time only

struct AnyAct {
  Act act;
  __device__ __forceinline__ float operator()(float u) const {
    float value = 0;
    choose_act(act, [&](auto function) { value = function(u); });
    return value;
  }
  __device__ __forceinline__ float slope(float u) const {
    float slope = 0;
    choose_act(act, [&](auto function) { slope = function.slope(u); });
    return slope;
  }
};

// How values come from what is stored.
template <class Function>
struct Reader {
  // relu keeps order: the maximum of its values is the maximum of what it is given that begins at 0.
  static constexpr bool is_relu = std::is_same_v<Function, ActFunction<Act::relu>>;
  static constexpr float least = is_relu ? 0.f : -INFINITY;
  static constexpr bool as_stored = std::is_same_v<Function, ActFunction<Act::none>>;  // with no norm
  const float *scales, *shifts;                                                        // null: 1 and 0
  Function act;
  F8 scale, shift;
  __device__ __forceinline__ void choose(int chunk) { load_affine(scales, shifts, chunk * 8, scale, shift); }
  __device__ __forceinline__ float input(float y, int i) const {
    return as_stored ? y : fmaf(y, scale.v[i], shift.v[i]);
  }
  // What is compared, and whether it takes the place of the best so far, which begins at `least`. A NaN does, and
  // stays; only backward through relu, whose slope there is 0, it does not matter who has won.
  __device__ __forceinline__ float operator()(float y, int i) const { return is_relu ? input(y, i) : act(input(y, i)); }
  static __device__ __forceinline__ bool more(float v, float best) { return is_relu ? v > best : v > best || v != v; }
  static __device__ __forceinline__ float larger(float v, float best) {
    return is_relu ? max_or_nan(best, v) : more(v, best) ? v : best;
  }
  __device__ __forceinline__ float slope(float y, int i) const { return act.slope(input(y, i)); }
};

__device__ __forceinline__ int within(int i, int size) { return min(max(i, 0), size - 1); }

// Calls body(position, values as stored) for the positions of window (oy, ox), in row-major order; image: the image's
// pixels from the thread's channel on. A window's first position is first_position().
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
    for (int e = 0; e < kernel * kernel; ++e)
      body((within(top + e / kernel, s.h) - top) * kernel + within(left + e % kernel, s.w) - left, unpack8(raw[e]));
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
  __device__ __forceinline__ OutputPlace(const PoolShape& s, int pixel)
      : image(pixel / s.ow / s.oh), y(pixel / s.ow % s.oh), x(pixel % s.ow) {}
  __device__ __forceinline__ void advance(const PoolShape& s, const OutputPlace& by) {
    x += by.x;
    y += by.y;
    image += by.image;
    if (x >= s.ow) x -= s.ow, ++y;
    if (y >= s.oh) y -= s.oh, ++image;
  }
};

template <class T, int kernel, class Function>
__global__ void __launch_bounds__(256, 2)
    max_pool_kernel(const __grid_constant__ PoolShape s, int64_t vectors, const T* x, Reader<Function> read, T* y) {
  wait_for_inputs();
  // so a thread keeps its channels
  const int chunks = s.c / 8, threads = gridDim.x * 256, stride = threads - threads % chunks;
  const int first = blockIdx.x * 256 + threadIdx.x, chunk = first % chunks;
  if (first >= stride) return;
  read.choose(chunk);
  OutputPlace place(s, first / chunks);
  const OutputPlace step(s, stride / chunks);
  for (int64_t e = first; e < vectors; e += stride, place.advance(s, step)) {
    F8 best;
#pragma unroll
    for (int i = 0; i < 8; ++i) best.v[i] = read.least;
    for_window<kernel>(s, x + int64_t(place.image) * s.h * s.w * s.c + chunk * 8, place.y, place.x,
                       [&](int, const F8& stored) {
#pragma unroll
                         for (int i = 0; i < 8; ++i) best.v[i] = read.larger(read(stored.v[i], i), best.v[i]);
                       });
    store8(y + e * 8, best);
  }
}

struct BackwardTiles {
  int rows, columns, images;  // tiles of an image
  int windows;                // that can reach into a tile, a side
  ColumnWalk walk;            // channels: groups of chunks, and blocks that share a group's tiles
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
__device__ __forceinline__ int first_window(const PoolShape& s, int i) {
  return max(0, i + s.pad - s.kernel + s.stride) / s.stride;
}
__device__ __forceinline__ int last_window(const PoolShape& s, int i, int outputs) {
  return min(outputs - 1, (i + s.pad) / s.stride);
}

// Which position of the window won, a byte a channel.
template <int kernel, class T, class Function>
__device__ __forceinline__ uint2 winners(const PoolShape& s, const T* image, int oy, int ox,
                                         const Reader<Function>& read) {
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
__device__ __forceinline__ void store_raw8(uint4* to, const uint4& raw) { store_as<uint4>(to, raw); }
__device__ __forceinline__ void store_raw8(F8* to, const F8& raw) { store8(to->v, raw); }
__device__ __forceinline__ uint32_t winner_of(const uint2& won, int i) {
  return (i < 4 ? won.x : won.y) >> i % 4 * 8 & 255;
}

// kernel 3: with stride 2 and padding 1. Window j then holds pixels 2j - 1, 2j and 2j + 1, so the four windows from (j,
// k) on hold the 2 x 2 pixels from (2j, 2k) on; a thread finishes these together.
template <class T, int kernel, class Function>
__global__ void __launch_bounds__(256, 2)
    max_pool_backward_kernel(const __grid_constant__ PoolShape s, const __grid_constant__ BackwardTiles tiles,
                             const T* x, Reader<Function> read, const T* dy,
                             const __grid_constant__ PoolTarget<T> target) {
  wait_for_inputs();
  LGD_DYNAMIC_SHARED(Raw8<T>, gradients);  // [window row][window column][chunk], as are the winners
  uint2* won = reinterpret_cast<uint2*>(gradients + tiles.count());
  const ColumnWalk& walk = tiles.walk;
  const int mine = threadIdx.x % walk.width, row = threadIdx.x / walk.width, chunk = blockIdx.y * walk.width + mine;
  const bool valid = chunk < walk.chunks;
  const int windows = kernel > 0 ? tile / 2 + 1 : tiles.windows;
  float* const sums = reinterpret_cast<float*>(won + tiles.count()) + threadIdx.x;  // [16][256]: this thread's
  if (valid) read.choose(chunk);
  if (target.mean)
    for (int i = 0; i < 16; ++i) sums[i * 256] = 0;

  for (int place = blockIdx.x; place < tiles.rows * tiles.columns * tiles.images; place += gridDim.x) {
    const int tile_row = place / tiles.columns, left = (place - tile_row * tiles.columns) * tile;
    const int image = tile_row / tiles.rows, top = (tile_row - image * tiles.rows) * tile;
    const int oy0 = kernel > 0 ? top / 2 : first_window(s, top), ox0 = kernel > 0 ? left / 2 : first_window(s, left);
    const T* pixels = x + int64_t(image) * s.h * s.w * s.c + chunk * 8;
    T* to = target.g + int64_t(image) * s.h * s.w * s.c + chunk * 8;

    for (int e = row; valid && e < windows * windows; e += walk.rows_per_pass) {
      const int oy = oy0 + e / windows, ox = ox0 + e % windows, at = e * walk.width + mine;
      if (oy < s.oh && ox < s.ow) {
        store_raw8(gradients + at, load_raw8(dy + ((int64_t(image) * s.oh + oy) * s.ow + ox) * s.c + chunk * 8));
        store_as(won + at, winners<kernel>(s, pixels, oy, ox, read));
      } else if (kernel > 0) {
        store_raw8(gradients + at, Raw8<T>{});
      }
    }
    __syncthreads();

    F8 mean = zero8(), sum = zero8(), product = zero8();
    if (valid && target.mean) mean = load8(target.mean + chunk * 8);
    // What lies at an offset of the image, if the gradient of its norm is wanted; and what becomes of the gradient g
    // there.
    const auto stored_at = [&](int64_t offset) { return target.mean ? load_raw8(pixels + offset) : Raw8<T>{}; };
    const auto finish = [&](int64_t offset, F8 g, const Raw8<T>& raw) {
      if (!target.mean) return put8(to + offset, g, target.accumulate);
      const F8 stored = unpack8(raw);
      if (target.accumulate) {
        const F8 before = load8(to + offset);
#pragma unroll
        for (int i = 0; i < 8; ++i) g.v[i] += before.v[i];
      }
#pragma unroll
      for (int i = 0; i < 8; ++i) g.v[i] *= read.slope(stored.v[i], i);
      store8(to + offset, g);
      g = rounded8<T>(g);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        sum.v[i] += g.v[i];
        product.v[i] = fmaf(g.v[i], stored.v[i] - mean.v[i], product.v[i]);
      }
    };
    if constexpr (kernel > 0) {
      for (int e = row; valid && e < tile * tile / 4; e += walk.rows_per_pass) {
        const int y = e / (tile / 2), x_ = e % (tile / 2), iy = top + 2 * y, ix = left + 2 * x_;
        if (iy >= s.h || ix >= s.w) continue;
        const bool below = iy + 1 < s.h, beside = ix + 1 < s.w;
        const int64_t offset = (int64_t(iy) * s.w + ix) * s.c;
        const int down = below ? s.w * s.c : 0, across = beside ? s.c : 0;
        F8 g[4];
#pragma unroll
        for (int p = 0; p < 4; ++p) g[p] = zero8();
#pragma unroll
        for (int k = 0; k < 4; ++k) {  // window k is the last that pixel k needs
          const int64_t here = offset + k / 2 * down + k % 2 * across;
          const Raw8<T> stored = stored_at(here);
          const int at = ((y + k / 2) * windows + x_ + k % 2) * walk.width + mine;
          const uint2 winner = load_as<uint2>(won + at);
          const F8 d = load8(reinterpret_cast<const T*>(gradients + at));
#pragma unroll
          for (int p = k; p < 4; ++p) {
            const int r = 1 + p / 2 - 2 * (k / 2), q = 1 + p % 2 - 2 * (k % 2);
            if (r < 0 || q < 0) continue;
#pragma unroll
            for (int i = 0; i < 8; ++i)
              if (winner_of(winner, i) == uint32_t(r * 3 + q)) g[p].v[i] += d.v[i];
          }
          if ((k / 2 == 0 || below) && (k % 2 == 0 || beside)) finish(here, g[k], stored);
        }
      }
    } else {
      for (int e = row; valid && e < tile * tile; e += walk.rows_per_pass) {
        const int y = top + e / tile, x_ = left + e % tile;
        if (y >= s.h || x_ >= s.w) continue;
        const int64_t offset = (int64_t(y) * s.w + x_) * s.c;
        const Raw8<T> stored = stored_at(offset);
        F8 g = zero8();
        const int last_y = last_window(s, y, s.oh), last_x = last_window(s, x_, s.ow);
        for (int oy = first_window(s, y); oy <= last_y; ++oy)
          for (int ox = first_window(s, x_); ox <= last_x; ++ox) {
            const int at = ((oy - oy0) * windows + ox - ox0) * walk.width + mine;
            const uint32_t position = uint32_t((y + s.pad - oy * s.stride) * s.kernel + x_ + s.pad - ox * s.stride);
            const uint2 winner = load_as<uint2>(won + at);
            const F8 d = load8(reinterpret_cast<const T*>(gradients + at));
#pragma unroll
            for (int i = 0; i < 8; ++i)
              if (winner_of(winner, i) == position) g.v[i] += d.v[i];
          }
        finish(offset, g, stored);
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
    const F8 rstd = load8(target.rstd + chunk * 8);
#pragma unroll
    for (int i = 0; i < 8; ++i) product.v[i] *= rstd.v[i];
  }
  write_column_sums(sum, walk, target.partial, 2 * s.c, 0);
  write_column_sums(product, walk, target.partial, 2 * s.c, s.c);
}

// Calls launch(size, function) with what is known of the window (`three`: that it has 3 pixels a side) and the
// activation at compile time: of networks with both at their stem, and of a pool that stands alone.
template <class Launch>
void with_window(bool three, const LazyInput& x, Launch&& launch) {
  if (three && x.act == Act::none && !x.scale) launch(Size<3>{}, ActFunction<Act::none>{});
  else if (three && x.act == Act::relu) launch(Size<3>{}, ActFunction<Act::relu>{});
  else launch(Size<0>{}, AnyAct{no_gelu(x.act)});
}

BackwardTiles backward_tiles(const Context& ctx, const PoolShape& s, size_t bytes) {
  BackwardTiles tiles{(s.h + tile - 1) / tile, (s.w + tile - 1) / tile, s.n, (tile + s.kernel - 2) / s.stride + 1, {}};
  ColumnWalk& walk = tiles.walk;
  walk.chunks = s.c / 8;
  walk.width = 8;
  while (tiles.count() * bytes + sums_bytes > shared_most) walk.width /= 2;
  walk.rows_per_pass = 256 / walk.width;
  walk.groups = (walk.chunks + walk.width - 1) / walk.width;
  walk.splits = std::min(tiles.rows * tiles.columns * s.n, std::max(1, 4 * ctx.card.multiprocessors / walk.groups));
  return tiles;
}

}  // namespace

void lazy_max_pool_forward_cuda(Context& ctx, const PoolShape& s, DType type, const LazyInput& x, void* out) {
  const int64_t vectors = int64_t(s.n) * s.oh * s.ow * s.c / 8;
  with_type(type, [&]<class T>(T) {
    with_window(s.kernel == 3, x, [&](auto size, auto function) {
      using Function = decltype(function);
      const Reader<Function> read{x.scale, x.shift, function, {}, {}};
      LGD_LAUNCH(ctx, (max_pool_kernel<T, decltype(size)::value, Function>), elementwise_blocks(ctx, vectors), 256, 0,
                 s, vectors, static_cast<const T*>(x.y), read, static_cast<T*>(out));
    });
  });
}

void lazy_max_pool_backward_cuda(Context& ctx, const PoolShape& s, DType type, const LazyInput& x, const void* d_out,
                                 const GradientTarget& target) {
  LGD_CHECK(s.kernel <= largest_window, "BAD_SHAPE", "max-pooling windows are at most ", largest_window,
            " pixels a side, found ", s.kernel);
  LGD_CHECK(!target.y || (target.y == x.y && target.act == x.act && !target.activated), "NATIVE_ERROR",
            "max-pooling finishes the gradient of what it reads alone");
  with_type(type, [&]<class T>(T) {
    const size_t bytes = sizeof(Raw8<T>) + sizeof(uint2);
    const BackwardTiles tiles = backward_tiles(ctx, s, bytes);
    const int splits = tiles.walk.splits;
    PoolTarget<T> to{static_cast<T*>(target.g), target.accumulate, nullptr, nullptr, nullptr};
    if (target.y)
      to = {to.g, to.accumulate, target.norm.mean, target.norm.rstd,
            static_cast<float*>(ctx.scratch(size_t(splits) * 2 * s.c * sizeof(float)))};
    with_window(s.kernel == 3 && s.stride == 2 && s.pad == 1, x, [&](auto size, auto function) {
      using Function = decltype(function);
      const Reader<Function> read{x.scale, x.shift, function, {}, {}};
      const auto kernel = max_pool_backward_kernel<T, decltype(size)::value, Function>;
      const size_t shared = tiles.count() * bytes + (target.y ? sums_bytes : 0);
      LGD_LAUNCH(ctx, kernel, dim3(splits, tiles.walk.groups), 256, shared, s, tiles, static_cast<const T*>(x.y), read,
                 static_cast<const T*>(d_out), to);
    });
    if (target.y) finish_gradient(ctx, to.partial, splits, s.c, int64_t(s.n) * s.h * s.w, target.norm);
  });
}

void max_pool_forward_cuda(Context& ctx, const PoolShape& s, DType type, const void* x, void* y) {
  lazy_max_pool_forward_cuda(ctx, s, type, {x}, y);
}

void max_pool_backward_cuda(Context& ctx, const PoolShape& s, DType type, const void* x, const void* dy, void* dx,
                            bool accumulate) {
  GradientTarget target;
  target.g = dx;
  target.accumulate = accumulate;
  lazy_max_pool_backward_cuda(ctx, s, type, {x}, dy, target);
}

}  // namespace lgd
