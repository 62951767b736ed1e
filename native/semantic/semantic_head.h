// What the opaque handle of engine.h holds for the semantic head, and the ring of its metrics.
#pragma once
#include <vector>

#include "core/tensor.h"
#include "engine.h"
#include "semantic/kernels.h"

namespace lgd {

// What one step leaves behind on the device.
struct StepRecord {
  LossRecord loss;
  UpdateRecord update;
};

// The records of the last metric_slots steps. On CUDA each has a pinned twin on the host and an event behind its copy, so that reading a
// slot waits for that slot's work and for nothing queued after it.
class RecordRing {
 public:
  explicit RecordRing(const DevicePtr& device);
  ~RecordRing();
  RecordRing(const RecordRing&) = delete;
  RecordRing& operator=(const RecordRing&) = delete;

  StepRecord* at(int slot) const { return records_.as<StepRecord>() + slot; }
  void publish(int slot);             // after the work that writes the slot was enqueued; device thread
  const StepRecord& read(int slot);   // waits; device thread

 private:
  DevicePtr device_;
  Buffer records_;
  StepRecord* host_ = nullptr;        // pinned; on the CPU the records themselves
  std::vector<void*> events_;         // null until the slot was written
};

struct SemanticHead {
  DevicePtr device;
  SemanticOptions options;
  Buffer anchors;                     // [K textual | K visual | Q queue, D]; the middle is empty when the visual bank takes no part in the loss
  Buffer idle_visual;                 // where the visual bank lives then
  Buffer seen;                        // [K]
  RecordRing records;
  int64_t queue_position = 0, queue_filled = 0;  // device thread only

  SemanticHead(const DevicePtr& device_, const SemanticOptions& options_);
  bool visual_in_loss() const { return options.categories > 0 && options.use_visual; }
  bool textual_in_loss() const { return options.categories > 0 && options.use_textual; }
  bool has_queue() const { return options.queue_size > 0; }
  float* textual() const { return anchors.as<float>(); }
  float* visual() const { return visual_in_loss() ? textual() + options.categories * options.dimension : idle_visual.as<float>(); }
  float* queue() const { return textual() + (options.categories + (visual_in_loss() ? options.categories : 0)) * options.dimension; }
};

// Throws ZERO_EMBEDDING or NON_FINITE when a row could not be used; `who` is "student" or "teacher".
void throw_faults(const char* who, const RowFaults& faults);
Products products_of(const Device& device, bool bfloat16);

}  // namespace lgd
