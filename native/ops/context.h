// What every operation gets: the device it runs on. Operations run on the device's thread, in stream order, and throw lgd::Error.
#pragma once
#include "core/device.h"

namespace lgd {

using Context = Device;

// Activation functions, as torchvision names them.
enum class Act : uint8_t { none, relu, relu6, silu, hardswish, sigmoid, hardsigmoid };

}  // namespace lgd
