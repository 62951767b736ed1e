// The CPU backend: one thread an image. Per view, row by row: vertical resample of whole interleaved rows (bytes to
// floats), horizontal resample of the few rows that remain, colour steps in two passes around the contrast's mean,
// blur, interleaved writing.
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <algorithm>
#include <vector>

#include "augment/resample_cpu.h"
#include "augment/view.h"
#include "core/simd.h"

namespace lgd {

struct CpuView {
  CpuResample from;           // of the crop; y's weights include the 1/255
  CpuColumns columns;         // from.x by tap, of `stride` samples
  int height, width, stride;  // of the output; columns of a plane, a multiple of 32
  bool clamp, flip;
  const ColourStep* steps;
  int step_count, contrast_at, radius_x, radius_y;
  const float *weights_x, *weights_y;
  const float *scale, *shift;
  float *row, *planes, *blurred;  // scratch: of one row, of the image, of one row of three planes
  float* channels;                // scratch: one row of the crop as three planes
  int64_t channel_stride;
  const float** rows;  // scratch of 2 radius_y + 2
  float* out;          // [height][width][3]
};

}  // namespace lgd

#define LGD_ISA_FILE "augment/augment_cpu.inl"
#include "core/foreach_isa.h"

namespace lgd {

namespace {

constexpr int widest = 16;  // floats of the longest vector

// What one thread needs, kept from image to image.
struct Scratch {
  Taps x, y;
  Columns columns;
  std::vector<float> row, planes, blurred, channels, weights_x, weights_y;
  std::vector<const float*> rows;
};

void run_view(const ViewBatch& batch, const View& view, float* out, Scratch& scratch) {
  CpuView job{};
  job.height = batch.height;
  job.width = batch.width;
  job.stride = (batch.width + 2 * widest - 1) / (2 * widest) * (2 * widest);
  scratch.x.plan(view.x, view.filter, batch.width, 1.0f);
  scratch.y.plan(view.y, view.filter, batch.height, 1.0f / 255);
  job.from = {view.pixels, view.row_bytes, 3 * view.x.in, scratch.x.view(), scratch.y.view()};
  job.columns = scratch.columns.plan(scratch.x, batch.width, job.stride);
  job.clamp = view.filter == Filter::cubic;
  job.flip = view.flip;
  job.steps = view.steps;
  job.step_count = view.step_count;
  job.contrast_at = view.contrast_at;
  job.radius_x = view.radius_x;
  job.radius_y = view.radius_y;
  job.scale = batch.scale;
  job.shift = batch.shift;

  scratch.row.resize(size_t(std::max(job.from.row_floats, job.stride + 2 * view.radius_x)) + 4 * widest);
  job.channel_stride = view.x.in + 2 * widest;
  scratch.channels.resize(3 * job.channel_stride);
  job.channels = scratch.channels.data();
  scratch.planes.resize(size_t(job.height) * job.stride * 3);
  job.row = scratch.row.data();
  job.planes = scratch.planes.data();
  if (view.blurred()) {
    scratch.blurred.resize(size_t(job.stride) * 3);
    scratch.weights_x.resize(view.radius_x + 1);
    scratch.weights_y.resize(view.radius_y + 1);
    gaussian_weights(view.radius_x, view.sigma, scratch.weights_x.data());
    gaussian_weights(view.radius_y, view.sigma, scratch.weights_y.data());
    job.weights_x = scratch.weights_x.data();
    job.weights_y = scratch.weights_y.data();
    job.blurred = scratch.blurred.data();
    scratch.rows.resize(2 * view.radius_y + 2);
    job.rows = scratch.rows.data();
  }
  job.out = out;
  LGD_DISPATCH(augment_view)(job);
}

}  // namespace

void augment_cpu(Device& device, const ViewBatch& batch, const Tensor& images) {
  const int64_t image = int64_t(batch.height) * batch.width * 3;
  float* out = images.f32();
  std::vector<Scratch> scratch(device.pool.size());
  device.pool.for_each(int64_t(batch.views.size()), [&](int thread, int64_t i) {
    run_view(batch, batch.views[i], out + i * image, scratch[thread]);
  });
}

}  // namespace lgd
