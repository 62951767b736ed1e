// The semantic operations of one backend as a table, and what their orchestration shares.
#pragma once
#include "semantic/bank_loss.h"
#include "semantic/bank_update.h"
#include "semantic/classifier.h"
#include "semantic/detection_loss.h"
#include "semantic/feature_loss.h"
#include "semantic/top_similar.h"

// X(name): every operation, with functions name_cpu and name_cuda of one signature.
#define LGD_SEMANTIC_OPERATIONS(X) \
  X(bank_loss)                     \
  X(bank_update)                   \
  X(feature_loss)                  \
  X(normalise_rows)                \
  X(find_faults)                   \
  X(similarities)                  \
  X(select_top)                    \
  X(softmax_rows)                  \
  X(detection_loss)                \
  X(gather_rows)                   \
  X(weighted_sums)

namespace lgd {

struct SemanticKernels {
#define LGD_FIELD(name) decltype(&name##_cpu) name;
  LGD_SEMANTIC_OPERATIONS(LGD_FIELD)
#undef LGD_FIELD
};

const SemanticKernels& semantic_kernels(const Context& device);

// Scores are formed for as many rows at a time as fit this: `usual` bytes, or what LGDISTILL_SCORE_BYTES says (for
// tests: they come to their limits sooner).
int64_t score_budget(int64_t usual = int64_t(256) << 20);

// How many of `rows` rows are taken at a time, with so many floats of scores each.
int64_t rows_at_a_time(int64_t rows, int64_t floats_a_row);

// Floats from one row of scores to the next, so that rows start on 16 bytes.
inline int64_t score_stride(int64_t columns) { return (columns + 3) / 4 * 4; }

// Cuts one scratch allocation into aligned arrays: sizes first with a null base, then again with the memory.
class Carver {
 public:
  explicit Carver(void* base) : base_(static_cast<char*>(base)) {}
  template <class T>
  T* take(int64_t count) {
    char* at = base_ ? base_ + used_ : nullptr;
    used_ += (size_t(count) * sizeof(T) + 255) / 256 * 256;
    return reinterpret_cast<T*>(at);
  }
  size_t used() const { return used_; }

 private:
  char* base_;
  size_t used_ = 0;
};

// Scratch memory laid out by Memory's constructor, which takes it from a Carver.
template <class Memory, class... Arguments>
Memory carve(Context& device, const Arguments&... arguments) {
  Carver sizes(nullptr);
  Memory(sizes, arguments...);
  Carver carver(device.scratch(sizes.used()));
  return Memory(carver, arguments...);
}

}  // namespace lgd
