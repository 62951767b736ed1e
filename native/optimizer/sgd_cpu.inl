// Vector code of optimizer/sgd.h, once per instruction set.
namespace lgd::LGD_ISA {
namespace {

void sgd_range(const SgdStep& step, int64_t count, const float* __restrict gradient, float* __restrict velocity,
               float* __restrict value) {
  const float rate = step.learning_rate, momentum = step.momentum, decay = step.weight_decay,
              scale = step.clip ? step.gradient_scale * *step.clip : step.gradient_scale;
  for (int64_t i = 0; i < count; ++i) {
    const float v = momentum * velocity[i] + (scale * gradient[i] + decay * value[i]);
    velocity[i] = v;
    value[i] -= rate * v;
  }
}

}  // namespace
}  // namespace lgd::LGD_ISA
