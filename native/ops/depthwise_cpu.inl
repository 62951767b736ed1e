// Vector code of ops/depthwise.h, once per instruction set: channels lie along the vectors.
//
// Forward and the data gradient are one gathering kernel. A block of `block` neighbouring outputs of one row is
// computed at a time: for each row of taps its columns are loaded once and used by all outputs that meet them. Columns
// outside of the image point at zeros.
#include "ops/vector_cpu.inl"
#include "ops/epilogue_cpu.inl"

namespace lgd::LGD_ISA {
namespace {

// The rows of taps that an output row meets: rows read, and their weights [S][C].
struct TapRows {
  int count;
  const float* in[7];
  const float* w[7];
};

// Outputs [begin, end) of a block whose first output is 0.
struct BlockRange {
  int begin, end;
};

// Which columns an output and a tap meet, relative to the first column of the block; -1: none. spread == false: column
// = step * output + tap. spread == true (data gradient, stride 2): 2 * column = output + pad - tap.
template <int S, int step, bool spread>
static constexpr int column_of(int output, int tap) {
  if (!spread) return output * step + tap;
  return (output + S - 1 - tap) % 2 ? -1 : (output + S - 1 - tap) / 2;
}

template <int S, int step, bool spread, int block, bool whole>
static inline __attribute__((always_inline)) void gather_block(const TapRows& rows,
                                                               const float* const (*columns)[(block - 1) * step + S],
                                                               int64_t channels, int64_t c, int width, BlockRange range,
                                                               float* out, bool accumulate) {
  constexpr int used = column_of<S, step, spread>(block - 1, spread ? (block - 1) % 2 : S - 1) + 1;
  auto get = [&](const float* p) { return whole ? load(p) : load_n(p, width); };
  Vec sum[block] = {};
  for (int r = 0; r < rows.count; ++r) {
    Vec w[S], x[used];
#pragma GCC unroll 7
    for (int s = 0; s < S; ++s) w[s] = get(rows.w[r] + s * channels + c);
#pragma GCC unroll 16
    for (int i = 0; i < used; ++i) x[i] = get(columns[r][i] + c);
#pragma GCC unroll 7
    for (int s = 0; s < S; ++s)
#pragma GCC unroll 4
      for (int j = 0; j < block; ++j)
        if (column_of<S, step, spread>(j, s) >= 0) sum[j] += w[s] * x[column_of<S, step, spread>(j, s)];
  }
#pragma GCC unroll 4
  for (int j = 0; j < block; ++j) {
    if (j < range.begin || j >= range.end) continue;
    float* at = out + j * channels + c;
    const Vec v = accumulate ? get(at) + sum[j] : sum[j];
    if (whole) store(at, v);
    else store_n(at, v, width);
  }
}

// One output row of `count` pixels. in_width: pixels of a row that is read.
template <int S, int step, bool spread, int block>
void gather_row(const TapRows& rows, int in_width, int64_t channels, int pad, int count, const float* zeros, float* out,
                bool accumulate) {
  constexpr int reach = (block - 1) * step + S;
  const int start = spread ? -(pad % 2) : 0;  // a block starts where output + pad is even
  for (int first = start; first < count; first += block) {
    const int column = spread ? (first + pad) / 2 - (S - 1) / 2 : first * step - pad;
    const float* columns[7][reach];
    for (int r = 0; r < rows.count; ++r)
#pragma GCC unroll 16
      for (int i = 0; i < reach; ++i)
        columns[r][i] = unsigned(column + i) < unsigned(in_width) ? rows.in[r] + (column + i) * channels : zeros;
    const BlockRange range{first < 0 ? -first : 0, count - first};
    float* at = out + first * channels;
    int64_t c = 0;
    for (; c + lanes <= channels; c += lanes)
      gather_block<S, step, spread, block, true>(rows, columns, channels, c, lanes, range, at, accumulate);
    if (c < channels)
      gather_block<S, step, spread, block, false>(rows, columns, channels, c, int(channels - c), range, at, accumulate);
  }
}

// Any dilation: `step` outputs apart in the input, or (spread) in the output.
void gather_row_dilated(const TapRows& rows, const ConvShape& s, bool spread, int count, float* out, bool accumulate) {
  for (int o = 0; o < count; ++o, out += s.c) {
    if (!accumulate)
      for (int c = 0; c < s.c; ++c) out[c] = 0;
    for (int r = 0; r < rows.count; ++r) {
      for (int q = 0; q < s.s; ++q) {
        const int place = spread ? o + s.pad - q * s.dilation : o * s.stride - s.pad + q * s.dilation;
        if (place < 0 || (spread && place % s.stride)) continue;
        const int column = spread ? place / s.stride : place;
        if (column >= (spread ? s.ow : s.w)) continue;
        const float *in = rows.in[r] + int64_t(column) * s.c, *w = rows.w[r] + int64_t(q) * s.c;
        for (int c = 0; c < s.c; ++c) out[c] += in[c] * w[c];
      }
    }
  }
}

template <int S>
static void gather_row_of(const TapRows& rows, const ConvShape& s, bool spread, const float* zeros, float* out,
                          bool accumulate) {
  const int count = spread ? s.w : s.ow, in_width = spread ? s.ow : s.w;
  if (s.dilation != 1) return gather_row_dilated(rows, s, spread, count, out, accumulate);
  const bool narrow = count <= 2;
  if (s.stride == 2 && spread) {
    if (narrow) gather_row<S, 2, true, 2>(rows, in_width, s.c, s.pad, count, zeros, out, accumulate);
    else gather_row<S, 2, true, 4>(rows, in_width, s.c, s.pad, count, zeros, out, accumulate);
  } else if (s.stride == 2) {
    if (narrow) gather_row<S, 2, false, 2>(rows, in_width, s.c, s.pad, count, zeros, out, accumulate);
    else gather_row<S, 2, false, 4>(rows, in_width, s.c, s.pad, count, zeros, out, accumulate);
  } else {
    // Stride 1: the data gradient is the forward pass with turned weights, which the caller hands in.
    const int pad = spread ? S - 1 - s.pad : s.pad;
    if (narrow) gather_row<S, 1, false, 2>(rows, in_width, s.c, pad, count, zeros, out, accumulate);
    else gather_row<S, 1, false, 4>(rows, in_width, s.c, pad, count, zeros, out, accumulate);
  }
}

// Output rows [row, end), counted over the batch.  zeros: [C].
void depthwise_rows(const ConvShape& s, int64_t row, int64_t end, const float* x, const float* w, const float* zeros,
                    const Epilogue& epilogue, float* y) {
  for (; row < end; ++row) {
    const int64_t n = row / s.oh;
    const int oy = int(row % s.oh);
    TapRows rows{0, {}, {}};
    for (int r = 0; r < s.r; ++r) {
      const int iy = oy * s.stride - s.pad + r * s.dilation;
      if (iy < 0 || iy >= s.h) continue;
      rows.in[rows.count] = x + (n * s.h + iy) * s.w * s.c;
      rows.w[rows.count++] = w + int64_t(r) * s.s * s.c;
    }
    float* out = y + row * s.ow * s.c;
    if (s.s == 3) gather_row_of<3>(rows, s, false, zeros, out, false);
    else if (s.s == 7) gather_row_of<7>(rows, s, false, zeros, out, false);
    else gather_row_of<5>(rows, s, false, zeros, out, false);
    const float* residual = static_cast<const float*>(epilogue.residual);
    if (has_work(epilogue)) finish_rows(epilogue, residual ? residual + (out - y) : nullptr, 0, s.ow, s.c, s.c, out);
  }
}

// Input rows [row, end) of dx. w: for stride 1 and dilation 1 with each row of taps turned around, else as it is.
void depthwise_gradient_rows(const ConvShape& s, int64_t row, int64_t end, const float* dy, const float* w,
                             const float* zeros, float* dx, bool accumulate) {
  for (; row < end; ++row) {
    const int64_t n = row / s.h;
    const int iy = int(row % s.h);
    TapRows rows{0, {}, {}};
    for (int r = 0; r < s.r; ++r) {
      const int place = iy + s.pad - r * s.dilation;
      if (place < 0 || place % s.stride || place / s.stride >= s.oh) continue;
      rows.in[rows.count] = dy + (n * s.oh + place / s.stride) * s.ow * s.c;
      rows.w[rows.count++] = w + int64_t(r) * s.s * s.c;
    }
    float* out = dx + row * s.w * s.c;
    if (s.s == 3) gather_row_of<3>(rows, s, true, zeros, out, accumulate);
    else if (s.s == 7) gather_row_of<7>(rows, s, true, zeros, out, accumulate);
    else gather_row_of<5>(rows, s, true, zeros, out, accumulate);
  }
}

// ---- weight gradient: R x S sums of one vector of channels stay in registers while a block of output rows is walked.

// Taps [r0, r0 + R) x [0, S) of channels [c, c + width) over output rows [row, end): dw (set, or added to).
template <int R, int S, bool whole>
__attribute__((noinline)) void weight_sums(const ConvShape& s, int r0, int64_t c, int width, int64_t row, int64_t end,
                                           const float* x, const float* dy, const float* zeros, float* dw, bool add) {
  auto get = [&](const float* p) { return whole ? load(p) : load_n(p, width); };
  const int64_t channels = s.c;
  // Outputs whose columns all lie inside of the image.
  const int inside = (s.pad + s.stride - 1) / s.stride, room = s.w + s.pad - (S - 1) * s.dilation - 1;
  const int begin = inside < s.ow ? inside : s.ow, limit = room < 0 ? 0 : room / s.stride + 1;
  const int finish = limit < begin ? begin : limit < s.ow ? limit : s.ow;
  const int64_t tap_step = s.dilation * channels, out_step = s.stride * channels;
  Vec sum[R][S];
#pragma GCC unroll 7
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 7
    for (int q = 0; q < S; ++q) sum[r][q] = add ? get(dw + ((r0 + r) * S + q) * channels + c) : Vec{};
  for (; row < end; ++row) {
    const int64_t n = row / s.oh;
    const int oy = int(row % s.oh);
    const float* in[R];
    bool valid[R];
    for (int r = 0; r < R; ++r) {
      const int iy = oy * s.stride - s.pad + (r0 + r) * s.dilation;
      valid[r] = iy >= 0 && iy < s.h;
      in[r] = valid[r] ? x + (n * s.h + iy) * s.w * channels + c : zeros;
    }
    const float* g = dy + row * s.ow * channels + c;
    auto border = [&](int ox) {
      const Vec gradient = get(g + ox * channels);
#pragma GCC unroll 7
      for (int q = 0; q < S; ++q) {
        const int ix = ox * s.stride - s.pad + q * s.dilation;
        if (ix < 0 || ix >= s.w) continue;
#pragma GCC unroll 7
        for (int r = 0; r < R; ++r) sum[r][q] += gradient * get(valid[r] ? in[r] + ix * channels : zeros);
      }
    };
    for (int ox = 0; ox < begin; ++ox) border(ox);
    const float* at[R];
    int64_t step[R];
    for (int r = 0; r < R; ++r) {
      at[r] = valid[r] ? in[r] + (int64_t(begin) * s.stride - s.pad) * channels : zeros;
      step[r] = valid[r] ? out_step : 0;
    }
    for (int ox = begin; ox < finish; ++ox) {
      __builtin_prefetch(at[R - 1] + lanes);  // what the next vector of channels will read
      __builtin_prefetch(g + ox * channels + lanes);
      const Vec gradient = get(g + ox * channels);
#pragma GCC unroll 7
      for (int r = 0; r < R; ++r) {
#pragma GCC unroll 7
        for (int q = 0; q < S; ++q) sum[r][q] += gradient * get(at[r] + q * tap_step);
        at[r] += step[r];
      }
    }
    for (int ox = finish; ox < s.ow; ++ox) border(ox);
  }
#pragma GCC unroll 7
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 7
    for (int q = 0; q < S; ++q) {
      float* out = dw + ((r0 + r) * S + q) * channels + c;
      if (whole) store(out, sum[r][q]);
      else store_n(out, sum[r][q], width);
    }
}

// One vector of channels of an image with its zeros around it, for images that fit the first-level cache.
struct PaddedImage {
  static constexpr int most = 24 * 1024 / int(sizeof(Vec));
  Vec pixels[most];
  int width, height;

  explicit PaddedImage(const ConvShape& s) : width(side(s, s.w, s.ow)), height(side(s, s.h, s.oh)) {
    for (int i = 0; i < width * height; ++i) pixels[i] = Vec{};
  }
  static int side(const ConvShape& s, int in, int out) {
    const int last = (out - 1) * s.stride + (s.s - 1) * s.dilation + 1;
    return last > in + s.pad ? last : in + s.pad;
  }
  static bool fits(const ConvShape& s) { return int64_t(side(s, s.w, s.ow)) * side(s, s.h, s.oh) <= most; }
  Vec* row(int y) { return pixels + y * width; }

  template <bool whole>
  void read(const ConvShape& s, const float* x, int vector_width) {
    for (int y = 0; y < s.h; ++y) {
      Vec* to = row(y + s.pad) + s.pad;
      for (int i = 0; i < s.w; ++i, x += s.c) {
        __builtin_prefetch(x + lanes);  // what the next vector of channels will read
        to[i] = whole ? load(x) : load_n(x, vector_width);
      }
    }
  }
};

// weight_sums for images [n, end) through a padded copy: no tap is out of bounds.
template <int R, int S, bool whole>
__attribute__((noinline)) void weight_sums_padded(const ConvShape& s, PaddedImage& image, int r0, int64_t c, int width,
                                                  int64_t n, int64_t end, const float* x, const float* dy, float* dw,
                                                  bool add) {
  auto get = [&](const float* p) { return whole ? load(p) : load_n(p, width); };
  Vec sum[R][S];
#pragma GCC unroll 7
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 7
    for (int q = 0; q < S; ++q) sum[r][q] = add ? get(dw + ((r0 + r) * S + q) * s.c + c) : Vec{};
  for (; n < end; ++n) {
    image.read<whole>(s, x + n * s.h * s.w * s.c + c, width);
    const float* g = dy + n * s.oh * s.ow * s.c + c;
    for (int oy = 0; oy < s.oh; ++oy) {
      const Vec* at = image.row(oy * s.stride + r0 * s.dilation);
      for (int ox = 0; ox < s.ow; ++ox, g += s.c, at += s.stride) {
        __builtin_prefetch(g + lanes);
        const Vec gradient = get(g);
#pragma GCC unroll 7
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 7
          for (int q = 0; q < S; ++q) sum[r][q] += gradient * at[(r * image.width + q) * s.dilation];
      }
    }
  }
#pragma GCC unroll 7
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 7
    for (int q = 0; q < S; ++q) {
      float* out = dw + ((r0 + r) * S + q) * s.c + c;
      if (whole) store(out, sum[r][q]);
      else store_n(out, sum[r][q], width);
    }
}

// Output rows [row, end) of the batch; whole images where they are copied.
template <int R, int S>
static void weight_taps(const ConvShape& s, int r0, int64_t row, int64_t end, const float* x, const float* dy,
                        const float* zeros, float* dw, bool add) {
  int64_t c = 0;
  if (PaddedImage::fits(s) && row % s.oh == 0 && end % s.oh == 0) {
    PaddedImage image(s);
    for (; c + lanes <= s.c; c += lanes)
      weight_sums_padded<R, S, true>(s, image, r0, c, lanes, row / s.oh, end / s.oh, x, dy, dw, add);
    if (c < s.c) weight_sums_padded<R, S, false>(s, image, r0, c, int(s.c - c), row / s.oh, end / s.oh, x, dy, dw, add);
    return;
  }
  for (; c + lanes <= s.c; c += lanes) weight_sums<R, S, true>(s, r0, c, lanes, row, end, x, dy, zeros, dw, add);
  if (c < s.c) weight_sums<R, S, false>(s, r0, c, int(s.c - c), row, end, x, dy, zeros, dw, add);
}

// Output rows [row, end) in blocks of `block` rows that stay in the second-level cache. dw [R][S][C] is set. zeros:
// [((S - 1) * dilation + 1) * C].
void depthwise_weight_rows(const ConvShape& s, int64_t row, int64_t end, int64_t block, const float* x, const float* dy,
                           const float* zeros, float* dw) {
  for (bool add = false; row < end; row += block, add = true) {
    const int64_t last = end - row < block ? end : row + block;
    if (s.s == 3) {
      weight_taps<3, 3>(s, 0, row, last, x, dy, zeros, dw, add);
    } else if (s.s == 7) {
      if constexpr (LGD_LANES == 16) {
        weight_taps<4, 7>(s, 0, row, last, x, dy, zeros, dw, add);
        weight_taps<3, 7>(s, 4, row, last, x, dy, zeros, dw, add);
      } else {
        for (int r = 0; r < 6; r += 2) weight_taps<2, 7>(s, r, row, last, x, dy, zeros, dw, add);
        weight_taps<1, 7>(s, 6, row, last, x, dy, zeros, dw, add);
      }
    } else if constexpr (LGD_LANES == 16) {  // 25 sums fit into 32 registers
      weight_taps<5, 5>(s, 0, row, last, x, dy, zeros, dw, add);
    } else {
      weight_taps<2, 5>(s, 0, row, last, x, dy, zeros, dw, add);
      weight_taps<2, 5>(s, 2, row, last, x, dy, zeros, dw, add);
      weight_taps<1, 5>(s, 4, row, last, x, dy, zeros, dw, add);
    }
  }
}

}  // namespace
}  // namespace lgd::LGD_ISA
