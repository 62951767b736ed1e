#include "semantic/kernels.h"

#include <algorithm>
#include <cstdlib>

namespace lgd {

#ifdef LGD_WITH_CUDA
const SemanticKernels& cuda_semantic_kernels();  // kernels.cu
#else
void write_operands(Context&, int64_t, int64_t, OperandLayout, const float*, void*) {
  throw_error("DEVICE_UNAVAILABLE", {"this build has no CUDA kernels"});
}
#endif

const SemanticKernels& semantic_kernels(const Context& device) {
  static const SemanticKernels cpu = {
#define LGD_ENTRY(name) &name##_cpu,
      LGD_SEMANTIC_OPERATIONS(LGD_ENTRY)
#undef LGD_ENTRY
  };
#ifdef LGD_WITH_CUDA
  if (device.kind == DeviceKind::cuda) return cuda_semantic_kernels();
#endif
  LGD_CHECK(device.kind == DeviceKind::cpu, "DEVICE_UNAVAILABLE", "this build has no CUDA kernels");
  return cpu;
}

int64_t score_budget(int64_t usual) {
  const char* text = std::getenv("LGDISTILL_SCORE_BYTES");
  return text && *text ? std::max<int64_t>(1, std::atoll(text)) : usual;
}

int64_t rows_at_a_time(int64_t rows, int64_t floats_a_row) {
  return std::clamp<int64_t>(score_budget() / (std::max<int64_t>(floats_a_row, 1) * int64_t(sizeof(float))), 1, rows);
}

}  // namespace lgd
