#include "semantic/kernels.h"

namespace lgd {

const SemanticKernels& cuda_semantic_kernels() {
  static const SemanticKernels table = {
#define LGD_ENTRY(name) &name##_cuda,
      LGD_SEMANTIC_OPERATIONS(LGD_ENTRY)
#undef LGD_ENTRY
  };
  return table;
}

}  // namespace lgd
