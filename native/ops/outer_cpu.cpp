#include "ops/common_cpu.h"
#include "ops/gemm_cpu.h"
#include "ops/vector_cpu.h"

namespace lgd {

// What a task computes of dw: numbers [row_begin, row_end) of the matrix that is broadcast, [column_begin, column_end)
// of the one along the vectors, for taps [tap_begin, tap_end). Copied patches are one tap of taps * depth channels.
// turned: the patches are broadcast, dy lies along the vectors, and dw comes out transposed.
struct OuterRange {
  int64_t row_begin, row_end, column_begin, column_end;
  int tap_begin, tap_end;
  bool turned;
};

}  // namespace lgd

#define LGD_ISA_FILE "ops/outer_cpu.inl"
#include "core/foreach_isa.h"

namespace lgd {

namespace {

int64_t round_up(int64_t count, int64_t unit) { return ceil_div(count, unit) * unit; }

// How patch_outer divides its work. Small weights: parts of the rows have sums of their own, added up in order. Large
// weights: tasks own parts of the weights, cut along the longer side, so that the shorter matrix is the one that every
// task reads whole.
struct OuterPlan {
  int64_t patch, depth, weights, row_side, column_side;
  bool turned;
  Partition parts;
  int tap_groups;
  int64_t step, pieces, block;

  OuterPlan(const PatchOuter& o, const TileShape& tile)
      : patch(int64_t(o.patches.taps) * o.patches.depth),
        depth(o.patches.copied() ? patch : o.patches.depth),
        weights(o.k * patch),
        turned(prefers_turned(o.patches.rows(), depth, o.k, tile)),
        parts(o.patches.rows(), std::max<int64_t>(1024, (1 << 19) / (depth + o.k)), weights <= 65536 ? 16 : 1) {
    row_side = turned ? depth : o.k;
    column_side = turned ? o.k : depth;
    tap_groups = o.patches.copied() || parts.parts > 1 ? 1 : o.patches.taps;
    const int64_t wanted = ceil_div(16, parts.parts * tap_groups);
    step =
        round_up(ceil_div(std::max(row_side, column_side), wanted), column_side > row_side ? tile.columns : tile.rows);
    pieces = ceil_div(std::max(row_side, column_side), step);
    // Rows in one go: what they read of both operands fits the second-level cache. Small tiles pass more often over the
    // lines under them, which should then stay in the first-level cache (measured on Zen 4).
    block =
        std::clamp<int64_t>((48 << 10) / (std::min(row_side, column_side) + step), 32, tile.columns >= 32 ? 256 : 64);
  }

  // Rows are cut to a third of a tile, columns to a vector; a vector alone costs a quarter more than one of a pair.
  static int64_t tile_work(int64_t rows, int64_t columns, const TileShape& tile) {
    const int64_t vector = tile.columns / 2, vectors = ceil_div(columns, vector);
    return round_up(rows, tile.rows / 3) * (4 * vectors + vectors % 2);
  }
  // The way with less work, empty room in its tiles included. Where that is equal, the longer side is broadcast: tiles
  // then walk it along its rows. With few rows, turning the result costs more than that brings.
  static bool prefers_turned(int64_t rows, int64_t depth, int64_t k, const TileShape& tile) {
    const int64_t straight = tile_work(k, depth, tile), turned = tile_work(depth, k, tile);
    return turned < straight || (turned == straight && depth > k && rows >= 256);
  }

  int64_t tasks() const { return parts.parts * tap_groups * pieces; }
  OuterRange range(const PatchOuter& o, int64_t task) const {
    const int64_t begin = task % pieces * step, tap = task / pieces % tap_groups;
    OuterRange range{0, row_side, 0, column_side, int(tap), tap_groups == 1 ? o.patches.taps : int(tap + 1), turned};
    (column_side > row_side ? range.column_begin : range.row_begin) = begin;
    (column_side > row_side ? range.column_end : range.row_end) =
        std::min(begin + step, std::max(row_side, column_side));
    return range;
  }
};

// dw[k, d] += sum of parts sums[part, d, k], or of sums[part, k, d] where they are not turned.
void add_parts(Context& ctx, const OuterPlan& plan, int64_t k, const float* sums, float* dw) {
  ctx.pool.for_range(k, ceil_div(16384, plan.patch), [&](int64_t begin, int64_t end) {
    for (int64_t part = 0; part < plan.parts.parts; ++part) {
      const float* from = sums + part * plan.weights;
      if (plan.turned) LGD_DISPATCH(add_turned)(begin, end, k, plan.patch, from, dw);
      else
        for (int64_t i = begin * plan.patch; i < end * plan.patch; ++i) dw[i] += from[i];
    }
  });
}

}  // namespace

void patch_outer(Context& ctx, const PatchOuter& o) {
  const OuterPlan plan(o, LGD_DISPATCH(tile_shape)());
  const bool direct = plan.parts.parts == 1 && !plan.turned;
  thread_local Workspace workspace;
  float* sums = direct ? o.dw : workspace.floats(plan.parts.parts * plan.weights);
  ctx.pool.for_each(plan.tasks(), [&](int, int64_t task) {
    thread_local std::vector<const float*> pointers;
    thread_local Workspace copies;
    pointers.resize(std::max<size_t>(pointers.size(), size_t(2 * plan.block)));
    const int64_t part = task / (plan.tap_groups * plan.pieces);
    LGD_DISPATCH(outer_rows)(o, plan.parts.begin(part), plan.parts.end(part), plan.range(o, task), plan.block,
                             pointers.data(), o.patches.copied() ? copies.floats(plan.block * plan.patch) : nullptr,
                             sums + part * plan.weights, direct);
  });
  if (!direct) add_parts(ctx, plan, o.k, sums, o.dw);
}

void column_sums(Context& ctx, int64_t rows, int k, const float* dy, float* d_bias) {
  const Partition parts(rows, ceil_div(32768, k), 64);
  thread_local Workspace workspace;
  float* sums = workspace.floats(parts.parts * k);
  ctx.pool.for_each(parts.parts, [&](int, int64_t part) {
    LGD_DISPATCH(sum_columns)(dy, k, parts.begin(part), parts.end(part), sums + part * k);
  });
  for (int c = 0; c < k; ++c) {
    double sum = 0;
    for (int64_t part = 0; part < parts.parts; ++part) sum += sums[part * k + c];
    d_bias[c] += float(sum);
  }
}

}  // namespace lgd
