#include "ops/launch_trial.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <deque>
#include <memory>
#include <vector>

#include "core/timeline.h"
#include "ops/kernels.h"
#include "ops/trial_numbers.h"

namespace lgd {

namespace {

constexpr int layer_count = 4, step_count = 8, channels = 64;
// a few microseconds a kernel, of which most is its start
constexpr ConvShape shape{16, 8, 8, channels, channels, 1, 1, 1, 0, 1, 8, 8};

LazyInput stored(const void* y) {
  LazyInput input;
  input.y = y;
  return input;
}

GradientTarget plain(void* g) {
  GradientTarget target;
  target.g = g;
  return target;
}

struct Layer {
  Numbers y, w, dw, of_channel;  // of_channel: what LazyInput and NormGradient name, in this order

  explicit Layer(Device& ctx)
      : y(ctx, size_t(shape.rows()) * channels, DType::bf16),
        w(ctx, channels * channels, DType::bf16),
        dw(ctx, channels * channels, DType::f32),
        of_channel(ctx, 13 * channels, DType::f32) {}
  void reset(uint32_t seed) {
    y.clear(), w.fill_halves(seed), dw.clear();
    of_channel.fill(seed + 1, 0.5f, 1);
  }
  float* at(int i) const { return of_channel.floats() + i * channels; }
  LazyInput activation() const { return {y, at(6), at(7), Act::relu, nullptr}; }
  NormTarget norm(float momentum) const {
    return {1e-5f, momentum, at(0), at(1), at(2), at(3), at(4), at(5), at(6), at(7)};
  }
  LazyGradient gradient(const void* g) const {
    LazyGradient dy;
    dy.g = g, dy.y = y, dy.a = at(10), dy.b = at(11), dy.c = at(12);
    return dy;
  }
  GradientTarget target(void* g) const {
    return {g, false, y, nullptr, at(6), at(7), Act::relu, {at(0), at(4), at(5), at(8), at(9), at(10), at(11), at(12)}};
  }
};

using Bits = std::vector<std::vector<float>>;

bool same_bits(const Bits& a, const Bits& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const auto& one, const auto& other) {
    return one.size() == other.size() && std::memcmp(one.data(), other.data(), one.size() * sizeof(float)) == 0;
  });
}

// Steps of which every second has other input, so that a kernel that begins too soon finds numbers of the step before,
// which are not its own. As in training a layer runs beside the others, and a copy and a fill stand between kernels.
class Steps {
 public:
  explicit Steps(Device& ctx) : ctx_(ctx), beside_(ctx), copied_(numbers()), g_{numbers(), numbers(), numbers()} {
    for (int i = 0; i < 2; ++i) {
      x_.emplace_back(ctx_, values, DType::bf16);
      top_.emplace_back(ctx_, values, DType::bf16);
    }
    for (int i = 0; i < layer_count; ++i) layers_.emplace_back(ctx_);
  }

  // What all steps leave, from the same numbers each time; `graph` keeps the last.
  Bits run(const std::shared_ptr<StepGraph>& graph) {
    uint32_t seed = 1;
    for (int i = 0; i < 2; ++i) x_[size_t(i)].fill_halves(seed++), top_[size_t(i)].fill_halves(seed++);
    for (Layer* layer : all_layers()) layer->reset(seed), seed += 2;
    copied_.clear();
    for (Numbers& g : g_) g.clear();
    for (int step = 0; step < step_count; ++step) {
      ctx_.begin_step(graph);
      enqueue(step);
      ctx_.end_step();
    }
    Bits results;
    for (const Numbers& g : g_) results.push_back(g.floats_of(DType::bf16));
    for (const Layer* layer : all_layers()) {
      results.push_back(layer->y.floats_of(DType::bf16));
      results.push_back(layer->dw.floats_of(DType::f32));
      results.push_back(layer->of_channel.floats_of(DType::f32));
    }
    return results;
  }

 private:
  static constexpr size_t values = size_t(shape.rows()) * channels;

  Numbers numbers() const { return {ctx_, values, DType::bf16}; }
  std::vector<Layer*> all_layers() {
    std::vector<Layer*> all{&beside_};
    for (Layer& layer : layers_) all.push_back(&layer);
    return all;
  }
  void forward(const LazyInput& input, const Layer& layer, float momentum) {
    ctx_.kernels->conv_norm_forward(ctx_, shape, DType::bf16, input, layer.w, layer.norm(momentum), layer.y);
  }
  void backward(const LazyInput& input, const Layer& layer, const void* g, const GradientTarget& target) {
    ctx_.kernels->conv_norm_backward(ctx_, shape, DType::bf16, input, layer.gradient(g), layer.w, layer.dw.floats(),
                                     &target);
  }

  void enqueue(int step) {
    ctx_.restart_turns();
    ctx_.kernels->defer_sums(ctx_);
    const float momentum = 0.1f + 0.05f * float(step % 2);
    const LazyInput first = stored(x_[size_t(step % 2)]);
    LazyInput input = first;
    for (int i = 0; i < layer_count; ++i) {
      if (i == 1) {  // the fork: two kernels behind one
        ctx_.begin_branch();
        forward(input, beside_, momentum);
        ctx_.end_branch();
      }
      forward(input, layers_[size_t(i)], momentum);
      input = layers_[size_t(i)].activation();
    }
    ctx_.copy(copied_, layers_.back().y, values * sizeof(uint16_t));
    ctx_.join_branch();
    ctx_.zero(g_[2], values * sizeof(uint16_t));
    backward(stored(copied_), beside_, top_[size_t(step % 2)], plain(g_[2]));
    const void* g = g_[2];
    for (int i = layer_count - 1; i >= 0; --i) {
      void* const below = g_[i % 2];
      backward(i > 0 ? layers_[size_t(i - 1)].activation() : first, layers_[size_t(i)], g,
               i > 0 ? layers_[size_t(i - 1)].target(below) : plain(below));
      g = below;
    }
    ctx_.kernels->finish_sums(ctx_);
  }

  Device& ctx_;
  Layer beside_;
  Numbers copied_, g_[3];
  std::deque<Numbers> x_, top_;
  std::deque<Layer> layers_;
};

// Seconds for the graph's step, when it is launched so many times in a row.
double time_of(Device& ctx, StepGraph& graph, int repeats) {
  using Clock = std::chrono::steady_clock;
  ctx.synchronize();
  const auto begin = Clock::now();
  for (int i = 0; i < repeats; ++i) ctx.repeat_step(graph);
  ctx.synchronize();
  return std::chrono::duration<double>(Clock::now() - begin).count() / repeats;
}

}  // namespace

double programmatic_launch_time(Device& ctx) {
  LGD_CHECK(ctx.kind == DeviceKind::cuda && cuda::has_programmatic_launches(ctx.index), "DEVICE_UNAVAILABLE",
            "programmatic dependent launches need compute capability 9.0 and code for it");
  const KeptSwitch kept(ctx.programmatic_launches);
  Steps steps(ctx);
  const auto run = [&](bool programmatic, const std::shared_ptr<StepGraph>& graph) {
    ctx.programmatic_launches = programmatic;
    auto results = steps.run(graph);
    LGD_CHECK(!graph->serialized, "DEVICE_ERROR", "the driver takes no CUDA graph whose kernels start early");
    LGD_CHECK(graph->counts.launched == step_count - 1, "DEVICE_ERROR",
              "steps do not run as CUDA graphs: ", graph->refused);
    return results;
  };
  const auto serialized = std::make_shared<StepGraph>(), programmatic = std::make_shared<StepGraph>();
  const Bits expected = run(false, serialized), found = run(true, programmatic);
  LGD_CHECK(same_bits(found, expected), "DEVICE_ERROR",
            "steps with programmatic launches give other results than with serialized ones");
  LGD_CHECK(programmatic->counts.instantiated == serialized->counts.instantiated, "DEVICE_ERROR",
            "the driver cannot change the arguments of a graph with programmatic launches");
  double once = INFINITY;
  for (int i = 0; i < 3; ++i) once = std::min(once, time_of(ctx, *serialized, 1));
  const int repeats = once < 0.01 ? 20 : 1;  // an emulated GPU takes longer
  double least[2] = {INFINITY, INFINITY};
  for (int turn = 0; turn < repeats / 2 + 1; ++turn)
    for (const bool second : {false, true})
      least[second] = std::min(least[second], time_of(ctx, second ? *programmatic : *serialized, repeats));
  return least[1] / least[0];
}

}  // namespace lgd
