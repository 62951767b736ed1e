// Squeeze and excitation around a norm (ops/fused.h): the mean over an image's pixels, and the sums over them that its
// gradient needs. Memory-bound: squeeze reads y once, gate_backward y and g once; what they write is [N,C].
//
// A block has one image, or a stretch of one, and `width` 8-channel chunks of it (ColumnWalk); a thread keeps its
// channels, so that the norm's numbers and the sums (40 of them backward) stay in registers. Two blocks on a
// multiprocessor with four 16-byte loads a thread at once keep 32 KiB in flight there. With fewer images than that
// needs, images are split and a second kernel adds the stretches in order. gate_finish reads [N,C] numbers that still
// lie in L2: 8 channels a block, all images at once, as norm_finish.cuh does.
#include <algorithm>

#include "ops/grids.cuh"
#include "ops/norm_finish.cuh"

namespace lgd {

namespace {

constexpr int gate_sums = 5;  // fused.h's four, and d_gate

struct ImageWalk {
  ColumnWalk columns;
  int stretches;         // of an image
  bool back;             // from the last image to the first (Context::turn)
  int64_t pixels, each;  // of an image, of a stretch
};

ImageWalk image_walk(Context& ctx, const RowsShape& s) {
  ImageWalk walk{column_walk(ctx, s.rows(), s.channels), 1, ctx.turn(), s.pixels, s.pixels};
  // at least eight rows a thread
  const int64_t blocks = int64_t(s.images) * walk.columns.groups, most = s.pixels / (walk.columns.rows_per_pass * 8);
  walk.stretches = int(std::max<int64_t>(1, std::min<int64_t>(ctx.card.multiprocessors * 2 / blocks, most)));
  walk.each = (s.pixels + walk.stretches - 1) / walk.stretches;
  return walk;
}

// What a block does: where its rows lie, which chunk this thread has (valid: whether it has one), where its sums go.
struct Stretch {
  int chunk;
  bool valid, writes;
  int64_t begin, first, last;  // rows: of the image; of this thread
  int64_t slot;                // [stretch][image]: of the sums
  __device__ __forceinline__ Stretch(const ImageWalk& walk, int images) {
    const int place = walk.back ? int(gridDim.x - 1 - blockIdx.x) : int(blockIdx.x), image = place / walk.stretches,
              stretch = place % walk.stretches;
    valid = chunk_of(walk.columns, chunk);
    writes = valid && int(threadIdx.x) < walk.columns.width;
    begin = image * walk.pixels;
    first = begin + stretch * walk.each + threadIdx.x / walk.columns.width;
    last = begin + min(walk.pixels, (stretch + 1) * walk.each);
    slot = int64_t(stretch) * images + image;
  }
};

template <class T>
__global__ void __launch_bounds__(256, 2)
    squeeze_kernel(const T* y, const float* scales, const float* shifts, Act act,
                   const __grid_constant__ ImageWalk walk, int images, float* partial, T* pooled) {
  wait_for_inputs();
  const Stretch block(walk, images);
  const int64_t pitch = int64_t(walk.columns.chunks) * 8;
  const int step = walk.columns.rows_per_pass;
  F8 sum = zero8();
  if (block.valid) {
    F8 scale, shift;
    load_affine(scales, shifts, block.chunk * 8, scale, shift);
    const T* column = y + block.chunk * 8;
    const auto add = [&](const F8& v) {
      choose_act(act, [&](auto f) {
#pragma unroll
        for (int i = 0; i < 8; ++i) sum.v[i] += f(fmaf(v.v[i], scale.v[i], shift.v[i]));
      });
    };
    int64_t row = block.first;
    for (; row + 3 * step < block.last; row += 4 * step) {
      Raw8<T> raw[4];
#pragma unroll
      for (int r = 0; r < 4; ++r) raw[r] = load_raw8(column + (row + r * step) * pitch);
#pragma unroll
      for (int r = 0; r < 4; ++r) add(unpack8(raw[r]));
    }
    for (; row < block.last; row += step) add(load8(column + row * pitch));
  }
  sum_walk_rows(sum, walk.columns);
  if (!block.writes) return;
  if (partial) {
    store8(partial + block.slot * pitch + block.chunk * 8, sum);
    return;
  }
#pragma unroll
  for (int i = 0; i < 8; ++i) sum.v[i] /= float(walk.pixels);
  store8(pooled + block.slot * pitch + block.chunk * 8, sum);
}

// The sums of one thread's pixels; those with xhat lack its rstd.
struct GateSums {
  Act act;
  F8 scale, shift, mean;
  F8 g_slope = zero8(), g_slope_off = zero8(), slope = zero8(), slope_off = zero8(), g_value = zero8();
  __device__ __forceinline__ void add(const F8& y, const F8& g) {
    choose_act(act, [&](auto f) {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const float u = fmaf(y.v[i], scale.v[i], shift.v[i]), off = y.v[i] - mean.v[i];
        float s;
        const float value = f.with_slope(u, s), gs = g.v[i] * s;
        g_slope.v[i] += gs;
        g_slope_off.v[i] = fmaf(gs, off, g_slope_off.v[i]);
        slope.v[i] += s;
        slope_off.v[i] = fmaf(s, off, slope_off.v[i]);
        g_value.v[i] = fmaf(g.v[i], value, g_value.v[i]);
      }
    });
  }
};

struct GateInput {
  const void *y, *g;
  const float *scale, *shift, *mean, *rstd;
  Act act;
};

// sums: [stretch][5][N][C] where images are split; else [4][N][C], and d_gate takes the fifth.
template <class T>
__global__ void __launch_bounds__(256, 2)
    gate_backward_kernel(const __grid_constant__ GateInput in, const __grid_constant__ ImageWalk walk, int images,
                         float* sums, T* d_gate) {
  wait_for_inputs();
  const Stretch block(walk, images);
  const int64_t pitch = int64_t(walk.columns.chunks) * 8, plane = images * pitch;
  const int step = walk.columns.rows_per_pass;
  GateSums all{in.act};
  F8 rstd = zero8();
  if (block.valid) {
    all.scale = load8(in.scale + block.chunk * 8);
    all.shift = load8(in.shift + block.chunk * 8);
    all.mean = load8(in.mean + block.chunk * 8);
    const T *y = static_cast<const T*>(in.y) + block.chunk * 8, *g = static_cast<const T*>(in.g) + block.chunk * 8;
    int64_t row = block.first;
    for (; row + step < block.last; row += 2 * step) {
      const int64_t at = row * pitch, next = at + step * pitch;
      const Raw8<T> y0 = load_raw8(y + at), g0 = load_raw8(g + at), y1 = load_raw8(y + next), g1 = load_raw8(g + next);
      all.add(unpack8(y0), unpack8(g0));
      all.add(unpack8(y1), unpack8(g1));
    }
    if (row < block.last) all.add(load8(y + row * pitch), load8(g + row * pitch));
    rstd = load8(in.rstd + block.chunk * 8);
  }
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    all.g_slope_off.v[i] *= rstd.v[i];
    all.slope_off.v[i] *= rstd.v[i];
  }
  const int64_t image = block.slot % images, stretch = block.slot / images, at = image * pitch + block.chunk * 8;
  float* to = sums + stretch * gate_sums * plane + at;
  F8* const four[] = {&all.g_slope, &all.g_slope_off, &all.slope, &all.slope_off};
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    sum_walk_rows(*four[k], walk.columns);
    if (block.writes) store8(to + k * plane, *four[k]);
  }
  sum_walk_rows(all.g_value, walk.columns);
  if (!block.writes) return;
  if (walk.stretches > 1) store8(to + 4 * plane, all.g_value);
  else store8(d_gate + at, all.g_value);
}

// Adds the stretches of `vectors` groups of eight sums in order. The first `kept` of them go to sums, the others, times
// factor, to last.
template <class T>
__global__ void __launch_bounds__(256) add_stretches_kernel(const float* partial, int stretches, int64_t vectors,
                                                            int64_t kept, float* sums, T* last, float factor) {
  wait_for_inputs();
  for (int64_t e = int64_t(blockIdx.x) * 256 + threadIdx.x; e < vectors; e += int64_t(gridDim.x) * 256) {
    F8 total = load8(partial + e * 8);
    for (int stretch = 1; stretch < stretches; ++stretch) {
      const F8 part = load8(partial + (stretch * vectors + e) * 8);
#pragma unroll
      for (int i = 0; i < 8; ++i) total.v[i] += part.v[i];
    }
    if (e < kept) {
      store8(sums + e * 8, total);
      continue;
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) total.v[i] *= factor;
    store8(last + (e - kept) * 8, total);
  }
}

template <class T>
__global__ void __launch_bounds__(finish_threads)
    gate_finish_kernel(const T* gate, const T* d_pooled, const float* sums, float* pooled, int images, int channels,
                       float pixels, float rows, const __grid_constant__ NormGradient norm) {
  wait_for_inputs();
  const int c = finish_channel();
  const GradientWriter writer(norm, c);
  const int64_t plane = int64_t(images) * channels;
  const SumPair total = sum_pairs(images, [=](int image, SumPair& pair) {
    const int64_t at = int64_t(image) * channels + c;
    const float open = load1(gate + at), mean = load1(d_pooled + at) / pixels;
    pair.sum += fmaf(open, sums[at], mean * sums[2 * plane + at]);
    pair.product += fmaf(open, sums[plane + at], mean * sums[3 * plane + at]);
  });
  // apart from the sums, whose loads would wait for these stores
  constexpr int at_once = 4, step = finish_threads / finish_channels;
#pragma unroll 1
  for (int first = int(threadIdx.x) / finish_channels; first < images; first += at_once * step) {
    T of[at_once];
#pragma unroll
    for (int i = 0; i < at_once; ++i) of[i] = d_pooled[int64_t(min(first + i * step, images - 1)) * channels + c];
#pragma unroll
    for (int i = 0; i < at_once; ++i)
      if (first + i * step < images) pooled[int64_t(first + i * step) * channels + c] = load1(&of[i]) / pixels;
  }
  writer.write(total, rows);
}

}  // namespace

void squeeze_forward_cuda(Context& ctx, const RowsShape& s, DType type, const LazyInput& x, void* pooled) {
  const ImageWalk walk = image_walk(ctx, s);
  const int64_t vectors = int64_t(s.images) * s.channels / 8;
  float* partial = walk.stretches > 1
                       ? static_cast<float*>(ctx.scratch(size_t(walk.stretches) * vectors * 8 * sizeof(float)))
                       : nullptr;
  with_type(type, [&]<class T>(T) {
    T* out = static_cast<T*>(pooled);
    LGD_LAUNCH(ctx, squeeze_kernel<T>, dim3(s.images * walk.stretches, walk.columns.groups), 256, 0,
               static_cast<const T*>(x.y), x.scale, x.shift, no_gelu(x.act), walk, s.images, partial, out);
    if (partial)
      LGD_LAUNCH(ctx, add_stretches_kernel<T>, elementwise_blocks(ctx, vectors), 256, 0, partial, walk.stretches,
                 vectors, 0, nullptr, out, 1.f / float(s.pixels));
  });
}

void gate_backward_cuda(Context& ctx, const RowsShape& s, DType type, const LazyInput& x, const float* mean,
                        const float* rstd, const void* g, void* d_gate, float* sums) {
  const ImageWalk walk = image_walk(ctx, s);
  const int64_t vectors = int64_t(s.images) * s.channels / 8;
  float* partial =
      walk.stretches > 1
          ? static_cast<float*>(ctx.scratch(size_t(walk.stretches) * gate_sums * vectors * 8 * sizeof(float)))
          : nullptr;
  const GateInput in{x.y, g, x.scale, x.shift, mean, rstd, no_gelu(x.act)};
  with_type(type, [&]<class T>(T) {
    T* out = static_cast<T*>(d_gate);
    LGD_LAUNCH(ctx, gate_backward_kernel<T>, dim3(s.images * walk.stretches, walk.columns.groups), 256, 0, in, walk,
               s.images, partial ? partial : sums, out);
    if (partial) {
      LGD_LAUNCH(ctx, add_stretches_kernel<T>, elementwise_blocks(ctx, gate_sums * vectors), 256, 0, partial,
                 walk.stretches, gate_sums * vectors, 4 * vectors, sums, out, 1.f);
    }
  });
}

void gate_finish_cuda(Context& ctx, const RowsShape& s, DType type, const void* gate, const void* d_pooled,
                      const float* sums, float* pooled, const NormGradient& norm) {
  with_type(type, [&]<class T>(T) {
    LGD_LAUNCH(ctx, gate_finish_kernel<T>, s.channels / finish_channels, finish_threads, 0, static_cast<const T*>(gate),
               static_cast<const T*>(d_pooled), sums, pooled, s.images, s.channels, float(s.pixels), float(s.rows()),
               norm);
  });
}

}  // namespace lgd
