#include "ops/launch_trial.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <deque>
#include <memory>

#include "core/timeline.h"
#include "ops/kernels.h"
#include "ops/trial_numbers.h"

namespace lgd {

namespace {

constexpr int layer_count = 4, step_count = 8, channels = 64;
constexpr ConvShape shape{16, 8, 8, channels, channels, 1, 1, 1, 0, 1, 8, 8};  // a few microseconds a kernel, of which most is its start

struct Layer {
  Numbers y, w, dw, of_channel;  // of_channel: what LazyInput and NormGradient name, in this order

  explicit Layer(Context& ctx)
      : y(ctx, size_t(shape.rows()) * channels, DType::bf16), w(ctx, channels * channels, DType::bf16), dw(ctx, channels * channels, DType::f32), of_channel(ctx, 13 * channels, DType::f32) {}
  void reset(uint32_t seed) {
    y.clear(), w.fill_halves(seed), dw.clear();
    of_channel.fill(seed + 1, 0.5f, 1);
  }
  float* at(int i) const { return of_channel.floats() + i * channels; }
  LazyInput activation() const { return {y, at(6), at(7), Act::relu}; }
  NormTarget norm(float momentum) const { return {1e-5f, momentum, at(0), at(1), at(2), at(3), at(4), at(5), at(6), at(7)}; }
  LazyGradient gradient(const void* g) const { return {g, y, at(10), at(11), at(12)}; }
  GradientTarget target(void* g) const { return {g, false, y, nullptr, at(6), at(7), Act::relu, {at(0), at(4), at(5), at(8), at(9), at(10), at(11), at(12)}}; }
};

class Steps {
 public:
  explicit Steps(Context& ctx) : ctx_(ctx), x_(ctx, values, DType::bf16), top_(ctx, values, DType::bf16), g_{{ctx, values, DType::bf16}, {ctx, values, DType::bf16}} {
    for (int i = 0; i < layer_count; ++i) layers_.emplace_back(ctx);
  }

  // What all steps leave, from the same numbers each time; `graph` keeps the last.
  std::vector<std::vector<float>> run(const std::shared_ptr<StepGraph>& graph) {
    x_.fill_halves(1), top_.fill_halves(2);
    for (int i = 0; i < layer_count; ++i) layers_[size_t(i)].reset(uint32_t(3 + i));
    for (int step = 0; step < step_count; ++step) {
      ctx_.begin_step(graph);
      enqueue(0.1f + 0.05f * float(step % 2));
      ctx_.end_step();
    }
    std::vector<std::vector<float>> results{g_[0].floats_of(DType::bf16)};
    for (const Layer& layer : layers_) {
      results.push_back(layer.y.floats_of(DType::bf16));
      results.push_back(layer.dw.floats_of(DType::f32));
      results.push_back(layer.of_channel.floats_of(DType::f32));
    }
    return results;
  }

 private:
  static constexpr size_t values = size_t(shape.rows()) * channels;

  void enqueue(float momentum) {
    ctx_.restart_turns();
    LazyInput input{x_};
    for (Layer& layer : layers_) {
      ctx_.kernels->conv_norm_forward(ctx_, shape, DType::bf16, input, layer.w, layer.norm(momentum), layer.y);
      input = layer.activation();
    }
    const void* g = top_;
    for (int i = layer_count - 1; i >= 0; --i) {
      const Layer& layer = layers_[size_t(i)];
      void* const below = g_[i % 2];
      const GradientTarget target = i > 0 ? layers_[size_t(i - 1)].target(below) : GradientTarget{below};
      ctx_.kernels->conv_norm_backward(ctx_, shape, DType::bf16, i > 0 ? layers_[size_t(i - 1)].activation() : LazyInput{x_}, layer.gradient(g), layer.w, layer.dw.floats(), &target);
      g = below;
    }
    ctx_.kernels->finish_sums(ctx_);
  }

  Context& ctx_;
  Numbers x_, top_, g_[2];
  std::deque<Layer> layers_;
};

// Seconds for the graph's step, when it is launched so many times in a row.
double time_of(Context& ctx, StepGraph& graph, int repeats) {
  using Clock = std::chrono::steady_clock;
  ctx.synchronize();
  const auto begin = Clock::now();
  for (int i = 0; i < repeats; ++i) ctx.repeat_step(graph);
  ctx.synchronize();
  return std::chrono::duration<double>(Clock::now() - begin).count() / repeats;
}

}  // namespace

double programmatic_launch_time(Context& ctx) {
  LGD_CHECK(ctx.kind == DeviceKind::cuda && cuda::has_programmatic_launches(ctx.index), "DEVICE_UNAVAILABLE", "programmatic dependent launches need compute capability 9.0 or later");
  struct Restore {
    Context& ctx;
    const bool before = ctx.programmatic_launches;
    ~Restore() { ctx.programmatic_launches = before; }
  } restore{ctx};
  Steps steps(ctx);
  const auto run = [&](bool programmatic, const std::shared_ptr<StepGraph>& graph) {
    ctx.programmatic_launches = programmatic;
    auto results = steps.run(graph);
    LGD_CHECK(graph->counts.launched == step_count - 1, "DEVICE_ERROR", "steps do not run as CUDA graphs");
    return results;
  };
  const auto serialized = std::make_shared<StepGraph>(), programmatic = std::make_shared<StepGraph>();
  LGD_CHECK(run(false, serialized) == run(true, programmatic), "DEVICE_ERROR", "steps with programmatic launches give other results than with serialized ones");
  LGD_CHECK(programmatic->counts.instantiated == serialized->counts.instantiated, "DEVICE_ERROR", "the driver cannot change the arguments of a graph with programmatic launches");
  const int repeats = time_of(ctx, *serialized, 1) < 0.01 ? 20 : 1;  // an emulated GPU takes longer
  double least[2] = {INFINITY, INFINITY};
  for (int turn = 0; turn < repeats / 2 + 1; ++turn)
    for (const bool second : {false, true}) least[second] = std::min(least[second], time_of(ctx, second ? *programmatic : *serialized, repeats));
  return least[1] / least[0];
}

}  // namespace lgd
