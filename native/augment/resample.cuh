// The views of a batch as augment.cu's kernels get them, their colours, and the resampled pixels that each thread of
// the first two makes.
#pragma once
#include "augment/view.h"
#include "core/cuda_device.cuh"

namespace lgd {

namespace {

#define LGD_COLOUR __device__ __forceinline__
// To two units in the last place, which moves a channel by 3e-7 at most, without the corrections and special cases of a
// division by the rules.
LGD_COLOUR float reciprocal(float v) { return __fdividef(1.0f, v); }
#include "augment/colour.inl"
#undef LGD_COLOUR

constexpr int threads = 256;
constexpr int strip_rows = 16;  // of an image, for a block of the first two kernels

struct DeviceView {
  int64_t pixels;  // offset of the crop in the packed bytes
  int row_bytes, radius_x, radius_y;
  int weights;    // offset of the blur's weights: radius_x + 1, then radius_y + 1
  int blur_slot;  // of the planes; -1: no blur
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
  const int* blurred;  // views that have a blur, by slot
  float *planes, *sums;
  int height, width, stored;  // stored: channels (ops/layout.h)
  int columns, column_tiles;  // of a block; blocks side by side in an image
  int blocks;                 // of an image in the first two kernels
  float scale[3], shift[3];
  __host__ __device__ int64_t area() const { return int64_t(height) * width; }
};

// The input samples of one output row or column, and what makes their weights' sum 1.
struct Samples {
  Window window;
  float scale;
};

__device__ __forceinline__ Samples samples_at(const Axis& axis, Filter filter, int i) {
  const Window window = window_at(axis, filter, i);
  float total = 0;
  for (int j = window.begin; j < window.end; ++j) total += window_weight(window, filter, j);
  return {window, 1.0f / total};
}

// The same where there are no more than three, with their weights: enlarged or little shrunk, as most crops are. Of
// what the window lacks the weight is zero.
constexpr int few = 3;
struct alignas(16) FewSamples {
  int begin;
  float weights[few];
  float scale;
};
__device__ __forceinline__ bool has_few(const Axis& axis) { return 2 * int64_t(axis.in) <= few * int64_t(axis.out); }
__device__ __forceinline__ FewSamples few_samples_at(const Axis& axis, int i) {
  const Samples all = samples_at(axis, Filter::triangle, i);
  FewSamples found{all.window.begin, {}, all.scale};
#pragma unroll
  for (int t = 0; t < few; ++t)
    if (all.window.begin + t < all.window.end)
      found.weights[t] = window_weight(all.window, Filter::triangle, all.window.begin + t);
  return found;
}

// The pixels of a strip that a thread makes: one column, rows one below the other.
struct ThreadPixels {
  int top, bottom;    // of the strip
  int x, begin, end;  // of this thread; no rows: it has nothing to do
  __device__ __forceinline__ explicit ThreadPixels(const DeviceBatch& batch) {
    const int groups = threads / batch.columns, group = int(threadIdx.x) / batch.columns,
              each = (strip_rows + groups - 1) / groups;
    top = int(blockIdx.x) / batch.column_tiles * strip_rows;
    bottom = min(batch.height, top + strip_rows);
    x = int(blockIdx.x) % batch.column_tiles * batch.columns + int(threadIdx.x) % batch.columns;
    begin = top + group * each;
    end = x < batch.width ? min(bottom, begin + each) : begin;
  }
};

template <class Body>
__device__ __forceinline__ void for_pixels_of_many(const DeviceBatch& batch, const DeviceView& view,
                                                   const ThreadPixels& mine, const Body& body) {
  __shared__ Samples rows[strip_rows];
  if (int(threadIdx.x) < mine.bottom - mine.top)
    rows[threadIdx.x] = samples_at(view.y, view.filter, mine.top + int(threadIdx.x));
  __syncthreads();
  if (mine.begin >= mine.end) return;
  const uint8_t* crop = batch.pixels + view.pixels;
  const int row_bytes = view.row_bytes;
  const Filter filter = view.filter;
  const Samples x = samples_at(view.x, filter, mine.x);
  for (int out = mine.begin; out < mine.end; ++out) {
    const Samples& y = rows[out - mine.top];
    float sum[3] = {};
    for (int i = y.window.begin; i < y.window.end; ++i) {
      const uint8_t* row = crop + int64_t(i) * row_bytes;
      float line[3] = {};
      for (int j = x.window.begin; j < x.window.end; ++j) {
        const float weight = window_weight(x.window, filter, j);
        for (int c = 0; c < 3; ++c) line[c] += weight * float(row[3 * j + c]);
      }
      const float weight = window_weight(y.window, filter, i);
      for (int c = 0; c < 3; ++c) sum[c] += weight * line[c];
    }
    const float scale = x.scale * y.scale * (1.0f / 255.0f);
    float rgb[3];
    for (int c = 0; c < 3; ++c) rgb[c] = filter == Filter::cubic ? clamp01(sum[c] * scale) : sum[c] * scale;
    body(out, mine.x, rgb);
  }
}

// A row of the input is filtered once and kept for the output rows that use it, as they come down.
template <class Body>
__device__ __forceinline__ void for_pixels_of_few(const DeviceBatch& batch, const DeviceView& view,
                                                  const ThreadPixels& mine, const Body& body) {
  __shared__ FewSamples rows[strip_rows];
  if (int(threadIdx.x) < mine.bottom - mine.top)
    rows[threadIdx.x] = few_samples_at(view.y, mine.top + int(threadIdx.x));
  __syncthreads();
  if (mine.begin >= mine.end) return;
  const int row_bytes = view.row_bytes, last = view.y.in - 1;
  const FewSamples x = few_samples_at(view.x, mine.x);
  const uint8_t* first = batch.pixels + view.pixels + 3 * x.begin;
  uint8_t next[few][3] = {};  // of the input row below those that are held, on its way while these are used
  const auto load = [&](int i) {
    const uint8_t* row = first + int64_t(min(i, last)) * row_bytes;  // below the last there is no weight
#pragma unroll
    for (int t = 0; t < few; ++t)
      if (x.weights[t] != 0)
#pragma unroll
        for (int c = 0; c < 3; ++c) next[t][c] = row[3 * t + c];
  };
  float lines[few][3];  // of the input rows from `held` on, filtered
  const auto take = [&](float (&line)[3]) {
#pragma unroll
    for (int c = 0; c < 3; ++c) {
      line[c] = 0;
#pragma unroll
      for (int t = 0; t < few; ++t) line[c] += x.weights[t] * float(next[t][c]);
    }
  };
  int held = rows[mine.begin - mine.top].begin;
#pragma unroll
  for (int t = 0; t < few; ++t) {
    load(held + t);
    take(lines[t]);
  }
  load(held + few);
  for (int out = mine.begin; out < mine.end; ++out) {
    const FewSamples y = rows[out - mine.top];
    for (; held < y.begin; ++held) {
#pragma unroll
      for (int t = 0; t + 1 < few; ++t)
#pragma unroll
        for (int c = 0; c < 3; ++c) lines[t][c] = lines[t + 1][c];
      take(lines[few - 1]);
      load(held + few + 1);
    }
    const float scale = x.scale * y.scale * (1.0f / 255.0f);
    float rgb[3];
#pragma unroll
    for (int c = 0; c < 3; ++c) {
      float sum = 0;
#pragma unroll
      for (int t = 0; t < few; ++t) sum += y.weights[t] * lines[t][c];
      rgb[c] = sum * scale;
    }
    body(out, mine.x, rgb);
  }
}

// Calls body(y, x, rgb) for this thread's resampled pixels of image blockIdx.y. Every thread calls it.
template <class Body>
__device__ __forceinline__ void for_pixels(const DeviceBatch& batch, const DeviceView& view, const Body& body) {
  const ThreadPixels mine(batch);
  if (view.filter == Filter::triangle && has_few(view.x) && has_few(view.y)) for_pixels_of_few(batch, view, mine, body);
  else for_pixels_of_many(batch, view, mine, body);
}

}  // namespace

}  // namespace lgd
