// Rows of what the engine does around the encoders: the semantic loss and bank update, and augmentation.
#include <random>

#include "augment/view.h"
#include "core/tensor.h"
#include "engine.h"
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

struct Shape {
  int64_t batch, dimension, categories;
  double loss_us, update_us;  // targets on an H100; 0: none
};

std::string name_of(const char* what, const Shape& s) {
  return std::string(what) + " " + std::to_string(s.batch) + " x " + std::to_string(s.dimension) + " x " +
         std::to_string(s.categories);
}

TensorPtr tensor(const DevicePtr& device, const std::vector<float>& values, int64_t dimension) {
  const TensorPtr made = make_tensor(device, {int64_t(values.size()) / dimension, dimension});
  write_tensor(made, values);
  return made;
}

using Values = std::vector<float>;

// Of loss and gradient, the GPU's against the CPU's.
double loss_error_of(Table& table, const Shape& s, const Values& student, const Values& teacher, const Values& textual,
                     const Values& visual) {
  const auto on = [&](const DevicePtr& device, bool rounded, Values& gradient) {
    gradient.assign(student.size(), NAN);
    BankLossArguments arguments{student, teacher, textual, visual, {}, gradient, s.dimension};
    arguments.bfloat16 = rounded;
    double loss = 0;
    device->run("check", [&] { loss = bank_loss(device, arguments).loss; });
    return loss;
  };
  Values found, expected;
  const double wanted = on(table.cpu, false, expected), loss = on(table.gpu, true, found);
  return std::max(std::abs(loss / wanted - 1), relative(found, expected));
}

double update_error_of(Table& table, const Shape& s, const Values& teacher, const Values& textual, const Values& visual,
                       const std::vector<uint8_t>& seen) {
  const auto on = [&](const DevicePtr& device, std::vector<int32_t>& assignment) {
    assignment.assign(size_t(s.batch), -1);
    Values after(visual.size(), NAN);
    std::vector<uint8_t> seen_after(seen.size());
    device->run("check", [&] {
      bank_update(device, {teacher, textual, visual, seen, assignment, after, seen_after, s.dimension, 0.9f});
    });
    return after;
  };
  std::vector<int32_t> found, expected;
  const Values moved = on(table.gpu, found), wanted = on(table.cpu, expected);
  return found == expected ? relative(moved, wanted) : INFINITY;
}

// Everything stays where it is between calls: the head's own numbers fit the L2 cache, in a step too.
void head(Table& table, const Shape& target) {
  const Shape s = table.options.small ? Shape{8, 96, 40, 0, 0} : target;
  const std::string loss = name_of("semantic loss, forward and backward", target),
                    update = name_of("bank update", target);
  if (!table.wants(loss) && !table.wants(update)) return;
  table.attempt(loss, {}, [&] {
    const auto students = rows(s.batch, s.dimension, 1), teachers = rows(s.batch, s.dimension, 2),
               textual = rows(s.categories, s.dimension, 3), visual = rows(s.categories, s.dimension, 4);
    const std::vector<uint8_t> seen(size_t(s.categories), 1);
    const double loss_error = loss_error_of(table, s, students, teachers, textual, visual),
                 update_error = update_error_of(table, s, teachers, textual, visual, seen);

    SemanticOptions options;
    options.dimension = s.dimension;
    options.categories = s.categories;
    options.bfloat16 = true;
    const SemanticHeadPtr semantic = make_semantic_head(table.gpu, options);
    write_semantic_state(semantic, {textual, visual, {}, seen, 0, 0});
    const TensorPtr student = tensor(table.gpu, students, s.dimension),
                    teacher = tensor(table.gpu, teachers, s.dimension),
                    gradient = make_tensor(table.gpu, {s.batch, s.dimension});
    const Timing alone = table.time_steps([&] { bank_loss(semantic, student, teacher, gradient, 1, 0); });
    const Timing both = table.time_steps([&] {
      bank_loss(semantic, student, teacher, gradient, 1, 0);
      bank_update(semantic, {teacher}, 0);
    });
    const double scores = double(s.batch) * s.dimension * double(2 * s.categories);
    const double embeddings = double(s.batch) * s.dimension, anchors = 2.0 * double(s.categories) * s.dimension;
    table.add(loss,
              {4 * 3 * embeddings + 2 * anchors, 2 * (2 * scores + scores), Unit::tensor,
               "embeddings and gradient (float32), anchors (16 bits); student and teacher scores, gradient"},
              loss_error, 5e-3, alone, target.loss_us);
    const double touched = double(std::min(s.batch, s.categories)) * s.dimension;
    // After the loss, as a step has it; what it adds to the loss is its time.
    table.add(
        update,
        {4 * (embeddings + 2 * touched) + 2 * touched, 0, Unit::cores,
         "teacher, touched anchors read and written, their 16-bit copies"},
        update_error, 2e-5,
        {std::max(both.p20 - alone.p20, 0.0), std::max(both.p50 - alone.p50, 0.0), std::max(both.p80 - alone.p80, 0.0)},
        target.update_us);
  });
}

PixelStorePtr photographs(int count, int side) {
  const PixelStorePtr store = make_pixel_store({1e10, ""});
  std::mt19937 random(1);
  for (int image = 0; image < count; ++image) {
    std::vector<uint8_t> pixels(size_t(side) * side * 3);
    const double fx = 0.01 + 0.1 * (random() % 100) / 100, fy = 0.01 + 0.1 * (random() % 100) / 100;
    for (int y = 0; y < side; ++y)
      for (int x = 0; x < side; ++x)
        for (int c = 0; c < 3; ++c)
          pixels[(size_t(y) * side + x) * 3 + c] =
              uint8_t(120 + 90 * std::sin(fx * x + c) * std::cos(fy * y) + random() % 16);
    append_pixels(store, side, side, pixels.data(), pixels.size());
  }
  return store;
}

// Two rows. The kernels alone, which the target is for, on crops that are on the device: plans of several epochs, so
// that the draws of one do not decide. And the whole call, from uint8 pixels in host memory, of which a step waits for
// the slowest part: the host packs the crops, they are sent, and the kernels run, each beside the others of the calls
// around.
void augment_rows(Table& table, int full, int stored, double us_an_image) {
  const std::string what = "augmentation of " + std::to_string(stored) + " px to " + std::to_string(full) + " px, ",
                    alone = what + "the kernels", whole = what + "packed, sent, kernels";
  if (!table.wants(alone) && !table.wants(whole)) return;
  table.attempt(alone, {}, [&] {
    const int side = table.side(full), count = table.batch();
    const PixelStorePtr store = photographs(count, table.options.small ? 24 : stored);
    AugmentRecipe recipe;
    AugmentBatch batch;
    batch.seed = 7;
    for (int i = 0; i < count; ++i) batch.images.push_back(i), batch.draw_ids.push_back(uint64_t(i));
    std::vector<float> found, expected;
    const TensorPtr images = make_images(table.gpu, count, side, side, true),
                    reference = make_images(table.cpu, count, side, side, false);
    augment(store, recipe, batch, images);
    augment(store, recipe, batch, reference);
    table.gpu->run("read", [&] { read_images(images, found); });
    table.cpu->run("read", [&] { read_images(reference, expected); });
    const double error = relative(found, expected);

    std::vector<ViewBatch> plans;
    double crops = 0;
    for (; plans.size() < (table.options.small ? 1 : 8); ++batch.epoch) {
      plans.push_back(plan_views(*store, recipe, batch, side, side));
      for (const View& view : plans.back().views) crops += 3.0 * view.x.in * view.y.in;
    }
    crops /= double(plans.size());
    std::vector<Call> calls;
    for (const ViewBatch& plan : plans) calls.push_back([&] { augment_cuda(*table.gpu, plan, *images); });
    Timing kernels{};
    table.gpu->run(alone, [&] {
      for (const Call& call : calls) call();  // scratch memory grows
      table.gpu->synchronize();
      kernels = table.time_graph(calls, size_t(5e8 / crops));  // each call's input has a place of its own
    });
    const Timing together = table.time_steps([&] {
      ++batch.epoch;
      augment(store, recipe, batch, images);
    });
    const double bytes = crops + 2.0 * images->stored * count * side * side;
    table.add(alone, {bytes, 0, Unit::cores, "crops (uint8), images (bfloat16)"}, error, 4e-3, kernels,
              us_an_image * count);
    table.add(whole, {bytes, 0, Unit::cores, "as the kernels; not the host's packing, nor what is sent over PCIe"},
              error, 4e-3, together);
  });
}

}  // namespace

void semantic(Table& table) {
  head(table, {256, 1024, 1000, 60, 10});
  head(table, {2048, 512, 21841, 2000, 0});
}

void augmentation(Table& table) {
  augment_rows(table, 224, 256, 2);
  augment_rows(table, 64, 72, 0);
}

}  // namespace lgd::bench
