#include <cmath>

#include "ops/common_cpu.h"
#include "semantic/detection_loss.h"

namespace lgd {

void detection_loss_cpu(Context& device, const DetectionLoss& work) {
  device.pool.for_range(work.locations, ceil_div(4096, work.classes), [&](int64_t begin, int64_t end) {
    for (int64_t location = begin; location < end; ++location) {
      const DetectionLevel& level = work.level[level_of(work, location)];
      const int64_t scores = level.scores + (location - level.first) * work.classes,
                    boxes = level.boxes + (location - level.first) * 5;
      const int32_t label = work.labels[location];
      float result[3], sum = 0;
      for (int k = 0; k < work.classes; ++k) {
        const LossAndSlope focal = label == -2 ? LossAndSlope{0, 0} : focal_loss(work.output[scores + k], k == label);
        sum += focal.loss;
        if (work.d_output) work.d_output[scores + k] = focal.slope * work.class_scale;
      }
      result[0] = sum;
      box_terms(work, location, label, work.output + boxes, work.d_output ? work.d_output + boxes : nullptr, result);
      std::copy_n(result, 3, work.results + location * 3);
    }
  });
}

}  // namespace lgd
