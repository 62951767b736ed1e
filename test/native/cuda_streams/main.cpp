// Holds a GPU, or the emulated one, to the device's order of things (core/timeline.h): steps, branches, input, numbers
// sent back. On the emulated one also what it promises about streams and graphs (test/native/emulation/runtime.cpp):
// every mistake below must be refused, and the same thing done right must not. A GPU does not refuse them; it computes
// something else, sometimes.
// Usage: cuda_streams [measure]      measure also times, on a GPU, what the host does between steps
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "checks.h"
#include "core/cuda_streams.h"
#include "core/timeline.h"
#include "ops/kernels.h"
#include "ops/launch_trial.h"

namespace lgd {

namespace {

int checks = 0, failures = 0;

}  // namespace

void check(bool good, const std::string& what) {
  ++checks;
  if (good) return;
  ++failures;
  std::printf("%s\n", what.c_str());
}

namespace {

// Runs body; the error it must end with has `reason` in it (null: it must succeed).
void expect(const char* what, const char* reason, const std::function<void()>& body) {
  std::string found;
  try {
    body();
  } catch (const Error& e) { found = e.what(); }
  check(reason ? found.find(reason) != std::string::npos : found.empty(),
        std::string(what) + ": " + (found.empty() ? "nothing was refused" : found));
}

void zero(void* to, void* stream) { cuda::run({Work::Kind::zero, {}, to, nullptr, 64}, stream); }
void copy(void* to, const void* from, void* stream) { cuda::run({Work::Kind::copy, {}, to, from, 64}, stream); }

struct Places {
  void *main = cuda::create_stream(0), *side = cuda::create_stream(0), *forked = cuda::create_event(),
       *joined = cuda::create_event();
  float *a = static_cast<float*>(cuda::allocate(64)), *b = static_cast<float*>(cuda::allocate(64)),
        *pinned = static_cast<float*>(cuda::allocate_pinned(64));
  ~Places() {
    for (void* event : {forked, joined}) cuda::destroy_event(event);
    for (float* memory : {a, b}) cuda::release(memory);
    if (pinned) cuda::release_pinned(pinned);
    for (void* stream : {side, main}) cuda::destroy_stream(stream);
  }
  void fork() const {
    cuda::enqueue_event(forked, main);
    cuda::stream_wait(side, forked);
  }
  void join() const {
    cuda::enqueue_event(joined, side);
    cuda::stream_wait(main, joined);
  }
};

// A tape as a graph.
struct Graph {
  explicit Graph(const Tape& tape) : handle(cuda::build_graph(tape, {})) {}
  ~Graph() { cuda::destroy_graph(handle); }
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;
  void* const handle;
};

void check_streams() {
  expect("a branch that is read before it is joined", "race", [] {
    Places at;
    at.fork();
    zero(at.a, at.side);
    copy(at.b, at.a, at.main);
  });
  expect("a branch that starts too early", "race", [] {
    Places at;
    zero(at.a, at.main);
    copy(at.b, at.a, at.side);
  });
  expect("one stream's scratch in another", "race", [] {
    Places at;
    zero(at.a, at.main);
    at.fork();
    zero(at.a, at.side);
    zero(at.a, at.main);
  });
  expect("a branch that is joined", nullptr, [] {
    Places at;
    zero(at.a, at.main);
    at.fork();
    copy(at.b, at.a, at.side);
    copy(at.pinned, at.a, at.main);  // both read
    at.join();
    zero(at.a, at.main);
    cuda::synchronize(at.main);
    zero(at.a, at.side);  // the host waited
  });
  expect("pinned memory that is written again too early", "written again", [] {
    Places at;
    std::memset(at.pinned, 0, 64);
    copy(at.a, at.pinned, at.main);
    at.pinned[3] = 1;
    cuda::synchronize(at.main);
  });
}

void check_graphs() {
  const auto graph = [](const char* what, const char* reason, const std::function<void(Places&, Tape&)>& body) {
    expect(what, reason, [&] {
      Places at;
      Tape tape;
      body(at, tape);
      const Graph built(tape);
      cuda::launch_graph(built.handle, at.main);
      cuda::synchronize(at.main);
    });
  };
  graph("a graph's branch that is read too early", "race", [](Places& at, Tape& tape) {
    tape.fork();
    tape.zero(at.a, 64, true);
    tape.copy(at.b, at.a, 64, false);
    tape.join();
  });
  graph("a graph's branch that starts too early", "race", [](Places& at, Tape& tape) {
    tape.zero(at.a, 64, false);
    tape.copy(at.b, at.a, 64, true);
  });
  graph("a graph's branch", nullptr, [](Places& at, Tape& tape) {
    tape.zero(at.a, 64, false);
    tape.fork();
    tape.copy(at.b, at.a, 64, true);
    tape.copy(at.pinned, at.a, 64, false);
    tape.join();
    tape.zero(at.a, 64, false);
  });
  graph("a graph that copies from the host", "from the host",
        [](Places& at, Tape& tape) { tape.copy(at.a, at.pinned, 64, false); });
  graph("a graph that copies to pageable memory", "pageable", [](Places& at, Tape& tape) {
    static float local[16];
    tape.copy(local, at.a, 64, false);
  });
  graph("a graph after work of another stream", "race", [](Places& at, Tape& tape) {
    zero(at.a, at.side);
    tape.zero(at.a, 64, false);
  });
  expect("memory of a graph that was freed before the launch", "freed", [] {
    Places at;
    Tape tape;
    tape.zero(at.pinned, 64, false);
    const Graph built(tape);
    cuda::release_pinned(std::exchange(at.pinned, nullptr));
    cuda::launch_graph(built.handle, at.main);
  });
}

// A graph that is changed between its launches: each gives what it had when it was launched.
void check_changes() {
  Places at;
  float* const source = static_cast<float*>(cuda::allocate(64 * 8));
  for (int i = 0; i < 8; ++i) {
    for (int j = 0; j < 16; ++j) at.pinned[j] = float(i);
    copy(source + 16 * i, at.pinned, at.main);
    cuda::synchronize(at.main);
  }
  float* const results = static_cast<float*>(cuda::allocate_pinned(64 * 8));
  const auto write = [&](Tape& tape, int time) {
    tape.zero(at.b, 64, false);
    tape.fork();
    tape.copy(at.a, source + 16 * time, 64, true);
    tape.join();
    tape.copy(at.b, at.a, 64, false);
    tape.copy(results + 16 * time, at.b, 64, false);
  };
  Tape first;
  write(first, 0);
  const Graph built(first);
  cuda::launch_graph(built.handle, at.main);
  for (int time = 1; time < 8; ++time) {
    Tape next;
    write(next, time);
    check(next.has_shape_of(first), "steps of the same shape were told apart");
    int changed = 0;
    for (size_t i = 0; i < next.size(); ++i)
      if (!next.has_work_of(first, i)) changed += cuda::change_graph(built.handle, i, next[i]);
    check(changed == 2,
          "two copies of four pieces of work have other addresses, and " + std::to_string(changed) + " were changed");
    cuda::launch_graph(built.handle, at.main);
  }
  cuda::synchronize(at.main);
  for (int time = 0; time < 8; ++time)
    check(results[16 * time + 3] == float(time), "a launch had the arguments of another");
  Tape longer, elsewhere, apart;
  write(longer, 0);
  longer.zero(at.b, 64, false);
  check(!longer.has_shape_of(first), "another number of pieces passed for the same shape");
  elsewhere.zero(at.b, 64, false);
  elsewhere.copy(at.a, source, 64, true);  // no fork
  elsewhere.join();
  elsewhere.copy(at.b, at.a, 64, false);
  elsewhere.copy(results, at.b, 64, false);
  check(!elsewhere.has_shape_of(first), "other edges passed for the same shape");
  apart.zero(at.b, 32, false);
  apart.fork();
  apart.copy(at.a, source, 64, true);
  apart.join();
  apart.copy(at.b, at.a, 64, false);
  apart.copy(results, at.b, 64, false);
  check(!apart.has_shape_of(first), "another number of bytes passed for the same shape");
  cuda::release(source);
  cuda::release_pinned(results);
}

// The same of a kernel, as a device takes steps: every time another grid, count and other addresses. `refused`: where
// changes are, as the emulated GPU can, the graph is built anew.
void check_changed_kernels(bool refused) {
  constexpr int times = 8, most = 4096;
  auto device = std::make_shared<Device>(DeviceKind::cuda, 0, 1);
  const auto graph = std::make_shared<StepGraph>();
  std::vector<float> values(times * most);
  for (size_t i = 0; i < values.size(); ++i) values[i] = float(i / most + 1);
  const Buffer source(device, values.size() * 4), results(device, values.size() * 2);
  device->run("source", [&] {
    device->from_host(source.as<>(), values.data(), source.bytes());
    device->zero(results.as<>(), results.bytes());
  });
  const auto count_of = [](int time) { return most - 300 * time; };
  for (int time = 0; time < times; ++time) {
    setenv("LGDISTILL_EMULATION_REFUSE", refused && time % 3 == 2 ? "1" : "0", 1);
    device->run("step", [&] {
      device->begin_step(graph);
      device->kernels->cast(*device, count_of(time), DType::bf16, source.as<float>() + time * most,
                            results.as<uint16_t>() + time * most);
      device->end_step();
    });
  }
  std::vector<uint16_t> found(values.size());
  device->run("read", [&] { device->to_host(found.data(), results.as<>(), results.bytes()); });
  bool right = true;
  for (int time = 0; time < times; ++time) {
    for (int i = 0; i < most; ++i) {
      const uint32_t word = uint32_t(found[size_t(time * most + i)]) << 16;
      float value;
      std::memcpy(&value, &word, 4);
      right = right && value == (i < count_of(time) ? float(time + 1) : 0.f);
    }
  }
  check(right, "a launch of a kernel had the arguments or the grid of another");
  const StepCounts& counts = graph->counts;
  check(counts.launched == times - 1 && counts.instantiated == (refused ? 3 : 1) && counts.nodes == 1 &&
            counts.changed == 1,
        "a kernel's node was not changed: " + std::to_string(counts.instantiated) + " graphs were built");
}

// What a kernel reads of memory that nobody allocated, which its pointers do not tell: seen where its PTX is executed.
void check_accesses() {
  const char* const ptx = std::getenv("LGDISTILL_EMULATION_PTX");
  if (!ptx || !*ptx) return;
  expect("a kernel that reads past what was allocated", "no allocation's", [] {
    constexpr int count = 1024, there = 1000;  // on one page of the host, where nothing else notices
    const auto device = std::make_shared<Device>(DeviceKind::cuda, 0, 1);
    const Buffer source(device, there * 4), result(device, count * 2);
    device->run("cast", [&] {
      device->kernels->cast(*device, count, DType::bf16, source.as<float>(), result.as<uint16_t>());
      device->synchronize();
    });
  });
}

// Kernels of a graph that start before those before them end: the same bits, and arguments that change. What it returns
// is a time, which means nothing on an emulated GPU.
void check_programmatic_launches() {
  if (!has_wanted_programmatic_launches(0))
    return void(std::printf("SKIPPED programmatic launches: the GPU has none, or $LGDISTILL_PDL is 0\n"));
  for (const char* name : {"CUDA_FORCE_PTX_JIT", "CUDA_FORCE_JIT"}) {
    const Setting of_ptx(name, "1");  // of 8.0: there kernels neither wait nor have wgmma
    check(!cuda::has_programmatic_launches(0) && !cuda::has_warpgroups(0),
          std::string(name) + ": code that the driver makes of PTX passed for the card's own");
  }
  const auto device = std::make_shared<Device>(DeviceKind::cuda, 0, 1);
  double time = 0;
  std::string found;
  try {
    device->run("trial", [&] { time = programmatic_launch_time(*device); });
  } catch (const Error& error) { found = error.what(); }
  check(found.empty() && time > 0, "programmatic launches: " + found);
  std::printf("MEASURED a step of small kernels with programmatic launches: %.2f of its time with serialized ones\n",
              time);
}

// Whether the host waits where it changes and launches a graph that still runs from its last launch.
void measure_launches() {
  using Clock = std::chrono::steady_clock;
  const auto microseconds_since = [](Clock::time_point start) {
    return std::chrono::duration<double, std::micro>(Clock::now() - start).count();
  };
  constexpr int64_t count = 64 << 20;
  auto device = std::make_shared<Device>(DeviceKind::cuda, 0, 1);
  const auto graph = std::make_shared<StepGraph>();
  const Buffer source(device, count * 4), results(device, count * 2);
  const auto step = [&](int64_t last) {
    device->begin_step(graph);
    for (int i = 0; i < 40; ++i)
      device->kernels->cast(*device, i < 39 ? count : last, DType::bf16, source.as<float>(), results.as<>());
    device->end_step();
  };
  device->run("launches", [&] {
    device->zero(source.as<>(), source.bytes());
    for (int i = 0; i < 3; ++i) step(count);
    device->synchronize();
    const auto start = Clock::now();
    step(count);
    const double first = microseconds_since(start);
    const auto again = Clock::now();
    step(count / 2);
    const double second = microseconds_since(again);
    device->synchronize();
    std::printf(
        "MEASURED the host needs %.0f us to launch a step's graph, and %.0f us to change and launch it again while it "
        "runs; both are done after %.0f us\n",
        first, second, microseconds_since(start));
  });
}

// A step of everything that a device offers, many times, with values that tell one time from the next.
void check_device() {
  auto device = std::make_shared<Device>(DeviceKind::cuda, 0, 1);
  const auto graph = std::make_shared<StepGraph>();
  Buffer input(device, 4096), sum(device, 4096), beside(device, 4096);
  float* published = static_cast<float*>(cuda::allocate_pinned(4096 * 8));
  std::vector<void*> events;
  for (int i = 0; i < 8; ++i) events.push_back(cuda::create_event());
  const void *main_scratch = nullptr, *branch_scratch = nullptr;
  std::vector<Buffer> kept;
  const auto step = [&](int time) {
    device->begin_step(graph);
    Buffer brief(device, 64);  // memory may be allocated in the middle
    const std::vector<float> values(1024, float(time));
    device->from_host(input.as<>(), values.data(), 4096);
    device->begin_branch();
    branch_scratch = device->scratch(4096);
    device->copy(const_cast<void*>(branch_scratch), input.as<>(), 4096);
    device->copy(beside.as<>(), branch_scratch, 4096);
    device->end_branch();
    main_scratch = device->scratch(4096);
    device->zero(const_cast<void*>(main_scratch), 4096);
    device->copy(sum.as<>(), main_scratch, 4096);
    device->zero(brief.as<>(), 64);
    // freed while work with it is held back; waits for everything before, so not at every step
    if (time % 4 == 3) brief = Buffer();
    else kept.push_back(std::move(brief));
    device->join_branch();
    device->copy(sum.as<>(), beside.as<>(), 4096);
    device->copy(published + 1024 * (time % 8), sum.as<>(), 4096);
    device->record_event(events[size_t(time % 8)]);
    device->end_step();
  };
  for (int time = 0; time < 20; ++time) {
    device->run("step", [&] { step(time); });
    if (time % 4 != 3) continue;  // several steps are on their way
    for (int back = 3; back > 0; --back) {
      const int done = time - back;
      device->run("read", [&] { cuda::wait_event(events[size_t(done % 8)]); });
      check(published[1024 * (done % 8) + 7] == float(done), "a step's numbers were not there when its event was");
    }
  }
  check(main_scratch != branch_scratch, "both streams have the same scratch memory");
  check(graph->counts.eager == 1 && graph->counts.interrupted == 0 && graph->counts.launched == 19 &&
            graph->counts.instantiated == 1,
        "steps did not run as one graph");
  device->run("pending", [&] {
    device->begin_step(graph);
    device->copy(published, sum.as<>(), 4096);
    device->record_event(events[0]);
    cuda::wait_event(events[0]);  // of work that is held back: must start it
    device->end_step();
  });
  check(published[7] == 19.f, "a wait for an event in the same step did not start the work");
  for (void* event : events) cuda::destroy_event(event);
  cuda::release_pinned(published);
}

}  // namespace
}  // namespace lgd

int main(int argc, char** argv) {
  if (lgd::cuda::properties(0).name == "emulated GPU") {
    lgd::check_streams();
    lgd::check_graphs();
    lgd::check_changed_kernels(true);
    lgd::check_accesses();
  } else {
    std::printf("SKIPPED mistakes that only the emulated GPU refuses\n");
    if (argc > 1 && std::strcmp(argv[1], "measure") == 0) lgd::measure_launches();
  }
  lgd::check_changes();
  lgd::check_changed_kernels(false);
  lgd::check_programmatic_launches();
  lgd::check_device();
  lgd::check_tuning();
  lgd::check_refused_graphs();
  lgd::check_refusals_in_a_row();
  lgd::check_refused_early_starts();
  lgd::check_fixed_parts();
  lgd::check_failed_read();
  lgd::check_two_devices();
  const std::string error = lgd::error_of_disposal();
  lgd::check(error.empty(), "a head that went before its step: " + error);
  std::printf("%d checks, %d failures\n", lgd::checks, lgd::failures);
  return lgd::failures != 0;
}
