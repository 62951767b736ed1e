// Vector code of patch_outer and column_sums (ops/gemm_cpu.h), once per instruction set.
#include "ops/patches_cpu.inl"

namespace lgd::LGD_ISA {
namespace {

// Rows that are multiplied in pairs, of two matrices: numbers of one are broadcast, the other's lie along the vectors.
struct RowPairs {
  int64_t count;
  const float **scalars, **vectors;
  // Plain matrices: what is left of the next block of either, fetched into the cache one line a pair while tiles are
  // summed.
  const float *ahead[2], *ahead_end[2];

  const float* fetch() {
    for (int i = 0; i < 2; ++i) {
      if (ahead[i] >= ahead_end[i]) continue;
      ahead[i] += count * 16;
      return ahead[i] - count * 16;
    }
    return nullptr;
  }
};

// Adds to (or sets) out[i, j], i in [row, row + rows), j in [column, column + (V - 1) vectors + last).
// whole_rows: rows == R. whole_columns: the last vector is full.
template <int R, int V, bool whole_rows, bool whole_columns>
__attribute__((noinline)) void outer_tile(RowPairs& pairs, int64_t row, int rows, int64_t column, int last, float* out,
                                          int64_t stride, bool add) {
  const float* ahead = pairs.fetch();
  const int64_t ahead_step = ahead ? 16 : 0;
  if (!ahead) ahead = out;
  Vec sum[R][V];
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) sum[i][v] = Vec{};
  for (int64_t m = 0; m < pairs.count; ++m, ahead += ahead_step) {
    const float *a = pairs.scalars[m] + row, *b = pairs.vectors[m] + column;
    __builtin_prefetch(ahead);
    Vec values[V];
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v)
      values[v] = whole_columns || v < V - 1 ? load(b + v * lanes) : load_n(b + v * lanes, last);
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i)
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) sum[i][v] += values[v] * a[whole_rows || i < rows ? i : 0];
  }
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i) {
    if (!whole_rows && i >= rows) continue;
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) {
      float* at = out + (row + i) * stride + column + v * lanes;
      if (whole_columns || v < V - 1) store(at, add ? load(at) + sum[i][v] : sum[i][v]);
      else store_n(at, add ? load_n(at, last) + sum[i][v] : sum[i][v], last);
    }
  }
}

template <int R, int V>
static void outer_tile_of(RowPairs& pairs, int64_t row, int rows, int64_t column, int last, float* out, int64_t stride,
                          bool add) {
  if (rows < R) outer_tile<R, V, false, false>(pairs, row, rows, column, last, out, stride, add);
  else if (last < lanes) outer_tile<R, V, true, false>(pairs, row, rows, column, last, out, stride, add);
  else outer_tile<R, V, true, true>(pairs, row, rows, column, last, out, stride, add);
}

template <int V>
static void outer_panel(RowPairs& pairs, const OuterRange& range, int64_t column, int last, float* out, int64_t stride,
                        bool add) {
  constexpr int large = tile_rows, middle = tile_rows * 2 / 3, small = tile_rows / 3;
  for (int64_t row = range.row_begin; row < range.row_end;) {
    const int64_t left = range.row_end - row;
    const int rows = left >= large ? large : left >= middle ? middle : left >= small ? small : int(left);
    if (rows > middle) outer_tile_of<large, V>(pairs, row, rows, column, last, out, stride, add);
    else if (rows > small) outer_tile_of<middle, V>(pairs, row, rows, column, last, out, stride, add);
    else outer_tile_of<small, V>(pairs, row, rows, column, last, out, stride, add);
    row += rows;
  }
}

static void outer_pairs(RowPairs& pairs, const OuterRange& range, float* out, int64_t stride, bool add) {
  for (int64_t column = range.column_begin; column < range.column_end; column += tile_columns) {
    const int64_t left = range.column_end - column < tile_columns ? range.column_end - column : tile_columns;
    if (left <= lanes) outer_panel<1>(pairs, range, column, int(left), out, stride, add);
    else outer_panel<2>(pairs, range, column, int(left - lanes), out, stride, add);
  }
}

// Rows [row, end), a block of rows that fits the caches at a time. out: dw, or with range.turned its transpose [taps,
// depth, k]. `pointers` [2 * block]: room; `copies`: room for `block` patches. add: out holds sums already.
void outer_rows(const PatchOuter& o, int64_t row, int64_t end, const OuterRange& range, int64_t block,
                const float** pointers, float* copies, float* out, bool add) {
  const Patches& p = o.patches;
  const int64_t patch = int64_t(p.taps) * p.depth;
  const int64_t stride = range.turned ? o.k : patch, tap_stride = range.turned ? int64_t(p.depth) * o.k : p.depth;
  const float **dy = pointers, **pixels = pointers + block;
  RowPairs pairs{0, range.turned ? pixels : dy, range.turned ? dy : pixels, {}, {}};
  for (; row < end; row += block, add = true) {
    const int64_t rows = end - row < block ? end - row : block;
    if (p.copied() || p.plain()) {
      RowWalk at = row_at(p, row, false);
      for (int64_t i = 0; i < rows; ++i) {
        dy[i] = o.dy + (row + i) * o.k;
        pixels[i] = p.plain() ? p.image + (row + i) * p.depth : copies + i * patch;
        if (p.plain()) continue;
        copy_patch(p, at, copies + i * patch);
        advance(p, at);
      }
      pairs.count = rows;
      const int64_t next = row + 2 * block < end ? block : end - row - rows;
      if (p.plain()) {
        pairs.ahead[0] = p.image + (row + rows) * p.depth;
        pairs.ahead[1] = o.dy + (row + rows) * o.k;
        pairs.ahead_end[0] = pairs.ahead[0] + next * p.depth;
        pairs.ahead_end[1] = pairs.ahead[1] + next * o.k;
      }
      outer_pairs(pairs, range, out, stride, add);
      continue;
    }
    for (int t = range.tap_begin; t < range.tap_end; ++t) {
      RowWalk at = row_at(p, row, false);
      pairs.count = 0;
      for (int64_t i = 0; i < rows; ++i, advance(p, at)) {
        const float* pixel = patch_pixel(p, at, t);
        if (!pixel) continue;  // zeros add nothing
        dy[pairs.count] = o.dy + (row + i) * o.k;
        pixels[pairs.count++] = pixel;
      }
      outer_pairs(pairs, range, out + t * tap_stride, stride, add);
    }
  }
}

// to[k, d] += from[d, k] for k in [begin, end) of `count`, all d of `depth`. By blocks that stay in the first-level
// cache.
void add_turned(int64_t begin, int64_t end, int64_t count, int64_t depth, const float* from, float* to) {
  constexpr int64_t block = 32;
  for (int64_t k0 = begin; k0 < end; k0 += block) {
    const int64_t k1 = end - k0 < block ? end : k0 + block, k_whole = k0 + (k1 - k0) / 4 * 4;
    for (int64_t d = 0; d < depth; d += 4) {
      int64_t k = k0;
      for (; d + 4 <= depth && k < k_whole; k += 4) {
        Four turned[4];
        transpose4(from + d * count + k, count, turned);
        for (int i = 0; i < 4; ++i) *(Four*)(to + (k + i) * depth + d) += turned[i];
      }
      for (; k < k1; ++k)
        for (int64_t i = d; i < d + 4 && i < depth; ++i) to[k * depth + i] += from[i * count + k];
    }
  }
}

// sum[k] = sum over rows [row, end) of dy[row, k]; partial sums of 64 rows keep the rounding small.
void sum_columns(const float* dy, int64_t k, int64_t row, int64_t end, float* sum) {
  for (int64_t first = row; first < end; first += 64) {
    const int64_t last = end - first < 64 ? end : first + 64;
    LGD_FOR_VECTORS(c, width, k) {
      Vec v = first == row ? Vec{} : load_n(sum + c, width), part = {};
      for (int64_t r = first; r < last; ++r) part += load_n(dy + r * k + c, width);
      store_n(sum + c, v + part, width);
    }
  }
}

}  // namespace
}  // namespace lgd::LGD_ISA
