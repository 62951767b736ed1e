// Graphs of steps that the driver does not take, or not with early starts.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "checks.h"
#include "core/cuda_streams.h"
#include "core/tensor.h"
#include "core/timeline.h"
#include "ops/kernels.h"
#include "ops/launch_trial.h"

namespace lgd {

namespace {

// Steps of a kernel beside two others; each has numbers of its own, and every fourth is waited for.
class Steps {
 public:
  Steps()
      : device_(std::make_shared<Device>(DeviceKind::cuda, 0, 1)),
        source_(device_, most * 4),
        first_(device_, most * 2),
        beside_(device_, most * 2),
        sum_(device_, most * 4) {}
  ~Steps() { cuda::release_pinned(published_); }

  // Returns how many steps had wrong numbers.
  int take(int count) {
    int wrong = 0;
    for (int i = 0; i < count; ++i, ++time_) {
      device_->run("step", [&] { step(); });
      if (time_ % 4 != 3) continue;
      device_->run("wait", [&] { device_->synchronize(); });
      for (int back = 0; back < std::min(4, i + 1); ++back)
        for (const int half : {0, 1}) wrong += read(time_ - back, half) != float(time_ - back);
    }
    return wrong;
  }
  const StepGraph& graph() const { return *graph_; }

 private:
  static constexpr int most = 1024;

  // What a step left of one of its kernels, in bfloat16, which has all whole numbers up to 256.
  float read(int time, int half) const {
    const uint32_t word = uint32_t(published_[most * (2 * (time % 4) + half) + 9]) << 16;
    float value;
    std::memcpy(&value, &word, 4);
    return value;
  }

  void step() {
    const std::vector<float> values(most, float(time_));
    device_->begin_step(graph_);
    device_->from_host(source_.as<>(), values.data(), most * 4);
    device_->kernels->cast(*device_, most, DType::bf16, source_.as<float>(), first_.as<>());
    device_->begin_branch();
    device_->kernels->cast(*device_, most, DType::bf16, source_.as<float>(), beside_.as<>());
    device_->end_branch();
    device_->zero(sum_.as<>(), most * 4);
    device_->join_branch();
    device_->copy(sum_.as<>(), first_.as<>(), most * 2);
    device_->copy(sum_.as<uint16_t>() + most, beside_.as<>(), most * 2);
    device_->copy(published_ + 2 * most * (time_ % 4), sum_.as<>(), most * 4);
    device_->end_step();
  }

  std::shared_ptr<Device> device_;
  std::shared_ptr<StepGraph> graph_ = std::make_shared<StepGraph>();
  Buffer source_, first_, beside_, sum_;
  uint16_t* published_ = static_cast<uint16_t*>(cuda::allocate_pinned(most * 4 * 4));
  int time_ = 0;
};

// A variable of the environment, as it was before when this goes.
class Setting {
 public:
  Setting(const char* name, const char* text) : name_(name) {
    if (const char* const before = std::getenv(name)) before_ = before;
    setenv(name, text, 1);
  }
  ~Setting() { before_ ? setenv(name_, before_->c_str(), 1) : unsetenv(name_); }
  Setting(const Setting&) = delete;
  Setting& operator=(const Setting&) = delete;

 private:
  const char* name_;
  std::optional<std::string> before_;
};

}  // namespace

// A graph that the driver does not take costs no step and no number, whenever that is.
void check_refused_graphs() {
  if (cuda::properties(0).name != "emulated GPU") return;
  const Setting late("LGDISTILL_PDL", "0");  // what is refused early starts is still a graph: see the next check
  constexpr int count = 16;
  // The fault, and how many steps run as a graph. The first never does.
  const std::pair<const char*, int> faults[] = {
      {"cudaGraphCreate:1:cudaErrorMemoryAllocation", 0},
      {"cudaGraphAddKernelNode:2:cudaErrorInvalidValue", 0},
      {"cudaGraphInstantiate:1:cudaErrorNotSupported", 0},
      {"cudaGraphLaunch:1:cudaErrorMemoryAllocation", 0},
      {"cudaGraphLaunch:4:cudaErrorInvalidValue", 3},  // with arguments that were changed
      // is built anew
      {"cudaGraphExecKernelNodeSetParams|cudaGraphExecMemcpyNodeSetParams1D:2:cudaErrorMemoryAllocation", count - 1},
  };
  for (const auto& [fault, launched] : faults) {
    const Setting failing("LGDISTILL_EMULATION_FAULT", fault);
    Steps steps;
    const int wrong = steps.take(count);
    const StepGraph& graph = steps.graph();
    check(wrong == 0 && graph.counts.launched == launched && graph.counts.eager == count - launched,
          std::string(fault) + ": " + std::to_string(wrong) + " numbers are wrong, and " +
              std::to_string(graph.counts.launched) + " steps ran as a graph");
    const std::string error = std::string(fault).substr(std::string(fault).rfind(':') + 1);
    check(launched == count - 1 ? graph.refused.empty() : graph.refused.find(error) != std::string::npos,
          std::string(fault) + ": why there is no graph: " + graph.refused);
  }
}

// Kernels that start early are more than a driver may take: then they start one after the other, in a graph all the
// same. The trial says so.
void check_refused_early_starts() {
  if (cuda::properties(0).name != "emulated GPU") return;
  const Setting early("LGDISTILL_PDL", "1"), present("LGDISTILL_EMULATION_PDL", "1");
  {
    const Setting refused("LGDISTILL_EMULATION_FAULT", "cudaGraphAddDependencies:1:cudaErrorNotSupported");
    Steps steps;
    const StepGraph& graph = steps.graph();
    check(steps.take(32) == 0 && graph.counts.launched == 31 && graph.counts.instantiated == 1 && graph.serialized &&
              graph.refused.empty() && graph.counts.programmatic == 0,
          "where early starts are refused a step is no graph, or has wrong numbers");
  }
  std::string found;
  const Setting refused("LGDISTILL_EMULATION_FAULT", "cudaGraphAddDependencies:1:cudaErrorInvalidValue");
  try {
    const auto device = std::make_shared<Device>(DeviceKind::cuda, 0, 1);
    device->run("trial", [&] { programmatic_launch_time(*device); });
  } catch (const Error& error) { found = error.what(); }
  check(found.find("no CUDA graph whose kernels start early") != std::string::npos,
        "the trial of early starts, which are refused: " + found);
}

}  // namespace lgd
