// Vector code of optimizer/adamw.h, once per instruction set.
namespace lgd::LGD_ISA {
namespace {

void adamw_range(const AdamwStep& step, float decay, int64_t count, const float* __restrict gradient,
                 float* __restrict first_moment, float* __restrict second_moment, float* __restrict value) {
  const float scale = step.clip ? step.gradient_scale * *step.clip : step.gradient_scale, first_rate = step.first_rate,
              second_rate = step.second_rate, size = step.step_size, root = step.root_scale, epsilon = step.epsilon;
  for (int64_t i = 0; i < count; ++i) {
    const float g = scale * gradient[i];
    const float m = first_moment[i] + first_rate * (g - first_moment[i]),
                v = second_moment[i] + second_rate * (g * g - second_moment[i]);
    first_moment[i] = m;
    second_moment[i] = v;
    value[i] -= decay * value[i] + size * m / (root * __builtin_sqrtf(v) + epsilon);
  }
}

}  // namespace
}  // namespace lgd::LGD_ISA
