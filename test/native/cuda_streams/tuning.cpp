// How a step's graph finds its fastest way to run (core/graph_tuner.h).
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

// Steps of a kernel beside two others, in all the ways that the tuner tries; each has numbers of its own, and every
// fourth is waited for.
class TunedSteps {
 public:
  TunedSteps()
      : device_(std::make_shared<Device>(DeviceKind::cuda, 0, 1)),
        source_(device_, most * 4),
        first_(device_, most * 2),
        beside_(device_, most * 2),
        sum_(device_, most * 4) {}
  ~TunedSteps() { cuda::release_pinned(published_); }

  // longer: with a kernel more, and so of another shape. Returns how many steps had wrong numbers.
  int take(int count, bool longer = false) {
    int wrong = 0;
    for (int i = 0; i < count; ++i, ++time_) {
      device_->run("step", [&] { step(longer); });
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

  void step(bool longer) {
    const std::vector<float> values(most, float(time_));
    device_->begin_step(graph_);
    device_->from_host(source_.as<>(), values.data(), most * 4);
    device_->kernels->cast(*device_, most, DType::bf16, source_.as<float>(), first_.as<>());
    device_->begin_branch();
    device_->kernels->cast(*device_, most, DType::bf16, source_.as<float>(), beside_.as<>());
    device_->end_branch();
    device_->zero(sum_.as<>(), most * 4);
    if (longer) device_->kernels->cast(*device_, most, DType::bf16, source_.as<float>(), first_.as<>());
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

std::string text_of(const GraphWay& way) {
  return {way.programmatic ? '1' : '0', way.in_order ? '1' : '0', way.one_carveout ? '1' : '0'};
}

}  // namespace

// A graph that the driver does not take costs no step and no number, whenever that is, and neither does a time that it
// does not tell.
void check_refused_graphs() {
  if (cuda::properties(0).name != "emulated GPU") return;
  const Setting late("LGDISTILL_PDL", "0");  // what is refused early starts is still a graph: see the next check
  // steps, and those of them that are no graph where one is refused
  constexpr int count = 144, pause = 16;
  // The fault, and how many steps run as a graph. The first never does.
  const std::pair<const char*, int> faults[] = {
      {"cudaGraphCreate:1:cudaErrorMemoryAllocation", count - 1 - pause},
      {"cudaGraphAddKernelNode:2:cudaErrorInvalidValue", count - 1 - pause},
      {"cudaGraphInstantiate:1:cudaErrorNotSupported", count - 1 - pause},
      {"cudaGraphLaunch:1:cudaErrorMemoryAllocation", count - 1 - pause},
      {"cudaGraphLaunch:4:cudaErrorInvalidValue", count - 1 - pause},  // with arguments that were changed
      // is built anew
      {"cudaGraphExecKernelNodeSetParams|cudaGraphExecMemcpyNodeSetParams1D:2:cudaErrorMemoryAllocation", count - 1},
      {"cudaGraphKernelNodeSetAttribute:1:cudaErrorInvalidValue", count - 1},  // another way than the usual one
      {"cudaGraphLaunch:20:cudaErrorNotSupported", count - 1},                 // likewise
      {"cudaEventCreate:3:cudaErrorMemoryAllocation", count - 1},
      {"cudaEventElapsedTime:3:cudaErrorInvalidResourceHandle", count - 1},
  };
  for (const auto& [fault, launched] : faults) {
    const Setting failing("LGDISTILL_EMULATION_FAULT", fault);
    TunedSteps steps;
    const int wrong = steps.take(count);
    const StepGraph& graph = steps.graph();
    check(wrong == 0 && graph.counts.launched == launched && graph.counts.eager == count - launched,
          std::string(fault) + ": " + std::to_string(wrong) + " numbers are wrong, and " +
              std::to_string(graph.counts.launched) + " steps ran as a graph");
    const std::string error = std::string(fault).substr(std::string(fault).rfind(':') + 1);
    check(graph.tuner.done() &&
              (launched == count - 1 ? graph.refused.empty() : graph.refused.find(error) != std::string::npos),
          std::string(fault) + ": why there was no graph: " + graph.refused);
    if (std::strncmp(fault, "cudaEvent", 9) == 0)
      check(graph.tuner.times().empty() && graph.way == GraphWay{},
            std::string(fault) + ": a way was chosen without its time");
    else check(graph.tuner.times().size() > 1, std::string(fault) + ": nothing else was compared");
  }
}

// One that is refused again and again is tried after 16 steps, 32 more, 64 more, and once it is taken, a refusal counts
// as the first.
void check_refusals_in_a_row() {
  if (cuda::properties(0).name != "emulated GPU") return;
  const Setting late("LGDISTILL_PDL", "0"), one_way("LGDISTILL_AUTOTUNE", "0");
  TunedSteps steps;
  const StepGraph& graph = steps.graph();
  const auto take = [&](int count, const char* refused_way) {
    const Setting refusal("LGDISTILL_EMULATION_REFUSED_WAY", refused_way);
    check(steps.take(count) == 0, "numbers are wrong where graphs are refused again and again");
  };
  const auto is = [&](int64_t tried, int64_t launched) {
    check(graph.counts.instantiated == tried && graph.counts.launched == launched,
          "graphs refused again and again: " + std::to_string(graph.counts.instantiated) + " were tried, and " +
              std::to_string(graph.counts.launched) + " steps ran as one; expected " + std::to_string(tried) + " and " +
              std::to_string(launched));
  };
  take(1 + 1 + 16 + 32 + 63, "000");
  is(3, 0);
  take(10, "111");  // no such way is tried
  is(4, 10);
}

// Kernels that start early are more than a driver may take: then they start one after the other, in a graph all the
// same. The trial says so.
void check_refused_early_starts() {
  if (cuda::properties(0).name != "emulated GPU") return;
  const Setting early("LGDISTILL_PDL", "1"), refused("LGDISTILL_EMULATION_REFUSED_WAY", "100");
  TunedSteps steps;
  const StepGraph& graph = steps.graph();
  check(steps.take(32) == 0 && graph.counts.launched == 31 && graph.counts.instantiated == 1 && graph.serialized &&
            graph.refused.empty() && graph.way == GraphWay{},
        "where early starts are refused a step is no graph, or has wrong numbers");
  std::string found;
  try {
    const auto device = std::make_shared<Device>(DeviceKind::cuda, 0, 1);
    device->run("trial", [&] { programmatic_launch_time(*device); });
  } catch (const Error& error) { found = error.what(); }
  check(found.find("no CUDA graph whose kernels start early") != std::string::npos,
        "the trial of early starts, which are refused: " + found);
}

// Every way to run a step's graph gives the same numbers, and the fastest stays, as the emulated GPU has been told
// which is.
void check_tuning() {
  constexpr int enough = 128;
  const auto set = [](const char* variable, const char* text) {
    text ? setenv(variable, text, 1) : unsetenv(variable);
  };
  // nothing is settled here
  for (const char* const variable : {"LGDISTILL_AUTOTUNE", "LGDISTILL_BRANCH", "LGDISTILL_CARVEOUT"})
    set(variable, nullptr);
  TunedSteps plain;
  check(plain.take(enough) == 0, "a way to run a graph gives wrong numbers");
  const StepGraph& graph = plain.graph();
  const size_t ways = graph.tuner.times().size();
  // half of them where nodes may tell no carve-out: a toolkit before 13.0, or the driver
  const size_t all = has_wanted_programmatic_launches(0) ? 8 : 4;
  check(graph.tuner.done() && (ways == all || ways == all / 2) && graph.counts.instantiated == 1 &&
            graph.counts.interrupted == 0,
        "of a step's graph " + std::to_string(ways) + " ways were compared, of " + std::to_string(all));
  GraphTuner failing;  // a launch in the middle fails: its time is none
  void* const stream = cuda::create_stream(0);
  for (int i = 0; i < 64; ++i) {
    failing.next({{}, {false, true, false}}, true);
    failing.begin(stream);
    if (i != 21) failing.end(stream);
    cuda::synchronize(stream);
  }
  cuda::destroy_stream(stream);
  check(failing.done() && failing.times().size() == 2, "a launch that failed stopped the tuning");
  if (cuda::properties(0).name != "emulated GPU") return;
  check(ways > 0 && graph.way == graph.tuner.times()[0].way,
        "of ways that take the same time another than the usual one stayed");
  set("LGDISTILL_PDL", nullptr);  // which may say 0
  set("LGDISTILL_EMULATION_PDL", "1");
  for (const char* const fastest : {"000", "101", "011", "110"}) {
    set("LGDISTILL_EMULATION_FASTEST_WAY", fastest);
    TunedSteps steps;
    check(steps.take(enough) == 0 && steps.graph().tuner.times().size() == 8,
          std::string("all ways should have been tried where ") + fastest + " is the fastest");
    check(text_of(steps.graph().way) == fastest,
          std::string("the fastest way is ") + fastest + ", and the one that stayed " + text_of(steps.graph().way));
    check(steps.take(8, true) == 0 && text_of(steps.graph().way) == fastest && steps.graph().counts.instantiated == 2,
          "a step of another shape lost the way that was found");
    set("LGDISTILL_EMULATION_REFUSED_WAY", "any");  // for want of memory, say, which may pass
    check(steps.take(4) == 0 && steps.graph().graph == nullptr, "a graph that is refused in any way was launched");
    set("LGDISTILL_EMULATION_REFUSED_WAY", nullptr);
    check(steps.take(20) == 0 && text_of(steps.graph().way) == fastest && steps.graph().tuner.times().size() == 8,
          std::string("a refusal in any way lost the way that was found, ") + fastest);
  }
  TunedSteps late;
  set("LGDISTILL_EMULATION_REFUSED_WAY", "any");
  check(late.take(4) == 0 && late.graph().counts.launched == 0, "a graph that is refused in any way was launched");
  set("LGDISTILL_EMULATION_REFUSED_WAY", nullptr);
  check(late.take(20 + enough) == 0 && late.graph().tuner.times().size() == 8,
        "after a refusal in any way nothing else was compared");
  TunedSteps uneven, restless;
  int wrong = 0;
  for (int i = 0; i < 8; ++i) wrong += uneven.take(20) + uneven.take(1, true);
  check(wrong == 0 && uneven.graph().tuner.times().size() == 8 && text_of(uneven.graph().way) == "110" &&
            uneven.graph().counts.instantiated == 16,
        "a step that has another shape now and then found no way");
  for (int i = 0; i < enough; ++i) wrong += restless.take(1, i % 2 == 0);
  check(wrong == 0 && !restless.graph().tuner.done() && text_of(restless.graph().way) == "100",
        "a step that always has another shape was timed");
  for (const auto& [way, left] : {std::pair{"010", size_t(7)}, {"001", size_t(4)}}) {
    set("LGDISTILL_EMULATION_REFUSED_WAY", way);
    TunedSteps refused;
    check(refused.take(enough) == 0 && refused.graph().tuner.times().size() == left &&
              text_of(refused.graph().way) == "110",
          std::string("the driver refuses ") + way + ", which cost a step, or other ways");
  }
  for (const char* const variable :
       {"LGDISTILL_EMULATION_PDL", "LGDISTILL_EMULATION_FASTEST_WAY", "LGDISTILL_EMULATION_REFUSED_WAY"})
    set(variable, nullptr);
}

}  // namespace lgd
