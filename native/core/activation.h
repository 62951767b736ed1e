// The names of activation functions.
#pragma once
#include <cstdint>

namespace lgd {

// As torchvision names them. The last three are transformers': u Phi(u); its tanh form; u sigmoid(1.702 u).
// They stand alone or behind a convolution or linear layer: no step merges them with a norm.
enum class Act : uint8_t { none, relu, relu6, silu, hardswish, sigmoid, hardsigmoid, gelu, gelu_tanh, quick_gelu };
constexpr bool is_clamp(Act act) { return act <= Act::relu6; }  // the argument between two bounds, or as it is
constexpr bool is_gelu(Act act) { return act >= Act::gelu; }

}  // namespace lgd
