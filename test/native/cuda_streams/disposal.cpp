// What a step uses may go while the step is held back: here a semantic head, whose records are to be copied to pinned
// memory of its own.
#include <future>

#include "checks.h"
#include "core/tensor.h"
#include "core/timeline.h"
#include "engine.h"

namespace lgd {

// The error of a step whose head was disposed of between its last call and the step's end, or "".
std::string error_of_disposal() {
  const auto device = std::make_shared<Device>(DeviceKind::cuda, 0, 1);
  SemanticOptions options;
  options.dimension = 8;
  options.categories = 4;
  const auto step = make_step(device);
  const auto student = make_tensor(device, {2, 8}), teacher = make_tensor(device, {2, 8}),
             gradient = make_tensor(device, {2, 8});
  const std::vector<float> rows(16, 0.5f), anchors(32, 0.3f);
  write_tensor(student, rows);
  write_tensor(teacher, rows);
  auto head = make_semantic_head(device, options);
  write_semantic_state(head, {anchors, anchors, {}, std::vector<uint8_t>(4, 1), 0, 0});
  for (int time = 0; time < 3; ++time) {
    std::promise<void> held, go;
    begin_step(step);
    bank_loss(head, student, teacher, gradient, 1, time);
    bank_update(head, {teacher}, time);
    device->submit("pause", [&held, gone = go.get_future().share()] {
      held.set_value();
      gone.wait();
    });
    end_step(step);
    held.get_future().wait();  // the calls before have returned, and let go of the head
    if (time == 2) head.reset();
    go.set_value();
    try {
      device->run("wait", [&] { device->synchronize(); });
    } catch (const Error& error) { return error.what(); }
  }
  return "";
}

}  // namespace lgd
