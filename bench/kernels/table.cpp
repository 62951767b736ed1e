#include "table.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <random>

#include "core/timeline.h"
#include "engine.h"

namespace lgd::bench {

namespace {

using Clock = std::chrono::steady_clock;
double microseconds_since(Clock::time_point start) {
  return std::chrono::duration<double, std::micro>(Clock::now() - start).count();
}

Timing percentiles(std::vector<double> samples) {
  std::sort(samples.begin(), samples.end());
  const auto at = [&](double share) { return samples[size_t(std::lround(share * double(samples.size() - 1)))]; };
  return {at(0.2), at(0.5), at(0.8)};
}

constexpr size_t l2_bytes = 50 << 20;  // an H100's

bool is_h100() { return cuda::properties(0).name.find("H100") != std::string::npos; }

}  // namespace

Table::Table(const Options& options_, const testing::Progress& progress_)
    : options(options_),
      progress(progress_),
      cpu(std::make_shared<Device>(DeviceKind::cpu, 0, options_.small ? 2 : 16)),
      gpu(std::make_shared<Device>(DeviceKind::cuda, 0, options_.small ? 2 : 16)),
      judged_(!options_.small && is_h100()) {
  gpu->run("copy", [&] { bandwidth_ = measure_copy(); });
  std::printf(
      "%s: copies move %.2f TB/s (bytes read and written); shares count the larger of bytes at that rate and "
      "operations at %.0f TFLOP/s (tensor cores) or %.0f (others)\n",
      cuda::properties(0).name.c_str(), bandwidth_ / 1e12, options.tensor / 1e12, options.cores / 1e12);
  std::printf("dense products by %s, %s launches\n", gpu->warpgroups ? "wgmma" : "mma.sync",
              gpu->programmatic_launches ? "programmatic" : "serialized");
  if (!options.small && !judged_) std::printf("targets are an H100's: none is judged on this card\n");
  std::printf("%-58s %9s %7s %7s %6s %-7s %8s\n", "kernel, batch 256 and bfloat16 unless said", "us", "TB/s", "TF",
              "share", "bound", "error");
}

// Copies outside of a graph, and of no round size: as nodes of a graph, copies of 512 MiB, 1 and 2 GiB were seen to run
// at half their rate (pytorch #191284, a GB200). Random bytes, since zeros may cost a card less power, and so less of
// its clock. What the host's start and wait cost is a few thousandths of a sample.
double Table::measure_copy() {
  const size_t bytes = options.small ? 1 << 20 : size_t(508) << 20;
  const int copies = options.small ? 1 : 16;
  std::vector<uint64_t> drawn(bytes / sizeof(uint64_t));
  std::mt19937_64 random(1);
  for (uint64_t& word : drawn) word = random();
  const Buffer from(gpu, bytes), to(gpu, bytes);
  gpu->from_host(from.as<>(), drawn.data(), bytes);
  const auto sample = [&] {
    gpu->synchronize();
    const auto start = Clock::now();
    for (int i = 0; i < copies; ++i) gpu->copy(to.as<>(), from.as<>(), bytes);
    gpu->synchronize();
    return microseconds_since(start) / copies;
  };
  sample();
  std::vector<double> samples;
  for (int i = 0; i < (options.small ? 1 : 15); ++i) samples.push_back(sample());
  return 2 * double(bytes) / (percentiles(samples).p50 * 1e-6);
}

void Table::attempt(const std::string& name, const Work& work, const std::function<void()>& body) {
  if (!progress.is_next()) return;
  progress.watch(name);
  try {
    body();
  } catch (const std::exception& e) {
    std::printf("%s\n", e.what());
    add(name, work, INFINITY, 0, {});
    progress.go_on(name, gpu);
  }
}

void Table::operation(const std::string& name, const Work& work, const Body& body) {
  if (!wants(name)) return;
  attempt(name, work, [&] {
    const int drawn = options.small ? 2 : 4, repeats = batch() / drawn;
    double error = INFINITY;
    Timing timing{};
    std::vector<std::unique_ptr<Operands>> sets;
    std::vector<Call> calls;
    const auto add_set = [&] {
      sets.push_back(std::make_unique<Operands>(gpu, DType::bf16, drawn, repeats));
      calls.push_back(body(*sets.back()));
    };
    gpu->run(name, [&] {
      add_set();
      calls[0]();
      gpu->synchronize();
    });
    cpu->run(name, [&] {
      Operands few(cpu, DType::f32, drawn, 1);
      body(few)();
      gpu->run(name, [&] { error = sets[0]->error_against(few); });
    });
    gpu->run(name, [&] {
      const size_t wanted =
          options.small ? 1 : std::clamp<size_t>(3 * l2_bytes / std::max<size_t>(sets[0]->bytes(), 1) + 1, 1, 32);
      while (sets.size() < wanted) add_set();
      for (const Call& call : calls) call();  // scratch memory grows, modules are loaded
      gpu->synchronize();
      timing = time_graph(calls);
      calls.clear();
      sets.clear();
    });
    add(name, work, error, 1e-2, timing);
  });
}

// A sample is a graph that takes milliseconds, started and waited for by the host: what that costs, some 10 us, is
// measured with a graph of one call less and so drops out.
Timing Table::time_graph(const std::vector<Call>& calls, size_t most) {
  const auto record = [&](size_t count) {
    const auto graph = std::make_shared<StepGraph>();
    graph->warm = true;  // the calls ran before
    gpu->begin_step(graph);
    for (size_t i = 0; i < count; ++i) calls[i % calls.size()]();
    gpu->end_step();
    return graph;
  };
  const auto run = [&](StepGraph& graph) {
    gpu->synchronize();
    const auto start = Clock::now();
    gpu->repeat_step(graph);
    gpu->synchronize();
    return microseconds_since(start);
  };
  const auto once = record(calls.size());
  const double first_time = run(*once) / double(calls.size());
  if (options.small) return {first_time, first_time, first_time};  // of an emulated GPU no time means anything
  const double one = std::max(run(*once) / double(calls.size()), 0.1);
  const size_t count = std::clamp<size_t>(size_t(4000 / one), calls.size() + 1, std::max(most, calls.size() + 1));
  const auto many = record(count), first = record(1);
  std::vector<double> samples, starts;
  for (int i = 0; i < 3; ++i) run(*many);
  for (int i = 0; i < 5; ++i) starts.push_back(run(*first));
  const double start = percentiles(starts).p50;
  for (int i = 0; i < 15; ++i) samples.push_back(std::max(run(*many) - start, 0.0) / double(count - 1));
  return percentiles(samples);
}

Timing Table::time_steps(const std::function<void()>& call) {
  const DeviceStepPtr step = make_step(gpu);
  const int calls = options.small ? 1 : 20;
  const auto steps = [&](int count) {
    const auto start = Clock::now();
    for (int i = 0; i < count; ++i) {
      begin_step(step);
      for (int j = 0; j < calls; ++j) call();
      end_step(step);
    }
    gpu->run("wait", [&] { gpu->synchronize(); });
    return microseconds_since(start) / (count * calls);
  };
  for (int i = 0; i < 3; ++i) steps(1);  // the first runs call by call, and input buffers grow
  const int count = options.small ? 1 : std::clamp(int(20'000 / (steps(2) * calls)), 2, 200);
  std::vector<double> samples;
  for (int i = 0; i < (options.small ? 1 : 15); ++i) samples.push_back(steps(count));
  return percentiles(samples);
}

// Of rows of the other kind of dense products (scripts/gpu-check).
static const char* suffix() {
  const char* const text = std::getenv("GPU_CHECK_SUFFIX");
  return text ? text : "";
}

void Table::add(const std::string& what, const Work& work, double error, double tolerance, const Timing& timing,
                double full_target_us) {
  const std::string name = what + suffix();
  const double target_us = judged_ ? full_target_us : 0;
  const double memory = work.bytes / bandwidth_,
               compute = work.operations / (work.unit == Unit::tensor ? options.tensor : options.cores);
  const char* bound = memory >= compute ? "memory" : work.unit == Unit::tensor ? "tensor" : "cores";
  const double seconds = std::max(timing.p50, 1e-3) * 1e-6, share = std::max(memory, compute) / seconds;
  const bool good = error <= tolerance;
  ++progress.checks;
  if (!good) ++progress.failures;
  std::printf("%s%-57s %9.2f %7.2f %7.1f %5.0f%% %-7s %8.1e%s\n", good ? " " : "!", name.c_str(), timing.p50,
              work.bytes / seconds / 1e12, work.operations / seconds / 1e12, 100 * share, bound, error,
              !good           ? " FAIL"
              : target_us > 0 ? (timing.p50 <= target_us ? " target met" : " target missed")
                              : "");
  std::fflush(stdout);
  if (options.rows.empty()) return;
  std::FILE* file = std::fopen(options.rows.c_str(), "a");
  LGD_CHECK(file, "NOT_WRITABLE", "cannot write ", options.rows);
  std::fprintf(file,
               "{\"part\":\"kernels\",\"name\":\"%s\",\"good\":%s,\"unit\":\"us\",\"p20\":%.3f,\"p50\":%.3f,\"p80\":%."
               "3f,\"bytes\":%.0f,\"operations\":%.0f,\"model\":\"%s\","
               "\"bound\":\"%s\",\"share\":%.4f,\"error\":%.3e,\"tolerance\":%.1e,\"target\":%.1f,\"copyBandwidth\":%."
               "4g,\"peakOperations\":%.4g}\n",
               name.c_str(), good ? "true" : "false", timing.p20, timing.p50, timing.p80, work.bytes, work.operations,
               work.model, bound, share, std::isfinite(error) ? error : 1e30, tolerance, target_us, bandwidth_,
               work.unit == Unit::tensor ? options.tensor : options.cores);
  std::fclose(file);
}

}  // namespace lgd::bench
