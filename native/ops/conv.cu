// Dense convolution and linear layers on the matrix core (ops/matrix_core.cuh), and the training forms of ops/fused.h.
//
// forward:  M = N*OH*OW output pixels, N = K channels, reduction over (r, s, c):  A gathers patches of x, B = weights
//           [K][RSC].
// A 1x1 kernel of stride 1 without padding needs no gathering: its operands are plain matrices.
//
// What limits it: 1x1 layers of mobile networks read x and write y once and are bound by memory (2 C K / (2 C + 2 K)
// operations a byte stay below an H100's 150), so blocks keep copies in flight while they store; 3x3 layers are bound
// by the tensor cores. The norm's statistics cost no pass: a lane adds up the columns it stores. Nor does the mean of
// 2x2 windows behind a convolution: with its output pixels taken window by window, four rows of a tile are one value.
#include "ops/conv_epilogues.cuh"
#include "ops/conv_gradients.h"
#include "ops/conv_loaders.cuh"
#include "ops/lazy_operands.cuh"
#include "ops/matrix_core.cuh"
#include "ops/norm_finish.cuh"
#include "ops/partial_sums.h"
#include "ops/reduce.cuh"
#include "ops/store_output.cuh"

namespace lgd {
namespace {

// Calls body with where the patches of the input lie.
template <class Body>
void with_patches(const ConvShape& s, Body&& body) {
  if (is_pointwise(s)) body(where::Rows{int(s.rows()), s.c, FastDivide(uint32_t(s.oh * s.ow))});
  else body(where::Patches(s));
}

// out = A w^T with w [columns][width].
template <class T, class A, class Out, class Prepare = matrix::Nothing>
void multiply(Context& ctx, const A& a, int64_t rows, const void* w, int columns, int width, const Out& out,
              const Prepare& prepare = {}) {
  const Loader weights{where::Rows{columns, width}, read::Stored<T>{static_cast<const T*>(w)}};
  matrix::with_tile<T, 4, A::Where::overlaps>(ctx, rows, columns, width, [&](auto tile) {
    matrix::launch_walking<T, decltype(tile)>(ctx, a, weights, out, rows, columns, width, prepare);
  });
}

template <class T, class Read, class Out, class Prepare = matrix::Nothing>
void forward(Context& ctx, const ConvShape& s, const Read& x, const void* w, const Out& out,
             const Prepare& prepare = {}) {
  with_patches(
      s, [&](auto patches) { multiply<T>(ctx, Loader{patches, x}, s.rows(), w, s.k, s.taps() * s.c, out, prepare); });
}

// A thread: eight weights of a row of both.
template <class T>
__global__ void __launch_bounds__(256)
    sum_fold_kernel(ConvSumShape s, FoldedConv first, FoldedConv second, T* w, float* shift) {
  wait_for_inputs();
  const int chunks = (s.c + s.c2) / 8, at = int(blockIdx.x) * 256 + int(threadIdx.x);
  if (at >= s.k * chunks) return;
  const int k = at / chunks, column = at % chunks * 8;
  const bool in_second = column >= s.c;
  const float scale = in_second ? second.scale[k] : first.scale[k];
  F8 v = load8(in_second ? second.w + int64_t(k) * s.c2 + column - s.c : first.w + int64_t(k) * s.c + column);
#pragma unroll
  for (int i = 0; i < 8; ++i) v.v[i] *= scale;
  store8(w + int64_t(at) * 8, v);
  if (column == 0) shift[k] = first.shift[k] + second.shift[k];
}

// Sums over the rows of [rows][channels].
template <class T>
__global__ void __launch_bounds__(256) column_sum_kernel(const T* x, int64_t rows, ColumnWalk walk, float* partial) {
  wait_for_inputs();
  int chunk;
  F8 sum = zero8();
  if (chunk_of(walk, chunk))
    for (int64_t row = int64_t(blockIdx.x) * walk.rows_per_pass + threadIdx.x / walk.width; row < rows;
         row += int64_t(gridDim.x) * walk.rows_per_pass) {
      const F8 v = load8(x + (row * walk.chunks + chunk) * 8);
#pragma unroll
      for (int i = 0; i < 8; ++i) sum.v[i] += v.v[i];
    }
  write_column_sums(sum, walk, partial, int64_t(walk.chunks) * 8, 0);
}

}  // namespace

void conv_forward_cuda(Context& ctx, const ConvShape& s, DType type, const void* x, const void* w, const Epilogue& e,
                       void* y) {
  check_dense(s);
  LGD_CHECK(!e.mean || (is_clamp(e.act) && s.oh > 1 && s.ow > 1 && (y ? s.oh % 2 == 0 && s.ow % 2 == 0 : !e.residual)),
            "BAD_SHAPE",
            "a convolution stores the mean of 2x2 windows through relu, relu6 or nothing, and beside its output of "
            "even sides alone; found an output of ",
            s.oh, "x", s.ow);
  with_type(type, [&]<class T>(T) {
    const read::Stored<T> input{static_cast<const T*>(x)};
    if (e.mean) {
      const where::WindowPatches windows(s);
      const StoreMean<T> out{static_cast<T*>(y),
                             static_cast<T*>(e.mean),
                             s.k,
                             e.scale,
                             e.shift,
                             static_cast<const T*>(e.residual),
                             e.act,
                             where::WindowGeometry(s)};
      return multiply<T>(ctx, Loader{windows, input}, windows.rows(), w, s.k, s.taps() * s.c, out);
    }
    const StoreOutput<T> out{static_cast<T*>(y), s.k, e.scale, e.shift, static_cast<const T*>(e.residual), e.act};
    forward<T>(ctx, s, input, w, out);
  });
}

void conv_sum_fold_cuda(Context& ctx, const ConvSumShape& s, DType type, const FoldedConv& first,
                        const FoldedConv& second, void* w, float* shift) {
  with_type(type, [&]<class T>(T) {
    LGD_LAUNCH(ctx, sum_fold_kernel<T>, blocks_for(int64_t(s.k) * (s.c + s.c2) / 8, 256), 256, 0, s, first, second,
               static_cast<T*>(w), shift);
  });
}

void conv_sum_forward_cuda(Context& ctx, const ConvSumShape& s, DType type, const void* x, const void* x2,
                           const void* w, const float* shift, Act act, void* y) {
  LGD_CHECK(s.c % 32 == 0 && s.c2 % 8 == 0 && s.k % 8 == 0, "BAD_SHAPE",
            "a sum of two convolutions takes multiples of 32, 8 and 8 channels; found ", s.c, ", ", s.c2, " and ", s.k);
  with_type(type, [&]<class T>(T) {
    const Loader both{where::RowsOfTwo{int(s.rows), s.c, s.c2},
                      read::StoredTwo<T>{static_cast<const T*>(x), static_cast<const T*>(x2)}};
    multiply<T>(ctx, both, s.rows, w, s.k, s.c + s.c2,
                StoreOutput<T>{static_cast<T*>(y), s.k, nullptr, shift, nullptr, act});
  });
}

void conv_norm_forward_cuda(Context& ctx, const ConvShape& s, DType type, const LazyInput& x, const void* w,
                            const NormTarget& norm, void* y) {
  check_dense(s);
  check_gate(s, x);
  with_type(type, [&]<class T>(T) {
    float* partial = nullptr;
    int parts = 0;
    forward<T>(ctx, s, read::Activation<T>(x), w,
               StoreStatistics<T>{static_cast<T*>(y), s.k, norm.running_mean, nullptr},
               [&](StoreStatistics<T>& out, int blocks) {
                 parts = blocks;
                 out.partial = partial = static_cast<float*>(ctx.scratch(size_t(parts) * 2 * s.k * 4));
               });
    finish_statistics(ctx, partial, parts, s.k, s.rows(), norm);
  });
}

void conv_backward_data_cuda(Context& ctx, const ConvShape& s, DType type, const void* dy, const void* w, void* dx,
                             bool accumulate) {
  GradientTarget target;
  target.g = dx;
  target.accumulate = accumulate;
  LazyGradient gradient;
  gradient.g = dy;
  data_gradient(ctx, s, type, gradient, w, target);
}

void conv_backward_weight_cuda(Context& ctx, const ConvShape& s, DType type, const void* x, const void* dy, float* dw,
                               float* d_bias) {
  LazyInput input;
  input.y = x;
  LazyGradient gradient;
  gradient.g = dy;
  weight_gradient(ctx, s, type, input, gradient, dw);
  if (!d_bias) return;
  with_type(type, [&]<class T>(T) {
    const ColumnWalk walk = column_walk(ctx, s.rows(), s.k);
    float* partial = partial_sums(ctx).take(ctx, walk.splits, s.k);
    LGD_LAUNCH(ctx, column_sum_kernel<T>, dim3(walk.splits, walk.groups), 256, 0, static_cast<const T*>(dy), s.rows(),
               walk, partial);
    partial_sums(ctx).add(ctx, {{partial, d_bias, s.k, walk.splits}});
  });
}

}  // namespace lgd
