// Rows of what the engine does around the encoders: the semantic loss and bank update, and augmentation.
#include <random>

#include "engine.h"
#include "core/tensor.h"
#include "table.h"

namespace lgd::bench {

namespace {

std::vector<float> rows(int64_t count, int64_t dimension, int seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(size_t(count * dimension));
  for (int64_t row = 0; row < count; ++row) {
    double square = 0;
    for (int64_t d = 0; d < dimension; ++d) {
      float& value = values[size_t(row * dimension + d)];
      value = normal(random);
      square += double(value) * value;
    }
    for (int64_t d = 0; d < dimension; ++d) values[size_t(row * dimension + d)] /= float(std::sqrt(square));
  }
  return values;
}

double relative(const std::vector<float>& found, const std::vector<float>& expected) {
  double difference = 0, norm = 1e-30;
  for (size_t i = 0; i < expected.size(); ++i) {
    difference += std::pow(double(found[i]) - expected[i], 2);
    norm += std::pow(double(expected[i]), 2);
  }
  return std::sqrt(difference / norm);
}

template <class Result, class Call>
Result on(const DevicePtr& device, const Call& call) {
  Result result;
  device->run("check", [&] { result = call(device); });
  return result;
}

struct Shape {
  int64_t batch, dimension, categories;
  double loss_us, update_us;  // targets on an H100; 0: none
};

std::string name_of(const char* what, const Shape& s) {
  return std::string(what) + " " + std::to_string(s.batch) + " x " + std::to_string(s.dimension) + " x " + std::to_string(s.categories);
}

TensorPtr tensor(const DevicePtr& device, const std::vector<float>& values, int64_t dimension) {
  const TensorPtr made = make_tensor(device, {int64_t(values.size()) / dimension, dimension});
  write_tensor(made, values);
  return made;
}

// Everything stays where it is between calls: the head's own numbers fit the L2 cache, in a step too.
void head(Table& table, const Shape& target) {
  const Shape s = table.options.small ? Shape{8, 96, 40, 0, 0} : target;
  const std::string loss = name_of("semantic loss, forward and backward", target), update = name_of("bank update", target);
  if (!table.wants(loss) && !table.wants(update)) return;
  BankLossArguments arguments;
  arguments.dimension = s.dimension;
  arguments.student = rows(s.batch, s.dimension, 1);
  arguments.teacher = rows(s.batch, s.dimension, 2);
  arguments.textual = rows(s.categories, s.dimension, 3);
  arguments.visual = rows(s.categories, s.dimension, 4);
  const auto call = [&](const DevicePtr& device) { return bank_loss(device, arguments); };
  const auto expected = on<BankLossResult>(table.cpu, call);
  arguments.bfloat16 = true;
  const auto found = on<BankLossResult>(table.gpu, call);
  const double loss_error = std::max(std::abs(found.loss / expected.loss - 1), relative(found.gradient, expected.gradient));
  const BankUpdateArguments updating{arguments.teacher, arguments.textual, arguments.visual, std::vector<uint8_t>(size_t(s.categories), 1), s.dimension, 0.9f};
  const auto move = [&](const DevicePtr& device) { return bank_update(device, updating); };
  const auto moved = on<BankUpdateResult>(table.gpu, move), wanted = on<BankUpdateResult>(table.cpu, move);
  const double update_error = moved.assignment == wanted.assignment ? relative(moved.visual, wanted.visual) : INFINITY;

  SemanticOptions options;
  options.dimension = s.dimension;
  options.categories = s.categories;
  options.bfloat16 = true;
  const SemanticHeadPtr semantic = make_semantic_head(table.gpu, options);
  write_semantic_state(semantic, {arguments.textual, arguments.visual, {}, updating.seen, 0, 0});
  const TensorPtr student = tensor(table.gpu, arguments.student, s.dimension), teacher = tensor(table.gpu, arguments.teacher, s.dimension), gradient = make_tensor(table.gpu, {s.batch, s.dimension});
  const Timing alone = table.time_steps([&] { bank_loss(semantic, student, teacher, gradient, 1, 0); });
  const Timing both = table.time_steps([&] {
    bank_loss(semantic, student, teacher, gradient, 1, 0);
    bank_update(semantic, {teacher}, 0);
  });
  const double scores = double(s.batch) * s.dimension * double(2 * s.categories);
  const double embeddings = double(s.batch) * s.dimension, anchors = 2.0 * double(s.categories) * s.dimension;
  table.add(loss, {4 * 3 * embeddings + 2 * anchors, 2 * (2 * scores + scores), Unit::tensor, "embeddings and gradient (float32), anchors (16 bits); student and teacher scores, gradient"}, loss_error, 5e-3, alone, target.loss_us);
  const double touched = double(std::min(s.batch, s.categories)) * s.dimension;
  // After the loss, as a step has it; what it adds to the loss is its time.
  table.add(update, {4 * (embeddings + 2 * touched) + 2 * touched, 0, Unit::cores, "teacher, touched anchors read and written, their 16-bit copies"}, update_error, 2e-5,
            {std::max(both.p20 - alone.p20, 0.0), std::max(both.p50 - alone.p50, 0.0), std::max(both.p80 - alone.p80, 0.0)}, target.update_us);
}

PixelStorePtr photographs(int count, int side) {
  const PixelStorePtr store = make_pixel_store({1e10, ""});
  std::mt19937 random(1);
  for (int image = 0; image < count; ++image) {
    std::vector<uint8_t> pixels(size_t(side) * side * 3);
    const double fx = 0.01 + 0.1 * (random() % 100) / 100, fy = 0.01 + 0.1 * (random() % 100) / 100;
    for (int y = 0; y < side; ++y)
      for (int x = 0; x < side; ++x)
        for (int c = 0; c < 3; ++c) pixels[(size_t(y) * side + x) * 3 + c] = uint8_t(120 + 90 * std::sin(fx * x + c) * std::cos(fy * y) + random() % 16);
    append_pixels(store, side, side, pixels.data(), pixels.size());
  }
  return store;
}

// From uint8 pixels in host memory; the copy to the device is part of it, beside the kernels of the call before.
void augment_row(Table& table, int full, int stored, double us_an_image) {
  const std::string name = "augmentation of " + std::to_string(stored) + " px to " + std::to_string(full) + " px, whole batch";
  if (!table.wants(name)) return;
  const int side = table.side(full), count = table.batch();
  const PixelStorePtr store = photographs(count, table.options.small ? 24 : stored);
  AugmentRecipe recipe;
  AugmentBatch batch;
  batch.seed = 7;
  for (int i = 0; i < count; ++i) batch.images.push_back(i), batch.draw_ids.push_back(uint64_t(i));
  std::vector<float> found, expected;
  const TensorPtr images = make_images(table.gpu, count, side, side, true), reference = make_images(table.cpu, count, side, side, false);
  augment(store, recipe, batch, images);
  augment(store, recipe, batch, reference);
  table.gpu->run("read", [&] { read_images(images, found); });
  table.cpu->run("read", [&] { read_images(reference, expected); });
  const double error = relative(found, expected);
  const Timing timing = table.time_steps([&] {
    ++batch.epoch;
    augment(store, recipe, batch, images);
  });
  const int in = table.options.small ? 24 : stored;
  table.add(name, {double(count) * (3.0 * in * in + 16.0 * side * side), 0, Unit::cores, "stored pixels (uint8), images (bfloat16, 8 channels)"}, error, 4e-3, timing, us_an_image * count);
}

}  // namespace

void semantic(Table& table) {
  head(table, {256, 1024, 1000, 60, 10});
  head(table, {2048, 512, 21841, 2000, 0});
}

void augmentation(Table& table) {
  augment_row(table, 224, 256, 2);
  augment_row(table, 64, 72, 0);
}

}  // namespace lgd::bench
