// Squeeze-and-excitation's two layers (ops/excitation.h): one kernel forward, two backward.
//
// A gate of mobilenet_v3_large's widest block multiplies 256 x 960 by 960 x 240 and back: 0.24 GFLOP and 0.9 MB of
// weights, which stay in L2. As separate matrix products each is a handful of tiles with a long reduction; here
//   - a block takes eight images through both layers (forward; backward to d_x), their vectors in shared memory. It
//     reads all weights once, straight into the registers of mma.sync, which has the weights as rows and the images as
//     columns. What bounds it is the 64 bytes a cycle that a multiprocessor gets from L2, so that warps have many
//     16-byte loads in flight: where a layer has few outputs, warps share their reduction;
//   - the weights' gradients, sums over images, are the matrix core's product of a tile (ops/matrix_core.cuh): 64 x 64
//     weights a block, and all images, so that there are no parts to be added up.
#include "core/cuda_device.cuh"
#include "ops/excitation.h"
#include "ops/lazy_operands.cuh"
#include "ops/matrix_core.cuh"

namespace lgd {

namespace {

// warps: efficientnet_b0's widest gate has 18 groups; of more, as B1 to B3 have, a warp takes one after another
constexpr int warps = 18, threads = warps * 32, images_per_block = 8;
constexpr int threads_an_image = threads / images_per_block;
constexpr int group = 64;  // outputs of a warp
// floats from image to image: eight lanes' outputs and four lanes' images lie in 32 banks
constexpr int sums_pitch = warps * group + 4;
using matrix::chunk;

// Vectors of eight images in shared memory, [image][pitch], zeros behind the last element. `line`: bytes that a step of
// the reduction reads of each at once; an odd number of lines lies between images, so that these meet in no bank.
template <class T>
struct Vectors {
  T* data;
  int length, pitch;
  static constexpr int pitch_of(int length, int line) {
    const int elements = line / int(sizeof(T)), lines = (length + elements - 1) / elements;
    return (lines + (lines % 2 == 0)) * elements;
  }
  __device__ __forceinline__ Vectors(T* memory, int elements, int line)
      : data(memory), length(elements), pitch(pitch_of(elements, line)) {
    const int in_pad = length + int(threadIdx.x) % threads_an_image;
    if (in_pad < pitch) store1(at(int(threadIdx.x) / threads_an_image, in_pad), 0.f);
  }
  __device__ __forceinline__ T* at(int image, int element) const { return data + image * pitch + element; }
  __device__ __forceinline__ T* behind() const { return data + images_per_block * pitch; }
};

// What a warp has of 64 outputs and eight images. Lane 4 g + t: of outputs 8 g to 8 g + 7 the sums of images 2 t and 2
// t + 1.
template <class T>
struct Sums;

template <>
struct Sums<bf16> {
  float c[4][4] = {};  // [j]: output 8 g + 2 j of both images, then output 8 g + 2 j + 1

  // w: row 8 g of [outputs][K]. Elements k + 8 t to k + 8 t + 7 of it and the seven behind it; beyond K any, which meet
  // zeros. The order of k does not matter as long as both factors have it.
  static constexpr int row_step = 32;
  __device__ __forceinline__ void add_rows(const bf16* w, int K, int k, const Vectors<bf16>& v, int g, int t) {
    uint4 rows[8];
    const bf16* const from = w + min(k + 8 * t, K - 8);
#pragma unroll
    for (int i = 0; i < 8; ++i) rows[i] = load_as<uint4>(from + i * K);
    const uint4 x = load_as<uint4>(v.at(g, k + 8 * t));
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const uint4 &even = rows[2 * j], &odd = rows[2 * j + 1];
      mma_bf16_16816(c[j], {even.x, odd.x, even.y, odd.y}, {x.x, x.y});
      mma_bf16_16816(c[j], {even.z, odd.z, even.w, odd.w}, {x.z, x.w});
    }
  }

  // w: column 8 g of [K][outputs]. It and the seven behind it of rows k + 4 t to k + 4 t + 3.
  __device__ __forceinline__ void add_columns(const bf16* w, int outputs, int K, int k, const Vectors<bf16>& v, int g,
                                              int t) {
    uint32_t rows[4][4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint4 four = load_as<uint4>(w + (min(k + 4 * t, K - 4) + i) * outputs);
      rows[i][0] = four.x, rows[i][1] = four.y, rows[i][2] = four.z, rows[i][3] = four.w;
    }
    const uint2 x = load_as<uint2>(v.at(g, k + 4 * t));
#pragma unroll
    for (int j = 0; j < 4; ++j)
      mma_bf16_16816(c[j],
                     {low_halves(rows[0][j], rows[1][j]), high_halves(rows[0][j], rows[1][j]),
                      low_halves(rows[2][j], rows[3][j]), high_halves(rows[2][j], rows[3][j])},
                     {x.x, x.y});
  }

  // To sums [image][sums_pitch], output 8 g + i at 8 i + g.
  __device__ __forceinline__ void store(float* sums, int g, int t) const {
#pragma unroll
    for (int j = 0; j < 4; ++j)
#pragma unroll
      for (int q = 0; q < 4; ++q) sums[(2 * t + q % 2) * sums_pitch + (2 * j + q / 2) * 8 + g] = c[j][q];
  }
};

// For checking: the same by fused multiply-adds.
template <>
struct Sums<float> {
  float s[8][2] = {};

  static constexpr int row_step = 16;
  __device__ __forceinline__ void add_rows(const float* w, int K, int k, const Vectors<float>& v, int, int t) {
#pragma unroll 1
    for (int at = k; at < min(k + 16, K); ++at) {
      F8 factors;
#pragma unroll
      for (int i = 0; i < 8; ++i) factors.v[i] = w[i * K + at];
      add(factors, v, at, t);
    }
  }
  __device__ __forceinline__ void add_columns(const float* w, int outputs, int K, int k, const Vectors<float>& v, int,
                                              int t) {
#pragma unroll 1
    for (int at = k; at < min(k + 16, K); ++at) add(load8(w + at * outputs), v, at, t);
  }
  __device__ __forceinline__ void add(const F8& factors, const Vectors<float>& v, int k, int t) {
#pragma unroll
    for (int image = 0; image < 2; ++image) {
      const float x = *v.at(2 * t + image, k);
#pragma unroll
      for (int i = 0; i < 8; ++i) s[i][image] = fmaf(factors.v[i], x, s[i][image]);
    }
  }
  __device__ __forceinline__ void store(float* sums, int g, int t) const {
#pragma unroll
    for (int i = 0; i < 8; ++i)
#pragma unroll
      for (int image = 0; image < 2; ++image) sums[(2 * t + image) * sums_pitch + i * 8 + g] = s[i][image];
  }
};

// emit(image, output, F8) for eight outputs of an image at a time, each once, by some thread: sums over k of w v.
// by_rows: w is [outputs][K], else [K][outputs]. sums: [images_per_block][sums_pitch]. Every thread calls it; what emit
// writes may be read when it returns. Where there are fewer groups of outputs than warps, 2^part_bits parts of the
// reduction are formed side by side; powers of two, as a division is twenty instructions.
template <bool by_rows, class T, class Emit>
__device__ __forceinline__ void multiply(const T* w, int outputs, const Vectors<T>& v, float* sums, const Emit& emit) {
  constexpr int step = by_rows ? Sums<T>::row_step : 16;
  const int warp = int(threadIdx.x) / 32, g = int(threadIdx.x) % 32 / 4, t = int(threadIdx.x) % 4;
  const int groups = (outputs + group - 1) / group, steps = (v.length + step - 1) / step;
  for (int first = 0; first < groups; first += warps) {
    const int here = min(warps, groups - first), bits = (here > 1) + (here > 2) + (here > 4) + (here > 8) + (here > 16);
    const int part_bits = max(4 - bits, 0), parts = 1 << part_bits, part = warp >> bits,
              in_part = warp - (part << bits);
    if (in_part < here && part < parts) {
      Sums<T> mine;
      const int output = min((first + in_part) * group + 8 * g, outputs - 8), each = (steps + parts - 1) >> part_bits,
                end = min((part + 1) * each, steps);
      const T* const from = by_rows ? w + int64_t(output) * v.length : w + output;
#pragma unroll(by_rows ? 1 : 2)
      for (int at = part * each; at < end; ++at) {
        if constexpr (by_rows) mine.add_rows(from, v.length, at * step, v, g, t);
        else mine.add_columns(from, outputs, v.length, at * step, v, g, t);
      }
      mine.store(sums + warp * group, g, t);
    }
    __syncthreads();
    const int image = int(threadIdx.x) / threads_an_image, among = int(threadIdx.x) % threads_an_image;
    float* const of_image = sums + image * sums_pitch;
    if (parts > 1) {
      for (int at = among; at < here * group; at += threads_an_image) {
        float total = of_image[at];
        for (int other = 1; other < parts; ++other) total += of_image[(other << bits) * group + at];
        of_image[at] = total;
      }
      __syncthreads();
    }
    for (int eight = among; eight < here * 8 && (first * 8 + eight) * 8 < outputs; eight += threads_an_image) {
      F8 total;
#pragma unroll
      for (int i = 0; i < 8; ++i) total.v[i] = of_image[eight / 8 * group + i * 8 + eight % 8];
      emit(image, (first * 8 + eight) * 8, total);
    }
    __syncthreads();
  }
}

// Calls body(image, first of eight elements) for the eights of a thread.
template <class Body>
__device__ __forceinline__ void each_eight(int length, const Body& body) {
  for (int at = int(threadIdx.x) % threads_an_image * 8; at < length; at += threads_an_image * 8)
    body(int(threadIdx.x) / threads_an_image, at);
}

constexpr int row_line = 64, column_line = 32;  // bytes of a vector in a step by rows and by columns of bfloat16

template <class T>
__global__ void __launch_bounds__(threads, 1)
    excitation_forward_kernel(const __grid_constant__ Excitation e, const T* x, T* hidden, T* excited, T* gate) {
  wait_for_inputs();
  LGD_DYNAMIC_SHARED(float, sums);
  const Vectors<T> in(reinterpret_cast<T*>(sums + images_per_block * sums_pitch), e.channels, row_line),
      inner(in.behind(), e.squeezed, row_line);
  const int first = int(blockIdx.x) * images_per_block, images = min(images_per_block, e.images - first);
  each_eight(e.channels, [&](int image, int c) {
    store8(in.at(image, c), image < images ? load8(x + int64_t(first + image) * e.channels + c) : zero8());
  });
  __syncthreads();
  multiply<true>(static_cast<const T*>(e.w1), e.squeezed, in, sums, [&](int image, int s, F8 h) {
    const F8 bias = load8(e.b1 + s);
#pragma unroll
    for (int i = 0; i < 8; ++i) h.v[i] += bias.v[i];
    h = rounded8<T>(h);
    if (image < images) store8(hidden + int64_t(first + image) * e.squeezed + s, h);
    choose_act(e.inner, [&](auto act) {
#pragma unroll
      for (int i = 0; i < 8; ++i) h.v[i] = act(h.v[i]);
    });
    store8(inner.at(image, s), h);
  });
  multiply<true>(static_cast<const T*>(e.w2), e.channels, inner, sums, [&](int image, int c, F8 u) {
    if (image >= images) return;
    const F8 bias = load8(e.b2 + c);
#pragma unroll
    for (int i = 0; i < 8; ++i) u.v[i] += bias.v[i];
    u = rounded8<T>(u);
    const int64_t at = int64_t(first + image) * e.channels + c;
    store8(excited + at, u);
    choose_act(e.outer, [&](auto act) {
#pragma unroll
      for (int i = 0; i < 8; ++i) u.v[i] = act(u.v[i]);
    });
    store8(gate + at, u);
  });
}

// d_excited [N,C] and d_hidden [N,S]: gradients of what stands before the activations, for the kernel below.
template <class T>
__global__ void __launch_bounds__(threads, 1)
    excitation_backward_kernel(const __grid_constant__ Excitation e, const T* hidden, const T* excited, const T* d_gate,
                               T* d_excited, T* d_hidden, T* d_x) {
  wait_for_inputs();
  LGD_DYNAMIC_SHARED(float, sums);
  const Vectors<T> outer(reinterpret_cast<T*>(sums + images_per_block * sums_pitch), e.channels, column_line),
      inner(outer.behind(), e.squeezed, column_line);
  const int first = int(blockIdx.x) * images_per_block, images = min(images_per_block, e.images - first);
  // d times act' of u, for eight elements at `at`.
  const auto before = [](Act of, F8 d, const T* u) {
    const F8 at = load8(u);
    choose_act(of, [&](auto act) {
#pragma unroll
      for (int i = 0; i < 8; ++i) d.v[i] *= act.slope(at.v[i]);
    });
    return d;
  };
  each_eight(e.channels, [&](int image, int c) {
    F8 d = zero8();
    if (image < images) {
      const int64_t at = int64_t(first + image) * e.channels + c;
      d = before(e.outer, load8(d_gate + at), excited + at);
      store8(d_excited + at, d);
    }
    store8(outer.at(image, c), d);
  });
  __syncthreads();
  multiply<false>(static_cast<const T*>(e.w2), e.squeezed, outer, sums, [&](int image, int s, F8 d) {
    if (image < images) {
      const int64_t at = int64_t(first + image) * e.squeezed + s;
      d = before(e.inner, d, hidden + at);
      store8(d_hidden + at, d);
    }
    store8(inner.at(image, s), d);
  });
  multiply<false>(static_cast<const T*>(e.w1), e.channels, inner, sums, [&](int image, int c, const F8& d) {
    if (image < images) store8(d_x + int64_t(first + image) * e.channels + c, d);
  });
}

// out[row][column] += sum over n of left[n][row] act(right[n][column]), bias[row] += sum over n of left[n][row].
template <class T>
struct OuterProduct {
  const T *left, *right;
  Act act;
  float *out, *bias;
  int rows, columns;
};

using WeightTile = matrix::Tile<64, 64, 4, 2, 4, 1>;
constexpr int k_tiles_at_once = WeightTile::stages;

template <class T>
__global__ void __launch_bounds__(WeightTile::threads, WeightTile::resident)
    excitation_weights_kernel(int images, const __grid_constant__ OuterProduct<T> first,
                              const __grid_constant__ OuterProduct<T> second) {
  wait_for_inputs();
  using Tile = WeightTile;
  using Side = matrix::Operand<T, Tile::BM, true>;
  // a thread has 16 bytes of a k tile
  static_assert(Tile::BM == Tile::BN && Side::tile_rows * Side::chunks == Tile::threads);
  alignas(128) __shared__ T stage[2][k_tiles_at_once][Side::tile_elements];
  const OuterProduct<T>& p = blockIdx.z == 0 ? first : second;
  const int row0 = int(blockIdx.z == 0 ? blockIdx.x : blockIdx.y) * Tile::BM,
            column0 = int(blockIdx.z == 0 ? blockIdx.y : blockIdx.x) * Tile::BN;
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32, wm = warp % Tile::WM * Tile::TM,
            wn = warp / Tile::WM * Tile::TN;
  const int image = int(threadIdx.x) / Side::chunks, mine = int(threadIdx.x) % Side::chunks, at = mine * chunk<T>;
  uint4 left[k_tiles_at_once], right[k_tiles_at_once];
  const auto fetch = [&](int n) {
#pragma unroll
    for (int i = 0; i < k_tiles_at_once; ++i) {
      const int of = n + i * Side::tile_rows + image;
      left[i] = of < images && row0 + at < p.rows ? load_as<uint4>(p.left + int64_t(of) * p.rows + row0 + at) : uint4{};
      right[i] = of < images && column0 + at < p.columns
                     ? load_as<uint4>(p.right + int64_t(of) * p.columns + column0 + at)
                     : uint4{};
    }
  };
  // What there is of this thread's weights, two columns of a row each, and of its bias.
  const auto own = [&](int j, int half, const auto& body) {
    const int row = row0 + wm + lane / 4 + 8 * half, column = column0 + wn + j * 8 + lane % 4 * 2;
    if (row < p.rows && column < p.columns) body(p.out + int64_t(row) * p.columns + column);
  };
  const int bias_row = row0 + int(threadIdx.x);
  const bool has_bias = column0 == 0 && int(threadIdx.x) < Tile::BM && bias_row < p.rows;
  float2 old[Tile::NI][2];
  fetch(0);
#pragma unroll
  for (int j = 0; j < Tile::NI; ++j)
#pragma unroll
    for (int half = 0; half < 2; ++half) own(j, half, [&](const float* out) { old[j][half] = load_as<float2>(out); });
  const float old_bias = has_bias ? p.bias[bias_row] : 0;
  float acc[Tile::MI][Tile::NI][4] = {}, bias[chunk<T>] = {};
  for (int n = 0; n < images; n += k_tiles_at_once * Side::tile_rows) {
    choose_act(p.act, [&](auto act) {
#pragma unroll
      for (int i = 0; i < k_tiles_at_once; ++i) {
        float of_rows[chunk<T>], of_columns[chunk<T>];
        read::take(reinterpret_cast<const T*>(&left[i]), of_rows);
        read::take(reinterpret_cast<const T*>(&right[i]), of_columns);
#pragma unroll
        for (int j = 0; j < chunk<T>; ++j) {
          bias[j] += of_rows[j];
          of_columns[j] = act(of_columns[j]);
        }
        store_as<uint4>(Side::at(stage[0][i], image, mine), left[i]);
        read::put(Side::at(stage[1][i], image, mine), of_columns, true);
      }
    });
    __syncthreads();
    fetch(n + k_tiles_at_once * Side::tile_rows);
#pragma unroll 1
    for (int i = 0; i < k_tiles_at_once; ++i)
      matrix::multiply<Tile, true, true>(stage[0][i], stage[1][i], wm, wn, lane, acc);
    __syncthreads();
  }
  float* const biases = reinterpret_cast<float*>(stage);  // [images of a k tile][rows]
  static_assert(Side::tile_rows * Tile::BM * sizeof(float) <= sizeof(stage));
#pragma unroll
  for (int j = 0; j < chunk<T>; ++j) biases[image * Tile::BM + at + j] = bias[j];
#pragma unroll
  for (int j = 0; j < Tile::NI; ++j)
#pragma unroll
    for (int half = 0; half < 2; ++half)
      own(j, half, [&](float* out) {
        store_as<float2>(out,
                         make_float2(old[j][half].x + acc[0][j][2 * half], old[j][half].y + acc[0][j][2 * half + 1]));
      });
  __syncthreads();
  if (!has_bias) return;
  float total = 0;
#pragma unroll
  for (int other = 0; other < Side::tile_rows; ++other) total += biases[other * Tile::BM + int(threadIdx.x)];
  p.bias[bias_row] = old_bias + total;
}

template <class T>
size_t shared_bytes(const Excitation& e, int line) {
  const size_t pitches = Vectors<T>::pitch_of(e.channels, line) + Vectors<T>::pitch_of(e.squeezed, line);
  return images_per_block * (sums_pitch * sizeof(float) + pitches * sizeof(T));
}
static_assert(images_per_block * (sums_pitch * sizeof(float) + excitation_widest + 4 * row_line) <= 99 << 10);

}  // namespace

void excitation_forward_cuda(Context& ctx, const Excitation& e, DType type, const void* x, void* hidden, void* excited,
                             void* gate) {
  with_type(type, [&]<class T>(T) {
    const size_t shared = shared_bytes<T>(e, row_line);
    allow_shared_memory(excitation_forward_kernel<T>, shared);
    LGD_LAUNCH(ctx, excitation_forward_kernel<T>, blocks_for(e.images, images_per_block), threads, shared, e,
               static_cast<const T*>(x), static_cast<T*>(hidden), static_cast<T*>(excited), static_cast<T*>(gate));
  });
}

void excitation_backward_cuda(Context& ctx, const Excitation& e, DType type, const void* x, const void* hidden,
                              const void* excited, const void* d_gate, void* d_x,
                              const ExcitationGradients& gradients) {
  with_type(type, [&]<class T>(T) {
    T* d_excited = static_cast<T*>(ctx.scratch(size_t(e.images) * (e.channels + e.squeezed) * sizeof(T)));
    T* d_hidden = d_excited + int64_t(e.images) * e.channels;
    const size_t shared = shared_bytes<T>(e, column_line);
    allow_shared_memory(excitation_backward_kernel<T>, shared);
    LGD_LAUNCH(ctx, excitation_backward_kernel<T>, blocks_for(e.images, images_per_block), threads, shared, e,
               static_cast<const T*>(hidden), static_cast<const T*>(excited), static_cast<const T*>(d_gate), d_excited,
               d_hidden, static_cast<T*>(d_x));
    const OuterProduct<T> second{
        d_excited, static_cast<const T*>(hidden), e.inner, gradients.w2, gradients.b2, e.channels, e.squeezed};
    const OuterProduct<T> first{d_hidden,  static_cast<const T*>(x), Act::none, gradients.w1, gradients.b1, e.squeezed,
                                e.channels};
    LGD_LAUNCH(ctx, excitation_weights_kernel<T>,
               dim3(blocks_for(e.channels, WeightTile::BM), blocks_for(e.squeezed, WeightTile::BN), 2),
               WeightTile::threads, 0, e.images, second, first);
  });
}

}  // namespace lgd
