// What the opaque handles of engine.h hold for tensors.
#pragma once
#include <vector>

#include "core/device.h"

namespace lgd {

struct Tensor {
  std::shared_ptr<Device> device;
  std::vector<int64_t> shape;  // as the caller sees it: images are [B,H,W,3]
  DType type = DType::f32;
  int stored = 0;  // channels of a pixel as stored (images), or the last size
  Buffer buffer;

  int64_t elements() const {  // as stored
    int64_t count = stored;
    for (size_t i = 0; i + 1 < shape.size(); ++i) count *= shape[i];
    return count;
  }
  float* f32() const { return buffer.as<float>(); }
};

}  // namespace lgd
