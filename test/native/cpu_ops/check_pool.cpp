// Pooling against plain loops in double.
#include "check.h"

using namespace lgd;

static PoolShape pool_shape(int n, int h, int w, int c, int kernel, int stride, int pad) {
  return {n, h, w, c, kernel, stride, pad, (h + 2 * pad - kernel) / stride + 1, (w + 2 * pad - kernel) / stride + 1};
}

static void check_max(Check& check, const PoolShape& s) {
  const std::string name = "max_pool " + std::to_string(s.h) + "x" + std::to_string(s.w) + " c" + std::to_string(s.c) +
                           " kernel " + std::to_string(s.kernel);
  Floats x = check.normal(int64_t(s.n) * s.h * s.w * s.c);
  for (size_t i = 0; i < x.size(); i += 3) x[i] = 0.5f;  // ties: the first one takes the gradient
  const Floats dy = check.normal(int64_t(s.n) * s.oh * s.ow * s.c), before = check.normal(x.size());
  Doubles expected(dy.size()), gradient(x.size());
  for (size_t o = 0; o < dy.size(); ++o) {
    const int c = int(o % s.c), ox = int(o / s.c % s.ow), oy = int(o / s.c / s.ow % s.oh);
    const int64_t n = int64_t(o) / s.c / s.ow / s.oh;
    int64_t best = -1;
    for (int r = 0; r < s.kernel; ++r)
      for (int q = 0; q < s.kernel; ++q) {
        const int iy = oy * s.stride - s.pad + r, ix = ox * s.stride - s.pad + q;
        if (iy < 0 || iy >= s.h || ix < 0 || ix >= s.w) continue;
        const int64_t at = ((n * s.h + iy) * s.w + ix) * s.c + c;
        if (best < 0 || x[at] > x[best]) best = at;
      }
    expected[o] = x[best];
    gradient[best] += dy[o];
  }
  Floats y = Check::poisoned(dy.size()), dx = Check::poisoned(x.size()), sum = before;
  max_pool_forward_cpu(check.device, s, F32, x.data(), y.data());
  check.equal(name, y, expected, 1e-7);
  max_pool_backward_cpu(check.device, s, F32, x.data(), dy.data(), dx.data(), false);
  check.equal(name + " backward", dx, gradient, 2e-7);
  max_pool_backward_cpu(check.device, s, F32, x.data(), dy.data(), sum.data(), true);
  for (size_t i = 0; i < x.size(); ++i) gradient[i] += before[i];
  check.equal(name + " backward added", sum, gradient, 2e-7);
}

static void check_avg(Check& check, const PoolShape& s) {
  const Floats x = check.normal(int64_t(s.n) * s.h * s.w * s.c), dy = check.normal(int64_t(s.n) * s.oh * s.ow * s.c),
               before = check.normal(x.size());
  Doubles expected(dy.size()), gradient(x.size());
  const double share = 1.0 / (s.kernel * s.kernel);
  for (size_t i = 0; i < x.size(); ++i) {
    const int64_t c = i % s.c, ix = i / s.c % s.w, iy = i / s.c / s.w % s.h, n = i / s.c / s.w / s.h;
    if (iy / s.kernel >= s.oh || ix / s.kernel >= s.ow) continue;
    const int64_t o = ((n * s.oh + iy / s.kernel) * s.ow + ix / s.kernel) * s.c + c;
    expected[o] += x[i] * share;
    gradient[i] = dy[o] * share;
  }
  Floats y = Check::poisoned(dy.size()), dx = Check::poisoned(x.size()), sum = before;
  avg_pool_forward_cpu(check.device, s, F32, x.data(), y.data());
  check.equal("avg_pool", y, expected, 5e-7);
  avg_pool_backward_cpu(check.device, s, F32, dy.data(), dx.data(), false);
  check.equal("avg_pool backward", dx, gradient, 2e-7);
  avg_pool_backward_cpu(check.device, s, F32, dy.data(), sum.data(), true);
  for (size_t i = 0; i < x.size(); ++i) gradient[i] += before[i];
  check.equal("avg_pool backward added", sum, gradient, 2e-7);
}

static void check_global(Check& check, int n, int64_t pixels, int c) {
  const Floats x = check.normal(n * pixels * c, 1), dy = check.normal(int64_t(n) * c), before = check.normal(x.size());
  Doubles expected(dy.size()), gradient(x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    const size_t o = i / (pixels * c) * c + i % c;
    expected[o] += x[i] / double(pixels);
    gradient[i] = dy[o] / double(pixels);
  }
  Floats y = Check::poisoned(dy.size()), dx = Check::poisoned(x.size()), sum = before;
  global_pool_forward_cpu(check.device, n, pixels, c, F32, x.data(), y.data());
  check.equal("global_pool", y, expected);
  global_pool_backward_cpu(check.device, n, pixels, c, F32, dy.data(), dx.data(), false);
  check.equal("global_pool backward", dx, gradient, 2e-7);
  global_pool_backward_cpu(check.device, n, pixels, c, F32, dy.data(), sum.data(), true);
  for (size_t i = 0; i < x.size(); ++i) gradient[i] += before[i];
  check.equal("global_pool backward added", sum, gradient, 2e-7);
}

static void check_resize(Check& check, const ResizeShape& s) {
  const std::string name = "resize " + std::to_string(s.h) + "x" + std::to_string(s.w) + " c" + std::to_string(s.c) +
                           " factor " + std::to_string(s.factor);
  const Floats x = check.normal(int64_t(s.n) * s.h * s.w * s.c),
               dy = check.normal(int64_t(x.size()) * s.factor * s.factor), before = check.normal(x.size());
  Doubles expected(dy.size()), gradient(x.size());
  const auto place = [&](int64_t output, int size, int64_t (&at)[2]) {
    const double u = std::max(0.0, (double(output) + 0.5) / s.factor - 0.5);
    at[0] = int64_t(u);
    at[1] = std::min<int64_t>(at[0] + 1, size - 1);
    return u - double(at[0]);
  };
  for (size_t o = 0; o < dy.size(); ++o) {
    const int64_t c = o % s.c, ox = o / s.c % s.ow(), oy = o / s.c / s.ow() % s.oh(), n = o / s.c / s.ow() / s.oh();
    int64_t rows[2], columns[2];
    const double down = place(oy, s.h, rows), across = place(ox, s.w, columns);
    for (int i = 0; i < 2; ++i)
      for (int j = 0; j < 2; ++j) {
        const double weight = (i ? down : 1 - down) * (j ? across : 1 - across);
        const int64_t at = ((n * s.h + rows[i]) * s.w + columns[j]) * s.c + c;
        expected[o] += weight * x[at];
        gradient[at] += weight * dy[o];
      }
  }
  Floats y = Check::poisoned(dy.size()), dx = Check::poisoned(x.size()), sum = before;
  resize_forward_cpu(check.device, s, F32, x.data(), y.data());
  check.equal(name, y, expected, 1e-6);
  resize_backward_cpu(check.device, s, F32, dy.data(), dx.data(), false);
  check.equal(name + " backward", dx, gradient, 1e-6);
  resize_backward_cpu(check.device, s, F32, dy.data(), sum.data(), true);
  for (size_t i = 0; i < x.size(); ++i) gradient[i] += before[i];
  check.equal(name + " backward added", sum, gradient, 1e-6);
}

void check_pool(Check& check) {
  for (const ResizeShape& s : {ResizeShape{2, 5, 7, 19, 2}, ResizeShape{1, 4, 3, 33, 3}, ResizeShape{3, 2, 2, 5, 8},
                               ResizeShape{1, 1, 1, 3, 16}, ResizeShape{2, 3, 1, 8, 5}, ResizeShape{1, 6, 6, 4, 1}})
    check_resize(check, s);
  check_max(check, pool_shape(2, 8, 8, 16, 3, 2, 1));
  check_max(check, pool_shape(3, 7, 9, 5, 3, 2, 1));
  check_max(check, pool_shape(1, 5, 6, 33, 2, 2, 0));
  check_max(check, pool_shape(1, 1, 1, 3, 3, 1, 1));
  check_avg(check, pool_shape(2, 8, 8, 16, 2, 2, 0));
  check_avg(check, pool_shape(1, 7, 9, 5, 2, 2, 0));
  check_avg(check, pool_shape(1, 7, 7, 5, 7, 7, 0));
  check_global(check, 3, 49, 17);
  check_global(check, 64, 4, 1280);
  check_global(check, 1, 1, 1);
}
