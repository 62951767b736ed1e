// Gradients of parameters, which kernels leave in parts, one a block. Nobody reads them before the optimiser, and a
// launch for each would move next to nothing: so they wait, and one launch adds up those of many layers. The parts of a
// gradient are added in their order.
#pragma once
#include <cstdint>
#include <initializer_list>
#include <vector>

#include "core/context.h"

namespace lgd {

// out[i] += sum over s of partial[s * count + i], i < count, s < splits. Count is a multiple of 4; out and partial are
// aligned to 16 bytes.
struct PartialSum {
  const float* partial;
  float* out;
  int64_t count;
  int splits;
};

// Of one device, and like all of it for its thread alone. Without defer() a sum is added up as soon as it is known.
class PartialSums : public Kept {
 public:
  PartialSums() = default;
  ~PartialSums() override;
  PartialSums(const PartialSums&) = delete;
  PartialSums& operator=(const PartialSums&) = delete;

  static constexpr int most_at_once = 2;
  // Memory for the parts of the next sums, most_at_once of them; add() them together before the next take().
  float* take(Context& ctx, int splits, int64_t count);
  void add(Context& ctx, std::initializer_list<PartialSum> sums);
  void defer();  // forgets what an error left behind
  void finish(Context& ctx);

 private:
  void flush(Context& ctx);

  float* memory_ = nullptr;
  size_t bytes_ = 0, used_ = 0;
  std::vector<PartialSum> waiting_;
  bool deferring_ = false;
};

PartialSums& partial_sums(Context& ctx);

// Around the backward pass of a network: gradients of parameters may be added up as late as finish_sums().
void defer_sums_cpu(Context& ctx);
void defer_sums_cuda(Context& ctx);
void finish_sums_cpu(Context& ctx);
void finish_sums_cuda(Context& ctx);

}  // namespace lgd
