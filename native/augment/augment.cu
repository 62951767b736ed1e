// The CUDA backend. The host packs the crops of a batch into pinned memory, with the views that say what to do with
// them, sends them ahead (Device::stage, beside the work of the step before) and enqueues three kernels, whatever the
// number of images.
//
//   grey     crop -> colour steps before the contrast -> sums of grey, a number a block; images with a contrast step
//            only
//   colour   crop -> all colour steps -> flipped, normalised, written; images with a blur go to float planes
//            [slot][3][H][W] instead
//   blur     planes -> vertical, then horizontal pass in shared memory -> flipped, normalised, written
//
// The contrast needs the mean of the whole image first. The crop is resampled again for it, not kept: it is a fifth of
// the bytes of the resampled image and lies in L2. A thread keeps its column and walks down the rows, with the filtered
// rows of the crop that it will use again; the rows' windows are shared by the block. Sums run in a fixed order: the
// same batch gives the same bits.
//
// Estimate for 224 x 224 from a 256 x 256 source, MoCo v2 (contrast in 0.8, blur in 0.5 of the views), bfloat16, H100:
//   bytes   0.12 MB of crop, twice; 0.40 MB of output (4 stored channels); half of the images 0.60 MB of planes, out
//           and in: 1.2 MB, 0.4 us at 3 TB/s
//   work    660 instructions a pixel by count (scripts/kernels/cost.mjs views --batch 32; colour 280, blur 220, grey
//           160), 1.1 us at 4 warp instructions a cycle
// and 1.3 us with what warps wait for (clock.mjs views --batch 32). The upload, 0.12 MB an image, takes 2 to 5 us of
// PCIe beside it.
#include <algorithm>
#include <cstring>

#include "augment/resample.cuh"
#include "ops/layout.h"

namespace lgd {

namespace {

constexpr int blur_rows = 8, blur_quad = 4;  // pixels that a thread of the blur makes at once: down, and across

__device__ float block_sum(float value) {
  __shared__ float partial[threads / 32];
  value = sum_of_warp(value);
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = value;
  __syncthreads();
  float sum = 0;
  for (int warp = 0; warp < threads / 32; ++warp) sum += partial[warp];
  return sum;
}

__device__ __forceinline__ void store4(bf16* p, const F8& v) {
  store_as<uint2>(p, make_uint2(pack2(v.v[0], v.v[1]), pack2(v.v[2], v.v[3])));
}
__device__ __forceinline__ void store4(float* p, const F8& v) {
  store_as<float4>(p, make_float4(v.v[0], v.v[1], v.v[2], v.v[3]));
}

template <class T>
__device__ __forceinline__ void write_pixel(const DeviceBatch& batch, int image, bool flip, int y, int x,
                                            const float (&rgb)[3], T* out) {
  F8 value = zero8();
  for (int c = 0; c < 3; ++c) value.v[c] = rgb[c] * batch.scale[c] + batch.shift[c];
  const int64_t pixel = image * batch.area() + int64_t(y) * batch.width + (flip ? batch.width - 1 - x : x);
  if (batch.stored == 4) store4(out + pixel * 4, value);
  else store8(out + pixel * 8, value);
}

// The colour steps of a view, where a store to global memory does not make a pixel's loop read them again. for_pixels
// has the barrier.
__device__ __forceinline__ void share_steps(const DeviceView& view, ColourStep (&steps)[5]) {
  if (int(threadIdx.x) < view.step_count) steps[threadIdx.x] = view.steps[threadIdx.x];
}

__global__ void __launch_bounds__(threads) grey_kernel(const __grid_constant__ DeviceBatch batch) {
  wait_for_inputs();
  const DeviceView& view = batch.views[blockIdx.y];
  if (view.contrast_at == view.step_count) return;
  __shared__ ColourStep steps[5];
  share_steps(view, steps);
  const int count = view.contrast_at;
  float grey = 0;
  for_pixels(batch, view, [&](int, int, float (&rgb)[3]) {
    for (int step = 0; step < count; ++step) apply_step(steps[step], 0.0f, rgb[0], rgb[1], rgb[2]);
    grey += grey_of(rgb[0], rgb[1], rgb[2]);
  });
  grey = block_sum(grey);
  if (threadIdx.x == 0) batch.sums[int64_t(blockIdx.y) * batch.blocks + blockIdx.x] = grey;
}

template <class T>
__global__ void __launch_bounds__(threads) colour_kernel(const __grid_constant__ DeviceBatch batch, T* out) {
  wait_for_inputs();
  const int image = int(blockIdx.y);
  const DeviceView& view = batch.views[image];
  const int64_t area = batch.area();
  float mean = 0;
  if (view.contrast_at < view.step_count) {
    for (int i = threadIdx.x; i < batch.blocks; i += threads) mean += batch.sums[int64_t(image) * batch.blocks + i];
    mean = block_sum(mean) / float(area);
  }
  __shared__ ColourStep steps[5];
  share_steps(view, steps);
  const int count = view.step_count, slot = view.blur_slot;
  const bool flip = view.flip;
  for_pixels(batch, view, [&](int y, int x, float (&rgb)[3]) {
    for (int step = 0; step < count; ++step) apply_step(steps[step], mean, rgb[0], rgb[1], rgb[2]);
    if (slot < 0) {
      write_pixel(batch, image, flip, y, x, rgb, out);
    } else {
      float* plane = batch.planes + int64_t(slot) * 3 * area + int64_t(y) * batch.width + x;
      for (int c = 0; c < 3; ++c) plane[c * area] = rgb[c];
    }
  });
}

// The mirrored border, and the edge for what lies further out and weighs nothing.
__device__ __forceinline__ int reflect(int i, int size) {
  i = i < 0 ? -i : i >= size ? 2 * (size - 1) - i : i;
  return min(max(i, 0), size - 1);
}

// A blur pass makes `outputs` neighbours at once from the inputs that start `reach` before the first of them, a block
// of `outputs` inputs at a time: input j of block b has weight taps[b outputs + j - o + outputs - 1] in output o.
// Beyond the radius the weights are zero.
struct Taps {
  int radius, reach, blocks;
  __host__ __device__ constexpr int count(int outputs) const { return (blocks + 1) * outputs; }
};
__host__ __device__ constexpr Taps down_taps(int radius) {
  return {radius, radius, (2 * radius + 2 * blur_rows - 1) / blur_rows};
}
__host__ __device__ constexpr Taps across_taps(int radius) {  // aligned to 16 bytes
  const int reach = (radius + blur_quad - 1) / blur_quad * blur_quad;
  return {radius, reach, 1 + 2 * reach / blur_quad};
}

__device__ __forceinline__ void fill_taps(const Taps& taps, int outputs, const float* weights, float* to) {
  for (int i = threadIdx.x; i < taps.count(outputs); i += threads) {
    const int distance = abs(i - (outputs - 1) - taps.reach);
    to[i] = distance <= taps.radius ? weights[distance] : 0.f;
  }
}

template <int outputs, class Load>
__device__ __forceinline__ void filter(const Taps& taps, const float* weights, const Load& load,
                                       float (&sum)[outputs]) {
#pragma unroll
  for (int o = 0; o < outputs; ++o) sum[o] = 0;
  for (int b = 0; b < taps.blocks; ++b) {
    float in[outputs], weight[2 * outputs];
    load(b * outputs, in);
#pragma unroll
    for (int i = 0; i < 2 * outputs; i += 4) {
      const float4 four = load_as<float4>(weights + b * outputs + i);
      weight[i] = four.x;
      weight[i + 1] = four.y;
      weight[i + 2] = four.z;
      weight[i + 3] = four.w;
    }
#pragma unroll
    for (int j = 0; j < outputs; ++j)
#pragma unroll
      for (int o = 0; o < outputs; ++o) sum[o] = fmaf(in[j], weight[j - o + outputs - 1], sum[o]);
  }
}

// What a block of the blur has in shared memory: [3][8][padded] after the vertical pass, [3][8][quads * 4] after both,
// the taps, and which rows the vertical pass reads.
struct BlurShape {
  int quads, padded, taps;
  __host__ __device__ BlurShape(int columns, int radius_x, int radius_y)
      : quads((columns + blur_quad - 1) / blur_quad),
        padded(quads * blur_quad + 2 * across_taps(radius_x).reach),
        taps(2 * down_taps(radius_y).count(blur_rows) + across_taps(radius_x).count(blur_quad)) {}
  __host__ __device__ int middle_floats() const { return 3 * blur_rows * padded; }
  __host__ __device__ int final_floats() const { return 3 * blur_rows * quads * blur_quad; }
  __host__ __device__ int bytes() const { return (middle_floats() + final_floats() + taps) * int(sizeof(float)); }
};

template <class T>
__global__ void __launch_bounds__(threads) blur_kernel(const __grid_constant__ DeviceBatch batch, T* out) {
  wait_for_inputs();
  LGD_DYNAMIC_SHARED(float, middle);
  const int image = batch.blurred[blockIdx.y];
  const DeviceView& view = batch.views[image];
  const BlurShape shape(batch.columns, view.radius_x, view.radius_y);
  const Taps down = down_taps(view.radius_y), across = across_taps(view.radius_x);
  const int pitch = shape.quads * blur_quad, top = int(blockIdx.x) / batch.column_tiles * blur_rows;
  const int left = int(blockIdx.x) % batch.column_tiles * batch.columns;
  float *final = middle + shape.middle_floats(), *down_weights = final + shape.final_floats(),
        *across_weights = down_weights + down.count(blur_rows);
  fill_taps(down, blur_rows, batch.weights + view.weights + view.radius_x + 1, down_weights);
  fill_taps(across, blur_quad, batch.weights + view.weights, across_weights);
  int* rows_read = reinterpret_cast<int*>(across_weights + across.count(blur_quad));
  for (int i = threadIdx.x; i < down.blocks * blur_rows; i += threads)
    rows_read[i] = reflect(top - down.reach + i, batch.height);
  __syncthreads();

  const float* planes = batch.planes + int64_t(view.blur_slot) * 3 * batch.area();
  for (int e = threadIdx.x; e < 3 * shape.padded; e += threads) {  // the border's columns too
    const int c = e / shape.padded, at = e % shape.padded;
    const float* column = planes + c * batch.area() + reflect(left + at - across.reach, batch.width);
    float sum[blur_rows];
    filter(
        down, down_weights,
        [&](int first, float (&in)[blur_rows]) {
#pragma unroll
          for (int j = 0; j < blur_rows; ++j) in[j] = column[int64_t(rows_read[first + j]) * batch.width];
        },
        sum);
#pragma unroll
    for (int row = 0; row < blur_rows; ++row) middle[(c * blur_rows + row) * shape.padded + at] = sum[row];
  }
  __syncthreads();

  for (int e = threadIdx.x; e < 3 * blur_rows * shape.quads; e += threads) {
    const int line = e / shape.quads, quad = e % shape.quads;
    const float* row = middle + line * shape.padded + quad * blur_quad;
    float sum[blur_quad];
    filter(
        across, across_weights,
        [&](int first, float (&in)[blur_quad]) {
          const float4 four = load_as<float4>(row + first);
          in[0] = four.x;
          in[1] = four.y;
          in[2] = four.z;
          in[3] = four.w;
        },
        sum);
    store_as<float4>(final + line * pitch + quad * blur_quad, make_float4(sum[0], sum[1], sum[2], sum[3]));
  }
  __syncthreads();

  const int rows = min(blur_rows, batch.height - top), columns = min(batch.columns, batch.width - left);
  for (int e = threadIdx.x; e < rows * columns; e += threads) {
    const int row = e / columns, x = e % columns;
    float rgb[3];
    for (int c = 0; c < 3; ++c) rgb[c] = final[(c * blur_rows + row) * pitch + x];
    write_pixel(batch, image, view.flip, top + row, left + x, rgb, out);
  }
}

constexpr size_t aligned(size_t bytes) { return (bytes + 255) / 256 * 256; }

// Where things lie: in what is sent (views, weights, blurred, pixels), and in scratch memory (planes, sums).
struct Layout {
  size_t weights, blurred, pixels, sent, sums, scratch;
};

struct Packing {
  std::vector<DeviceView> views;
  std::vector<float> weights;
  std::vector<int> blurred;
  size_t pixel_bytes = 0;
};

Packing pack_views(const ViewBatch& batch) {
  Packing packing;
  packing.views.reserve(batch.views.size());
  for (const View& view : batch.views) {
    DeviceView out{};
    out.pixels = int64_t(packing.pixel_bytes);
    out.row_bytes = 3 * view.x.in;
    packing.pixel_bytes += size_t(out.row_bytes) * view.y.in;
    out.x = view.x;
    out.y = view.y;
    out.filter = view.filter;
    out.flip = view.flip;
    out.step_count = view.step_count;
    out.contrast_at = view.contrast_at;
    std::copy(std::begin(view.steps), std::end(view.steps), out.steps);
    out.radius_x = view.radius_x;
    out.radius_y = view.radius_y;
    out.blur_slot = -1;
    if (view.blurred()) {
      out.blur_slot = int(packing.blurred.size());
      packing.blurred.push_back(int(packing.views.size()));
      out.weights = int(packing.weights.size());
      packing.weights.resize(packing.weights.size() + view.radius_x + view.radius_y + 2);
      gaussian_weights(view.radius_x, view.sigma, &packing.weights[out.weights]);
      gaussian_weights(view.radius_y, view.sigma, &packing.weights[out.weights + view.radius_x + 1]);
    }
    packing.views.push_back(out);
  }
  return packing;
}

Layout lay_out(const Packing& packing, int64_t area, int blocks) {
  Layout at{};
  at.weights = aligned(packing.views.size() * sizeof(DeviceView));
  at.blurred = at.weights + aligned(packing.weights.size() * sizeof(float));
  at.pixels = at.blurred + aligned(packing.blurred.size() * sizeof(int));
  at.sent = at.pixels + packing.pixel_bytes;
  // Room for some more blurred images than now, so that scratch memory does not grow from batch to batch.
  const size_t slots = std::min(packing.views.size(), packing.blurred.size() + packing.blurred.size() / 4 + 4);
  at.sums = aligned(slots * 3 * area * sizeof(float));
  at.scratch = at.sums + packing.views.size() * blocks * sizeof(float);
  return at;
}

void fill(Device& device, const ViewBatch& batch, const Packing& packing, const Layout& at, uint8_t* host) {
  std::memcpy(host, packing.views.data(), packing.views.size() * sizeof(DeviceView));
  if (!packing.blurred.empty()) {
    std::memcpy(host + at.weights, packing.weights.data(), packing.weights.size() * sizeof(float));
    std::memcpy(host + at.blurred, packing.blurred.data(), packing.blurred.size() * sizeof(int));
  }
  device.pool.for_each(int64_t(batch.views.size()), [&](int, int64_t i) {
    const View& view = batch.views[i];
    const DeviceView& packed = packing.views[i];
    uint8_t* to = host + at.pixels + packed.pixels;
    for (int y = 0; y < view.y.in; ++y)
      std::memcpy(to + int64_t(y) * packed.row_bytes, view.pixels + y * view.row_bytes, packed.row_bytes);
  });
}

}  // namespace

void augment_cuda(Device& device, const ViewBatch& batch, const Tensor& images) {
  LGD_CHECK(images.stored == stored_image_channels(DeviceKind::cuda, batch.width), "BAD_SHAPE", "these images have ",
            images.stored, " stored channels");
  const Packing packing = pack_views(batch);
  DeviceBatch job{};
  job.height = batch.height;
  job.width = batch.width;
  job.stored = images.stored;
  job.columns = std::min(batch.width, threads);
  job.column_tiles = (batch.width + job.columns - 1) / job.columns;
  job.blocks = job.column_tiles * ((batch.height + strip_rows - 1) / strip_rows);
  std::copy(batch.scale, batch.scale + 3, job.scale);
  std::copy(batch.shift, batch.shift + 3, job.shift);

  const Layout at = lay_out(packing, job.area(), job.blocks);
  uint8_t* scratch = static_cast<uint8_t*>(device.scratch(at.scratch));
  fill(device, batch, packing, at, static_cast<uint8_t*>(device.stage(at.sent)));
  const uint8_t* sent = static_cast<const uint8_t*>(device.send(at.sent));
  job.views = reinterpret_cast<const DeviceView*>(sent);
  job.weights = reinterpret_cast<const float*>(sent + at.weights);
  job.blurred = reinterpret_cast<const int*>(sent + at.blurred);
  job.pixels = sent + at.pixels;
  job.planes = reinterpret_cast<float*>(scratch);
  job.sums = reinterpret_cast<float*>(scratch + at.sums);

  const dim3 grid(job.blocks, unsigned(packing.views.size()));
  const dim3 blur_grid(job.column_tiles * ((batch.height + blur_rows - 1) / blur_rows),
                       unsigned(packing.blurred.size()));
  int blur_bytes = 0;
  for (const View& view : batch.views)
    blur_bytes = std::max(blur_bytes, BlurShape(job.columns, view.radius_x, view.radius_y).bytes());
  LGD_LAUNCH(device, grey_kernel, grid, threads, 0, job);
  with_type(images.type, [&]<class T>(T) {
    T* out = images.buffer.as<T>();
    LGD_LAUNCH(device, colour_kernel<T>, grid, threads, 0, job, out);
    if (packing.blurred.empty()) return;
    if (blur_bytes > 48 << 10) allow_shared_memory(blur_kernel<T>, blur_bytes);
    LGD_LAUNCH(device, blur_kernel<T>, blur_grid, threads, blur_bytes, job, out);
  });
}

}  // namespace lgd
