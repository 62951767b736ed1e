#include "ops/gemm_cpu.h"

#include "ops/common_cpu.h"
#include "ops/vector_cpu.h"

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
  // The weights that a task uses stay in its core's second-level cache (512 KiB of it); rows are read once for each
  // such part.
  const int together = int(std::clamp<int64_t>((512 << 10) / (panel_floats * 4), 1, panels));
  const int groups = int(ceil_div(panels, together));
  // About 2 million multiplications a task: short enough to share, long enough to be worth handing out.
  const int64_t tile_work = patch * together * tile.columns * tile.rows;
  const int64_t task_rows = tile.rows * std::clamp<int64_t>((2 << 20) / tile_work, 1, 256),
                row_tasks = ceil_div(rows, task_rows);
  ctx.pool.for_range(panels, ceil_div(32768, panel_floats), [&](int64_t begin, int64_t end) {
    for (int64_t panel = begin; panel < end; ++panel)
      LGD_DISPATCH(pack_panel)(g, int(panel), packed + panel * panel_floats);
  });
  ctx.pool.for_each(row_tasks * groups, [&](int, int64_t task) {
    thread_local std::vector<const float*> pixels;
    thread_local std::vector<int> taps;
    thread_local Workspace copies;
    pixels.resize(std::max<size_t>(pixels.size(), size_t(p.taps) * tile.rows));
    taps.resize(std::max<size_t>(taps.size(), p.taps));
    const int64_t group = task / row_tasks, row = task % row_tasks * task_rows;
    const int first = int(group) * together, last = std::min(first + together, panels);
    LGD_DISPATCH(multiply_rows)(g, packed, zeros, row, std::min(row + task_rows, rows), first, last, pixels.data(),
                                taps.data(), p.copied() ? copies.floats(tile.rows * patch) : nullptr);
  });
}

}  // namespace lgd
