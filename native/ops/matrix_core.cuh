// The matrix core: one kernel for convolution forward, data gradient, weight gradient and linear layers.
//
//   out[m,n] = sum_k A(m,k) B(n,k)
//
// A block of WM x WN warps forms tiles of BM x BN results (Tile, ops/matrix_tiles.cuh), a warp TM x TN of them, which
// stay in its registers as MI x NI fragments of 16 x 8. It goes over the reduction by k tiles of 64 bytes a row (BK: 32
// of bfloat16): each is copied to a stage of shared memory while those before it are multiplied, and there is one
// barrier a k tile. What bounds it: the tensor cores where tiles are large and K is, memory in 1x1 layers of few
// channels, and between the two the bytes that tiles read from level-2 cache, (BM + BN) BK elements for BM BN BK
// multiply-adds.
//
// A and B come through loaders (ops/conv_loaders.cuh) that say where 16 bytes of an operand lie (implicit GEMM: nothing
// is unfolded in memory) and go to shared memory by cp.async, `stages` tiles deep. A lazy operand is made from what
// arrives: each thread works on the chunks it copied itself, in place, between its own wait and the barrier that is
// there anyway. An operand tile is either "k inner" ([rows][BK], 16 bytes along k) or "k outer" ([BK][rows], 16 bytes
// along the rows: read with ldmatrix.trans). Rows are XOR-swizzled in 16-byte chunks, so that ldmatrix touches every
// bank once. bf16 operands go to mma.sync m16n8k16, or in tiles of a warpgroup to wgmma, which knows these swizzles as
// its own (64 bytes with k inner, 128 with k outer) and is the only difference; float32 ones (checking mode) to fused
// multiply-adds in the same register layout.
//
// Where a reduction goes over taps and channels, a block takes the taps of the same channels one after the other: what
// they read again is then still in level-1 cache.
//
// Blocks stay (persistent blocks): each keeps its columns and walks over row tiles, to or fro (Context::turn), and the
// copies of the next tile start before the last one is stored (ops/matrix_out.cuh).
#pragma once
#include <algorithm>

#include "core/cuda_device.cuh"
#include "core/cuda_warpgroup.cuh"
#include "ops/matrix_out.cuh"
#include "ops/matrix_tiles.cuh"
#include "ops/grids.cuh"

namespace lgd::matrix {

template <class T>
constexpr int chunk = 16 / sizeof(T);  // elements of 16 bytes
template <class T>
constexpr int BK = 64 / sizeof(T);  // reduction elements of a k tile

// Shared-memory place of 16-byte chunk `c` of row `r` in a tile of `rows` rows with `chunks` chunks each; more than
// eight lie in parts of eight.
template <int rows, int chunks>
__device__ __forceinline__ int swizzled(int r, int c) {
  if constexpr (chunks == 4) return r * 4 + (c ^ ((r >> 1) & 3));
  else return c / 8 * (rows * 8) + r * 8 + (c % 8 ^ (r & 7));
}

template <class T, int rows, bool k_outer>
struct Operand {
  static constexpr int tile_rows = k_outer ? BK<T> : rows;
  static constexpr int chunks = k_outer ? rows / chunk<T> : BK<T> / chunk<T>;
  static constexpr int tile_elements = rows * BK<T>;
  static constexpr int pitch = (chunks < 8 ? chunks : 8) * chunk<T>;  // elements from row to row
  static_assert(chunks == 4 || chunks % 8 == 0);

  static __device__ __forceinline__ T* at(T* tile, int r, int c) {
    return tile + swizzled<tile_rows, chunks>(r, c) * chunk<T>;
  }
  static __device__ __forceinline__ SharedPlace place(SharedPlace tile, int r, int c) {
    return tile + swizzled<tile_rows, chunks>(r, c) * 16;
  }
  // Element (row, k), whichever way the tile lies.
  static __device__ __forceinline__ T element(T* tile, int row, int k) {
    const int r = k_outer ? k : row, e = k_outer ? row : k;
    return at(tile, r, e / chunk<T>)[e % chunk<T>];
  }
  // For wgmma: the first rows and elements k = 0 to 15, and how much is added to that for those from row `row`, a
  // multiple of 64, and k = 16 ks on.
  static __device__ __forceinline__ uint64_t matrix(const T* tile) {
    return k_outer ? shared_matrix(tile, Swizzle::b128, 8 * 128, BK<T> * 128)
                   : shared_matrix(tile, Swizzle::b64, 8 * 64, 16);
  }
  static __device__ __forceinline__ constexpr uint64_t further(int row, int ks) {
    return shared_matrix_step(uint32_t(k_outer ? row * BK<T> + ks * 16 * pitch : row * pitch + ks * 16) *
                              uint32_t(sizeof(T)));
  }
};

// acc += A tile x B tile. Accumulator fragments as mma.sync lays them out: acc[i][j][q] is row lane/4 + 8*(q/2), column
// (lane%4)*2 + q%2.
template <class Tile, bool a_outer, bool b_outer>
__device__ __forceinline__ void multiply(SharedPlace a_tile, SharedPlace b_tile, int wm, int wn, int lane,
                                         float (&acc)[Tile::MI][Tile::NI][4]) {
  using A = Operand<bf16, Tile::BM, a_outer>;
  using B = Operand<bf16, Tile::BN, b_outer>;
#pragma unroll
  for (int ks = 0; ks < BK<bf16> / 16; ++ks) {
    uint32_t a[Tile::MI][4], b[Tile::NI][2];
#pragma unroll
    for (int i = 0; i < Tile::MI; ++i) {
      const int row = wm + i * 16;
      if constexpr (a_outer)
        ldmatrix_x4_trans(a[i], A::place(a_tile, ks * 16 + (lane / 16) * 8 + lane % 8, row / 8 + (lane / 8) % 2));
      else
        ldmatrix_x4(a[i], A::place(a_tile, lane % 16, ks * 2 + lane / 16) +
                              row * 64);  // sixteen rows on the swizzle is the same
    }
#pragma unroll
    for (int j = 0; j < Tile::NI; j += 2) {
      uint32_t r[4];
      const int row = wn + j * 8;
      if constexpr (b_outer) ldmatrix_x4_trans(r, B::place(b_tile, ks * 16 + lane % 16, row / 8 + lane / 16));
      else ldmatrix_x4(r, B::place(b_tile, (lane / 16) * 8 + lane % 8, ks * 2 + (lane / 8) % 2) + row * 64);
      b[j][0] = r[0];
      b[j][1] = r[1];
      b[j + 1][0] = r[2];
      b[j + 1][1] = r[3];
    }
#pragma unroll
    for (int i = 0; i < Tile::MI; ++i)
#pragma unroll
      for (int j = 0; j < Tile::NI; ++j) mma_bf16_16816(acc[i][j], a[i], b[j]);
  }
}

// The same by the warpgroup, begun but not waited for: acc[i] is 64 rows of the block, of which a warp has 16.
template <class Tile, bool a_outer, bool b_outer>
__device__ __forceinline__ void begin_multiply(uint64_t a_tile, uint64_t b_tile, float (&acc)[Tile::MI][Tile::NI][4]) {
#pragma unroll
  for (int i = 0; i < Tile::MI; ++i) hold_sums(acc[i]);
  warpgroup_begin();
#pragma unroll
  for (int ks = 0; ks < BK<bf16> / 16; ++ks)
#pragma unroll
    for (int i = 0; i < Tile::MI; ++i)
      warpgroup_multiply<a_outer, b_outer>(acc[i], a_tile + Operand<bf16, Tile::BM, a_outer>::further(i * 64, ks),
                                           b_tile + Operand<bf16, Tile::BN, b_outer>::further(0, ks));
  warpgroup_commit();
}
template <class Tile>
__device__ __forceinline__ void end_multiply(float (&acc)[Tile::MI][Tile::NI][4]) {
  warpgroup_wait();
#pragma unroll
  for (int i = 0; i < Tile::MI; ++i) hold_sums(acc[i]);
}

template <class Tile, bool a_outer, bool b_outer>
__device__ __forceinline__ void multiply(float* a_tile, float* b_tile, int wm, int wn, int lane,
                                         float (&acc)[Tile::MI][Tile::NI][4]) {
  using A = Operand<float, Tile::BM, a_outer>;
  using B = Operand<float, Tile::BN, b_outer>;
  for (int k = 0; k < BK<float>; ++k) {
    float a[Tile::MI][2], b[Tile::NI][2];
#pragma unroll
    for (int i = 0; i < Tile::MI; ++i)
#pragma unroll
      for (int h = 0; h < 2; ++h) a[i][h] = A::element(a_tile, wm + i * 16 + lane / 4 + h * 8, k);
#pragma unroll
    for (int j = 0; j < Tile::NI; ++j)
#pragma unroll
      for (int h = 0; h < 2; ++h) b[j][h] = B::element(b_tile, wn + j * 8 + (lane % 4) * 2 + h, k);
#pragma unroll
    for (int i = 0; i < Tile::MI; ++i)
#pragma unroll
      for (int j = 0; j < Tile::NI; ++j)
#pragma unroll
        for (int q = 0; q < 4; ++q) acc[i][j][q] = fmaf(a[i][q / 2], b[j][q % 2], acc[i][j][q]);
  }
}

// How a tile's 16-byte chunks are dealt out: a thread has `slots` of them, all in one column of chunks, `step` rows
// apart. Where lanes beside each other have other channels (outer 0: the reduction is the inner dimension, and only
// four do), tables of `outer` numbers are halved.
template <class T, int chunks_, int slots_, int step_, int outer>
struct Share {
  static constexpr int chunk = matrix::chunk<T>, BK = matrix::BK<T>, chunks = chunks_, slots = slots_, step = step_;
  // from the first four of a lane's eight numbers to the others
  static constexpr int half = outer == 0 ? 4 : outer / 2;
  static __device__ __forceinline__ int entry(int i) { return outer == 0 ? i : halved(i, half); }
};

// One operand on its way through shared memory. Loader: see ops/conv_loaders.cuh.
template <class T, class Tile, int rows, class Loader>
struct Side {
  static constexpr bool k_outer = Loader::Where::k_outer, lazy = Loader::Read::tables > 0;
  using Place = Operand<T, rows, k_outer>;
  using Mine = Share<T, Place::chunks, Place::tile_rows * Place::chunks / Tile::threads, Tile::threads / Place::chunks,
                     k_outer ? rows : 0>;
  static constexpr int slots = Mine::slots, apart = Mine::step * Place::pitch;
  // the swizzle is the same in every slot
  static_assert(slots * Tile::threads == Place::tile_rows * Place::chunks && Mine::step % 8 == 0);
  static_assert(!lazy || slots * (Tile::stages - 1) <= 32);
  static constexpr uint32_t own_bytes = Place::tile_elements * sizeof(T);
  static constexpr size_t stage_bytes(bool pair) { return size_t(own_bytes) * (pair ? 2 : 1); }
  static constexpr size_t table_bytes(const Loader& loader) {
    return loader.read.active() ? size_t(Loader::Read::tables) * (k_outer ? rows : loader.where.channels()) * 4 : 0;
  }

  T *own, *paired = nullptr;  // this thread's first chunk in stage 0; of the second tensor
  float* table = nullptr;     // numbers per channel
  uint32_t valid = 0;         // a bit a slot, the newest tile lowest
  typename Loader::Where::template State<Mine> state{};

  // Takes its part of the shared memory at `shared`, which is moved to where the tiles begin; returns what is behind
  // it.
  __device__ __forceinline__ char* place(const Loader& loader, char*& begin, int first_row, int thread) {
    if constexpr (Tile::warpgroup) begin = aligned_for_warpgroup(begin);
    char* shared = begin;
    const int offset =
        swizzled<Place::tile_rows, Place::chunks>(thread / Place::chunks, thread % Place::chunks) * chunk<T>;
    own = reinterpret_cast<T*>(shared) + offset;
    shared += Tile::stages * stage_bytes(false);
    if constexpr (lazy) {
      if (loader.read.pair()) {
        paired = reinterpret_cast<T*>(shared) + offset;
        shared += Tile::stages * stage_bytes(false);
      }
      table = reinterpret_cast<float*>(shared);
      const int count = k_outer ? rows : loader.where.channels();
      const auto channel = [&](int i) {
        if constexpr (k_outer) return loader.where.channel(first_row + i);
        else return i;
      };
      if (loader.read.active())
        for (int i = thread; i < count; i += Tile::threads) loader.read.fill(table + Mine::entry(i), count, channel(i));
      shared += table_bytes(loader);
    }
    return shared;
  }

  // Where the tensor begins that a k tile is read from, and the elements from row to row.
  static __device__ __forceinline__ const T* source(const Loader& loader, int tile, int& pitch) {
    if constexpr (requires { loader.where.in_second(0); }) {
      const bool second = loader.where.in_second(tile * BK<T>);
      pitch = loader.where.pitch(second);
      return loader.read.first(second);
    } else {
      pitch = loader.where.pitch();
      return loader.read.first();
    }
  }

  __device__ __forceinline__ void fetch(const Loader& loader, int tile, int stage) {
    state.begin(loader.where, tile);
    constexpr int size = int(sizeof(T));
    int elements;
    const T* const whole = source(loader, tile, elements);
    const uint32_t pitch = uint32_t(elements) * size;
    const int column = state.column(loader.where, tile);
    const auto copy = [&](const T* from, SharedPlace to, uint32_t row, bool inside) {
      cp_async16<Loader::Where::overlaps>(to, reinterpret_cast<const char*>(from) + uint64_t(row) * pitch, inside);
    };
    const T *const from_first = whole + column, *from_second = from_first;
    const SharedPlace first = SharedPlace(own) + stage * Place::tile_elements * size;
    SharedPlace second = first;
    if constexpr (lazy)
      if (loader.read.pair()) {
        from_second = loader.read.second() + column;
        second = SharedPlace(paired) + stage * Place::tile_elements * size;
      }
    uint32_t bits = 0;
#pragma unroll
    for (int slot = 0; slot < slots; ++slot) {
      bool inside;
      const uint32_t row = state.row(loader.where, tile, slot, inside);
      copy(from_first, first + slot * apart * size, row, inside);
      if constexpr (lazy) {
        if (loader.read.pair()) copy(from_second, second + slot * apart * size, row, inside);
        bits |= uint32_t(inside) << slot;
      }
    }
    valid |= bits;
  }
  __device__ __forceinline__ void next_tile() { valid <<= slots; }

  // What arrived in `stage` becomes the operand; `tile` and `first_row` are those it was fetched for.
  __device__ __forceinline__ void make(const Loader& loader, int first_row, int tile, int stage) {
    if constexpr (lazy) {
      if (!loader.read.active()) return;
      const uint32_t bits = valid >> (slots * (Tile::stages - 2));
      const int count = k_outer ? rows : loader.where.channels(), entry = state.entry(loader.where, tile);
      const auto image_channel = [&](int slot) {
        if constexpr (requires { state.image_channel(loader.where, 0, 0, 0); })
          return state.image_channel(loader.where, first_row, tile, slot);
        else return nullptr;
      };
      loader.read.template make<Mine>(own + stage * Place::tile_elements, paired + stage * Place::tile_elements, apart,
                                      bits, table + Mine::entry(entry), count, image_channel);
    }
  }
};

// ---- the kernel -----------------------------------------------------------------------------------------------------
template <class T, class Tile, class LoaderA, class LoaderB, class Out>
__global__ void __launch_bounds__(Tile::threads, blocks_by_registers(Tile::resident))
    matrix_kernel(const __grid_constant__ LoaderA loader_a, const __grid_constant__ LoaderB loader_b,
                  const __grid_constant__ Out out, int M, int N, int k_tiles, int k_tiles_per_split, int k_step,
                  bool back) {
  wait_for_inputs();
  using A = Side<T, Tile, Tile::BM, LoaderA>;
  using B = Side<T, Tile, Tile::BN, LoaderB>;
  if constexpr (Tile::warpgroup && !has_warpgroup_products) return;
  LGD_DYNAMIC_SHARED(char, shared);
  const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
  const int wm = (warp % Tile::WM) * Tile::warp_step, wn = (warp / Tile::WM) * Tile::TN;
  const int n0 = int(blockIdx.y) * Tile::BN, row_tiles = (M + Tile::BM - 1) / Tile::BM;
  const int first = int(blockIdx.z) * k_tiles_per_split, last = min(first + k_tiles_per_split, k_tiles);

  A a;
  B b;
  char *a_begin = shared, *b_begin = a.place(loader_a, a_begin, int(blockIdx.x) * Tile::BM, thread),
       *behind = b.place(loader_b, b_begin, n0, thread);
  T *a_tiles = reinterpret_cast<T*>(a_begin), *b_tiles = reinterpret_cast<T*>(b_begin);
  uint64_t a_matrix = 0, b_matrix = 0;
  if constexpr (Tile::warpgroup) a_matrix = A::Place::matrix(a_tiles), b_matrix = B::Place::matrix(b_tiles);
  b.state.init(loader_b.where, n0, thread);
  float* strips = reinterpret_cast<float*>(behind);
  float* strip = strips + warp * strip_floats<Tile>;
  float* table = strips + Tile::WM * Tile::WN * strip_floats<Tile>;
  if constexpr (Out::sums)
    for (int i = thread; i < Tile::BN; i += Tile::threads)
      if (n0 + i < N) out.fill(table + halved(i, Tile::BN / 2), Tile::BN, n0 + i);
  __syncthreads();

  // Tiles of k are taken k_step apart: all taps of the first channels, then those of the next.
  const auto tile_behind = [&](int tile) {
    if constexpr (!LoaderA::Where::overlaps) return tile + 1;
    else return tile + k_step < k_tiles ? tile + k_step : tile + k_step - (k_tiles - 1);
  };
  const auto row_of = [&](int rows) { return (back ? row_tiles - 1 - rows : rows) * Tile::BM; };  // of a tile in turn
  int next_rows = int(blockIdx.x), next_k = first, next_tile = first;  // what is fetched next
  auto fetch = [&](int stage) {
    a.next_tile();
    b.next_tile();
    if (next_k < last && next_rows < row_tiles) {
      if (next_k == first) a.state.init(loader_a.where, row_of(next_rows), thread);
      a.fetch(loader_a, next_tile, stage);
      b.fetch(loader_b, next_tile, stage);
      next_tile = tile_behind(next_tile);
      if (++next_k == last) {
        next_k = next_tile = first;
        next_rows += int(gridDim.x);
      }
    }
    cp_commit();
  };

  const int mine = wn + lane % (Tile::TN / 8) * 8;  // the columns of the block that this lane stores
  F8 own0 = zero8(), own1 = zero8();
  if constexpr (!Out::sums)
    if (n0 + mine < N) out.prepare(n0 + mine, own0, own1);
#pragma unroll 1
  for (int stage = 0; stage < Tile::stages - 1; ++stage) fetch(stage);
  int stage = 0, free_stage = Tile::stages - 1;
#pragma unroll 1
  for (int rows = int(blockIdx.x); rows < row_tiles; rows += int(gridDim.x)) {
    if constexpr (requires { out.prefetch(0, 0); }) {
      constexpr int columns = far_piece / int(sizeof(T)), pieces = Tile::BN / columns;
      const int column = n0 + thread % pieces * columns;  // neighbours have neighbouring pieces
      for (int row = row_of(rows) + thread / pieces, end = min(row_of(rows) + Tile::BM, M); row < end;
           row += Tile::threads / pieces)
        if (column < N) out.prefetch(row, column);
    }
    float acc[Tile::MI][Tile::NI][4] = {};
#pragma unroll 1
    for (int k = first, tile = first; k < last; ++k, tile = tile_behind(tile)) {
      cp_wait<Tile::stages - 2>();
      a.make(loader_a, row_of(rows), tile, stage);
      b.make(loader_b, n0, tile, stage);
      if constexpr (Tile::warpgroup) fence_shared_for_warpgroup();
      __syncthreads();
      if constexpr (Tile::warpgroup) {
        begin_multiply<Tile, A::k_outer, B::k_outer>(a_matrix + shared_matrix_step(uint32_t(stage) * A::own_bytes),
                                                     b_matrix + shared_matrix_step(uint32_t(stage) * B::own_bytes),
                                                     acc);
        fetch(free_stage);  // its last product was waited for before the barrier
        end_multiply<Tile>(acc);
      } else {
        T *a_tile = a_tiles + stage * A::Place::tile_elements, *b_tile = b_tiles + stage * B::Place::tile_elements;
        fetch(free_stage);
        multiply<Tile, A::k_outer, B::k_outer>(a_tile, b_tile, wm, wn, lane, acc);
      }
      free_stage = stage;
      stage = stage + 1 == Tile::stages ? 0 : stage + 1;
    }
    write_out<Tile>(out, acc, strip, table + mine / 2, row_of(rows) + wm, n0 + mine, M, N, lane, own0, own1);
  }
  cp_wait<0>();
  if constexpr (Out::sums) {
    if (!out.partial) return;
    __syncthreads();  // the strips are free
    write_sums<Tile>(out, own0, own1, strips, n0, N, thread);
  }
}

// ---- launching ------------------------------------------------------------------------------------------------------
template <class T, class Tile, class LoaderA, class LoaderB, class Out>
size_t shared_bytes(const LoaderA& a, const LoaderB& b) {
  using A = Side<T, Tile, Tile::BM, LoaderA>;
  using B = Side<T, Tile, Tile::BN, LoaderB>;
  size_t bytes = Tile::stages * (A::stage_bytes(a.read.pair()) + B::stage_bytes(b.read.pair())) + A::table_bytes(a) +
                 B::table_bytes(b);
  // two beginnings of tiles to align
  bytes += size_t(Tile::WM) * Tile::WN * strip_floats<Tile> * 4 + (Tile::warpgroup ? 2 * 1024 : 0);
  if constexpr (Out::sums) bytes += size_t(Out::tables) * Tile::BN * 4;
  // write_sums fits the strips
  static_assert(size_t(Tile::WM) * 2 * Tile::BN <= size_t(Tile::WM) * Tile::WN * strip_floats<Tile>);
  return bytes;
}

// How many blocks of a product the card runs at once; allows its kernel so much shared memory.
template <class T, class Tile, class LoaderA, class LoaderB, class Out>
int64_t blocks_at_once(const Context& ctx, size_t shared) {
  constexpr bool overlaps = LoaderA::Where::overlaps || LoaderB::Where::overlaps;
  const auto kernel = matrix_kernel<T, Tile, LoaderA, LoaderB, Out>;
  allow_shared_memory(kernel, shared, overlaps ? Tile::resident : 0);
  return int64_t(ctx.card.multiprocessors) * resident_blocks(kernel, Tile::threads, shared, Tile::resident);
}

// How many blocks share the row tiles of an M x N product: as many as run at once, each with the same number of tiles.
template <class T, class Tile, class LoaderA, class LoaderB, class Out>
int walkers(const Context& ctx, int64_t M, int64_t N, size_t shared) {
  const int64_t row_tiles = (M + Tile::BM - 1) / Tile::BM, column_tiles = (N + Tile::BN - 1) / Tile::BN;
  const int64_t most = std::max<int64_t>(1, blocks_at_once<T, Tile, LoaderA, LoaderB, Out>(ctx, shared) / column_tiles),
                each = (row_tiles + most - 1) / most;
  return int((row_tiles + each - 1) / each);
}

// Behind blocks_at_once() of the same.
template <class T, class Tile, class LoaderA, class LoaderB, class Out>
void launch(Context& ctx, const LoaderA& a, const LoaderB& b, const Out& out, int64_t M, int64_t N, int64_t K,
            dim3 grid, size_t shared, bool back) {
  auto kernel = matrix_kernel<T, Tile, LoaderA, LoaderB, Out>;
  const int k_tiles = int((K + BK<T> - 1) / BK<T>), per_split = (k_tiles + int(grid.z) - 1) / int(grid.z);
  int k_step = 1;
  if constexpr (LoaderA::Where::overlaps)
    if (a.where.channels() % BK<T> == 0) k_step = a.where.channels() / BK<T>;
  LGD_LAUNCH(ctx, kernel, grid, Tile::threads, shared, a, b, out, int(M), int(N), k_tiles, per_split, k_step, back);
}

struct Nothing {
  template <class Out>
  void operator()(Out&, int) const {}
};
// The whole product by walking blocks. prepare(out, blocks) is called before the launch: an epilogue with sums needs as
// many parts.
template <class T, class Tile, class LoaderA, class LoaderB, class Out, class Prepare = Nothing>
void launch_walking(Context& ctx, const LoaderA& a, const LoaderB& b, Out out, int64_t M, int64_t N, int64_t K,
                    const Prepare& prepare = {}) {
  const size_t shared = shared_bytes<T, Tile, LoaderA, LoaderB, Out>(a, b);
  const int blocks = walkers<T, Tile, LoaderA, LoaderB, Out>(ctx, M, N, shared);
  prepare(out, blocks);
  launch<T, Tile>(ctx, a, b, out, M, N, K, dim3(unsigned(blocks), unsigned((N + Tile::BN - 1) / Tile::BN)), shared,
                  ctx.turn());
}

// The reduction in parts (split-K, grid.z), a tile a block, as many as run at once and none with less than eight k
// tiles. prepare(out, parts) is called before the launch: the epilogue gets partial sums and looks at blockIdx.z.
template <class T, class Tile, class LoaderA, class LoaderB, class Out, class Prepare>
void launch_split(Context& ctx, const LoaderA& a, const LoaderB& b, Out out, int64_t M, int64_t N, int64_t K,
                  Prepare&& prepare) {
  const size_t shared = shared_bytes<T, Tile, LoaderA, LoaderB, Out>(a, b);
  const int64_t row_tiles = (M + Tile::BM - 1) / Tile::BM, column_tiles = (N + Tile::BN - 1) / Tile::BN,
                k_tiles = (K + BK<T> - 1) / BK<T>;
  const int64_t wanted = std::max<int64_t>(
      1,
      std::min(blocks_at_once<T, Tile, LoaderA, LoaderB, Out>(ctx, shared) / (row_tiles * column_tiles), k_tiles / 8));
  const int64_t each = (k_tiles + wanted - 1) / wanted, parts = (k_tiles + each - 1) / each;  // no empty part
  prepare(out, int(parts));
  launch<T, Tile>(ctx, a, b, out, M, N, K, dim3(unsigned(row_tiles), unsigned(column_tiles), unsigned(parts)), shared,
                  false);
}

}  // namespace lgd::matrix
