// What the fused depthwise kernels share: how an image is walked, and how its rows come into shared memory.
//
// A block keeps `width` channels and goes through tiles: full columns of a few output columns (or several small images side by
// side), from the top down. Rows arrive in stages of a few rows by cp.async, two buffers in turn, so that a stage is in flight
// while one is computed, over the borders of tiles too. A thread first transforms in place what it copied itself (no barrier lies
// between), then all threads read the stage: thread = (a strip of columns, one or two channels), the last rows in registers. So
// a row is read, activated and unpacked once for a tile, and only the columns at the sides of a tile are read twice.
#pragma once
#include <algorithm>
#include <cmath>
#include <limits>

#include "ops/fused.h"
#include "ops/multiprocessors.h"
#include "ops/reduce.cuh"

namespace lgd {

constexpr int most_copies = 32;          // of a thread in a stage: one bit each
constexpr int shared_memory = 227 << 10; // of a multiprocessor, for blocks
constexpr int block_memory = 99 << 10;   // what a block may have on every architecture from 8.0 on

inline void check_fused_depthwise(const ConvShape& s) {
  LGD_CHECK(s.c % 8 == 0 && s.k == s.c, "BAD_SHAPE", "a depthwise convolution on CUDA needs equal channels in multiples of 8, found ", s.c, " and ", s.k);
  LGD_CHECK(s.r == s.s && (s.r == 3 || s.r == 5) && (s.stride == 1 || s.stride == 2) && s.dilation == 1 && s.pad < s.r, "BAD_SHAPE",
            "fused depthwise kernels are 3x3 or 5x5 with stride 1 or 2, found ", s.r, "x", s.s, ", stride ", s.stride, ", padding ", s.pad, ", dilation ", s.dilation);
}

// ---- the walk ---------------------------------------------------------------------------------------------------------------
struct DepthwiseWalk {
  int width, groups;               // channels of a block; groups of them
  int strips, images;              // in a tile, side by side
  int columns;                     // of a tile and image: strips * strip
  int rows;                        // steps of a tile that give rows
  int column_tiles, row_tiles, tiles;
  int stage_steps;                 // a multiple of the kernel's reach
  int threads, parts;              // parts: blocks of a channel group
  int copied;                      // pixels that the threads copy at a time, 8 channels each
  size_t shared_bytes;
};

// What a kernel says of itself: a step gives one row; `reach` steps of rows are seen at once.
struct DepthwiseKernel {
  int lane_channels, strip, reach, threads, blocks;  // threads of a block, at most; blocks: meant to share a multiprocessor
};

// Shared memory that a walk needs, and the pixels of a stage that are transformed.
struct StageSize {
  size_t bytes;
  int64_t pixels;
};

// A number that grows with the time of a walk: thread steps of the busiest multiprocessor. Rows that only fill the window cost a third of
// a step, a stage's barrier and set-up 0.7; columns at the sides are copied twice (a quarter of a step's work); pieces of pixels
// that are shorter than a line or end in a sector's middle are slower to fetch.
inline double walk_cost(const DepthwiseWalk& walk, const DepthwiseKernel& kernel) {
  const int rounds = (walk.tiles + walk.parts - 1) / walk.parts, side_by_side = (walk.parts * walk.groups + multiprocessors - 1) / multiprocessors;
  const int stages = (walk.rows + kernel.reach - 1 + walk.stage_steps - 1) / walk.stage_steps;
  const double sides = 1 + 0.25 * (kernel.reach - 1) / walk.columns;
  const double pieces = walk.groups == 1 ? 1 : (walk.width % 16 ? 1.05 : 1) + std::max(0, 64 - walk.width) * 0.001;
  return sides * pieces * rounds * side_by_side * (walk.rows + 0.3 * (kernel.reach - 1) + 0.7 * stages) * walk.threads;
}

// Channels, columns and images of a tile; false where `slots` strips are too many for shared memory.
template <class Size>
bool lay_tile(DepthwiseWalk& walk, const DepthwiseKernel& kernel, int slots, int count, int rows, int columns, int channels, size_t limit, Size&& size) {
  const int strips = (columns + kernel.strip - 1) / kernel.strip;
  walk.groups = (channels + walk.width - 1) / walk.width;
  walk.column_tiles = (strips + slots - 1) / slots;
  walk.strips = (strips + walk.column_tiles - 1) / walk.column_tiles;
  walk.columns = walk.strips * kernel.strip;
  const int64_t spread = int64_t(count) * walk.groups / (multiprocessors * kernel.blocks);  // images a block, where all blocks get some
  const int64_t addressed = (int64_t(1) << 28) / (int64_t(rows) * columns * channels);  // so that offsets in a tile stay below 2^31, at stride 2 too
  walk.images = int(std::max<int64_t>(1, std::min({int64_t(slots / walk.strips), spread, addressed})));
  walk.threads = (walk.width / kernel.lane_channels * walk.strips * walk.images + 31) / 32 * 32;
  walk.copied = walk.threads / (walk.width / 8);
  walk.stage_steps = kernel.reach;
  return slots == 1 || size(walk).bytes <= limit;
}

// The walk over `rows` x `columns` steps of `count` images that costs least. size(walk) is its StageSize.
template <class Size>
DepthwiseWalk plan_walk(const DepthwiseKernel& kernel, int count, int rows, int columns, int channels, Size&& size) {
  const size_t limit = size_t(std::min(block_memory, shared_memory / kernel.blocks - 1024));
  DepthwiseWalk best{};
  double least = 0;
  for (int width = std::min(channels, 32); width <= std::min(channels, 96); width += 8) {
    DepthwiseWalk walk{};
    walk.width = width;
    for (int slots = kernel.threads * kernel.lane_channels / width; !lay_tile(walk, kernel, slots, count, rows, columns, channels, limit, size);) slots = (slots + 1) / 2;
    const int most = std::max(1, multiprocessors * kernel.blocks / walk.groups);
    for (int steps = kernel.reach; steps <= 4 * kernel.reach; steps += kernel.reach) {
      walk.stage_steps = steps;
      const StageSize stage = size(walk);
      if (steps > kernel.reach && (stage.bytes > limit || stage.pixels > most_copies * walk.copied)) break;
      walk.shared_bytes = stage.bytes;
      for (walk.row_tiles = 1; walk.row_tiles == 1 || rows / walk.row_tiles >= 2 * kernel.reach; walk.row_tiles *= 2) {
        walk.rows = (rows + walk.row_tiles - 1) / walk.row_tiles;
        walk.tiles = (count + walk.images - 1) / walk.images * walk.column_tiles * walk.row_tiles;
        walk.parts = std::min(walk.tiles, most);
        const double cost = walk_cost(walk, kernel);
        if (least > 0 && cost >= least) continue;
        least = cost;
        best = walk;
      }
    }
  }
  return best;
}

// Where a tile lies: first image, first step across and down, and how many steps give rows.
struct TilePlace {
  int image, column, row, rows;
};
__device__ __forceinline__ TilePlace place_of(const DepthwiseWalk& walk, int tile, int rows) {
  TilePlace place;
  place.column = tile % walk.column_tiles * walk.columns;
  const int rest = tile / walk.column_tiles;
  place.row = rest % walk.row_tiles * walk.rows;
  place.image = rest / walk.row_tiles * walk.images;
  place.rows = max(0, min(walk.rows, rows - place.row));
  return place;
}

// ---- copying ----------------------------------------------------------------------------------------------------------------
// A pixel of a stage. Shared memory holds [row][image][column][width].
struct alignas(8) Pixel {
  int offset;                // elements from the stage's first
  uint32_t place;            // row, image and column
  __device__ __forceinline__ int row() const { return int(place & 0xff); }
  __device__ __forceinline__ int image() const { return int(place >> 8 & 0xff); }
  __device__ __forceinline__ int column() const { return int(place >> 16); }
};

// Images [h][w][c] and the part of a stage that is read from them.
struct StageSource {
  int h, w, c;
  int pixels;                // of a stage
  const Pixel* table;        // in shared memory
};

__device__ __forceinline__ StageSource make_source(int h, int w, int c, int rows, int images, int columns, Pixel* table) {
  const StageSource source{h, w, c, rows * images * columns, table};
  for (int i = threadIdx.x; i < source.pixels; i += blockDim.x) {
    const int column = i % columns, image = i / columns % images, row = i / (columns * images);
    table[i] = {((image * h + row) * w + column) * c, uint32_t(row | image << 8 | column << 16)};
  }
  return source;
}

// One stage's place in the images. Rows outside of [begin, end), columns outside of the image and images from `images` on are zeros.
struct StagePlace {
  int image, row, column, begin, end, images;
};

// What a thread copies: 8 channels (from `channel` of the block's) of every walk.copied-th pixel, at most most_copies of them.
struct Share {
  int channel, first;
};
__device__ __forceinline__ Share share_of(const DepthwiseWalk& walk, int channels) {
  const int chunks = walk.width / 8, pixel = int(threadIdx.x) / chunks, channel = int(threadIdx.x) % chunks * 8;
  return {channel, pixel < walk.copied && channel < channels ? pixel : 1 << 30};
}

template <class T>
__device__ __forceinline__ void copy8(T* to, const T* from, bool valid) {
#pragma unroll
  for (int i = 0; i < 8; i += 16 / int(sizeof(T))) cp_async16(to + i, from + i, valid);
}

// Starts the copies of a stage from one or two like images (from points at the block's first channel; also may be null) and says which
// of the thread's pixels are inside.
template <class T>
__device__ __forceinline__ uint32_t copy_stage(const DepthwiseWalk& walk, const StageSource& source, const StagePlace& place, const Share& share, const T* from, T* to, const T* also,
                                               T* also_to) {
  const int64_t base = ((int64_t(place.image) * source.h + place.row) * source.w + place.column) * source.c + share.channel;
  uint32_t inside = 0, bit = 1;
  for (int i = share.first; i < source.pixels; i += walk.copied, bit <<= 1) {
    const Pixel pixel = source.table[i];
    const int row = place.row + pixel.row();
    const bool valid = row >= place.begin && row < place.end && unsigned(place.column + pixel.column()) < unsigned(source.w) && pixel.image() < place.images;
    const int64_t at = valid ? base + pixel.offset : 0;
    copy8(to + i * walk.width + share.channel, from + at, valid);
    if (also) copy8(also_to + i * walk.width + share.channel, also + at, valid);
    if (valid) inside |= bit;
  }
  return inside;
}

// ---- four channels at a time ------------------------------------------------------------------------------------------------
struct F4 { float v[4]; };
__device__ __forceinline__ F4 load4(const float* p) {
  const float4 a = load_as<float4>(p);
  return {{a.x, a.y, a.z, a.w}};
}
__device__ __forceinline__ F4 load4(const bf16* p) {
  const uint2 raw = load_as<uint2>(p);
  return {{__uint_as_float(raw.x << 16), __uint_as_float(raw.x & 0xffff0000u), __uint_as_float(raw.y << 16), __uint_as_float(raw.y & 0xffff0000u)}};
}
__device__ __forceinline__ void store4(float* p, const F4& x) { store_as<float4>(p, make_float4(x.v[0], x.v[1], x.v[2], x.v[3])); }
__device__ __forceinline__ void store4(bf16* p, const F4& x) { store_as<uint2>(p, uint2{pack2(x.v[0], x.v[1]), pack2(x.v[2], x.v[3])}); }

// ---- activations chosen at run time, in few instructions ---------------------------------------------------------------------
// Every activation is clamp(u), s(u) or u s(u), with s a logistic function or a ramp from 0 to 1; so one branch, the same for a whole
// launch, serves several values. A clamp's bounds are the last numbers that have a slope (so relu gives the smallest normal number where
// torch gives 0), which makes "the slope is 1" the same as "the value is u".
struct ActForm {
  enum Kind : int { clamp, ramp, logistic } kind;
  bool times_u;
  float low, high;           // from the first number to the last where the slope is not 0
};
inline ActForm form_of(Act act) {
  constexpr float infinity = std::numeric_limits<float>::infinity(), above_0 = std::numeric_limits<float>::min();
  const float below_3 = std::nextafter(3.f, 0.f), below_6 = std::nextafter(6.f, 0.f);
  switch (act) {
    case Act::none: return {ActForm::clamp, false, -infinity, infinity};
    case Act::relu: return {ActForm::clamp, false, above_0, infinity};
    case Act::relu6: return {ActForm::clamp, false, above_0, below_6};
    case Act::silu: return {ActForm::logistic, true, -infinity, infinity};
    case Act::hardswish: return {ActForm::ramp, true, -3, 3};
    case Act::sigmoid: return {ActForm::logistic, false, -infinity, infinity};
    case Act::hardsigmoid: return {ActForm::ramp, false, -below_3, below_3};
    case Act::gelu: case Act::gelu_tanh: case Act::quick_gelu: break;
  }
  throw Error("BAD_MODEL", "a GELU has no backward: it works in forward-only plans.");
}

// Calls body(value) -- act(u) and act'(u) -- for each u.
template <int count, class Body>
__device__ __forceinline__ void act_each(const ActForm& form, const float (&u)[count], Body&& body) {
  if (form.kind == ActForm::clamp) {
#pragma unroll
    for (int k = 0; k < count; ++k) {
      const float value = clamp_of(u[k], form.low, form.high);
      body(k, value, value == u[k] ? 1.f : 0.f);
    }
    return;
  }
  float s[count], slope[count];
  if (form.kind == ActForm::ramp) {
#pragma unroll
    for (int k = 0; k < count; ++k) {
      s[k] = __saturatef(fmaf(u[k], 1.f / 6.f, 0.5f));
      slope[k] = clamp_of(u[k], form.low, form.high) == u[k] ? 1.f / 6.f : 0.f;
    }
  } else {
#pragma unroll
    for (int k = 0; k < count; ++k) {
      s[k] = sigmoid_of(u[k]);
      slope[k] = s[k] * (1.f - s[k]);
    }
  }
#pragma unroll
  for (int k = 0; k < count; ++k) body(k, form.times_u ? u[k] * s[k] : s[k], form.times_u ? fmaf(u[k], slope[k], s[k]) : slope[k]);
}

// A thread transforms its eight channels four at a time, to spare registers, and begins with the upper four in every other run of threads whose
// channels fill 128 bytes: else those that shared memory serves at once would use half of its banks, twice. (The loop over both stays one: unrolled
// it takes eight registers more, which spill.)
template <class T>
__device__ __forceinline__ int first_half() { return int(threadIdx.x) / (16 / int(sizeof(T))) % 2 * 4; }

// Activates in place the pixels that the thread copied. image: the tile's first.
template <class T>
__device__ __forceinline__ void activate_stage(const DepthwiseWalk& walk, T* tile, uint32_t all_inside, const StageSource& source, const Share& share, const LazyInput& x,
                                               const ActForm& form, int first_channel, int image) {
  if (!all_inside) return;
#pragma unroll 1
  for (int half = first_half<T>(), k = 0; k < 2; ++k, half ^= 4) {
    const int channel = first_channel + share.channel + half;
    const F4 scale = load4(x.scale + channel), shift = load4(x.shift + channel);
    uint32_t inside = all_inside;
    for (int i = share.first; inside; i += walk.copied, inside >>= 1) {
      if (!(inside & 1)) continue;
      T* at = tile + i * walk.width + share.channel + half;
      F4 v = load4(at);
      const float u[4] = {fmaf(v.v[0], scale.v[0], shift.v[0]), fmaf(v.v[1], scale.v[1], shift.v[1]), fmaf(v.v[2], scale.v[2], shift.v[2]), fmaf(v.v[3], scale.v[3], shift.v[3])};
      act_each(form, u, [&](int k, float value, float) { v.v[k] = value; });
      if (x.gate) {
        const F4 gate = load4(static_cast<const T*>(x.gate) + int64_t(image + source.table[i].image()) * source.c + channel);
#pragma unroll
        for (int k = 0; k < 4; ++k) v.v[k] *= gate.v[k];
      }
      store4(at, v);
    }
  }
}

// ---- one or two channels of a lane ------------------------------------------------------------------------------------------
__device__ __forceinline__ void load_lane(const float* p, float (&v)[1]) { v[0] = *p; }
__device__ __forceinline__ void load_lane(const bf16* p, float (&v)[1]) { v[0] = load1(p); }
__device__ __forceinline__ void load_lane(const float* p, float (&v)[2]) {
  const float2 pair = load_as<float2>(p);
  v[0] = pair.x, v[1] = pair.y;
}
__device__ __forceinline__ void load_lane(const bf16* p, float (&v)[2]) {
  const uint32_t word = load_as<uint32_t>(p);
  v[0] = __uint_as_float(word << 16), v[1] = __uint_as_float(word & 0xffff0000u);
}
// Stores, and leaves in v what was stored.
__device__ __forceinline__ void store_lane(float* p, float (&v)[1]) { *p = v[0]; }
__device__ __forceinline__ void store_lane(bf16* p, float (&v)[1]) {
  const bf16 stored = __float2bfloat16_rn(v[0]);
  *p = stored;
  v[0] = __bfloat162float(stored);
}
__device__ __forceinline__ void store_lane(float* p, float (&v)[2]) { store_as<float2>(p, make_float2(v[0], v[1])); }
__device__ __forceinline__ void store_lane(bf16* p, float (&v)[2]) {
  const uint32_t word = pack2(v[0], v[1]);
  store_as<uint32_t>(p, word);
  v[0] = __uint_as_float(word << 16), v[1] = __uint_as_float(word & 0xffff0000u);
}

// Which strip and channels are a thread's when a stage is read.
struct LanePlace {
  int channel, image, strip;   // channel: in the block's; image: of a tile's, past all where a thread has nothing to do
};
template <int lane_channels>
__device__ __forceinline__ LanePlace lane_place(const DepthwiseWalk& walk, int channels) {
  const int lanes = walk.width / lane_channels, slot = int(threadIdx.x) / lanes, channel = int(threadIdx.x) % lanes * lane_channels;
  return {channel, slot < walk.strips * walk.images && channel < channels ? slot / walk.strips : 1 << 30, slot % walk.strips};
}

// Sums over the strips of a block, in their order, of `count` numbers for each channel: calls take(k, channel in the block, sum) once each.
// The block's shared memory is written over: threads * lane_channels * count floats.
template <int count, int lane_channels, class Take>
__device__ __forceinline__ void sum_strips(const DepthwiseWalk& walk, const LanePlace& lane, float* shared, const float (&values)[count][lane_channels], Take&& take) {
  const int slots = walk.strips * walk.images;
  __syncthreads();
  if (lane.image < walk.images) {
    float* mine = shared + (lane.image * walk.strips + lane.strip) * count * walk.width + lane.channel;
#pragma unroll
    for (int k = 0; k < count; ++k) {
      if constexpr (lane_channels == 2) store_as<float2>(mine + k * walk.width, make_float2(values[k][0], values[k][1]));
      else mine[k * walk.width] = values[k][0];
    }
  }
  __syncthreads();
  for (int e = threadIdx.x; e < count * walk.width; e += blockDim.x) {
    float total = 0;
    for (int slot = 0; slot < slots; ++slot) total += shared[slot * count * walk.width + e];
    take(e / walk.width, e % walk.width, total);
  }
}

}  // namespace lgd
