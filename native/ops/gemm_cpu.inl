// Vector code of patch_gemm (ops/gemm_cpu.h), once per instruction set.
#include "ops/patches_cpu.inl"
#include "ops/epilogue_cpu.inl"

namespace lgd::LGD_ISA {
namespace {

// Packed weights: [panel of tile_columns][tap][depth][tile_columns]; the last panel is one vector wide if that is
// enough.
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
        for (int64_t column = done; column < used; ++column)
          out[d * width + column] = w[d * g.w_depth + column * g.w_column];
      for (int64_t column = used; column < width; ++column) out[d * width + column] = 0;
    }
  }
}

// What one tile of rows reads: for each tap that any row meets, `tile_rows` pointers; and where the rows are written.
struct TileRows {
  int count, taps;  // rows in use; taps in use
  int64_t depth;
  const float** pixels;  // [taps][tile_rows]
  int* tap;              // which taps
  float* out[tile_rows];
  const float* ahead;  // plain matrices: the rows of the next tile; else null
};

// `ahead` is fetched into the cache, one line a step (a step of 0 fetches nothing new).
template <int R, int V>
static inline __attribute__((always_inline)) void multiply(const TileRows& rows, const float* panel, const float* ahead,
                                                           int64_t ahead_step, Vec (&sum)[R][V]) {
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

// While the tile is multiplied, its places in the output come into the cache; with `fetch`, the rows of the next tile
// as well.
template <int R, int V>
__attribute__((noinline)) void multiply_tile(const TileRows& rows, const float* panel, bool fetch, int64_t column,
                                             int width, bool accumulate) {
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
  for (int i = 0; i < tile.count; ++i)
    finish_rows(g.epilogue, residual ? residual + (tile.out[i] - g.out) + first : nullptr, first, 1, count, g.columns,
                tile.out[i] + first);
}

// Rows [row, end) and panels [first, last). `pixels` [taps * tile_rows] and `taps` [taps]: room; `copies`: room for
// tile_rows patches.
void multiply_rows(const PatchGemm& g, const float* packed, const float* zeros, int64_t row, int64_t end, int first,
                   int last, const float** pixels, int* taps, float* copies) {
  TileRows tile;
  tile.pixels = pixels;
  tile.tap = taps;
  const int64_t column = int64_t(first) * tile_columns;
  const int64_t columns =
      int64_t(last) * tile_columns < g.columns ? int64_t(last - first) * tile_columns : g.columns - column;
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

}  // namespace
}  // namespace lgd::LGD_ISA
