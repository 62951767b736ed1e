// Holds the CUDA augmentation to the CPU's: on a GPU (scripts/gpu-check), or on the emulated one
// (test/native/emulated-programs.test.ts).
#include <cmath>
#include <cstdio>
#include <cstring>

#include "augment/view.h"
#include "ops/layout.h"

namespace lgd {

namespace {

int checks = 0, failures = 0;

void check(bool good, const char* what, double found) {
  ++checks;
  if (good) return;
  ++failures;
  std::printf("%s: %g\n", what, found);
}

TensorPtr make(const DevicePtr& device, const int (&size)[3], DType type) {
  auto tensor = std::make_shared<Tensor>();
  tensor->device = device;
  tensor->shape = {size[0], size[1], size[2], 3};
  tensor->stored = stored_image_channels(device->kind, size[2]);
  tensor->type = type;
  tensor->buffer = Buffer(device, size_t(tensor->elements()) * size_of(type));
  return tensor;
}

// The first three channels; checks that the padded ones are zero.
std::vector<float> read(const TensorPtr& tensor) {
  Device& device = *tensor->device;
  std::vector<uint8_t> raw(tensor->buffer.bytes());
  device.run("read", [&] { device.to_host(raw.data(), tensor->buffer.as<>(), raw.size()); });
  std::vector<float> values;
  bool clean = true;
  for (int64_t i = 0; i < tensor->elements(); ++i) {
    float value = 0;
    if (tensor->type == DType::f32) std::memcpy(&value, raw.data() + i * 4, 4);
    else std::memcpy(reinterpret_cast<char*>(&value) + 2, raw.data() + i * 2, 2);
    if (i % tensor->stored < 3) values.push_back(value);
    else clean = clean && value == 0;
  }
  check(clean, "padded channels hold something", 0);
  return values;
}

struct Case {
  const char* name;
  int size[3];  // batch, height, width
  AugmentRecipe recipe;
};

void compare(const Case& item, const PixelStorePtr& store, const DevicePtr& cpu, const DevicePtr& gpu, DType type) {
  AugmentBatch batch;
  batch.seed = 99;
  for (int i = 0; i < item.size[0]; ++i) {
    batch.images.push_back(i % store->info().images);
    batch.draw_ids.push_back(1000 + i);
  }
  // Several batches are queued before the first is read.
  std::vector<TensorPtr> expected, found;
  for (int epoch = 0; epoch < 4; ++epoch) {
    batch.epoch = epoch;
    expected.push_back(make(cpu, item.size, DType::f32));
    found.push_back(make(gpu, item.size, type));
    augment(store, item.recipe, batch, expected.back());
    augment(store, item.recipe, batch, found.back());
  }
  const double tolerance = type == DType::bf16 ? 4e-3 : 2e-6;
  for (int epoch = 0; epoch < 4; ++epoch) {
    const std::vector<float> a = read(expected[epoch]), b = read(found[epoch]);
    double error = 0, norm = 0;
    for (size_t i = 0; i < a.size(); ++i) {
      error += (double(a[i]) - b[i]) * (double(a[i]) - b[i]);
      norm += double(a[i]) * a[i];
    }
    check(std::sqrt(error / norm) < tolerance, item.name, std::sqrt(error / norm));
  }
}

PixelStorePtr make_store() {
  auto store = make_pixel_store({1e9, ""});
  const int sizes[][2] = {{90, 60}, {40, 40}, {1, 1}, {33, 120}, {150, 41}};
  for (const auto& [width, height] : sizes) {
    std::vector<uint8_t> pixels;
    for (int y = 0; y < height; ++y)
      for (int x = 0; x < width; ++x)
        for (int c = 0; c < 3; ++c)
          pixels.push_back(uint8_t(127 + 120 * std::sin(x * (0.1 + 0.05 * c) + y * 0.2 + width)));
    append_pixels(store, width, height, pixels.data(), pixels.size());
  }
  return store;
}

}  // namespace
}  // namespace lgd

int main() {
  using namespace lgd;
  const PixelStorePtr store = make_store();
  AugmentRecipe moco;
  for (int c = 0; c < 3; ++c) moco.mean[c] = 0.4f + 0.03f * c, moco.std[c] = 0.27f;
  AugmentRecipe evaluation = moco, plain = moco, blurred = moco;
  evaluation.train = false;
  plain.jitter_probability = plain.grey_probability = plain.blur_probability = 0;
  blurred.jitter_probability = blurred.blur_probability = 1;
  blurred.contrast = 0;
  const Case cases[] = {
      {"recipe", {10, 32, 32}, moco},
      {"recipe, several blocks an image", {6, 45, 51}, moco},
      {"plain crops", {5, 24, 24}, plain},
      {"blur without contrast", {5, 40, 24}, blurred},
      {"evaluation", {5, 30, 30}, evaluation},
      {"single pixels", {5, 1, 1}, moco},
      {"several blocks a row", {2, 12, 530}, blurred},
  };
  for (const Case& item : cases) {
    for (const DType type : {DType::f32, DType::bf16}) {
      auto cpu = std::make_shared<Device>(DeviceKind::cpu, 0, 1);
      auto gpu = std::make_shared<Device>(DeviceKind::cuda, 0, 1);
      compare(item, store, cpu, gpu, type);
    }
  }
  std::printf("%d checks, %d failures\n", checks, failures);
  return failures != 0;
}
