// What the opaque handle of engine.h holds for the semantic head.
#pragma once
#include <vector>

#include "core/record_ring.h"
#include "core/tensor.h"
#include "engine.h"
#include "semantic/kernels.h"

namespace lgd {

// What one step leaves behind.
struct StepRecord {
  LossRecord loss;
  UpdateRecord update;
};

// What the losses since the last update left of their teachers' embeddings, so that the update need not form it again
// (CUDA). Rows of the batches lie one behind the other. Device thread only.
class TeacherMemory {
 public:
  struct Rows {
    float *unit, *norm;
    int32_t* assignment;
  };
  // Where a loss over `teacher` puts its rows. A teacher that is there already starts over: no update was made of what
  // came before.
  Rows begin(const DevicePtr& device, const TensorPtr& teacher);
  // All rows, if exactly these batches were seen in this order; else nothing.
  KnownTeachers known(const std::vector<TensorPtr>& batches) const;
  void clear() {
    batches_.clear();
    rows_ = 0;
  }

 private:
  Buffer unit_, norm_, assignment_;
  std::vector<std::weak_ptr<Tensor>> batches_;
  int64_t rows_ = 0, capacity_ = 0;
};

struct SemanticHead {
  DevicePtr device;
  SemanticOptions options;
  // [K textual | K visual | Q queue, D]; the middle is empty when the visual bank takes no part in the loss
  Buffer anchors;
  Buffer idle_visual;  // where the visual bank lives then
  Buffer seen;         // [K]
  OperandLayout layout;
  Buffer operands;  // the anchors as float16 rows, kept with them; empty for float32 products
  TeacherMemory teachers;
  RecordRing<StepRecord, metric_slots> records;
  int64_t queue_position = 0, queue_filled = 0;  // device thread only

  SemanticHead(const DevicePtr& device_, const SemanticOptions& options_);
  bool visual_in_loss() const { return options.categories > 0 && options.use_visual; }
  bool textual_in_loss() const { return options.categories > 0 && options.use_textual; }
  bool has_queue() const { return options.queue_size > 0; }
  float* textual() const { return anchors.as<float>(); }
  float* visual() const {
    return visual_in_loss() ? textual() + options.categories * options.dimension : idle_visual.as<float>();
  }
  float* queue() const { return textual() + queue_row() * options.dimension; }
  int64_t queue_row() const { return (visual_in_loss() ? 2 : 1) * options.categories; }  // among the anchors
  // Row `row` of the anchors as float16; null when they are not kept.
  void* operand(int64_t row) const { return operands ? operands.as<uint16_t>() + row * layout.stride() : nullptr; }
};

// Throws ZERO_EMBEDDING or NON_FINITE when a row could not be used; `who` is "student" or "teacher".
void throw_faults(const char* who, const RowFaults& faults);
Products products_of(const Context& device, bool bfloat16);

}  // namespace lgd
