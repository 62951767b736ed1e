// Vector code of ops/gemm_cpu.h, once per instruction set.
//
// Both products keep a tile of tile_rows x tile_vectors vectors in registers: 12 x 2 of the 32 registers of AVX-512, 6 x 2 of 16.
// A step of the inner loop loads two vectors of one operand and multiplies them with one broadcast number for each row.
#include "ops/vector_cpu.inl"
#include "ops/epilogue_cpu.inl"

namespace lgd::LGD_ISA {
namespace {

static constexpr int tile_rows = LGD_LANES == 16 ? 12 : 6;
static constexpr int tile_columns = 2 * lanes;

TileShape tile_shape() { return {tile_rows, tile_columns}; }

// ---- packing of the weights: [panel of tile_columns][tap][depth][tile_columns]; the last panel is one vector wide if that is enough.

typedef float Four __attribute__((vector_size(16), aligned(4), may_alias));

// The 4x4 block at `from`, rows `stride` apart, turned around.
static inline __attribute__((always_inline)) void transpose4(const float* from, int64_t stride, Four (&out)[4]) {
  const Four a = *(const Four*)from, b = *(const Four*)(from + stride), c = *(const Four*)(from + 2 * stride), d = *(const Four*)(from + 3 * stride);
  const Four ab_low = __builtin_shufflevector(a, b, 0, 4, 1, 5), ab_high = __builtin_shufflevector(a, b, 2, 6, 3, 7);
  const Four cd_low = __builtin_shufflevector(c, d, 0, 4, 1, 5), cd_high = __builtin_shufflevector(c, d, 2, 6, 3, 7);
  out[0] = __builtin_shufflevector(ab_low, cd_low, 0, 1, 4, 5);
  out[1] = __builtin_shufflevector(ab_low, cd_low, 2, 3, 6, 7);
  out[2] = __builtin_shufflevector(ab_high, cd_high, 0, 1, 4, 5);
  out[3] = __builtin_shufflevector(ab_high, cd_high, 2, 3, 6, 7);
}

void pack_panel(const PatchGemm& g, int panel, float* out) {
  const int64_t first = int64_t(panel) * tile_columns, left = g.columns - first, depth = g.patches.depth;
  const int64_t width = left <= lanes ? lanes : tile_columns, used = left < width ? left : width;
  for (int t = 0; t < g.patches.taps; ++t, out += depth * width) {
    const float* w = g.w + g.tap_weight[t] + first * g.w_column;
    const int64_t whole_columns = g.w_column == 1 ? 0 : used / 4 * 4, whole_depth = depth / 4 * 4;
    for (int64_t column = 0; column < whole_columns; column += 4)
      for (int64_t d = 0; d < whole_depth; d += 4) {
        Four block[4];
        transpose4(w + column * g.w_column + d, g.w_column, block);
        for (int i = 0; i < 4; ++i) *(Four*)(out + (d + i) * width + column) = block[i];
      }
    for (int64_t d = 0; d < depth; ++d) {
      const int64_t done = d < whole_depth ? whole_columns : 0;
      if (g.w_column == 1)
        for (int64_t column = 0; column < used; ++column) out[d * width + column] = w[d * g.w_depth + column];
      else
        for (int64_t column = done; column < used; ++column) out[d * width + column] = w[d * g.w_depth + column * g.w_column];
      for (int64_t column = used; column < width; ++column) out[d * width + column] = 0;
    }
  }
}

// ---- rows of patches

// Walks the rows of a grid: image by image, or pixel by pixel over all images.
struct RowWalk {
  bool by_pixel;
  int n, gy, gx;
};

// Of small images, a large share of the patches hangs over the border. Walked pixel by pixel, the rows of one tile agree on
// which taps fall outside, and those taps are left out.
static inline bool small_images(const Patches& p) { return p.taps > 1 && p.grid_h * p.grid_w <= 64 && p.n >= tile_rows; }

static RowWalk row_at(const Patches& p, int64_t row, bool by_pixel) {
  const int64_t pixels = int64_t(p.grid_h) * p.grid_w;
  const int64_t n = by_pixel ? row % p.n : row / pixels, pixel = by_pixel ? row / p.n : row % pixels;
  return {by_pixel, int(n), int(pixel / p.grid_w), int(pixel % p.grid_w)};
}

static inline void advance(const Patches& p, RowWalk& at) {
  if (at.by_pixel) {
    if (++at.n < p.n) return;
    at.n = 0;
  }
  if (++at.gx < p.grid_w) return;
  at.gx = 0;
  if (++at.gy < p.grid_h) return;
  at.gy = 0;
  ++at.n;
}

// The pixel that a row and a tap meet, or null outside of the image.
static inline const float* patch_pixel(const Patches& p, const RowWalk& at, int tap) {
  const int y = at.gy * p.step + p.tap_y[tap], x = at.gx * p.step + p.tap_x[tap];
  if (unsigned(y) >= unsigned(p.height) || unsigned(x) >= unsigned(p.width)) return nullptr;
  return p.image + ((int64_t(at.n) * p.height + y) * p.width + x) * p.depth;
}

static inline void copy_floats(const float* from, int64_t count, float* to) {
  LGD_FOR_VECTORS(i, width, count) {
    if (width == lanes) store(to + i, load(from + i));
    else store_n(to + i, load_n(from + i, width), width);
  }
}

// One patch, side by side: out[taps * depth]. Taps that are neighbours in a row of the image are copied at once.
static void copy_patch(const Patches& p, const RowWalk& at, float* out) {
  for (int t = 0; t < p.taps;) {
    int run = 1;
    while (t + run < p.taps && p.tap_y[t + run] == p.tap_y[t] && p.tap_x[t + run] == p.tap_x[t] + run) ++run;
    const float* first = patch_pixel(p, at, t);
    if (first && patch_pixel(p, at, t + run - 1)) {
      copy_floats(first, int64_t(run) * p.depth, out + int64_t(t) * p.depth);
    } else {
      for (int i = t; i < t + run; ++i) {
        const float* pixel = patch_pixel(p, at, i);
        for (int d = 0; d < p.depth; ++d) out[int64_t(i) * p.depth + d] = pixel ? pixel[d] : 0.0f;
      }
    }
    t += run;
  }
}

// ---- out = patches * weights

// What one tile of rows reads: for each tap that any row meets, `tile_rows` pointers; and where the rows are written.
struct TileRows {
  int count, taps;        // rows in use; taps in use
  int64_t depth;
  const float** pixels;   // [taps][tile_rows]
  int* tap;               // which taps
  float* out[tile_rows];
  const float* ahead;     // plain matrices: the rows of the next tile; else null
};

// `ahead` is fetched into the cache, one line a step (a step of 0 fetches nothing new).
template <int R, int V>
static inline __attribute__((always_inline)) void multiply(const TileRows& rows, const float* panel, const float* ahead, int64_t ahead_step, Vec (&sum)[R][V]) {
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) sum[i][v] = Vec{};
  for (int t = 0; t < rows.taps; ++t) {
    const float* a[R];
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) a[i] = rows.pixels[t * tile_rows + i];
    const float* b = panel + rows.tap[t] * rows.depth * (V * lanes);
    for (int64_t d = 0; d < rows.depth; ++d, b += V * lanes, ahead += ahead_step) {
      __builtin_prefetch(ahead);
      Vec column[V];
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) column[v] = load(b + v * lanes);
#pragma GCC unroll 16
      for (int i = 0; i < R; ++i)
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) sum[i][v] += column[v] * a[i][d];
    }
  }
}

// While the tile is multiplied, its places in the output come into the cache; with `fetch`, the rows of the next tile as well.
template <int R, int V>
__attribute__((noinline)) void multiply_tile(const TileRows& rows, const float* panel, bool fetch, int64_t column, int width, bool accumulate) {
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i) {
    const float* to = i < rows.count ? rows.out[i] + column : panel;
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) __builtin_prefetch(to + v * lanes, 1);
  }
  Vec sum[R][V];
  multiply<R, V>(rows, panel, fetch ? rows.ahead : panel, fetch ? 16 : 0, sum);
  const int last = width - (V - 1) * lanes;  // columns of the last vector
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i) {
    if (i >= rows.count) continue;
    float* to = rows.out[i] + column;
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) {
      float* at = to + v * lanes;
      if (v < V - 1 || last == lanes) store(at, accumulate ? load(at) + sum[i][v] : sum[i][v]);
      else store_n(at, accumulate ? load_n(at, last) + sum[i][v] : sum[i][v], last);
    }
  }
}

template <int R>
static void multiply_panels(const PatchGemm& g, const TileRows& rows, const float* packed, int first, int last) {
  const int64_t panel_floats = int64_t(g.patches.taps) * g.patches.depth * tile_columns;
  for (int panel = first; panel < last; ++panel) {
    const int64_t column = int64_t(panel) * tile_columns, left = g.columns - column;
    const float* b = packed + panel * panel_floats;
    const bool fetch = panel == first && rows.ahead;
    if (left <= lanes) multiply_tile<R, 1>(rows, b, fetch, column, int(left), g.accumulate);
    else multiply_tile<R, 2>(rows, b, fetch, column, left < tile_columns ? int(left) : tile_columns, g.accumulate);
  }
}

static void fill_tile(const PatchGemm& g, RowWalk& at, int count, const float* zeros, float* copies, TileRows& tile) {
  const Patches& p = g.patches;
  tile.count = count;
  if (p.plain() && g.out_step == 1) {  // both matrices lie row by row
    const int64_t row = (int64_t(at.n) * p.grid_h + at.gy) * p.grid_w + at.gx;
    for (int i = 0; i < tile_rows; ++i) {
      tile.pixels[i] = i < count ? p.image + (row + i) * p.depth : zeros;
      tile.out[i] = i < count ? g.out + (row + i) * g.columns : nullptr;
    }
    tile.depth = p.depth;
    tile.taps = 1;
    tile.tap[0] = 0;
    tile.ahead = p.image + (row + count) * p.depth;
    at = row_at(p, row + count, false);
    return;
  }
  tile.ahead = nullptr;
  RowWalk walk[tile_rows];
  for (int i = 0; i < count; ++i, advance(p, at)) {
    walk[i] = at;
    const int64_t y = g.out_y + int64_t(at.gy) * g.out_step, x = g.out_x + int64_t(at.gx) * g.out_step;
    tile.out[i] = g.out + ((int64_t(at.n) * g.out_h + y) * g.out_w + x) * g.columns;
  }
  for (int i = count; i < tile_rows; ++i) tile.out[i] = nullptr;
  if (p.copied()) {
    const int64_t patch = int64_t(p.taps) * p.depth;
    tile.depth = patch;
    tile.taps = 1;
    tile.tap[0] = 0;
    for (int i = 0; i < tile_rows; ++i) {
      if (i < count) copy_patch(p, walk[i], copies + i * patch);
      tile.pixels[i] = i < count ? copies + i * patch : zeros;
    }
    return;
  }
  tile.depth = p.depth;
  tile.taps = 0;
  for (int t = 0; t < p.taps; ++t) {
    const float** pixels = tile.pixels + tile.taps * tile_rows;
    bool any = false;
    for (int i = 0; i < tile_rows; ++i) {
      const float* pixel = i < count ? patch_pixel(p, walk[i], t) : nullptr;
      any |= pixel != nullptr;
      pixels[i] = pixel ? pixel : zeros;
    }
    if (any) tile.tap[tile.taps++] = t;
  }
}

static void finish_tile(const PatchGemm& g, const TileRows& tile, int64_t first, int64_t count) {
  if (!has_work(g.epilogue)) return;
  const float* residual = static_cast<const float*>(g.epilogue.residual);
  for (int i = 0; i < tile.count; ++i) finish_rows(g.epilogue, residual ? residual + (tile.out[i] - g.out) + first : nullptr, first, 1, count, g.columns, tile.out[i] + first);
}

// Rows [row, end) and panels [first, last). `pixels` [taps * tile_rows] and `taps` [taps]: room; `copies`: room for tile_rows patches.
void multiply_rows(const PatchGemm& g, const float* packed, const float* zeros, int64_t row, int64_t end, int first, int last, const float** pixels, int* taps, float* copies) {
  TileRows tile;
  tile.pixels = pixels;
  tile.tap = taps;
  const int64_t column = int64_t(first) * tile_columns;
  const int64_t columns = int64_t(last) * tile_columns < g.columns ? int64_t(last - first) * tile_columns : g.columns - column;
  RowWalk at = row_at(g.patches, row, small_images(g.patches));
  while (row < end) {
    const int count = end - row < tile_rows ? int(end - row) : tile_rows;
    fill_tile(g, at, count, zeros, copies, tile);
    if (count > tile_rows * 2 / 3) multiply_panels<tile_rows>(g, tile, packed, first, last);
    else if (count > tile_rows / 3) multiply_panels<tile_rows * 2 / 3>(g, tile, packed, first, last);
    else multiply_panels<tile_rows / 3>(g, tile, packed, first, last);
    finish_tile(g, tile, column, columns);
    row += count;
  }
}

// ---- dw = dy^T * patches

// Rows that are multiplied in pairs, of two matrices: numbers of one are broadcast, the other's lie along the vectors.
struct RowPairs {
  int64_t count;
  const float **scalars, **vectors;
  // Plain matrices: what is left of the next block of either, fetched into the cache one line a pair while tiles are summed.
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
__attribute__((noinline)) void outer_tile(RowPairs& pairs, int64_t row, int rows, int64_t column, int last, float* out, int64_t stride, bool add) {
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
    for (int v = 0; v < V; ++v) values[v] = whole_columns || v < V - 1 ? load(b + v * lanes) : load_n(b + v * lanes, last);
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
static void outer_tile_of(RowPairs& pairs, int64_t row, int rows, int64_t column, int last, float* out, int64_t stride, bool add) {
  if (rows < R) outer_tile<R, V, false, false>(pairs, row, rows, column, last, out, stride, add);
  else if (last < lanes) outer_tile<R, V, true, false>(pairs, row, rows, column, last, out, stride, add);
  else outer_tile<R, V, true, true>(pairs, row, rows, column, last, out, stride, add);
}

template <int V>
static void outer_panel(RowPairs& pairs, const OuterRange& range, int64_t column, int last, float* out, int64_t stride, bool add) {
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

// Rows [row, end), a block of rows that fits the caches at a time. out: dw, or with range.turned its transpose [taps, depth, k].
// `pointers` [2 * block]: room; `copies`: room for `block` patches. add: out holds sums already.
void outer_rows(const PatchOuter& o, int64_t row, int64_t end, const OuterRange& range, int64_t block, const float** pointers, float* copies, float* out, bool add) {
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

// to[k, d] += from[d, k] for k in [begin, end) of `count`, all d of `depth`. By blocks that stay in the first-level cache.
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
