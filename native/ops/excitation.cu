// Squeeze-and-excitation's two layers (ops/excitation.h): one kernel forward, two backward.
//
// A gate of mobilenet_v3_large's widest block multiplies 256 x 960 by 960 x 240 and back: 0.24 GFLOP and 0.9 MB of weights, which stay in L2. As
// separate matrix products each is a handful of tiles with a long reduction; here
//   - a block takes four images through both layers (forward; backward to d_x) in float32, their vectors in shared memory, forward two where there are
//     multiprocessors enough. It reads all weights once, 64 or 128 blocks at 256 images: what bounds it is the 64 bytes a cycle that a multiprocessor
//     gets from L2, so that a thread has many 16-byte loads in flight and each is used for all its images;
//   - the weights' gradients, sums over images, have a tile of 32 x 32 weights a block, and all images: no parts to be added up.
#include "core/cuda_device.cuh"
#include "ops/excitation.h"
#include "ops/multiprocessors.h"

namespace lgd {

namespace {

constexpr int threads = 256, images_per_block = 4;  // at most; fewer blocks than multiprocessors: one each, with all the registers it wants

template <class T>
__device__ __forceinline__ float rounded(float x) {
  T stored;
  store1(&stored, x);
  return load1(&stored);
}

__device__ __forceinline__ float4 times(float factor, const float4& v) { return make_float4(factor * v.x, factor * v.y, factor * v.z, factor * v.w); }
__device__ __forceinline__ float4 plus(const float4& a, const float4& b) { return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w); }
__device__ __forceinline__ float part_of(const float4& v, int image) { return image == 0 ? v.x : image == 1 ? v.y : image == 2 ? v.z : v.w; }

// A vector of floats an image in shared memory, for products with rows: halves of eight elements lie apart, [image][half][chunk] of four, so that
// threads with neighbouring chunks read without bank conflicts.
struct RowVectors {
  float* data;
  int chunks;
  __device__ __forceinline__ float* half_of(int image, int half, int chunk) const { return data + ((image * 2 + half) * chunks + chunk) * 4; }
  __device__ __forceinline__ void put(int image, int element, float v) const { half_of(image, element % 8 / 4, element / 8)[element % 4] = v; }
  __device__ __forceinline__ F8 load(int image, int chunk) const {
    const float4 a = load_as<float4>(half_of(image, 0, chunk)), b = load_as<float4>(half_of(image, 1, chunk));
    return {{a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w}};
  }
};

constexpr int rows_at_once = 4;

// How many threads share a row of `chunks` eights: as many as give all rows theirs at once, but at least a line of 128 bytes of bfloat16.
int lanes_of(int rows, int chunks) {
  int lanes = 1;
  while (lanes < 32 && lanes < chunks && (lanes < 8 || 2 * lanes * rows <= threads * rows_at_once)) lanes *= 2;
  return lanes;
}

// emit(image, row, sum over k of w[row][k] v[image][k]), once for each image and row, by some thread. Every thread calls it.
template <int images, class T, class Emit>
__device__ __forceinline__ void multiply_rows(const T* w, int rows, const RowVectors& v, int lanes, const Emit& emit) {
  const int lane = int(threadIdx.x) % lanes, group = int(threadIdx.x) / lanes, groups = threads / lanes;
  for (int first = 0; first < rows; first += groups * rows_at_once) {
    const int row = first + group * rows_at_once;
    float sums[images][rows_at_once] = {};
    if (row < rows) {
      const T* start = w + int64_t(row) * v.chunks * 8;
#pragma unroll 2
      for (int chunk = lane; chunk < v.chunks; chunk += lanes) {
        Raw8<T> raw[rows_at_once];
#pragma unroll
        for (int r = 0; r < rows_at_once; ++r) raw[r] = load_raw8(start + (int64_t(r) * v.chunks + chunk) * 8);
        F8 x[images];
#pragma unroll
        for (int image = 0; image < images; ++image) x[image] = v.load(image, chunk);
#pragma unroll
        for (int r = 0; r < rows_at_once; ++r) {
          const F8 weights = unpack8(raw[r]);
#pragma unroll
          for (int image = 0; image < images; ++image)
#pragma unroll
            for (int i = 0; i < 8; ++i) sums[image][r] = fmaf(weights.v[i], x[image].v[i], sums[image][r]);
        }
      }
    }
#pragma unroll
    for (int image = 0; image < images; ++image)
#pragma unroll
      for (int r = 0; r < rows_at_once; ++r) {
        for (int other = 1; other < lanes; other *= 2) sums[image][r] += shfl_xor(sums[image][r], other);
        if (row < rows && (image * rows_at_once + r) % lanes == lane) emit(image, row + r, sums[image][r]);
      }
  }
}

template <class T, int at_once>
__global__ void __launch_bounds__(threads, 1)
    excitation_forward_kernel(const __grid_constant__ Excitation e, int lanes1, int lanes2, const T* x, T* hidden, T* excited, T* gate) {
  LGD_DYNAMIC_SHARED(float, shared);
  const RowVectors in{shared, e.channels / 8}, inner{shared + at_once * e.channels, e.squeezed / 8};
  const int first = int(blockIdx.x) * at_once, images = min(at_once, e.images - first);
  for (int at = threadIdx.x; at < at_once * in.chunks; at += threads) {
    const int image = at / in.chunks, chunk = at % in.chunks;
    const F8 v = image < images ? load8(x + int64_t(first + image) * e.channels + chunk * 8) : zero8();
    store_as<float4>(in.half_of(image, 0, chunk), make_float4(v.v[0], v.v[1], v.v[2], v.v[3]));
    store_as<float4>(in.half_of(image, 1, chunk), make_float4(v.v[4], v.v[5], v.v[6], v.v[7]));
  }
  __syncthreads();
  multiply_rows<at_once>(static_cast<const T*>(e.w1), e.squeezed, in, lanes1, [&](int image, int s, float sum) {
    const float h = rounded<T>(sum + e.b1[s]);
    inner.put(image, s, act_any(e.inner, h));
    if (image < images) store1(hidden + int64_t(first + image) * e.squeezed + s, h);
  });
  __syncthreads();
  multiply_rows<at_once>(static_cast<const T*>(e.w2), e.channels, inner, lanes2, [&](int image, int c, float sum) {
    if (image >= images) return;
    const int64_t at = int64_t(first + image) * e.channels + c;
    const float u = rounded<T>(sum + e.b2[c]);
    store1(excited + at, u);
    store1(gate + at, act_any(e.outer, u));
  });
}

constexpr int partial_pitch = threads + 1;  // one more, so that the eight columns of a chunk lie in eight groups of banks
static_assert((8 * partial_pitch + excitation_widest) * sizeof(float4) <= 99 << 10);

// emit(column, sums over r of w[r][column] v[r]) for four images at once, v[r] holding their numbers of row r. partial: [8][partial_pitch].
// Every thread calls it; nobody may write v before the next barrier.
template <class T, class Emit>
__device__ __forceinline__ void multiply_columns(const T* w, int rows, int columns, const float4* v, float4* partial, const Emit& emit) {
  const int chunks = columns / 8;
  for (int first = 0; first < chunks; first += threads) {
    const int here = min(threads, chunks - first), parts = threads / here, part = int(threadIdx.x) / here, chunk = int(threadIdx.x) % here;
    if (part < parts) {
      float4 sums[8] = {};
      const T* start = w + (first + chunk) * 8;
#pragma unroll 4
      for (int row = part; row < rows; row += parts) {
        const F8 weights = load8(start + int64_t(row) * columns);
        const float4 of_row = v[row];
#pragma unroll
        for (int i = 0; i < 8; ++i) sums[i] = plus(sums[i], times(weights.v[i], of_row));
      }
#pragma unroll
      for (int i = 0; i < 8; ++i) partial[i * partial_pitch + threadIdx.x] = sums[i];
    }
    __syncthreads();
    for (int at = threadIdx.x; at < here * 8; at += threads) {
      float4 total = partial[at % 8 * partial_pitch + at / 8];
      for (int other = 1; other < parts; ++other) total = plus(total, partial[at % 8 * partial_pitch + other * here + at / 8]);
      emit(first * 8 + at, total);
    }
    __syncthreads();
  }
}

// d_excited [N,C] and d_hidden [N,S], float32: gradients of what stands before the activations, for the kernel below.
template <class T>
__global__ void __launch_bounds__(threads, 1)
    excitation_backward_kernel(const __grid_constant__ Excitation e, const T* hidden, const T* excited, const T* d_gate, float* d_excited, float* d_hidden, T* d_x) {
  LGD_DYNAMIC_SHARED(float4, shared);
  float4 *partial = shared, *outer = partial + 8 * partial_pitch, *inner = outer + e.channels;
  const int first = int(blockIdx.x) * images_per_block, images = min(images_per_block, e.images - first);
  choose_act(e.outer, [&](auto act) {
    constexpr int at_once = 4;  // values whose loads are on their way together; through __ldg none waits for a store
    const int64_t begin = int64_t(first) * e.channels;
    const int count = images_per_block * e.channels, there = images * e.channels;
    for (int of_thread = threadIdx.x; of_thread < count; of_thread += at_once * threads) {
      T loaded[at_once][2];
#pragma unroll
      for (int i = 0; i < at_once; ++i) {
        const int at = of_thread + i * threads;
        if (at >= there) continue;
        loaded[i][0] = __ldg(d_gate + begin + at);
        loaded[i][1] = __ldg(excited + begin + at);
      }
#pragma unroll
      for (int i = 0; i < at_once; ++i) {
        const int at = of_thread + i * threads;
        if (at >= count) continue;
        const float d = at < there ? load1(&loaded[i][0]) * act.slope(load1(&loaded[i][1])) : 0.f;
        reinterpret_cast<float*>(outer + at % e.channels)[at / e.channels] = d;
        if (at < there) d_excited[begin + at] = d;
      }
    }
  });
  __syncthreads();
  multiply_columns(static_cast<const T*>(e.w2), e.channels, e.squeezed, outer, partial, [&](int s, const float4& sums) {
    choose_act(e.inner, [&](auto act) {
#pragma unroll
      for (int image = 0; image < images_per_block; ++image) {
        const int64_t place = int64_t(first + image) * e.squeezed + s;
        const float d = image < images ? part_of(sums, image) * act.slope(load1(hidden + place)) : 0.f;
        reinterpret_cast<float*>(inner + s)[image] = d;
        if (image < images) d_hidden[place] = d;
      }
    });
  });
  multiply_columns(static_cast<const T*>(e.w1), e.squeezed, e.channels, inner, partial, [&](int c, const float4& sums) {
#pragma unroll
    for (int image = 0; image < images_per_block; ++image)
      if (image < images) store1(d_x + int64_t(first + image) * e.channels + c, part_of(sums, image));
  });
}

constexpr int tile = 32, images_at_once = 64, shares = 4;  // a share of the threads has every fourth stretch of the images

// out[row][column] += sum over n of left[n][row] act(right[n][column]), bias[row] += sum over n of left[n][row].
template <class T>
struct OuterProduct {
  const float* left;
  const T* right;
  Act act;
  float *out, *bias;
  int rows, columns;
};

template <class T>
__global__ void __launch_bounds__(threads, 2)
    excitation_weights_kernel(int images, const __grid_constant__ OuterProduct<T> first, const __grid_constant__ OuterProduct<T> second) {
  __shared__ float4 stage[2][images_at_once][tile / 4];
  __shared__ float biases[shares][tile];
  const OuterProduct<T>& p = blockIdx.z == 0 ? first : second;
  const int row0 = int(blockIdx.z == 0 ? blockIdx.x : blockIdx.y) * tile, column0 = int(blockIdx.z == 0 ? blockIdx.y : blockIdx.x) * tile;
  const int place = int(threadIdx.x) / 4, chunk = int(threadIdx.x) % 4 * 8;   // what this thread copies of a stage
  const int share = int(threadIdx.x) / 64, ty = int(threadIdx.x) % 64 / 8, tx = int(threadIdx.x) % 8;  // what it multiplies
  F8 left, right;
  const auto fetch = [&](int n) {
    left = n < images && row0 + chunk < p.rows ? load8(p.left + int64_t(n) * p.rows + row0 + chunk) : zero8();
    right = n < images && column0 + chunk < p.columns ? load8(p.right + int64_t(n) * p.columns + column0 + chunk) : zero8();
  };
  float4 sums[4] = {}, bias{};
  fetch(place);
  for (int n = 0; n < images; n += images_at_once) {
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 8; ++i) right.v[i] = act_any(p.act, right.v[i]);
    store8(reinterpret_cast<float*>(stage[0][place]) + chunk, left);
    store8(reinterpret_cast<float*>(stage[1][place]) + chunk, right);
    __syncthreads();
    fetch(n + images_at_once + place);
#pragma unroll 4
    for (int i = 0; i < images_at_once / shares; ++i) {
      const int image = share * (images_at_once / shares) + i;
      const float4 of_rows = stage[0][image][ty], of_columns = stage[1][image][tx];
#pragma unroll
      for (int r = 0; r < 4; ++r) sums[r] = plus(sums[r], times(part_of(of_rows, r), of_columns));
      bias = plus(bias, of_rows);
    }
  }
  __syncthreads();
  float4* const parts = stage[0][0];  // [share][row][column]: as large as both stages
  static_assert(shares * tile * tile / 4 == 2 * images_at_once * tile / 4);
#pragma unroll
  for (int r = 0; r < 4; ++r) parts[(share * tile + ty * 4 + r) * (tile / 4) + tx] = sums[r];
  if (tx == 0)
#pragma unroll
    for (int r = 0; r < 4; ++r) biases[share][ty * 4 + r] = part_of(bias, r);
  __syncthreads();
  const int row = row0 + int(threadIdx.x) / 8, column = column0 + int(threadIdx.x) % 8 * 4;
  if (row < p.rows && column < p.columns) {
    float* const out = p.out + int64_t(row) * p.columns + column;
    float4 total = parts[threadIdx.x];
#pragma unroll
    for (int other = 1; other < shares; ++other) total = plus(total, parts[other * tile * tile / 4 + threadIdx.x]);
    store_as<float4>(out, plus(load_as<float4>(out), total));
  }
  if (column0 == 0 && threadIdx.x < tile && row0 + int(threadIdx.x) < p.rows) {
    float total = biases[0][threadIdx.x];
#pragma unroll
    for (int other = 1; other < shares; ++other) total += biases[other][threadIdx.x];
    p.bias[row0 + threadIdx.x] += total;
  }
}

unsigned blocks_of_images(const Excitation& e) { return blocks_for(e.images, images_per_block); }

}  // namespace

void excitation_forward_cuda(Context& ctx, const Excitation& e, DType type, const void* x, void* hidden, void* excited, void* gate) {
  const int at_once = e.images <= 2 * multiprocessors ? 2 : images_per_block;
  const size_t shared = size_t(at_once) * (e.channels + e.squeezed) * sizeof(float);
  with_type(type, [&](auto zero) {
    using T = decltype(zero);
    const auto kernel = at_once == 2 ? excitation_forward_kernel<T, 2> : excitation_forward_kernel<T, images_per_block>;
    allow_shared_memory(kernel, shared);
    LGD_LAUNCH(ctx, kernel, blocks_for(e.images, at_once), threads, shared, e, lanes_of(e.squeezed, e.channels / 8), lanes_of(e.channels, e.squeezed / 8),
               static_cast<const T*>(x), static_cast<T*>(hidden), static_cast<T*>(excited), static_cast<T*>(gate));
  });
}

void excitation_backward_cuda(Context& ctx, const Excitation& e, DType type, const void* x, const void* hidden, const void* excited, const void* d_gate, void* d_x, const ExcitationGradients& gradients) {
  const size_t shared = size_t(8 * partial_pitch + e.channels + e.squeezed) * sizeof(float4);
  float* d_excited = static_cast<float*>(ctx.scratch(size_t(e.images) * (e.channels + e.squeezed) * sizeof(float)));
  float* d_hidden = d_excited + int64_t(e.images) * e.channels;
  with_type(type, [&](auto zero) {
    using T = decltype(zero);
    allow_shared_memory(excitation_backward_kernel<T>, shared);
    LGD_LAUNCH(ctx, excitation_backward_kernel<T>, blocks_of_images(e), threads, shared, e, static_cast<const T*>(hidden), static_cast<const T*>(excited),
               static_cast<const T*>(d_gate), d_excited, d_hidden, static_cast<T*>(d_x));
    const OuterProduct<T> second{d_excited, static_cast<const T*>(hidden), e.inner, gradients.w2, gradients.b2, e.channels, e.squeezed};
    const OuterProduct<T> first{d_hidden, static_cast<const T*>(x), Act::none, gradients.w1, gradients.b1, e.squeezed, e.channels};
    LGD_LAUNCH(ctx, excitation_weights_kernel<T>, dim3(blocks_for(e.channels, tile), blocks_for(e.squeezed, tile), 2), threads, 0, e.images, second, first);
  });
}

}  // namespace lgd
