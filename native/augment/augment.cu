// The CUDA backend. The host packs the crops of a batch into pinned memory, with the views that say what to do with them, sends them
// ahead (Device::stage, beside the work of the step before) and enqueues at most four kernels.
//
//   resample     crop -> float planes [B][3][H*W], colour steps before the contrast, sums of grey per block
//   colour       the remaining steps; images without blur are flipped, normalised and written, the others go back to their planes
//   blur_rows    planes -> second planes, blurred images only
//   blur_columns second planes -> flipped, normalised, written
// A thread takes one pixel at a time, a block `tile` neighbouring ones of one image. Least traffic per output pixel: its crop's bytes once,
// 12 bytes written and read again between the first two kernels (24 more with blur), and 16 (bfloat16) or 32 (float32) bytes of output.
// Sums run in a fixed order: the same batch gives the same bits.
#include <algorithm>
#include <cstring>

#include "augment/view.h"
#include "core/cuda_device.cuh"

namespace lgd {

namespace {

#define LGD_COLOUR __device__ __forceinline__
#include "augment/colour.inl"
#undef LGD_COLOUR

constexpr int threads = 256, tile = 1024;

struct DeviceView {
  int64_t pixels;                    // offset of the crop in the packed bytes
  int row_bytes, radius_x, radius_y;
  int weights;                       // offset of the blur's weights: radius_x + 1, then radius_y + 1
  int blur_slot;                     // of the second planes; -1: no blur
  int step_count, contrast_at;
  Axis x, y;
  ColourStep steps[5];
  Filter filter;
  bool flip;
};

struct DeviceBatch {
  const DeviceView* views;
  const float* weights;
  const uint8_t* pixels;
  const int* blurred;                // views that have a blur, by slot
  float *planes, *second, *sums;
  int height, width, tiles;
  float scale[3], shift[3];
  __host__ __device__ int64_t area() const { return int64_t(height) * width; }
};

__device__ float block_sum(float value) {
  __shared__ float partial[threads / 32];
  for (int mask = 16; mask > 0; mask /= 2) value += shfl_xor(value, mask);
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = value;
  __syncthreads();
  float sum = 0;
  for (int warp = 0; warp < threads / 32; ++warp) sum += partial[warp];
  return sum;
}

__device__ __forceinline__ void resample_pixel(const DeviceView& view, const uint8_t* pixels, int i, int j, float (&rgb)[3]) {
  const Window wx = window_at(view.x, view.filter, j), wy = window_at(view.y, view.filter, i);
  float total_x = 0, total_y = 0, sum[3] = {};
  for (int y = wy.begin; y < wy.end; ++y) {
    const uint8_t* row = pixels + view.pixels + int64_t(y) * view.row_bytes;
    float line[3] = {};
    total_x = 0;
    for (int x = wx.begin; x < wx.end; ++x) {
      const float weight = window_weight(wx, view.filter, x);
      total_x += weight;
      for (int c = 0; c < 3; ++c) line[c] += weight * float(__ldg(row + 3 * x + c));
    }
    const float weight = window_weight(wy, view.filter, y);
    total_y += weight;
    for (int c = 0; c < 3; ++c) sum[c] += weight * line[c];
  }
  const float inverse = 1.0f / (255.0f * total_x * total_y);
  for (int c = 0; c < 3; ++c) rgb[c] = view.filter == Filter::cubic ? clamp01(sum[c] * inverse) : sum[c] * inverse;
}

template <class T>
__device__ __forceinline__ void write_pixel(const DeviceBatch& batch, bool flip, int64_t pixel, const float (&rgb)[3], T* out) {
  if (flip) {
    const int x = int(pixel % batch.width);
    pixel += batch.width - 1 - 2 * x;
  }
  F8 value = zero8();
  for (int c = 0; c < 3; ++c) value.v[c] = rgb[c] * batch.scale[c] + batch.shift[c];
  store8(out + (int64_t(blockIdx.y) * batch.area() + pixel) * 8, value);
}

__global__ void __launch_bounds__(threads) resample_kernel(DeviceBatch batch) {
  const DeviceView& view = batch.views[blockIdx.y];
  const int64_t area = batch.area();
  float* planes = batch.planes + int64_t(blockIdx.y) * 3 * area;
  float grey = 0;
  for (int64_t pixel = int64_t(blockIdx.x) * tile + threadIdx.x; pixel < min(area, int64_t(blockIdx.x + 1) * tile); pixel += threads) {
    float rgb[3];
    resample_pixel(view, batch.pixels, int(pixel / batch.width), int(pixel % batch.width), rgb);
    for (int step = 0; step < view.contrast_at; ++step) apply_step(view.steps[step], 0.0f, rgb[0], rgb[1], rgb[2]);
    grey += grey_of(rgb[0], rgb[1], rgb[2]);
    for (int c = 0; c < 3; ++c) planes[c * area + pixel] = rgb[c];
  }
  if (view.contrast_at == view.step_count) return;
  grey = block_sum(grey);
  if (threadIdx.x == 0) batch.sums[int64_t(blockIdx.y) * batch.tiles + blockIdx.x] = grey;
}

template <class T>
__global__ void __launch_bounds__(threads) colour_kernel(DeviceBatch batch, T* out) {
  const DeviceView& view = batch.views[blockIdx.y];
  const int64_t area = batch.area();
  float* planes = batch.planes + int64_t(blockIdx.y) * 3 * area;
  float mean = 0;
  if (view.contrast_at < view.step_count) {
    for (int i = threadIdx.x; i < batch.tiles; i += threads) mean += batch.sums[int64_t(blockIdx.y) * batch.tiles + i];
    mean = block_sum(mean) / float(area);
  } else if (view.blur_slot >= 0) {
    return;  // nothing is left to do before the blur
  }
  for (int64_t pixel = int64_t(blockIdx.x) * tile + threadIdx.x; pixel < min(area, int64_t(blockIdx.x + 1) * tile); pixel += threads) {
    float rgb[3];
    for (int c = 0; c < 3; ++c) rgb[c] = planes[c * area + pixel];
    for (int step = view.contrast_at; step < view.step_count; ++step) apply_step(view.steps[step], mean, rgb[0], rgb[1], rgb[2]);
    if (view.blur_slot < 0) {
      write_pixel(batch, view.flip, pixel, rgb, out);
    } else {
      for (int c = 0; c < 3; ++c) planes[c * area + pixel] = rgb[c];
    }
  }
}

__device__ __forceinline__ int reflect(int i, int size) { return i < 0 ? -i : i >= size ? 2 * (size - 1) - i : i; }

__global__ void __launch_bounds__(threads) blur_rows_kernel(DeviceBatch batch) {
  const int image = batch.blurred[blockIdx.y];
  const DeviceView& view = batch.views[image];
  const int64_t area = batch.area();
  const float* weights = batch.weights + view.weights;
  for (int64_t pixel = int64_t(blockIdx.x) * tile + threadIdx.x; pixel < min(area, int64_t(blockIdx.x + 1) * tile); pixel += threads) {
    const int x = int(pixel % batch.width);
    for (int c = 0; c < 3; ++c) {
      const float* row = batch.planes + (int64_t(image) * 3 + c) * area + (pixel - x);
      float sum = row[x] * weights[0];
      for (int tap = 1; tap <= view.radius_x; ++tap) sum += (row[reflect(x - tap, batch.width)] + row[reflect(x + tap, batch.width)]) * weights[tap];
      batch.second[(int64_t(blockIdx.y) * 3 + c) * area + pixel] = sum;
    }
  }
}

template <class T>
__global__ void __launch_bounds__(threads) blur_columns_kernel(DeviceBatch batch, T* out) {
  const DeviceView& view = batch.views[blockIdx.y];
  if (view.blur_slot < 0) return;
  const int64_t area = batch.area();
  const float* weights = batch.weights + view.weights + view.radius_x + 1;
  for (int64_t pixel = int64_t(blockIdx.x) * tile + threadIdx.x; pixel < min(area, int64_t(blockIdx.x + 1) * tile); pixel += threads) {
    const int y = int(pixel / batch.width), x = int(pixel % batch.width);
    float rgb[3];
    for (int c = 0; c < 3; ++c) {
      const float* column = batch.second + (int64_t(view.blur_slot) * 3 + c) * area + x;
      float sum = column[int64_t(y) * batch.width] * weights[0];
      for (int tap = 1; tap <= view.radius_y; ++tap)
        sum += (column[int64_t(reflect(y - tap, batch.height)) * batch.width] + column[int64_t(reflect(y + tap, batch.height)) * batch.width]) * weights[tap];
      rgb[c] = sum;
    }
    write_pixel(batch, view.flip, pixel, rgb, out);
  }
}

constexpr size_t aligned(size_t bytes) { return (bytes + 255) / 256 * 256; }

// Where things lie: in what is sent (views, weights, blurred, pixels), and in scratch memory (planes, second, sums).
struct Layout {
  size_t weights, blurred, pixels, sent, second, sums, scratch;
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

Layout lay_out(const Packing& packing, int64_t area, int tiles) {
  Layout at{};
  at.weights = aligned(packing.views.size() * sizeof(DeviceView));
  at.blurred = at.weights + aligned(packing.weights.size() * sizeof(float));
  at.pixels = at.blurred + aligned(packing.blurred.size() * sizeof(int));
  at.sent = at.pixels + packing.pixel_bytes;
  at.second = aligned(packing.views.size() * 3 * area * sizeof(float));
  at.sums = at.second + aligned(packing.blurred.size() * 3 * area * sizeof(float));
  at.scratch = at.sums + packing.views.size() * tiles * sizeof(float);
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
    for (int y = 0; y < view.y.in; ++y) std::memcpy(to + int64_t(y) * packed.row_bytes, view.pixels + y * view.row_bytes, packed.row_bytes);
  });
}

}  // namespace

void augment_cuda(Device& device, const ViewBatch& batch, const Tensor& images) {
  LGD_CHECK(images.stored == 8, "BAD_SHAPE", "images on CUDA have 8 stored channels, found ", images.stored);
  const int64_t area = int64_t(batch.height) * batch.width;
  const int tiles = int((area + tile - 1) / tile);
  const Packing packing = pack_views(batch);
  const Layout at = lay_out(packing, area, tiles);

  uint8_t* scratch = static_cast<uint8_t*>(device.scratch(at.scratch));
  fill(device, batch, packing, at, static_cast<uint8_t*>(device.stage(at.sent)));
  const uint8_t* sent = static_cast<const uint8_t*>(device.send(at.sent));

  DeviceBatch job{};
  job.views = reinterpret_cast<const DeviceView*>(sent);
  job.weights = reinterpret_cast<const float*>(sent + at.weights);
  job.blurred = reinterpret_cast<const int*>(sent + at.blurred);
  job.pixels = sent + at.pixels;
  job.planes = reinterpret_cast<float*>(scratch);
  job.second = reinterpret_cast<float*>(scratch + at.second);
  job.sums = reinterpret_cast<float*>(scratch + at.sums);
  job.height = batch.height;
  job.width = batch.width;
  job.tiles = tiles;
  std::copy(batch.scale, batch.scale + 3, job.scale);
  std::copy(batch.shift, batch.shift + 3, job.shift);

  const dim3 grid(tiles, unsigned(batch.views.size())), blurred_grid(tiles, unsigned(packing.blurred.size()));
  LGD_LAUNCH(device, resample_kernel, grid, threads, 0, job);
  with_type(images.type, [&](auto zero) {
    using T = decltype(zero);
    T* out = images.buffer.as<T>();
    LGD_LAUNCH(device, colour_kernel<T>, grid, threads, 0, job, out);
    if (packing.blurred.empty()) return;
    LGD_LAUNCH(device, blur_rows_kernel, blurred_grid, threads, 0, job);
    LGD_LAUNCH(device, blur_columns_kernel<T>, grid, threads, 0, job, out);
  });
}

}  // namespace lgd
