#include "ops/kernels.h"

namespace lgd::cuda {

const Kernels* kernels() {
  static const Kernels table = {
#define LGD_ENTRY(name) &name##_cuda,
      LGD_OPERATIONS(LGD_ENTRY) LGD_FUSED_OPERATIONS(LGD_ENTRY)
#undef LGD_ENTRY
  };
  return &table;
}

}  // namespace lgd::cuda
