// What CUDA leaves to its caller: which device is current where something is made, and what of a graph may not be
// changed.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "checks.h"
#include "core/cuda_streams.h"
#include "core/tensor.h"
#include "core/timeline.h"
#include "engine.h"
#include "ops/kernels.h"

namespace lgd {

namespace {

// A device with what a step needs, of which everything is made by the thread that also makes another device's.
struct Part {
  explicit Part(int index) : device(std::make_shared<Device>(DeviceKind::cuda, index, 1)) {}

  void prepare(int dimension, int categories) {
    SemanticOptions options;
    options.dimension = dimension;
    options.categories = categories;
    head = make_semantic_head(device, options);
    step = make_step(device);
    student = make_tensor(device, {2, dimension}), teacher = make_tensor(device, {2, dimension}),
    gradient = make_tensor(device, {2, dimension});
    std::vector<float> rows(size_t(2 * dimension)), anchors(size_t(categories * dimension), 0.3f);
    for (size_t i = 0; i < rows.size(); ++i) rows[i] = float(i % 7) - 2.5f;
    write_tensor(student, rows);
    write_tensor(teacher, rows);
    write_semantic_state(head, {anchors, anchors, {}, std::vector<uint8_t>(size_t(categories), 1), 0, 0});
  }
  void take(int time) {
    begin_step(step);
    bank_loss(head, student, teacher, gradient, 1, time);
    bank_update(head, {teacher}, time);
    end_step(step);
  }
  double loss(int time) {
    double found = 0;
    device->run("loss", [&] { found = read_metrics(head, time).loss; });
    return found;
  }

  DevicePtr device;
  DeviceStepPtr step;
  TensorPtr student, teacher, gradient;
  SemanticHeadPtr head;
};

}  // namespace

// Two devices that one thread opens, uses in turns and lets go.
void check_two_devices() {
  const bool emulated = cuda::properties(0).name == "emulated GPU";
  if (emulated) setenv("LGDISTILL_EMULATION_DEVICES", "2", 1);
  std::string why, found;
  if (cuda::device_count(why) < 2) return void(std::printf("SKIPPED two devices: there is one\n"));
  try {
    Part first(0), second(1);
    const auto in_turns = [&](auto&& body) {
      for (Part* part : {&first, &second}) body(*part);
    };
    // loss and update ask for more shared memory than comes unasked: of each device
    in_turns([](Part& part) { part.prepare(256, 300); });
    for (int time = 0; time < 4; ++time) in_turns([&](Part& part) { part.take(time); });
    const bool alike = cuda::properties(0).name == cuda::properties(1).name;
    for (int time = 0; time < 4; ++time)
      check(!alike || first.loss(time) == second.loss(time), "two devices came to different losses");
    {
      const Buffer used(first.device, 64);
      first.device->run("fill", [&] { first.device->zero(used.as<>(), used.bytes()); });  // which nobody waits for
      cuda::set_device(1);
    }
    first = Part(0);  // what was there goes while the other device is current
    second.take(4);
    check(second.loss(4) != 0, "a device lost its numbers with another");
  } catch (const Error& error) { found = error.what(); }
  check(found.empty(), "two devices in one thread: " + found);
  if (emulated) unsetenv("LGDISTILL_EMULATION_DEVICES");
}

// A graph's copy keeps the kinds of memory at its ends, and a fill its size and elements ("mappings changed", "changing
// other aspects of the memset"): a step that needs others has its graph built anew, and the same numbers as ever.
void check_fixed_parts() {
  const auto device = std::make_shared<Device>(DeviceKind::cuda, 0, 1);
  const auto graph = std::make_shared<StepGraph>();
  constexpr size_t bytes = 64;
  Buffer source(device, bytes), near(device, bytes), all(device, 4 * bytes);
  char* const pinned = static_cast<char*>(cuda::allocate_pinned(bytes));
  std::vector<char> values(bytes), found(4 * bytes);
  bool right = true;
  for (int time = 0; time < 6; ++time) {
    for (size_t i = 0; i < bytes; ++i) values[i] = char(time * 16 + int(i));
    const size_t begin = time < 4 ? 0 : 3;  // a fill that is aligned, and one that is not
    device->run("step", [&] {
      device->begin_step(graph);
      device->from_host(source.as<>(), values.data(), bytes);
      device->copy(time % 2 ? static_cast<void*>(pinned) : near.as<>(), source.as<>(), bytes);
      device->from_host(all.as<>(), std::vector<char>(4 * bytes, 1).data(), 4 * bytes);
      device->zero(all.as<char>() + begin, 2 * bytes);
      device->end_step();
      device->synchronize();
      if (time % 2) std::copy(pinned, pinned + bytes, found.begin());
      else device->to_host(found.data(), near.as<>(), bytes);
      right = right && std::equal(values.begin(), values.end(), found.begin());
      device->to_host(found.data(), all.as<>(), found.size());
    });
    for (size_t i = 0; i < found.size(); ++i)
      right = right && found[i] == (i >= begin && i < begin + 2 * bytes ? 0 : 1);
  }
  check(right, "a step whose copy goes elsewhere has other numbers");
  check(graph->counts.launched == 5 && graph->counts.instantiated <= 6, "a step whose copy goes elsewhere is no graph");
  if (cuda::properties(0).name == "emulated GPU")
    check(graph->counts.instantiated == 5, "the emulated GPU changed what CUDA may refuse to: " +
                                               std::to_string(graph->counts.instantiated) + " graphs were built");
  cuda::release_pinned(pinned);
}

// Whoever reads may let the memory go where the wait fails: the copy, which may still run, must not know of it.
void check_failed_read() {
  if (cuda::properties(0).name != "emulated GPU") return;
  const auto device = std::make_shared<Device>(DeviceKind::cuda, 0, 1);
  const TensorPtr tensor = make_tensor(device, {4, 256});
  write_tensor(tensor, std::vector<float>(1024, 3.f));
  device->run("wait", [&] { device->synchronize(); });
  std::vector<float> values(1024, -1.f), again(1024);
  std::string error;
  try {
    const Setting failing("LGDISTILL_EMULATION_FAULT", "cudaStreamSynchronize:1:cudaErrorMemoryAllocation");
    device->run("read", [&] { device->to_host(values.data(), tensor->buffer.as<>(), 4096); });
  } catch (const Error& failure) { error = failure.what(); }
  check(error.find("cudaErrorMemoryAllocation") != std::string::npos, "a failing read told: " + error);
  device->run("wait", [&] { device->synchronize(); });
  check(values == std::vector<float>(1024, -1.f), "a copy whose wait failed wrote to its reader's memory later");
  device->run("read", [&] { device->to_host(again.data(), tensor->buffer.as<>(), 4096); });
  check(again == std::vector<float>(1024, 3.f), "after a failing read another has wrong numbers");
}

}  // namespace lgd
