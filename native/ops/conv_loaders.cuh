// Where the operands of the convolutions lie in memory, for the matrix core. A loader is a Where and a Read
// (ops/lazy_operands.cuh).
//
// A Where has
//   k_outer                       is the reduction its outer dimension in memory?
//   overlaps                      do neighbouring rows or k tiles read the same bytes again?
//   channels()                    of a k-inner operand
//   channel(i)                    of element i along the rows of a k-outer one that a Read makes
//   pitch()                       elements of a row in memory, of at most 2^31 rows
//   in_second(k), pitch(second)   of two matrices side by side, instead of pitch()
//   State<Mine>                   what a thread keeps for its chunks of 16 bytes (Mine: matrix::Share):
//     init(where, first row of the block, thread)
//     begin(where, k tile)                 for all lanes of a warp
//     column(where, k tile)                where in a row in memory all its chunks begin
//     row(where, k tile, slot, inside)     that row; anything unless inside
//     entry(where, k tile)                 of its column of chunks in the table of numbers per channel
//     image_channel(where, first row, k tile, slot)
//                                          offset of the chunk's image and channels in an array [N,C]; without it there
//                                          are no gates
#pragma once
#include "core/cuda_device.cuh"
#include "ops/conv.h"

namespace lgd {

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

// Two coordinates in one register, y in the upper half, each plus 2^15: steps are added to both at once, and a half's
// highest bit says whether its coordinate is negative. `outside` lies beyond every image whatever tap is added.
struct Place2 {
  uint32_t word;
  static constexpr int middle = 1 << 15, outside = -middle;
  static constexpr uint32_t signs = uint32_t(middle) << 16 | uint32_t(middle);
  static __device__ __forceinline__ Place2 of(int y, int x) {
    return {uint32_t(y + middle) << 16 | uint32_t(x + middle)};
  }
  static __device__ __forceinline__ uint32_t step(int y, int x) { return (uint32_t(y) << 16) + uint32_t(x); }
  // Of images of h x w: h - 1 - y and w - 1 - x are not negative either. The lower half of a difference always borrows
  // from the upper, hence h.
  __device__ __forceinline__ bool inside(int h, int w) const {
    return (word & ((uint32_t(h) << 16) + uint32_t(w - 1) - word) & signs) == signs;
  }
  __device__ __forceinline__ Place2 operator+(uint32_t step) const { return {word + step}; }
};

namespace where {

// Where a thread's chunks of rows lie, of a matrix with k inner.
template <class Mine>
struct InnerChunks {
  int row0, k;
  template <class Where>
  __device__ __forceinline__ void init(const Where&, int first, int thread) {
    row0 = first + thread / Mine::chunks;
    k = thread % Mine::chunks * Mine::chunk;
  }
  template <class Where>
  __device__ __forceinline__ void begin(const Where&, int) {}
};

// [rows][width] in memory, the reduction along the width (k inner). An image is `pixels` rows.
struct Rows {
  static constexpr bool k_outer = false, overlaps = false;
  int rows, width;
  FastDivide by_pixels{1};
  constexpr int channels() const { return width; }
  constexpr int pitch() const { return width; }

  template <class Mine>
  struct State : InnerChunks<Mine> {
    using InnerChunks<Mine>::row0, InnerChunks<Mine>::k;
    __device__ __forceinline__ int column(const Rows&, int tile) const { return tile * Mine::BK + k; }
    __device__ __forceinline__ uint32_t row(const Rows& of, int tile, int slot, bool& inside) const {
      const int row = row0 + slot * Mine::step;
      inside = row < of.rows && column(of, tile) < of.width;
      return uint32_t(row);
    }
    __device__ __forceinline__ int entry(const Rows& of, int tile) const {
      const int at = tile * Mine::BK + k;
      return at < of.width ? at : 0;
    }
    __device__ __forceinline__ int64_t image_channel(const Rows& of, int first, int tile, int slot) const {
      const int row = first + int(threadIdx.x) / Mine::chunks + slot * Mine::step;
      return int64_t(of.by_pixels.divide(uint32_t(row))) * of.width + entry(of, tile);
    }
  };
};

// Two matrices with rows alike side by side, [rows][width] and [rows][width2], as if they were one (k inner); read with
// read::StoredTwo. Where one ends the next k tile begins: width is a multiple of BK.
struct RowsOfTwo {
  static constexpr bool k_outer = false, overlaps = false;
  int rows, width, width2;
  constexpr int channels() const { return width + width2; }
  __device__ __forceinline__ bool in_second(int k) const { return k >= width; }
  __device__ __forceinline__ int pitch(bool second) const { return second ? width2 : width; }

  template <class Mine>
  struct State : InnerChunks<Mine> {
    using InnerChunks<Mine>::row0, InnerChunks<Mine>::k;
    __device__ __forceinline__ int column(const RowsOfTwo& of, int tile) const {
      const int at = tile * Mine::BK;
      return (of.in_second(at) ? at - of.width : at) + k;
    }
    __device__ __forceinline__ uint32_t row(const RowsOfTwo& of, int tile, int slot, bool& inside) const {
      const int row = row0 + slot * Mine::step;
      inside = row < of.rows && tile * Mine::BK + k < of.width + of.width2;
      return uint32_t(row);
    }
  };
};

// [rows][width] in memory, the reduction along the rows (k outer).
struct Columns {
  static constexpr bool k_outer = true, overlaps = false;
  int rows, width;
  FastDivide by_pixels{1};
  constexpr int channels() const { return width; }
  constexpr int pitch() const { return width; }
  __device__ __forceinline__ int channel(int i) const { return min(i, width - 1); }

  template <class Mine>
  struct State {
    int column0, row0;
    __device__ __forceinline__ void init(const Columns&, int first, int thread) {
      column0 = first + thread % Mine::chunks * Mine::chunk;
      row0 = thread / Mine::chunks;
    }
    __device__ __forceinline__ void begin(const Columns&, int) {}
    __device__ __forceinline__ int column(const Columns&, int) const { return column0; }
    __device__ __forceinline__ uint32_t row(const Columns& of, int tile, int slot, bool& inside) const {
      const int row = tile * Mine::BK + row0 + slot * Mine::step;
      inside = row < of.rows && column0 < of.width;
      return uint32_t(row);
    }
    __device__ __forceinline__ int entry(const Columns&, int) const {
      return int(threadIdx.x) % Mine::chunks * Mine::chunk;
    }
    __device__ __forceinline__ int64_t image_channel(const Columns& of, int, int tile, int slot) const {
      return int64_t(of.by_pixels.divide(uint32_t(tile * Mine::BK + row0 + slot * Mine::step))) * of.width + column0;
    }
  };
};

struct Geometry {
  ConvShape shape;
  FastDivide by_ow, by_oh, by_c, by_s;
  explicit Geometry(const ConvShape& c) : shape(c), by_ow(c.ow), by_oh(c.oh), by_c(c.c), by_s(c.s) {}
  constexpr int64_t rows() const { return shape.rows(); }
  // Output pixel -> image, y, x.
  __device__ __forceinline__ int pixel(int at, int& y, int& x) const {
    uint32_t ox, oy;
    const uint32_t n = by_oh.divide(by_ow.divide(uint32_t(at), ox), oy);
    y = int(oy);
    x = int(ox);
    return int(n);
  }
  // From an output pixel to where its window begins in x.
  __device__ __forceinline__ void to_first_tap(int& y, int& x) const {
    y = y * shape.stride - shape.pad;
    x = x * shape.stride_x() - shape.pad_x();
  }
  // From there to tap r S + s; returns r.
  __device__ __forceinline__ int step_to(uint32_t tap, int& dy, int& dx) const {
    uint32_t column;
    const int r = int(by_s.divide(tap, column));
    dy = r * shape.dilation;
    dx = int(column) * shape.dilation;
    return r;
  }
};

// Output pixels by 2x2 windows, four rows a window; those that no window holds (the last row or column of an odd
// number) are left out.
struct WindowGeometry : Geometry {
  FastDivide by_columns, by_windows;
  explicit WindowGeometry(const ConvShape& c)
      : Geometry(c), by_columns(uint32_t(c.ow / 2)), by_windows(uint32_t(c.oh / 2)) {}
  constexpr int64_t rows() const { return int64_t(4) * shape.n * (shape.oh / 2) * (shape.ow / 2); }
  __device__ __forceinline__ int pixel(int at, int& y, int& x) const {
    uint32_t column, row;
    const uint32_t n = by_windows.divide(by_columns.divide(uint32_t(at) / 4, column), row);
    y = int(row * 2 + (uint32_t(at) / 2 & 1));
    x = int(column * 2 + (uint32_t(at) & 1));
    return int(n);
  }
};

// What a thread keeps of rows that are pixels, whose reduction goes over taps and channels (k inner). Of has
//   rows(), height(), width()      of the images that are read
//   first(row, y, x)               the image in which a row's window lies, and the pixel there that steps are taken from
//   tap(k, dy, dx, channel)        the step to the tap of element k, and k's channel; false: there is none
template <class Of, class Mine>
struct Gathered {
  uint32_t base[Mine::slots];
  Place2 at[Mine::slots];
  int k, c;
  uint32_t step, pixels;  // to the tap of the k tile
  bool k_inside;
  __device__ __forceinline__ void init(const Of& of, int first, int thread) {
    k = thread % Mine::chunks * Mine::chunk;
#pragma unroll
    for (int slot = 0; slot < Mine::slots; ++slot) {
      const int row = first + thread / Mine::chunks + slot * Mine::step;
      int y, x;
      const int n = of.first(row, y, x);
      base[slot] = (uint32_t(n) * of.height() + y) * of.width() + x;
      at[slot] = Place2::of(row < of.rows() ? y : Place2::outside, x);
    }
  }
  __device__ __forceinline__ void begin(const Of& of, int tile) {
    int dy, dx;
    k_inside = of.tap(tile * Mine::BK + k, dy, dx, c);
    step = Place2::step(dy, dx);
    pixels = uint32_t(dy * of.width() + dx);
  }
  __device__ __forceinline__ int column(const Of&, int) const { return c; }
  __device__ __forceinline__ uint32_t row(const Of& of, int, int slot, bool& inside) const {
    inside = k_inside && (at[slot] + step).inside(of.height(), of.width());
    return base[slot] + pixels;
  }
  __device__ __forceinline__ int entry(const Of& of, int tile) const {
    int dy, dx, channel;
    of.tap(tile * Mine::BK + k, dy, dx, channel);
    return channel;
  }
};

// Patches of x for the forward pass: row = output pixel as Order tells, k = (r, s, c).
template <class Order>
struct PatchesBy : Order {
  static constexpr bool k_outer = false, overlaps = true;
  using Order::Order;
  using Order::shape;
  constexpr int channels() const { return shape.c; }
  constexpr int pitch() const { return shape.c; }
  constexpr int height() const { return shape.h; }
  constexpr int width() const { return shape.w; }
  __device__ __forceinline__ int first(int row, int& y, int& x) const {
    const int n = Order::pixel(row, y, x);
    Order::to_first_tap(y, x);
    return n;
  }
  __device__ __forceinline__ bool tap(int k, int& dy, int& dx, int& channel) const {
    uint32_t c;
    const uint32_t tap = Order::by_c.divide(uint32_t(k), c);
    channel = int(c);
    return Order::step_to(tap, dy, dx) < shape.r;
  }
  template <class Mine>
  using State = Gathered<PatchesBy, Mine>;
};

struct Patches : PatchesBy<Geometry> {
  using PatchesBy::PatchesBy;
};
struct WindowPatches : PatchesBy<WindowGeometry> {
  using PatchesBy::PatchesBy;
};

// How the columns (r, s, c) of a weight gradient are dealt out to tiles: 32 channels with all taps, then the next 32.
// So a tile has several taps of the same channels, and level-1 cache what one of them has read for the next.
struct TapColumns {
  int channels, group;
  FastDivide by_group, by_all_taps;
  TapColumns(int taps, int c)
      : channels(c), group(c % 32 == 0 ? 32 : c), by_group(uint32_t(group)), by_all_taps(uint32_t(taps * group)) {}
  // The tap r S + s; beyond the last column c is beyond the channels.
  __device__ __forceinline__ uint32_t tap(int column, int& c) const {
    uint32_t in_group, rest;
    const uint32_t before = by_all_taps.divide(uint32_t(column), rest), tap = by_group.divide(rest, in_group);
    c = int(before) * group + int(in_group);
    return tap;
  }
  // Where the column is in memory.
  __device__ __forceinline__ int place(int column) const {
    int c;
    const uint32_t of = tap(column, c);
    return int(of) * channels + c;
  }
};

// Patches of x for the weight gradient: row = (r, s, c) as TapColumns has them, k = output pixel, the reduction outer.
struct PatchColumns : Geometry {
  static constexpr bool k_outer = true, overlaps = true;
  TapColumns columns;
  explicit PatchColumns(const ConvShape& s) : Geometry(s), columns(s.r * s.s, s.c) {}
  constexpr int channels() const { return shape.c; }
  constexpr int pitch() const { return shape.c; }
  __device__ __forceinline__ int channel(int i) const {
    int c;
    columns.tap(i, c);
    return min(c, shape.c - 1);
  }

  template <class Mine>
  struct State {
    int c, row0;
    uint32_t step, pixels;  // from tap (0, 0) to that of the chunks
    bool c_inside;
    uint32_t lane_base;  // of the pixel of the k tile that has this lane's number: each is worked out once a warp
    Place2 lane_at;
    __device__ __forceinline__ void init(const PatchColumns& of, int first, int thread) {
      int dy, dx;
      of.step_to(of.columns.tap(first + thread % Mine::chunks * Mine::chunk, c), dy, dx);
      c_inside = c < of.shape.c;
      step = Place2::step(dy, dx);
      pixels = uint32_t(dy * of.shape.w + dx);
      row0 = thread / Mine::chunks;
    }
    __device__ __forceinline__ void begin(const PatchColumns& of, int tile) {
      const ConvShape& s = of.shape;
      const int pixel = tile * Mine::BK + int(threadIdx.x) % Mine::BK;
      int y, x;
      const int n = of.pixel(pixel, y, x);
      of.to_first_tap(y, x);
      lane_base = (uint32_t(n) * s.h + y) * s.w + x;
      lane_at = Place2::of(pixel < s.rows() ? y : Place2::outside, x);
    }
    __device__ __forceinline__ int column(const PatchColumns&, int) const { return c; }
    __device__ __forceinline__ uint32_t row(const PatchColumns& of, int, int slot, bool& inside) const {
      const Place2 at{shfl(lane_at.word, row0 + slot * Mine::step)};
      inside = c_inside && (at + step).inside(of.shape.h, of.shape.w);
      return shfl(lane_base, row0 + slot * Mine::step) + pixels;
    }
    __device__ __forceinline__ int entry(const PatchColumns&, int) const {
      return int(threadIdx.x) % Mine::chunks * Mine::chunk;
    }
  };
};

// The input pixels whose coordinates leave the same rests (py, px) by the stride, and the taps that reach them: the
// output pixel of tap r at input row y is (y + pad - r dilation) / stride, whole for r = first + t step only. In
// numbers of the grid of these pixels and of their taps that is a convolution of stride 1: output row = i + base - t
// reach.
struct Phase {
  struct Axis {
    int size;  // pixels of this rest
    int taps, first, step;
    int base, reach;
    Axis(int length, int rest, int kernel, int stride, int pad, int dilation)
        : size((length - rest + stride - 1) / stride), taps(0), first(0), step(1), base(0), reach(0) {
      const auto whole = [&](int r) { return (rest + pad - r * dilation) % stride == 0; };
      while (first < kernel && !whole(first)) ++first;
      if (first == kernel) return;
      while (!whole(first + step)) ++step;
      taps = (kernel - first + step - 1) / step;
      base = (rest + pad - first * dilation) / stride;
      reach = step * dilation / stride;
    }
  };
  Axis y, x;
  int py, px;
  Phase(const ConvShape& s, int py_, int px_)
      : y(s.h, py_, s.r, s.stride, s.pad, s.dilation),
        x(s.w, px_, s.s, s.stride, s.pad, s.dilation),
        py(py_),
        px(px_) {}
  int taps() const { return y.taps * x.taps; }
  int64_t rows(int images) const { return int64_t(images) * y.size * x.size; }
};

// What of dy reaches the input pixels of a phase: row = such a pixel, k = (tap of y, tap of x, k).
struct Reaching {
  static constexpr bool k_outer = false, overlaps = true;
  int oh, ow, k, row_count;
  Phase phase;
  FastDivide by_width, by_height, by_k, by_taps;
  Reaching(const ConvShape& s, const Phase& p)
      : oh(s.oh),
        ow(s.ow),
        k(s.k),
        row_count(int(p.rows(s.n))),
        phase(p),
        by_width(p.x.size),
        by_height(p.y.size),
        by_k(s.k),
        by_taps(p.x.taps ? p.x.taps : 1) {}
  constexpr int channels() const { return k; }
  constexpr int pitch() const { return k; }
  constexpr int rows() const { return row_count; }
  constexpr int height() const { return oh; }
  constexpr int width() const { return ow; }
  __device__ __forceinline__ int first(int row, int& y, int& x) const {
    uint32_t j, i;
    const uint32_t n = by_height.divide(by_width.divide(uint32_t(row), j), i);
    y = int(i) + phase.y.base;
    x = int(j) + phase.x.base;
    return int(n);
  }
  __device__ __forceinline__ bool tap(int at, int& dy, int& dx, int& channel) const {
    uint32_t ch, tap_x;
    const int tap_y = int(by_taps.divide(by_k.divide(uint32_t(at), ch), tap_x));
    dy = -tap_y * phase.y.reach;
    dx = -int(tap_x) * phase.x.reach;
    channel = int(ch);
    return tap_y < phase.y.taps;
  }
  template <class Mine>
  using State = Gathered<Reaching, Mine>;
};

// Weights for the data gradient: row = c, k = (tap of y, tap of x, k) of a phase, the reduction outer.
struct PhaseWeights {
  static constexpr bool k_outer = true, overlaps = false;
  int r, s, c;
  Phase phase;
  FastDivide by_k, by_taps;
  PhaseWeights(const ConvShape& of, const Phase& p)
      : r(of.r), s(of.s), c(of.c), phase(p), by_k(of.k), by_taps(p.x.taps ? p.x.taps : 1) {}
  constexpr int channels() const { return c; }
  constexpr int pitch() const { return c; }

  template <class Mine>
  struct State {
    int c, row0;
    int lane_row;  // in memory, of the row of the k tile that has this lane's number; negative: there is none
    __device__ __forceinline__ void init(const PhaseWeights&, int first, int thread) {
      c = first + thread % Mine::chunks * Mine::chunk;
      row0 = thread / Mine::chunks;
    }
    __device__ __forceinline__ void begin(const PhaseWeights& of, int tile) {
      uint32_t k, tap_x;
      const uint32_t tap_y =
          of.by_taps.divide(of.by_k.divide(uint32_t(tile * Mine::BK + int(threadIdx.x) % Mine::BK), k), tap_x);
      const int tap =
          (of.phase.y.first + int(tap_y) * of.phase.y.step) * of.s + of.phase.x.first + int(tap_x) * of.phase.x.step;
      lane_row = int(tap_y) < of.phase.y.taps ? int(k) * (of.r * of.s) + tap : -1;
    }
    __device__ __forceinline__ int column(const PhaseWeights&, int) const { return c; }
    __device__ __forceinline__ uint32_t row(const PhaseWeights& of, int, int slot, bool& inside) const {
      const int row = shfl(lane_row, row0 + slot * Mine::step);
      inside = row >= 0 && c < of.c;
      return uint32_t(row);
    }
  };
};

}  // namespace where

template <class Where_, class Read_>
struct Loader {
  using Where = Where_;
  using Read = Read_;
  Where where;
  Read read;
};
template <class Where, class Read>
Loader(Where, Read) -> Loader<Where, Read>;

}  // namespace lgd
