// What the fused depthwise kernels share: how an image is walked, and how its rows come into shared memory.
//
// A block keeps `width` channels and goes through tiles: full columns of a few output columns (or several small images
// side by side), from the top down. Rows arrive in stages of a few rows by cp.async, two buffers in turn, so that a
// stage is in flight while one is computed, over the borders of tiles too. A thread first transforms in place what it
// copied itself (no barrier lies between), then all threads read the stage: thread = (a strip of columns, one or two
// channels), the last rows in registers. So a row is read, activated and unpacked once for a tile, and only the columns
// at the sides of a tile are read twice.
#pragma once
#include <algorithm>

#include "ops/act_form.cuh"
#include "ops/fused.h"
#include "ops/grids.cuh"
#include "ops/reduce.cuh"

namespace lgd {

constexpr size_t block_memory = 99 << 10;  // what a block may have on every architecture from 8.0 on

inline void check_fused_depthwise(const ConvShape& s, const LazyInput& x) {
  LGD_CHECK(s.c % 8 == 0 && s.k == s.c, "BAD_SHAPE",
            "a depthwise convolution on CUDA needs equal channels in multiples of 8, found ", s.c, " and ", s.k);
  LGD_CHECK(s.r == s.s && (s.r == 3 || s.r == 5) && (s.stride == 1 || s.stride == 2) && s.dilation == 1 && s.pad < s.r,
            "BAD_SHAPE", "fused depthwise kernels are 3x3 or 5x5 with stride 1 or 2, found ", s.r, "x", s.s,
            ", stride ", s.stride, ", padding ", s.pad, ", dilation ", s.dilation);
  LGD_CHECK(!x.gate, "BAD_SHAPE", "a depthwise convolution does not multiply its input by a gate");
}

// ---- the walk -------------------------------------------------------------------------------------------------------
struct DepthwiseWalk {
  int width, groups;   // channels of a block; groups of them
  int strips, images;  // in a tile, side by side
  int columns;         // of a tile and image: strips * strip
  int rows;            // steps of a tile that give rows
  int column_tiles, row_tiles, tiles;
  int stage_steps;     // a multiple of the kernel's reach
  int threads, parts;  // parts: blocks of a channel group
  int copied;          // pixels that the threads copy at a time, 8 channels each
  size_t shared_bytes;
  bool back = false;  // from the last tile to the first (Context::turn)
};

// What a kernel says of itself: a step gives one row; `reach` steps of rows are seen at once.
struct DepthwiseKernel {
  // threads of a block, at most; blocks: meant to share a multiprocessor
  int lane_channels, strip, reach, threads, blocks;
};

// A number that grows with the time of a walk: thread steps of the busiest multiprocessor. Rows that only fill the
// window cost a third of a step, a stage's barrier and set-up 0.7; columns at the sides are copied twice (a quarter of
// a step's work); pieces of pixels that are shorter than a line or end in a sector's middle are slower to fetch.
inline double walk_cost(const DepthwiseWalk& walk, const DepthwiseKernel& kernel, int multiprocessors) {
  const int rounds = (walk.tiles + walk.parts - 1) / walk.parts,
            side_by_side = (walk.parts * walk.groups + multiprocessors - 1) / multiprocessors;
  const int stages = (walk.rows + kernel.reach - 1 + walk.stage_steps - 1) / walk.stage_steps;
  const double sides = 1 + 0.25 * (kernel.reach - 1) / walk.columns;
  const double pieces = walk.groups == 1 ? 1 : (walk.width % 16 ? 1.05 : 1) + std::max(0, 64 - walk.width) * 0.001;
  return sides * pieces * rounds * side_by_side * (walk.rows + 0.3 * (kernel.reach - 1) + 0.7 * stages) * walk.threads;
}

// Channels, columns and images of a tile; false where `slots` strips are too many for shared memory.
template <class Size>
bool lay_tile(DepthwiseWalk& walk, const DepthwiseKernel& kernel, int slots, int count, int rows, int columns,
              int channels, int blocks, size_t limit, Size&& size) {
  const int strips = (columns + kernel.strip - 1) / kernel.strip;
  walk.groups = (channels + walk.width - 1) / walk.width;
  walk.column_tiles = (strips + slots - 1) / slots;
  walk.strips = (strips + walk.column_tiles - 1) / walk.column_tiles;
  walk.columns = walk.strips * kernel.strip;
  const int64_t spread = int64_t(count) * walk.groups / blocks;  // images a block, where all blocks get some
  // so that offsets in a tile stay below 2^31, at stride 2 too
  const int64_t addressed = (int64_t(1) << 28) / (int64_t(rows) * columns * channels);
  walk.images = int(std::max<int64_t>(1, std::min({int64_t(slots / walk.strips), spread, addressed})));
  walk.threads = (walk.width / kernel.lane_channels * walk.strips * walk.images + 31) / 32 * 32;
  walk.copied = walk.threads / (walk.width / 8);
  walk.stage_steps = kernel.reach;
  return slots == 1 || size(walk) <= limit;
}

// The walk over `rows` x `columns` steps of `count` images that costs least. size(walk): the shared memory that it
// needs.
template <class Size>
DepthwiseWalk plan_walk(const Card& card, const DepthwiseKernel& kernel, int count, int rows, int columns, int channels,
                        Size&& size) {
  // which is given out by 128 bytes
  const size_t limit = std::min(block_memory, (card.shared_bytes / size_t(kernel.blocks) - 1024) / 128 * 128);
  const int blocks = card.multiprocessors * kernel.blocks;
  DepthwiseWalk best{};
  double least = 0;
  for (int width = std::min(channels, 32); width <= std::min(channels, 96); width += 8) {
    DepthwiseWalk walk{};
    walk.width = width;
    for (int slots = kernel.threads * kernel.lane_channels / width;
         !lay_tile(walk, kernel, slots, count, rows, columns, channels, blocks, limit, size);)
      slots = (slots + 1) / 2;
    const int most = std::max(1, blocks / walk.groups);
    for (int steps = kernel.reach; steps <= 4 * kernel.reach; steps += kernel.reach) {
      walk.stage_steps = steps;
      walk.shared_bytes = size(walk);
      if (steps > kernel.reach && walk.shared_bytes > limit) break;
      for (walk.row_tiles = 1; walk.row_tiles == 1 || rows / walk.row_tiles >= 2 * kernel.reach; walk.row_tiles *= 2) {
        walk.rows = (rows + walk.row_tiles - 1) / walk.row_tiles;
        walk.tiles = (count + walk.images - 1) / walk.images * walk.column_tiles * walk.row_tiles;
        walk.parts = std::min(walk.tiles, most);
        const double cost = walk_cost(walk, kernel, card.multiprocessors);
        if (least > 0 && cost >= least) continue;
        least = cost;
        best = walk;
      }
    }
  }
  return best;
}

// Where a tile lies: first image, first step across and down.
struct TilePlace {
  int image, column, row;
};
__device__ __forceinline__ TilePlace place_of(const DepthwiseWalk& walk, int in_turn) {
  const int tile = walk.back ? walk.tiles - 1 - in_turn : in_turn;
  const int rest = tile / walk.column_tiles;
  return {rest / walk.row_tiles * walk.images, tile % walk.column_tiles * walk.columns,
          rest % walk.row_tiles * walk.rows};
}
// How many of a tile's steps give rows, where all have `rows`.
__device__ __forceinline__ int rows_of(const DepthwiseWalk& walk, const TilePlace& place, int rows) {
  return max(0, min(walk.rows, rows - place.row));
}

// ---- copying --------------------------------------------------------------------------------------------------------
// The threads copy the pixels of one or a few rows of a stage at once and go on to the next as many rows: what a thread
// needs to know of columns and images it finds out once a stage, and rows are a pointer's steps. A pixel of the first
// rows; shared memory holds [row][image][column][width].
struct alignas(8) Pixel {
  int offset;      // elements from the stage's first
  uint32_t place;  // row, image and column
  __device__ __forceinline__ int row() const { return int(place & 0xff); }
  __device__ __forceinline__ int image() const { return int(place >> 8 & 0xff); }
  __device__ __forceinline__ int column() const { return int(place >> 16); }
};

// Images [h][w][c] and the part of a stage that is read from them: a kernel's parameter, as what lies there takes no
// registers.
struct StageSource {
  int h, w, c;
  int rows, columns;    // of a stage and image
  int at_once, pixels;  // of the rows, those copied at once; their pixels, of all images
  int line, elements;   // of a row and of a stage in shared memory
  int down, pitch;      // elements from a pixel to that at_once rows below, in shared memory and in the image
  StageSource(const DepthwiseWalk& walk, int h, int w, int c, int rows, int columns)
      : h(h), w(w), c(c), rows(rows), columns(columns) {
    at_once = std::clamp(walk.copied / (walk.images * columns), 1, rows);
    pixels = at_once * walk.images * columns;
    line = walk.images * columns * walk.width;
    elements = rows * line;
    down = at_once * line;
    pitch = at_once * w * c;
  }
  size_t table_bytes() const { return pixels * sizeof(Pixel); }
};

__device__ __forceinline__ void fill_table(const DepthwiseWalk& walk, const StageSource& source, Pixel* table) {
  for (int i = threadIdx.x; i < source.pixels; i += blockDim.x) {
    const int column = i % source.columns, rest = i / source.columns, image = rest % walk.images,
              row = rest / walk.images;
    table[i] = {((image * source.h + row) * source.w + column) * source.c, uint32_t(row | image << 8 | column << 16)};
  }
}

// One stage's place in the images. Wanted are rows of [begin, end), columns of the image and images before `images`.
struct StagePlace {
  int image, row, column, begin, end, images;
};

// What a thread copies: 8 channels (from `channel` of the block's) of every walk.copied-th pixel.
struct Share {
  int channel, first;
};
__device__ __forceinline__ Share share_of(const DepthwiseWalk& walk, int channels) {
  const int chunks = walk.width / 8, pixel = int(threadIdx.x) / chunks, channel = int(threadIdx.x) % chunks * 8;
  return {channel, pixel < walk.copied && channel < channels ? pixel : 1 << 30};
}

// Calls body(pixel, valid, at) for each of the thread's pixels. valid: its column and image are inside; at: elements to
// it in a tile. From there the thread goes on by source.at_once rows.
template <class Body>
__device__ __forceinline__ void each_pixel(const DepthwiseWalk& walk, const StageSource& source, const Pixel* table,
                                           const StagePlace& place, const Share& share, Body&& body) {
#pragma unroll 1
  for (int i = share.first; i < source.pixels; i += walk.copied) {
    const Pixel& pixel = table[i];  // stays where it is, and takes no registers
    body(pixel, unsigned(place.column + pixel.column()) < unsigned(source.w) && pixel.image() < place.images,
         i * walk.width + share.channel);
  }
}

template <class T>
__device__ __forceinline__ void copy8(T* to, const T* from, bool valid) {
#pragma unroll
  for (int i = 0; i < 8; i += 16 / int(sizeof(T))) cp_async16(to + i, from + i, valid);
}

// Starts the copies of a stage's wanted rows from one or two like images (from points at the block's first channel;
// also may be null). Columns and images outside become zeros; rows that are not wanted become zeros in `to` if
// `zero_rows`, and stay as they are if not.
template <bool zero_rows, class T>
__device__ __forceinline__ void copy_stage(const DepthwiseWalk& walk, const StageSource& source, const Pixel* table,
                                           const StagePlace& place, const Share& share, const T* from, T* to,
                                           const T* also, T* also_to) {
  const int begin = place.begin - place.row, end = min(source.rows, place.end - place.row);
  const int64_t base =
      ((int64_t(place.image) * source.h + place.row) * source.w + place.column) * source.c + share.channel;
  const int to_also = int(also_to - to);
  each_pixel(walk, source, table, place, share, [&](const Pixel& pixel, bool valid, int at) {
    const int64_t offset = valid ? base + pixel.offset : 0, pitch = valid ? source.pitch : 0;
    const T *next = from + offset, *next_also = also + offset;
    T* own = to + at;
    int row = pixel.row();
#pragma unroll 1
    for (; row < begin; row += source.at_once, own += source.down, next += pitch, next_also += pitch)
      if (zero_rows) copy8(own, from, false);
    if (also) {
#pragma unroll 1
      for (; row < end; row += source.at_once, own += source.down, next += pitch, next_also += pitch) {
        copy8(own, next, valid);
        copy8(own + to_also, next_also, valid);
      }
    } else {
#pragma unroll 1
      for (; row < end; row += source.at_once, own += source.down, next += pitch) copy8(own, next, valid);
    }
    if constexpr (zero_rows) {
#pragma unroll 1
      for (; row < source.rows; row += source.at_once, own += source.down) copy8(own, from, false);
    }
  });
}

// A block's way through its tiles, of which `rows` steps in all give rows. Each stage is copied while the one before is
// computed: copy(place, step, buffer) starts the copies of the stage from `step` on of a tile, make(place, step,
// buffer) works on what the thread copied itself, and compute(place, step, buffer) reads what all of them did.
template <class Copy, class Make, class Compute>
__device__ __forceinline__ void walk_stages(const DepthwiseWalk& walk, int rows, int reach, const Copy& copy,
                                            const Make& make, const Compute& compute) {
  int tile = blockIdx.x, step = 0, buffer = 0;
  TilePlace place = place_of(walk, tile);
  copy(place, 0, 0);
  while (tile < walk.tiles) {
    cp_wait<0>();
    make(place, step, buffer);
    __syncthreads();  // this stage is whole, and the other buffers have been read
    const TilePlace here = place;
    const int from = step, now = buffer;
    step += walk.stage_steps;
    if (step >= rows_of(walk, place, rows) + reach - 1) {
      step = 0;
      tile += gridDim.x;
      place = place_of(walk, tile);
    }
    buffer ^= 1;
    if (tile < walk.tiles) copy(place, step, buffer);
    compute(here, from, now);
  }
}

// ---- four channels at a time ----------------------------------------------------------------------------------------
struct F4 {
  float v[4];
};
__device__ __forceinline__ F4 load4(const float* p) {
  const float4 a = load_as<float4>(p);
  return {{a.x, a.y, a.z, a.w}};
}
__device__ __forceinline__ F4 load4(const bf16* p) {
  const uint2 raw = load_as<uint2>(p);
  return {{__uint_as_float(raw.x << 16), __uint_as_float(raw.x & 0xffff0000u), __uint_as_float(raw.y << 16),
           __uint_as_float(raw.y & 0xffff0000u)}};
}
__device__ __forceinline__ void store4(float* p, const F4& x) {
  store_as<float4>(p, make_float4(x.v[0], x.v[1], x.v[2], x.v[3]));
}
__device__ __forceinline__ void store4(bf16* p, const F4& x) {
  store_as<uint2>(p, uint2{pack2(x.v[0], x.v[1]), pack2(x.v[2], x.v[3])});
}

// ---- what a thread does with what it copied -------------------------------------------------------------------------
// A thread transforms its eight channels four at a time, to spare registers, and begins with the upper four in every
// other run of threads whose channels fill 128 bytes: else those that shared memory serves at once would use half of
// its banks, twice. (The loop over both stays one: unrolled it takes eight registers more, which spill.)
template <class T>
__device__ __forceinline__ int first_half() {
  return int(threadIdx.x) / (16 / int(sizeof(T))) % 2 * 4;
}

// Calls begin(pixel, channel, rows) for each pixel and half of the thread's channels that are inside; rows(body) then
// calls body(at) for each wanted row, at: the four channels in the tile, which the thread itself copied there.
template <class T, class Begin>
__device__ __forceinline__ void each_half(const DepthwiseWalk& walk, T* tile, const StageSource& source,
                                          const Pixel* table, const StagePlace& place, const Share& share,
                                          Begin&& begin) {
  const int first = place.begin - place.row, end = min(source.rows, place.end - place.row);
  each_pixel(walk, source, table, place, share, [&](const Pixel& pixel, bool valid, int at) {
    if (!valid) return;
    T* top = tile + at;
    int from = pixel.row();
#pragma unroll 1
    for (; from < first; from += source.at_once) top += source.down;
    constexpr int second = 8;  // a bit beside the half's, which spares a register
#pragma unroll 1
    for (int pass = first_half<T>();; pass ^= second | 4) {
      const int half = pass & 4;
      begin(pixel, share.channel + half, [&](auto body) {
        T* here = top + half;
#pragma unroll 1
        for (int row = from; row < end; row += source.at_once, here += source.down) body(here);
      });
      if (pass & second) break;
    }
  });
}

// Activates in place the pixels that the thread copied.
template <class T>
__device__ __forceinline__ void activate_stage(const DepthwiseWalk& walk, T* tile, const StageSource& source,
                                               const Pixel* table, const StagePlace& place, const Share& share,
                                               const LazyInput& x, const ActForm& form, int first_channel) {
  each_half(walk, tile, source, table, place, share, [&](const Pixel&, int of_block, auto rows) {
    const int channel = first_channel + of_block;
    const F4 scale = load4(x.scale + channel), shift = load4(x.shift + channel);
    rows([&](T* at) {
      F4 v = load4(at);
      const float u[4] = {fmaf(v.v[0], scale.v[0], shift.v[0]), fmaf(v.v[1], scale.v[1], shift.v[1]),
                          fmaf(v.v[2], scale.v[2], shift.v[2]), fmaf(v.v[3], scale.v[3], shift.v[3])};
      act_each(form, u, [&](int k, float value, float) { v.v[k] = value; });
      store4(at, v);
    });
  });
}

// ---- one or two channels of a lane ----------------------------------------------------------------------------------
__device__ __forceinline__ void load_lane(const float* p, float (&v)[1]) { v[0] = *p; }
__device__ __forceinline__ void load_lane(const bf16* p, float (&v)[1]) { v[0] = load1(p); }
__device__ __forceinline__ void load_lane(const float* p, float (&v)[2]) {
  const float2 pair = load_as<float2>(p);
  v[0] = pair.x, v[1] = pair.y;
}
__device__ __forceinline__ void load_lane(const bf16* p, float (&v)[2]) {
  const uint32_t word = load_as<uint32_t>(p);
  bf16 pair[2];  // converted, not shifted and masked: nvcc repeats those two wherever branches meet
  memcpy(pair, &word, 4);
  v[0] = __bfloat162float(pair[0]), v[1] = __bfloat162float(pair[1]);
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
  int channel, image, strip;  // channel: in the block's; image: of a tile's, past all where a thread has nothing to do
};
template <int lane_channels>
__device__ __forceinline__ LanePlace lane_place(const DepthwiseWalk& walk, int channels) {
  const int lanes = walk.width / lane_channels, slot = int(threadIdx.x) / lanes,
            channel = int(threadIdx.x) % lanes * lane_channels;
  return {channel, slot < walk.strips * walk.images && channel < channels ? slot / walk.strips : 1 << 30,
          slot % walk.strips};
}

// Sums over the strips of a block, in their order, of `count` numbers for each channel: calls take(k, channel in the
// block, sum) once each. The block's shared memory is written over: threads * lane_channels * count floats.
template <int count, int lane_channels, class Take>
__device__ __forceinline__ void sum_strips(const DepthwiseWalk& walk, const LanePlace& lane, float* shared,
                                           const float (&values)[count][lane_channels], Take&& take) {
  const int slots = walk.strips * walk.images;
  __syncthreads();
  if (lane.image < walk.images) {
    float* mine = shared + (lane.image * walk.strips + lane.strip) * count * walk.width + lane.channel;
#pragma unroll
    for (int k = 0; k < count; ++k) {
      if constexpr (lane_channels == 2)
        store_as<float2>(mine + k * walk.width, make_float2(values[k][0], values[k][1]));
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
