// engine.h: the loss of a detector.
#include <cstring>

#include "core/tensor.h"
#include "engine.h"
#include "semantic/kernels.h"

namespace lgd {

namespace {

// Labels and boxes where the device's kernels can read them, until the end of the step: one transfer.
void place_targets(Context& device, const DetectionArguments& arguments, DetectionLoss& work) {
  const std::vector<int32_t>& labels = arguments.labels;
  const std::vector<float>& boxes = arguments.boxes;
  if (device.kind == DeviceKind::cpu) {
    work.labels = labels.data();
    work.boxes = boxes.data();
    return;
  }
  const size_t label_bytes = labels.size() * sizeof(int32_t), bytes = label_bytes + boxes.size() * sizeof(float);
  char* to = static_cast<char*>(device.stage(bytes));
  std::memcpy(to, labels.data(), label_bytes);
  std::memcpy(to + label_bytes, boxes.data(), boxes.size() * sizeof(float));
  work.labels = static_cast<const int32_t*>(device.send(bytes));
  work.boxes = reinterpret_cast<const float*>(work.labels + labels.size());
}

}  // namespace

void detection_loss(DetectionArguments arguments) {
  const TensorPtr &output = arguments.output, &d_output = arguments.d_output, &results = arguments.results;
  LGD_CHECK(!arguments.levels.empty() && arguments.levels.size() <= most_levels, "BAD_OPTION", "levels: found ",
            arguments.levels.size(), ", allowed 1 to ", most_levels);
  LGD_CHECK(arguments.classes >= 1, "BAD_OPTION", "classes: found ", arguments.classes);
  DetectionLoss work;
  work.levels = int(arguments.levels.size());
  work.classes = arguments.classes;
  int64_t floats = 0;
  for (int i = 0; i < work.levels; ++i) {
    const int64_t count = arguments.levels[size_t(i)];
    LGD_CHECK(count >= 1, "BAD_OPTION", "levels: found ", count, " locations");
    work.level[i] = {count, work.locations, floats, floats + count * work.classes};
    work.locations += count;
    floats += count * (work.classes + 5);
  }
  const size_t locations = size_t(work.locations);
  LGD_CHECK(output->type == DType::f32 && output->elements() == floats, "BAD_SHAPE", "output: expected ", floats,
            " float32 values, found ", output->elements());
  LGD_CHECK(!d_output || (d_output->type == DType::f32 && d_output->elements() == floats), "BAD_SHAPE",
            "dOutput: expected the size of the output");
  LGD_CHECK(results->type == DType::f32 && results->elements() == 3 * work.locations, "BAD_SHAPE",
            "results: expected [", work.locations, ",3]");
  LGD_CHECK(arguments.labels.size() == locations && arguments.boxes.size() == 4 * locations, "BAD_SHAPE", "expected ",
            locations, " labels and four times as many distances, found ", arguments.labels.size(), " and ",
            arguments.boxes.size());
  for (size_t i = 0; i < locations; ++i) {
    const int32_t label = arguments.labels[i];
    LGD_CHECK(label >= -2 && label < work.classes, "BAD_OPTION", "labels: there are ", work.classes, " classes, found ",
              label);
    for (size_t j = 4 * i; label >= 0 && j < 4 * i + 4; ++j)
      LGD_CHECK(arguments.boxes[j] > 0, "BAD_OPTION",
                "boxes: a location with a class lies inside of its box, found the distance ", arguments.boxes[j]);
  }
  for (const TensorPtr& tensor : {d_output, results})
    LGD_CHECK(!tensor || tensor->device == output->device, "BAD_OPTION", "the tensors belong to different devices");
  work.class_scale = arguments.class_scale;
  work.box_scale = arguments.box_scale;
  work.centre_scale = arguments.centre_scale;
  const DevicePtr device = output->device;
  device->submit("detection.loss", [device, work, arguments = std::move(arguments)]() mutable {
    place_targets(*device, arguments, work);
    work.output = arguments.output->f32();
    work.d_output = arguments.d_output ? arguments.d_output->f32() : nullptr;
    work.results = arguments.results->f32();
    semantic_kernels(*device).detection_loss(*device, work);
  });
}

}  // namespace lgd
