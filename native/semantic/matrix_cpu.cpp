#include "semantic/matrix_cpu.h"

#include "ops/common_cpu.h"
#include "ops/vector_cpu.h"

#define LGD_ISA_FILE "semantic/matrix_cpu.inl"
#include "core/foreach_isa.h"

namespace lgd {

namespace {

// Values of k summed in registers before they reach memory: short enough that a packed column panel (16 KB with 512-bit
// vectors) stays in the first-level cache, and that rounding grows with the square root of 128 instead of k.
constexpr int64_t matrix_step = 128;
// Column tiles that share one pass over the packed rows of a step, so that these stay in the second-level cache.
constexpr int64_t tiles_per_task = 4;

struct Packed {
  const float* rows;  // [steps][row tiles][matrix_step][row_tile]
  int64_t row_tiles;
  int row_tile, column_tile;
  int64_t panel() const { return matrix_step * row_tile; }
};

}  // namespace

void multiply_cpu(ThreadPool& pool, const MatrixShape& shape, const float* a, int64_t lda, const float* b, int64_t ldb,
                  bool b_transposed, float* c, int64_t ldc, bool add) {
  const auto [m, n, k] = shape;
  if (k == 0 && !add)
    for (int64_t i = 0; i < m; ++i) std::fill_n(c + i * ldc, n, 0.0f);
  if (m == 0 || n == 0 || k == 0) return;

  Packed packed;
  LGD_DISPATCH(matrix_tiles)(packed.row_tile, packed.column_tile);
  packed.row_tiles = ceil_div(m, packed.row_tile);
  const int64_t steps = ceil_div(k, matrix_step);
  static thread_local Workspace row_memory;
  float* rows = row_memory.floats(steps * packed.row_tiles * packed.panel());
  packed.rows = rows;
  const auto pack_rows = LGD_DISPATCH(pack_rows);
  pool.for_each(packed.row_tiles, [&](int, int64_t tile) {
    const int64_t first = tile * packed.row_tile;
    const int valid = int(std::min<int64_t>(packed.row_tile, m - first));
    for (int64_t step = 0; step < steps; ++step)
      pack_rows(a + first * lda + step * matrix_step, lda, valid, int(std::min(matrix_step, k - step * matrix_step)),
                rows + (step * packed.row_tiles + tile) * packed.panel());
  });

  const auto pack_columns = LGD_DISPATCH(pack_columns);
  const auto multiply_tile = LGD_DISPATCH(multiply_tile);
  const int64_t column_tiles = ceil_div(n, packed.column_tile), column_tasks = ceil_div(column_tiles, tiles_per_task);
  const int64_t row_parts = std::clamp<int64_t>(ceil_div(4 * pool.size(), column_tasks), 1, packed.row_tiles);
  pool.for_each(column_tasks * row_parts, [&](int, int64_t task) {
    static thread_local Workspace column_memory;
    float* panel = column_memory.floats(matrix_step * packed.column_tile);
    const int64_t part = task % row_parts, tile_begin = task / row_parts * tiles_per_task;
    const int64_t tile_end = std::min(tile_begin + tiles_per_task, column_tiles);
    const int64_t row_begin = packed.row_tiles * part / row_parts, row_end = packed.row_tiles * (part + 1) / row_parts;
    for (int64_t step = 0; step < steps; ++step) {
      const int64_t k0 = step * matrix_step;
      const int depth = int(std::min(matrix_step, k - k0));
      for (int64_t tile = tile_begin; tile < tile_end; ++tile) {
        const int64_t column = tile * packed.column_tile;
        const int columns = int(std::min<int64_t>(packed.column_tile, n - column));
        pack_columns(b_transposed ? b + column * ldb + k0 : b + k0 * ldb + column, ldb, b_transposed, columns, depth,
                     panel);
        for (int64_t row = row_begin; row < row_end; ++row)
          multiply_tile(depth, packed.rows + (step * packed.row_tiles + row) * packed.panel(), panel,
                        c + row * packed.row_tile * ldc + column, ldc,
                        int(std::min<int64_t>(packed.row_tile, m - row * packed.row_tile)), columns, add || step > 0);
      }
    }
  });
}

}  // namespace lgd
