// The detector's loss on CUDA: a warp has a location, its lanes the classes; the first lane the box.
#include "core/cuda_device.cuh"
#include "semantic/detection_loss.h"

namespace lgd {

namespace {

constexpr int warps = 8;

__global__ void __launch_bounds__(warps * 32) detection_loss_kernel(const __grid_constant__ DetectionLoss work) {
  wait_for_inputs();
  const int64_t location = int64_t(blockIdx.x) * warps + threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  if (location >= work.locations) return;
  const DetectionLevel& level = work.level[level_of(work, location)];
  const int64_t scores = level.scores + (location - level.first) * work.classes,
                boxes = level.boxes + (location - level.first) * 5;
  const int32_t label = work.labels[location];
  float sum = 0;
  for (int k = lane; k < work.classes; k += 32) {
    const LossAndSlope focal = label == -2 ? LossAndSlope{0, 0} : focal_loss(work.output[scores + k], k == label);
    sum += focal.loss;
    if (work.d_output) work.d_output[scores + k] = focal.slope * work.class_scale;
  }
  sum = sum_of_warp(sum);
  if (lane != 0) return;
  float result[3] = {sum, 0, 0};
  box_terms(work, location, label, work.output + boxes, work.d_output ? work.d_output + boxes : nullptr, result);
  for (int i = 0; i < 3; ++i) work.results[location * 3 + i] = result[i];
}

}  // namespace

void detection_loss_cuda(Context& device, const DetectionLoss& work) {
  LGD_LAUNCH(device, detection_loss_kernel, unsigned((work.locations + warps - 1) / warps), warps * 32, 0, work);
}

}  // namespace lgd
