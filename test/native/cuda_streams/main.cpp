// Holds a GPU, or the emulated one, to the device's order of things (core/timeline.h): steps, branches, input, numbers sent back.
// On the emulated one also what it promises about streams and captures (test/native/emulation/runtime.cpp): every mistake below must be
// refused, and the same thing done right must not. A GPU does not refuse them; it computes something else, sometimes.
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "core/cuda_streams.h"
#include "core/timeline.h"

namespace lgd {

namespace {

int checks = 0, failures = 0;

void check(bool good, const std::string& what) {
  ++checks;
  if (good) return;
  ++failures;
  std::printf("%s\n", what.c_str());
}

// Runs body; the error it must end with has `reason` in it (null: it must succeed).
void expect(const char* what, const char* reason, const std::function<void()>& body) {
  std::string found;
  try {
    body();
  } catch (const Error& e) {
    found = e.what();
  }
  check(reason ? found.find(reason) != std::string::npos : found.empty(), std::string(what) + ": " + (found.empty() ? "nothing was refused" : found));
}

struct Places {
  void *main = cuda::create_stream(0), *side = cuda::create_stream(0), *forked = cuda::create_event(), *joined = cuda::create_event();
  float *a = static_cast<float*>(cuda::allocate(64)), *b = static_cast<float*>(cuda::allocate(64)), *pinned = static_cast<float*>(cuda::allocate_pinned(64));
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
  void run(void* graph) const {
    const std::unique_ptr<void, void (*)(void*)> executable(cuda::instantiate(graph), [](void* given) { cuda::destroy_executable(given); });
    cuda::destroy_graph(graph);
    cuda::launch(executable.get(), main);
  }
};

void check_streams() {
  expect("a branch that is read before it is joined", "race", [] {
    Places at;
    at.fork();
    cuda::zero_async(at.a, 64, at.side);
    cuda::copy_async(at.b, at.a, 64, at.main);
  });
  expect("a branch that starts too early", "race", [] {
    Places at;
    cuda::zero_async(at.a, 64, at.main);
    cuda::copy_async(at.b, at.a, 64, at.side);
  });
  expect("one stream's scratch in another", "race", [] {
    Places at;
    cuda::zero_async(at.a, 64, at.main);
    at.fork();
    cuda::zero_async(at.a, 64, at.side);
    cuda::zero_async(at.a, 64, at.main);
  });
  expect("a branch that is joined", nullptr, [] {
    Places at;
    cuda::zero_async(at.a, 64, at.main);
    at.fork();
    cuda::copy_async(at.b, at.a, 64, at.side);
    cuda::copy_async(at.pinned, at.a, 64, at.main);  // both read
    at.join();
    cuda::zero_async(at.a, 64, at.main);
    cuda::synchronize(at.main);
    cuda::zero_async(at.a, 64, at.side);  // the host waited
  });
  expect("pinned memory that is written again too early", "written again", [] {
    Places at;
    std::memset(at.pinned, 0, 64);
    cuda::copy_async(at.a, at.pinned, 64, at.main);
    at.pinned[3] = 1;
    cuda::synchronize(at.main);
  });
}

void check_captures() {
  const auto capture = [](const char* what, const char* reason, const std::function<void(Places&)>& body) {
    expect(what, reason, [&] {
      Places at;
      std::memset(at.pinned, 0, 64);
      cuda::begin_capture(at.main);
      try {
        body(at);
        at.run(cuda::end_capture(at.main));
        cuda::synchronize(at.main);
      } catch (...) {
        cuda::discard_capture(at.main);
        throw;
      }
    });
  };
  capture("a branch never joined", "never joined", [](Places& at) {
    at.fork();
    cuda::zero_async(at.a, 64, at.side);
  });
  capture("a captured branch read too early", "race", [](Places& at) {
    at.fork();
    cuda::zero_async(at.a, 64, at.side);
    cuda::copy_async(at.b, at.a, 64, at.main);
    at.join();
  });
  capture("a captured branch", nullptr, [](Places& at) {
    at.fork();
    cuda::zero_async(at.a, 64, at.side);
    cuda::copy_async(at.b, at.pinned, 64, at.main);
    at.join();
    cuda::copy_async(at.b, at.a, 64, at.main);
  });
  capture("a wait of the host", "inside its capture", [](Places& at) { cuda::synchronize(at.main); });
  capture("a wait of the host for captured work", "recorded in a capture", [](Places& at) {
    cuda::enqueue_event(at.joined, at.main);
    cuda::await_event(at.joined);
  });
  capture("a wait of captured work for other work", "outside the capture", [](Places& at) {
    cuda::enqueue_event(at.joined, at.side);
    cuda::stream_wait(at.main, at.joined);
  });
  capture("an allocation", "allocation inside", [](Places&) { cuda::allocate(1); });
  capture("a copy from pageable memory", "pinned", [](Places& at) {
    float local[16] = {};
    cuda::copy_async(at.a, local, 64, at.main);
  });
  capture("pinned memory written again", "written again", [](Places& at) {
    cuda::copy_async(at.a, at.pinned, 64, at.main);
    at.pinned[0] = 1;
  });
  capture("pinned memory freed", "freed", [](Places& at) {
    cuda::copy_async(at.a, at.pinned, 64, at.main);
    std::thread([&] { cuda::release_pinned(std::exchange(at.pinned, nullptr)); }).join();
  });
  expect("a graph of another shape is not taken over", nullptr, [] {
    Places at;
    const auto captured = [&](int copies) {
      cuda::begin_capture(at.main);
      for (int i = 0; i < copies; ++i) cuda::copy_async(at.a, at.b, 64, at.main);
      return cuda::end_capture(at.main);
    };
    void *one = captured(1), *same = captured(1), *two = captured(2), *executable = cuda::instantiate(one);
    check(cuda::update(executable, same), "an equal shape was refused");
    check(!cuda::update(executable, two), "another shape was taken over");
    for (void* graph : {one, same, two}) cuda::destroy_graph(graph);
    cuda::destroy_executable(executable);
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
    Buffer brief(device, 64);  // before the step: an allocation would cut it short
    device->begin_step(graph);
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
    if (time % 4 == 3) brief = Buffer();  // freed while work with it is held back; waits for everything before, so not at every step
    else kept.push_back(std::move(brief));
    device->join_branch();
    device->copy(sum.as<>(), beside.as<>(), 4096);
    cuda::copy_async(published + 1024 * (time % 8), sum.as<>(), 4096, device->stream);
    cuda::record_event(events[size_t(time % 8)], device->stream);
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
  check(graph->counts.eager == 1 && graph->counts.interrupted == 1 && graph->counts.launched == 18, "steps were not captured");
  device->run("pending", [&] {
    device->begin_step(graph);
    cuda::copy_async(published, sum.as<>(), 4096, device->stream);
    cuda::record_event(events[0], device->stream);
    cuda::wait_event(events[0]);  // of work that is held back: must start it
    device->end_step();
  });
  check(published[7] == 19.f, "a wait for an event in the same step did not start the work");
  for (void* event : events) cuda::destroy_event(event);
  cuda::release_pinned(published);
}

}  // namespace
}  // namespace lgd

int main() {
  if (lgd::cuda::properties(0).name == "emulated GPU") {
    lgd::check_streams();
    lgd::check_captures();
  } else {
    std::printf("SKIPPED mistakes that only the emulated GPU refuses\n");
  }
  lgd::check_device();
  std::printf("%d checks, %d failures\n", lgd::checks, lgd::failures);
  return lgd::failures != 0;
}
