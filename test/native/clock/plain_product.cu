// For the PTX of the kernels; nothing links it.
#include "plain_product.cuh"

namespace lgd::clock {

#define LGD_FORM(...) \
  template __global__ void plain_product<__VA_ARGS__>(const bf16*, const bf16*, bf16*, int, int, int);
LGD_PLAIN_PRODUCTS(LGD_FORM)
#undef LGD_FORM

}  // namespace lgd::clock
