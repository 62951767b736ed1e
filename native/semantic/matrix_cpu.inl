// The inner product kernel, once per instruction set. Tiles of `row_tile` rows by two vectors of columns stay in
// registers while one step of `matrix_step` over k runs; both operands are packed in the order in which the kernel
// reads them.
namespace lgd::LGD_ISA {
namespace {

constexpr int row_tile = LGD_LANES == 16 ? 12 : 6;  // row_tile * 2 sums + 2 columns + 1 row value fill the registers
constexpr int column_tile = 2 * LGD_LANES;

void matrix_tiles(int& rows, int& columns) {
  rows = row_tile;
  columns = column_tile;
}

// out[k][row_tile]: `rows` (at most row_tile) rows of a, k values each; missing rows are zeros.
void pack_rows(const float* __restrict a, int64_t lda, int rows, int k, float* __restrict out) {
  for (int i = 0; i < row_tile; ++i) {
    if (i < rows)
      for (int p = 0; p < k; ++p) out[int64_t(p) * row_tile + i] = a[i * lda + p];
    else
      for (int p = 0; p < k; ++p) out[int64_t(p) * row_tile + i] = 0;
  }
}

// out[k][column_tile] of columns [0, columns) of b; missing columns are zeros.
void pack_columns(const float* __restrict b, int64_t ldb, bool transposed, int columns, int k, float* __restrict out) {
  if (transposed) {
    for (int j = 0; j < columns; ++j)
      for (int p = 0; p < k; ++p) out[int64_t(p) * column_tile + j] = b[j * ldb + p];
    for (int p = 0; p < k; ++p)
      for (int j = columns; j < column_tile; ++j) out[int64_t(p) * column_tile + j] = 0;
    return;
  }
  for (int p = 0; p < k; ++p) {
    const float* row = b + p * ldb;
    for (int j = 0; j < columns; ++j) out[int64_t(p) * column_tile + j] = row[j];
    for (int j = columns; j < column_tile; ++j) out[int64_t(p) * column_tile + j] = 0;
  }
}

// c (+)= packed a times packed b over k values; c has `rows` x `columns` values of the tile.
void multiply_tile(int k, const float* __restrict a, const float* __restrict b, float* __restrict c, int64_t ldc,
                   int rows, int columns, bool add) {
  Vec sum[row_tile][2];
#pragma GCC unroll 12
  for (int i = 0; i < row_tile; ++i) sum[i][0] = sum[i][1] = Vec{};
  for (int p = 0; p < k; ++p) {
    const Vec left = load(b), right = load(b + lanes);
#pragma GCC unroll 12
    for (int i = 0; i < row_tile; ++i) {
      sum[i][0] += a[i] * left;
      sum[i][1] += a[i] * right;
    }
    a += row_tile;
    b += column_tile;
  }
  if (rows == row_tile && columns == column_tile) {
#pragma GCC unroll 12
    for (int i = 0; i < row_tile; ++i) {
      float* row = c + i * ldc;
      store(row, add ? load(row) + sum[i][0] : sum[i][0]);
      store(row + lanes, add ? load(row + lanes) + sum[i][1] : sum[i][1]);
    }
    return;
  }
  float tile[row_tile * column_tile];
#pragma GCC unroll 12
  for (int i = 0; i < row_tile; ++i) {
    store(tile + i * column_tile, sum[i][0]);
    store(tile + i * column_tile + lanes, sum[i][1]);
  }
  for (int i = 0; i < rows; ++i)
    for (int j = 0; j < columns; ++j) c[i * ldc + j] = (add ? c[i * ldc + j] : 0.0f) + tile[i * column_tile + j];
}

}  // namespace
}  // namespace lgd::LGD_ISA
