#include "ops/gemm_cpu.h"

#include "ops/common_cpu.h"
#include "ops/vector_cpu.h"

namespace lgd {

// The register tile of an instruction set: rows of patches and columns of the product.
struct TileShape {
  int rows, columns;
};

}  // namespace lgd

#define LGD_ISA_FILE "ops/gemm_cpu.inl"
#include "core/foreach_isa.h"

namespace lgd {

void patch_gemm(Context& ctx, const PatchGemm& g) {
  const Patches& p = g.patches;
  const TileShape tile = LGD_DISPATCH(tile_shape)();
  const int64_t patch = int64_t(p.taps) * p.depth, panel_floats = patch * tile.columns, rows = p.rows();
  const int panels = int(ceil_div(g.columns, tile.columns));
  thread_local Workspace weights, zero;
  float* packed = weights.floats(panels * panel_floats);
  float* zeros = zero.floats(patch);
  std::fill_n(zeros, patch, 0.0f);
  // The weights that a task uses stay in its core's second-level cache (512 KiB of it); rows are read once for each such part.
  const int together = int(std::clamp<int64_t>((512 << 10) / (panel_floats * 4), 1, panels));
  const int groups = int(ceil_div(panels, together));
  // About 2 million multiplications a task: short enough to share, long enough to be worth handing out.
  const int64_t tile_work = patch * together * tile.columns * tile.rows;
  const int64_t task_rows = tile.rows * std::clamp<int64_t>((2 << 20) / tile_work, 1, 256), row_tasks = ceil_div(rows, task_rows);
  ctx.pool.for_range(panels, ceil_div(32768, panel_floats), [&](int64_t begin, int64_t end) {
    for (int64_t panel = begin; panel < end; ++panel) LGD_DISPATCH(pack_panel)(g, int(panel), packed + panel * panel_floats);
  });
  ctx.pool.for_each(row_tasks * groups, [&](int, int64_t task) {
    thread_local std::vector<const float*> pixels;
    thread_local std::vector<int> taps;
    thread_local Workspace copies;
    pixels.resize(std::max<size_t>(pixels.size(), size_t(p.taps) * tile.rows));
    taps.resize(std::max<size_t>(taps.size(), p.taps));
    const int64_t group = task / row_tasks, row = task % row_tasks * task_rows;
    const int first = int(group) * together, last = std::min(first + together, panels);
    LGD_DISPATCH(multiply_rows)(g, packed, zeros, row, std::min(row + task_rows, rows), first, last, pixels.data(), taps.data(), p.copied() ? copies.floats(tile.rows * patch) : nullptr);
  });
}

void patch_outer(Context& ctx, const PatchOuter& o) {
  const Patches& p = o.patches;
  const int64_t rows = p.rows(), patch = int64_t(p.taps) * p.depth, weights = o.k * patch;
  const TileShape tile = LGD_DISPATCH(tile_shape)();
  // Rows in one go: what they read of both operands fits the second-level cache.
  const int64_t block = std::clamp<int64_t>((48 << 10) / (p.depth + o.k), 32, 256);
  // Small weights: parts of the rows have sums of their own, added up in order. Large weights: tasks own parts of the weights.
  const Partition parts(rows, std::max<int64_t>(4 * block, (1 << 20) / (p.depth + o.k)), weights <= 65536 ? 16 : 1);
  const int tap_groups = p.copied() || parts.parts > 1 ? 1 : p.taps;
  const int64_t wanted = ceil_div(16, parts.parts * tap_groups);
  const int64_t k_step = ceil_div(ceil_div(o.k, wanted), tile.rows) * tile.rows, k_groups = ceil_div(o.k, k_step);
  thread_local Workspace workspace;
  float* sums = parts.parts > 1 ? workspace.floats(parts.parts * weights) : o.dw;
  ctx.pool.for_each(parts.parts * tap_groups * k_groups, [&](int, int64_t task) {
    thread_local std::vector<const float*> pointers;
    thread_local Workspace copies;
    pointers.resize(std::max<size_t>(pointers.size(), size_t(2 * block)));
    const int64_t part = task / (tap_groups * k_groups), k = task % k_groups * k_step;
    const int tap = int(task / k_groups % tap_groups), tap_end = tap_groups == 1 ? p.taps : tap + 1;
    LGD_DISPATCH(outer_rows)(o, parts.begin(part), parts.end(part), k, std::min<int64_t>(k + k_step, o.k), tap, tap_end, block, pointers.data(),
                             p.copied() ? copies.floats(block * patch) : nullptr, sums + (parts.parts > 1 ? part * weights : 0), parts.parts == 1);
  });
  if (parts.parts == 1) return;
  ctx.pool.for_range(weights, 16384, [&](int64_t begin, int64_t end) {
    for (int64_t part = 0; part < parts.parts; ++part)
      for (int64_t i = begin; i < end; ++i) o.dw[i] += sums[part * weights + i];
  });
}

void column_sums(Context& ctx, int64_t rows, int k, const float* dy, float* d_bias) {
  const Partition parts(rows, ceil_div(32768, k), 64);
  thread_local Workspace workspace;
  float* sums = workspace.floats(parts.parts * k);
  ctx.pool.for_each(parts.parts, [&](int, int64_t part) { LGD_DISPATCH(sum_columns)(dy, k, parts.begin(part), parts.end(part), sums + part * k); });
  for (int c = 0; c < k; ++c) {
    double sum = 0;
    for (int64_t part = 0; part < parts.parts; ++part) sum += sums[part * k + c];
    d_bias[c] += float(sum);
  }
}

}  // namespace lgd
