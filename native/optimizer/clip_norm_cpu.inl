// Vector code of optimizer/clip_norm.h, once per instruction set.
namespace lgd::LGD_ISA {
namespace {

// Sixteen running sums, whatever the vectors hold.
double sum_of_squares(int64_t count, const float* __restrict gradient) {
  constexpr int lanes = 16;
  double sums[lanes] = {};
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes)
    for (int lane = 0; lane < lanes; ++lane) sums[lane] += double(gradient[i + lane]) * gradient[i + lane];
  for (; i < count; ++i) sums[i % lanes] += double(gradient[i]) * gradient[i];
  double sum = 0;
  for (const double one : sums) sum += one;
  return sum;
}

}  // namespace
}  // namespace lgd::LGD_ISA
