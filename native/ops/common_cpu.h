// What the CPU operations share outside of vector code: the storage check, fixed partitions, reusable memory.
#pragma once
#include <algorithm>
#include <vector>

#include "core/activation.h"
#include "core/context.h"
#include "core/error.h"
#include "core/thread_pool.h"

namespace lgd {

// The CPU stores float32 only; anything else is a wrong option of the caller.
inline void require_f32(DType type) {
  LGD_CHECK(type == DType::f32, "BAD_OPTION", "the CPU backend stores float32; bfloat16 was asked for");
}
inline const float* as_f32(DType type, const void* p) { return require_f32(type), static_cast<const float*>(p); }
inline float* as_f32(DType type, void* p) { return require_f32(type), static_cast<float*>(p); }

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// [0, count) cut into parts that depend on `count` and `per_part` alone, never on the number of threads: partial
// results that are combined in the order of the parts give the same bits on every machine of one instruction set.
struct Partition {
  int64_t count, parts;
  Partition(int64_t count_, int64_t per_part, int64_t most)
      : count(count_), parts(std::clamp<int64_t>(ceil_div(count_, std::max<int64_t>(per_part, 1)), 1, most)) {}
  int64_t begin(int64_t part) const { return count * part / parts; }
  int64_t end(int64_t part) const { return count * (part + 1) / parts; }
};

// Memory that a call site keeps between calls; contents are undefined. 64-byte aligned.
class Workspace {
 public:
  float* floats(int64_t count) {
    if (int64_t(memory_.size()) < count + 16) memory_.resize(count + 16);
    return reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(memory_.data()) + 63) & ~uintptr_t(63));
  }

 private:
  std::vector<float> memory_;
};

}  // namespace lgd
