// Holds the CUDA semantic loss, bank update and search to the CPU's: on a GPU (scripts/gpu-check), or on the emulated
// one (test/native/emulated-programs.test.ts). Shapes stand around the tiles of the matrix products, with at least
// three steps over the embedding and ragged edges.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <string>

#include "core/tensor.h"
#include "engine.h"
#include "semantic/kernels.h"

namespace lgd {

namespace {

int checks = 0, failures = 0;

void check(bool good, const std::string& what, double found) {
  ++checks;
  if (good) return;
  ++failures;
  std::printf("%s: %g\n", what.c_str(), found);
}

double relative(const std::vector<float>& found, const std::vector<float>& expected) {
  double error = 0, norm = 1e-30;
  if (found.size() != expected.size()) return INFINITY;
  for (size_t i = 0; i < expected.size(); ++i) {
    error += (double(found[i]) - expected[i]) * (double(found[i]) - expected[i]);
    norm += double(expected[i]) * expected[i];
  }
  return std::sqrt(error / norm);
}

// Rows of a length, around a common direction, as embeddings are.
std::vector<float> rows(int64_t count, int64_t dimension, int seed, float length = 1) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(count * dimension);
  for (int64_t row = 0; row < count; ++row) {
    double square = 0;
    for (int64_t d = 0; d < dimension; ++d) {
      float& value = values[row * dimension + d];
      value = normal(random) + 0.5f;
      square += double(value) * value;
    }
    for (int64_t d = 0; d < dimension; ++d) values[row * dimension + d] *= float(length / std::sqrt(square));
  }
  return values;
}

struct Shape {
  int64_t batch, dimension, categories, queue;
};
std::string describe(const char* what, const Shape& s) {
  return std::string(what) + " " + std::to_string(s.batch) + "x" + std::to_string(s.dimension) + "x" +
         std::to_string(s.categories) + " queue " + std::to_string(s.queue);
}

struct Losses {
  BankLossResult result;
  std::vector<float> gradient;
};

// Numbers in nats, held to the loss: a divergence may be a small difference of large numbers.
void close(const std::vector<double>& found, const std::vector<double>& expected, double tolerance,
           const std::string& what) {
  for (size_t i = 0; i < expected.size(); ++i) {
    const double apart = std::abs(found[i] - expected[i]) / expected[0];
    check(apart < tolerance, what + " number " + std::to_string(i), apart);
  }
}

void losses(const Shape& s, bool bfloat16, const DevicePtr& cpu, const DevicePtr& gpu) {
  const auto student = rows(s.batch, s.dimension, 1, 3), teacher = rows(s.batch, s.dimension, 2, 11),
             textual = rows(s.categories, s.dimension, 3), visual = rows(s.categories, s.dimension, 4, 0.9f),
             queue = rows(s.queue, s.dimension, 5);
  const auto on = [&](const DevicePtr& device, bool rounded) {
    Losses result{{}, std::vector<float>(student.size(), NAN)};
    BankLossArguments arguments;
    arguments.student = student;
    arguments.teacher = teacher;
    arguments.textual = textual;
    arguments.visual = visual;
    arguments.queue = queue;
    arguments.gradient = result.gradient;
    arguments.dimension = s.dimension;
    arguments.alpha = 0.35f;
    arguments.teacher_temperature = 0.05f;
    arguments.bfloat16 = rounded;
    device->run("check", [&] { result.result = bank_loss(device, arguments); });
    return result;
  };
  const Losses expected = on(cpu, false), found = on(gpu, bfloat16);
  const double tolerance = bfloat16 ? 5e-3 : 2e-5;
  const std::string name = describe(bfloat16 ? "loss bfloat16" : "loss float32", s);
  const auto numbers = [](const BankLossResult& r) {
    return std::vector<double>{r.loss, r.loss_visual, r.loss_textual, r.kl_visual, r.kl_textual};
  };
  close(numbers(found.result), numbers(expected.result), tolerance, name);
  check(relative(found.gradient, expected.gradient) < tolerance, name + " gradient",
        relative(found.gradient, expected.gradient));
}

struct Update {
  std::vector<int32_t> assignment;
  std::vector<float> visual;
  std::vector<uint8_t> seen;
};

void updates(const Shape& s, const DevicePtr& cpu, const DevicePtr& gpu) {
  const auto teacher = rows(s.batch, s.dimension, 2, 11), textual = rows(s.categories, s.dimension, 3),
             visual = rows(s.categories, s.dimension, 4, 0.9f);
  std::vector<uint8_t> seen;
  for (int64_t k = 0; k < s.categories; ++k) seen.push_back(k % 2);
  const auto on = [&](const DevicePtr& device) {
    Update result{std::vector<int32_t>(s.batch, -1), std::vector<float>(visual.size(), NAN),
                  std::vector<uint8_t>(s.categories, 2)};
    BankUpdateArguments arguments;
    arguments.teacher = teacher;
    arguments.textual = textual;
    arguments.visual = visual;
    arguments.seen = seen;
    arguments.assignment = result.assignment;
    arguments.visual_after = result.visual;
    arguments.seen_after = result.seen;
    arguments.dimension = s.dimension;
    device->run("check", [&] { bank_update(device, arguments); });
    return result;
  };
  const Update expected = on(cpu), found = on(gpu);
  check(found.assignment == expected.assignment && found.seen == expected.seen, describe("assignment", s), 0);
  check(relative(found.visual, expected.visual) < 2e-5, describe("bank update", s),
        relative(found.visual, expected.visual));
}

TensorPtr tensor(const DevicePtr& device, const std::vector<float>& values, int64_t dimension) {
  const TensorPtr made = make_tensor(device, {int64_t(values.size()) / dimension, dimension});
  write_tensor(made, values);
  return made;
}

struct Outcome {
  std::vector<float> gradients, visual, queue;
  std::vector<double> losses, shares;
  double hit = 0, seen = 0;
};

// Three steps of the head with its banks and its queue on the device, two batches an update.
Outcome head_steps(const DevicePtr& device, const Shape& s) {
  SemanticOptions options;
  options.dimension = s.dimension;
  options.categories = s.categories;
  options.queue_size = s.queue;
  options.teacher_temperature = 0.05f;
  options.momentum = 0.9f;
  const SemanticHeadPtr head = make_semantic_head(device, options);
  SemanticState state;
  state.textual = rows(s.categories, s.dimension, 3);
  state.visual = rows(s.categories, s.dimension, 4, 0.9f);
  state.seen.assign(s.categories, 0);
  write_semantic_state(head, state);
  Outcome outcome;
  for (int step = 0; step < 3; ++step) {
    std::vector<TensorPtr> teachers;
    for (int part = 0; part < 2; ++part) {
      const int seed = 10 + 4 * step + 2 * part;
      teachers.push_back(tensor(device, rows(s.batch, s.dimension, seed, 7), s.dimension));
      const TensorPtr gradient = make_tensor(device, {s.batch, s.dimension});
      bank_loss(head, tensor(device, rows(s.batch, s.dimension, seed + 1, 2), s.dimension), teachers.back(), gradient,
                0.5f, 2 * step + part);
      device->run("read", [&] {
        std::vector<float> values;
        read_tensor(gradient, values);
        outcome.gradients.insert(outcome.gradients.end(), values.begin(), values.end());
      });
    }
    bank_update(head, teachers, 2 * step + 1);
    device->run("metrics", [&] {
      const SemanticMetrics metrics = read_metrics(head, 2 * step + 1);
      outcome.losses.insert(outcome.losses.end(),
                            {metrics.loss, metrics.loss_visual, metrics.entropy_visual, metrics.entropy_textual});
      outcome.shares.insert(outcome.shares.end(), {1, metrics.own_mass, metrics.agreement});
      outcome.hit += metrics.categories_hit;
      outcome.seen += metrics.categories_seen;
    });
  }
  device->run("state", [&] { read_semantic_state(head, state); });
  outcome.visual = state.visual;
  outcome.queue = state.queue;
  return outcome;
}

void heads(const Shape& s, const DevicePtr& cpu, const DevicePtr& gpu) {
  const Outcome expected = head_steps(cpu, s), found = head_steps(gpu, s);
  close(found.losses, expected.losses, 2e-5, describe("head loss", s));
  close(found.shares, expected.shares, 1e-5, describe("head shares", s));
  check(expected.hit > 0 && found.hit == expected.hit, describe("head categories hit", s), found.hit - expected.hit);
  check(expected.seen >= expected.hit / 3 && found.seen == expected.seen, describe("head categories seen", s),
        found.seen - expected.seen);
  check(relative(found.gradients, expected.gradients) < 2e-5, describe("head gradients", s),
        relative(found.gradients, expected.gradients));
  check(relative(found.visual, expected.visual) < 2e-5, describe("head bank", s),
        relative(found.visual, expected.visual));
  check(relative(found.queue, expected.queue) < 1e-6, describe("head queue", s), relative(found.queue, expected.queue));
}

void searches(const Shape& s, const DevicePtr& cpu, const DevicePtr& gpu) {
  const int k = int(std::min<int64_t>(5, s.categories));
  const auto queries = rows(s.batch, s.dimension, 6, 2), bank = rows(s.categories, s.dimension, 7, 3);
  std::vector<std::vector<float>> scores(2);
  std::vector<std::vector<int32_t>> indices(2);
  for (int i = 0; i < 2; ++i)
    (i ? gpu : cpu)->run("search", [&] {
      top_similar(i ? gpu : cpu, queries, bank, s.dimension, k, indices[i], scores[i]);
    });
  check(indices[0] == indices[1], describe("search", s), 0);
  check(relative(scores[1], scores[0]) < 1e-6, describe("search scores", s), relative(scores[1], scores[0]));
}

// More rows than a grid's second dimension has tiles for.
void many_rows(const DevicePtr& gpu) {
  constexpr int64_t count = 65535 * 64 + 2, stride = 4;
  std::vector<float> queries(count, 1);
  queries.back() = 3;
  const std::vector<float> bank = {2};
  std::vector<float> scores(count * stride);
  gpu->run("rows", [&] {
    const Buffer from(gpu, count * sizeof(float)), anchor(gpu, sizeof(float)), to(gpu, count * stride * sizeof(float));
    gpu->from_host(from.as<>(), queries.data(), count * sizeof(float));
    gpu->from_host(anchor.as<>(), bank.data(), sizeof(float));
    semantic_kernels(*gpu).similarities(*gpu, count, 1, 1, from.as<float>(), anchor.as<float>(), to.as<float>(),
                                        stride);
    gpu->to_host(scores.data(), to.as<>(), scores.size() * sizeof(float));
  });
  check(scores[0] == 2, "first of many rows", scores[0]);
  check(scores[(count - 2) * stride] == 2, "last but one of many rows", scores[(count - 2) * stride]);
  check(scores[(count - 1) * stride] == 6, "last of many rows", scores[(count - 1) * stride]);
}

// More images than a block has bits for.
void too_many_images(const DevicePtr& gpu) {
  const std::vector<float> teacher(gpu->card.block_shared_bytes * 8, 1), one = {1};
  const std::vector<uint8_t> seen = {0};
  std::vector<int32_t> assignment(teacher.size());
  std::vector<float> visual(1);
  std::vector<uint8_t> seen_after(1);
  BankUpdateArguments arguments;
  arguments.teacher = teacher;
  arguments.textual = arguments.visual = one;
  arguments.seen = seen;
  arguments.assignment = assignment;
  arguments.visual_after = visual;
  arguments.seen_after = seen_after;
  arguments.dimension = 1;
  std::string found;
  try {
    gpu->run("update", [&] { bank_update(gpu, arguments); });
  } catch (const Error& error) { found = error.code + ": " + error.what(); }
  check(found.find("BAD_SHAPE: ") == 0 && found.find("a bank update of") != std::string::npos,
        "too many images: " + found, 0);
}

}  // namespace
}  // namespace lgd

int main(int count, char** arguments) {
  using namespace lgd;
  const auto cpu = std::make_shared<Device>(DeviceKind::cpu, 0, 2);
  const auto gpu = std::make_shared<Device>(DeviceKind::cuda, 0, 1);
  if (count > 1 && std::string(arguments[1]) == "rows") {
    many_rows(gpu);
    too_many_images(gpu);
    std::printf("semantic: %d checks, %d failed\n", checks, failures);
    return failures != 0;
  }
  for (const Shape& s : {Shape{1, 1, 1, 0}, Shape{2, 3, 5, 7}, Shape{13, 129, 33, 5}, Shape{65, 300, 63, 0},
                         Shape{31, 200, 129, 9}, Shape{7, 96, 700, 0}}) {
    if (s.dimension > 1) losses(s, false, cpu, gpu), losses(s, true, cpu, gpu);  // one dimension has no gradient
    updates(s, cpu, gpu);
    searches(s, cpu, gpu);
  }
  // shares of the anchors in whole steps: six times five are more than there are
  losses({3, 24, 790, 5}, true, cpu, gpu);
  losses({3, 24, 40, 2000}, true, cpu, gpu);  // chunks of very different length, with 20,000 bytes for the scores
  // many images a category, and more images and values than a block takes at once
  updates({1100, 1030, 3, 0}, cpu, gpu);
  for (const Shape& s : {Shape{5, 40, 11, 8}, Shape{33, 130, 70, 200}, Shape{5, 8, 16500, 3}}) heads(s, cpu, gpu);
  std::printf("semantic: %d checks, %d failed\n", checks, failures);
  return failures != 0;
}
