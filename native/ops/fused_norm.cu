// Joins, the gradient of a norm that no convolution finished, and that of a raw output where it is stored
// (ops/fused.h). Memory-bound all; bytes at least, in tensors of the activation's size: join read y [and the residual],
// write out; norm gradient read dy, y [and the stored activation], write g unless it is dy; stored gradient read g, y,
// write dy.
//
// A block takes strips of neighbouring rows, one in as many as there are blocks, and of them `width` 8-channel chunks
// (ColumnWalk): a thread keeps its channels, so scale, shift and sums stay in registers; all blocks together walk over
// the rows to or fro (Context::turn). Two blocks on a multiprocessor with four rows a thread at once keep 32 KiB of
// loads a tensor in flight there, so 32 to 96; 32 are enough for 3.3 TB/s.
#include "ops/conv_gradients.h"
#include "ops/drop.cuh"
#include "ops/norm_finish.cuh"

namespace lgd {

namespace {

template <class T>
constexpr int rows_at_once = 8 / sizeof(T);

// Strips of rows_at_once rows a thread. Each block has as many, give or take one.
struct StripWalk : ColumnWalk {
  int strips;
  bool back;
};
template <class T>
StripWalk strip_walk(Context& ctx, int64_t rows, int channels) {
  LGD_CHECK(rows < (int64_t(1) << 31) - (1 << 16), "BAD_SHAPE", "too many pixels in one batch");
  StripWalk walk{column_walk(ctx, rows, channels), 0, ctx.turn()};
  const int64_t strip = int64_t(walk.rows_per_pass) * rows_at_once<T>;
  walk.strips = int((rows + strip - 1) / strip);
  const int each = (walk.strips + walk.splits - 1) / walk.splits;
  walk.splits = (walk.strips + each - 1) / each;
  return walk;
}

// Calls body(row, count) for this thread's rows [row, row + step, ... row + (count-1) step] of each of the block's
// strips, rows_at_once or fewer. One body for both: what stands there twice has to be fetched twice
// (docs/kernel-costs.md, Code).
template <class T, class Body>
__device__ __forceinline__ void walk_rows(const StripWalk& walk, int rows, Body&& body) {
  const int step = walk.rows_per_pass;
  for (int in_turn = blockIdx.x; in_turn < walk.strips; in_turn += gridDim.x) {
    const int strip = walk.back ? walk.strips - 1 - in_turn : in_turn;
    const int row = strip * step * rows_at_once<T> + int(threadIdx.x) / walk.width;
    int count = 0;
#pragma unroll
    for (int r = 0; r < rows_at_once<T>; ++r) count += row + r * step < rows;
    body(row, count);
  }
}

// Starts the loads of eight channels in each of `count` rows, `step` elements apart.
template <class T>
__device__ __forceinline__ void load_rows(const void* from, int64_t at, int64_t step, int count,
                                          Raw8<T> (&rows)[rows_at_once<T>]) {
#pragma unroll
  for (int r = 0; r < rows_at_once<T>; ++r)
    if (r < count) rows[r] = load_raw8(static_cast<const T*>(from) + at + r * step);
}

struct Join {
  LazyInput x, residual;  // residual.y null: there is none
  Act act;                // of the sum
  void* out;
  DropShape drop;
};

// Chosen at run time: the branch is one in eight channels.
__device__ __forceinline__ void activate(Act act, F8& x) {
  choose_act(act, [&](auto f) {
#pragma unroll
    for (int i = 0; i < 8; ++i) x.v[i] = f(x.v[i]);
  });
}

// scale x + shift of a thread's channels; x where there is neither.
struct Scaling {
  F8 scale, shift;
  __device__ __forceinline__ Scaling(const LazyInput& x, int chunk) {
    load_affine(x.scale, x.shift, chunk * 8, scale, shift);
  }
  __device__ __forceinline__ void apply(F8& x) const {
#pragma unroll
    for (int i = 0; i < 8; ++i) x.v[i] = fmaf(x.v[i], scale.v[i], shift.v[i]);
  }
};

template <class T>
__global__ void __launch_bounds__(256, 2)
    join_kernel(const __grid_constant__ Join job, int rows, int pixels, const __grid_constant__ StripWalk walk) {
  wait_for_inputs();
  int chunk;
  if (!chunk_of(walk, chunk)) return;
  const Scaling main(job.x, chunk), beside(job.residual, chunk);
  Keep keep(job.drop, pixels);
  const int64_t pitch = int64_t(walk.chunks) * 8, step = walk.rows_per_pass * pitch;
  walk_rows<T>(walk, rows, [&](int row, int count) {
    constexpr int n = rows_at_once<T>;
    const int64_t at = row * pitch + chunk * 8;
    Raw8<T> y[n], residual[n], gate[n];
    load_rows<T>(job.x.y, at, step, count, y);
    if (job.x.gate)
#pragma unroll
      for (int r = 0; r < n; ++r)
        if (r < count)
          gate[r] = load_raw8(static_cast<const T*>(job.x.gate) + (row + r * walk.rows_per_pass) / pixels * pitch +
                              chunk * 8);
    if (job.residual.y) load_rows<T>(job.residual.y, at, step, count, residual);
    float kept[n];
    keep.of(row, walk.rows_per_pass, kept);
#pragma unroll
    for (int r = 0; r < n; ++r) {
      if (r >= count) break;
      F8 x = unpack8(y[r]);
      F8 other = zero8();
      if (job.residual.y) {
        other = unpack8(residual[r]);
        beside.apply(other);
      }
      main.apply(x);
      activate(job.x.act, x);
      if (job.x.gate) {
        const F8 factor = unpack8(gate[r]);
#pragma unroll
        for (int i = 0; i < 8; ++i) x.v[i] *= factor.v[i];
      }
#pragma unroll
      for (int i = 0; i < 8; ++i) x.v[i] = fmaf(x.v[i], kept[r], other.v[i]);
      activate(job.act, x);
      store8(static_cast<T*>(job.out) + at + r * step, x);
    }
  });
}

struct NormGradientJob {
  const void* dy;
  GradientTarget target;  // g null: dy is the gradient as it is
  DropShape drop;
};

// g = keep dy act'(u) and, per block, the sums of g and of g xhat; xhat's rstd comes in at the end.
// stored: act'(u) is seen in the stored activation.
template <class T, bool stored>
__global__ void __launch_bounds__(256, 2)
    norm_gradient_kernel(const __grid_constant__ NormGradientJob job, int rows, int pixels,
                         const __grid_constant__ StripWalk walk, float* partial) {
  wait_for_inputs();
  int chunk;
  const bool valid = chunk_of(walk, chunk);
  F8 sum = zero8(), product = zero8();
  if (valid) {
    const GradientTarget& to = job.target;
    const F8 mean = load8(to.norm.mean + chunk * 8);
    F8 scale = zero8(), shift = zero8();
    if (to.act != Act::none && !stored) {
      scale = load8(to.scale + chunk * 8);
      shift = load8(to.shift + chunk * 8);
    }
    Keep keep(job.drop, pixels);
    const int64_t pitch = int64_t(walk.chunks) * 8, step = walk.rows_per_pass * pitch;
    walk_rows<T>(walk, rows, [&](int row, int count) {
      constexpr int n = rows_at_once<T>;
      const int64_t at = row * pitch + chunk * 8;
      Raw8<T> dy[n], y[n];
      [[maybe_unused]] Raw8<T> activated[n];
      load_rows<T>(job.dy, at, step, count, dy);
      load_rows<T>(to.y, at, step, count, y);
      if constexpr (stored) load_rows<T>(to.activated, at, step, count, activated);
      float kept[n];
      keep.of(row, walk.rows_per_pass, kept);
#pragma unroll
      for (int r = 0; r < n; ++r) {
        if (r >= count) break;
        F8 g = unpack8(dy[r]), u = zero8();
        const F8 v = unpack8(y[r]);
        if constexpr (stored) u = unpack8(activated[r]);
        else
#pragma unroll
          for (int i = 0; i < 8; ++i) u.v[i] = fmaf(v.v[i], scale.v[i], shift.v[i]);
        choose_act(to.act, [&](auto f) {
#pragma unroll
          for (int i = 0; i < 8; ++i) g.v[i] *= kept[r] * f.slope(u.v[i]);
        });
        if (to.g) store8(static_cast<T*>(to.g) + at + r * step, g);
        g = rounded8<T>(g);
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          sum.v[i] += g.v[i];
          product.v[i] = fmaf(g.v[i], v.v[i] - mean.v[i], product.v[i]);
        }
      }
    });
    const F8 rstd = load8(to.norm.rstd + chunk * 8);
#pragma unroll
    for (int i = 0; i < 8; ++i) product.v[i] *= rstd.v[i];
  }
  const int channels = walk.chunks * 8;
  write_column_sums(sum, walk, partial, 2 * channels, 0);
  write_column_sums(product, walk, partial, 2 * channels, channels);
}

// out = a g + b y + c
template <class T>
__global__ void __launch_bounds__(256, 2) store_gradient_kernel(const __grid_constant__ LazyGradient gradient, int rows,
                                                                const __grid_constant__ StripWalk walk, T* out) {
  wait_for_inputs();
  int chunk;
  if (!chunk_of(walk, chunk)) return;
  const F8 a = load8(gradient.a + chunk * 8), b = load8(gradient.b + chunk * 8), c = load8(gradient.c + chunk * 8);
  const int64_t pitch = int64_t(walk.chunks) * 8, step = walk.rows_per_pass * pitch;
  walk_rows<T>(walk, rows, [&](int row, int count) {
    constexpr int n = rows_at_once<T>;
    const int64_t at = row * pitch + chunk * 8;
    Raw8<T> g[n], y[n];
    load_rows<T>(gradient.g, at, step, count, g);
    load_rows<T>(gradient.y, at, step, count, y);
#pragma unroll
    for (int r = 0; r < n; ++r) {
      if (r >= count) break;
      F8 dy = unpack8(g[r]);
      const F8 raw = unpack8(y[r]);
#pragma unroll
      for (int i = 0; i < 8; ++i) dy.v[i] = fmaf(a.v[i], dy.v[i], fmaf(b.v[i], raw.v[i], c.v[i]));
      store8(out + at + r * step, dy);
    }
  });
}

}  // namespace

void store_gradient(Context& ctx, int64_t rows, int channels, DType type, const LazyGradient& dy, void* out) {
  with_type(type, [&]<class T>(T) {
    const StripWalk walk = strip_walk<T>(ctx, rows, channels);
    LGD_LAUNCH(ctx, store_gradient_kernel<T>, dim3(walk.splits, walk.groups), 256, 0, dy, int(rows), walk,
               static_cast<T*>(out));
  });
}

void join_forward_cuda(Context& ctx, const RowsShape& s, DType type, const LazyInput& x, const LazyInput* residual,
                       const DropShape* drop, Act act, void* out) {
  const Join job{x, residual ? *residual : LazyInput{}, no_gelu(act), out, drop ? *drop : DropShape{}};
  with_type(type, [&]<class T>(T) {
    const StripWalk walk = strip_walk<T>(ctx, s.rows(), s.channels);
    LGD_LAUNCH(ctx, join_kernel<T>, dim3(walk.splits, walk.groups), 256, 0, job, int(s.rows()), int(s.pixels), walk);
  });
}

void norm_gradient_cuda(Context& ctx, const RowsShape& s, DType type, const void* dy, const DropShape* drop,
                        const GradientTarget& target) {
  if (!target.y) return join_forward_cuda(ctx, s, type, {dy}, nullptr, drop, Act::none, target.g);
  const Act act = no_gelu(target.act);
  const bool as_it_is = dy == target.g && act == Act::none && !drop,
             stored = target.activated && (act == Act::relu || act == Act::relu6);
  NormGradientJob job{dy, target, drop ? *drop : DropShape{}};
  if (as_it_is) job.target.g = nullptr;
  with_type(type, [&]<class T>(T) {
    const StripWalk walk = strip_walk<T>(ctx, s.rows(), s.channels);
    float* partial = static_cast<float*>(ctx.scratch(size_t(walk.splits) * 2 * s.channels * sizeof(float)));
    const dim3 grid(walk.splits, walk.groups);
    if (stored)
      LGD_LAUNCH(ctx, (norm_gradient_kernel<T, true>), grid, 256, 0, job, int(s.rows()), int(s.pixels), walk, partial);
    else
      LGD_LAUNCH(ctx, (norm_gradient_kernel<T, false>), grid, 256, 0, job, int(s.rows()), int(s.pixels), walk, partial);
    finish_gradient(ctx, partial, walk.splits, s.channels, s.rows(), target.norm);
  });
}

}  // namespace lgd
