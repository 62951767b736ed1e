// Whether the tensor cores at hand add as the emulated GPU does: bit for bit. No kernel counts on it.
#include "emulation/tensor_core.h"
#include "run.h"

namespace lgd::testing {

namespace {

using emulation::product_columns;
using emulation::product_depth;

// Weight gradients of a 1x1 convolution, which are float32 and one after the other as products of 16 pixels.
struct Example {
  static constexpr int pixels = 64, channels = 128;
  std::vector<float> x, dy;  // [pixels][channels], of bfloat16
};

// [channels of dy][channels of x]
std::vector<float> modelled(const Example& example, const emulation::TensorCore& core) {
  std::vector<float> sums(size_t(Example::channels) * Example::channels);
  for (int out = 0; out < Example::channels; ++out)
    for (int first = 0; first < Example::channels; first += product_columns) {
      float (&sum)[product_columns] =
          reinterpret_cast<float (&)[product_columns]>(sums[out * Example::channels + first]);
      for (int pixel = 0; pixel < Example::pixels; pixel += product_depth) {
        float left[1][product_depth], right[product_depth][product_columns];
        for (int k = 0; k < product_depth; ++k) {
          left[0][k] = example.dy[size_t(pixel + k) * Example::channels + out];
          for (int i = 0; i < product_columns; ++i)
            right[k][i] = example.x[size_t(pixel + k) * Example::channels + first + i];
        }
        emulation::add_products(core, emulation::least_bfloat16, 1, left, right, &sum);
      }
    }
  return sums;
}

}  // namespace

bool is_model_right() {
  using emulation::ampere, emulation::hopper, emulation::least_bfloat16;
  const auto added = [](const emulation::TensorCore& core, float sum, float left, float right) {
    float a[1][product_depth], b[product_depth][product_columns] = {}, sums[1][product_columns] = {{sum}};
    for (int k = 0; k < product_depth; ++k) a[0][k] = left, b[k][0] = right;
    emulation::add_products(core, least_bfloat16, 1, a, b, sums);
    return sums[0][0];
  };
  return added(ampere, 1, 0x1p-12f, 0x1p-13f) == 1 &&  // sixteen products of 2^-25, each cut off
         added(hopper, 1, 0x1p-12f, 0x1p-13f) == 1 + 0x1p-21f &&
         added(hopper, 1, 0x1p-13f, 0x1p-13f) == 1 &&         // of 2^-26
         added(ampere, 0, 0x1p-13f, 0x1p-13f) == 0x1p-22f &&  // alone they are kept
         added(ampere, -1, 0x1p-12f, 0x1p-12f) == -1 + 0x1p-20f &&
         added(hopper, 0x1p24f, 1, 0.0625f) == 0x1p24f &&  // 2^24 + 1: towards zero
         added(hopper, 3 * 0x1p23f, -1, 0.0625f) == 3 * 0x1p23f - 1;
}

std::string tensor_cores(const std::shared_ptr<Device>& gpu) {
  std::vector<float> found;
  Example example;
  const FewMultiprocessors few;  // for the tiles of large products
  gpu->run("tensor cores", [&] {
    Run run(gpu, DType::bf16);
    // of one sign: what is cut off adds up
    for (auto* values : {&example.x, &example.dy}) {
      *values = run.draw(size_t(Example::pixels) * Example::channels);
      for (float& value : *values) value = std::fabs(value);
    }
    float* dw = run.f32(std::vector<float>(size_t(Example::channels) * Example::channels));
    run.ops.conv_backward_weight(*gpu, conv(1, 8, 8, Example::channels, Example::channels, 1, 1, 0), DType::bf16,
                                 run.stored(example.x), run.stored(example.dy), dw, nullptr);
    found.resize(size_t(Example::channels) * Example::channels);
    gpu->to_host(found.data(), dw, found.size() * 4);
  });
  const auto differing = [&](const std::vector<float>& sums) {
    int count = 0;
    for (size_t i = 0; i < sums.size(); ++i) count += sums[i] != found[i];
    return count;
  };
  const int ampere = differing(modelled(example, emulation::ampere)),
            hopper = differing(modelled(example, emulation::hopper));
  if (hopper == 0) return "as Hopper's";
  if (ampere == 0) return "as Ampere's";
  return "otherwise than modelled (" + std::to_string(ampere) + " of " + std::to_string(found.size()) +
         " differ from Ampere's, " + std::to_string(hopper) + " from Hopper's)";
}

}  // namespace lgd::testing
