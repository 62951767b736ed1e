// Vector code of semantic/bank_loss.h, once per instruction set. Sums that decide the loss are kept in double.
#include "ops/vector_cpu.inl"

namespace lgd::LGD_ISA {
namespace {

typedef double VecD __attribute__((vector_size(LGD_LANES * 8)));

static inline __attribute__((always_inline)) VecD widen(Vec v) { return __builtin_convertvector(v, VecD); }
static inline __attribute__((always_inline)) double sum_of(const VecD& v) {
  double sum = 0;
  for (int i = 0; i < lanes; ++i) sum += v[i];
  return sum;
}
static inline __attribute__((always_inline)) Vec load_some(const float* p, int64_t width) {
  return width == lanes ? load(p) : load_n(p, int(width));
}

double dot_product(int64_t n, const float* a, const float* b) {
  VecD sum = {};
  LGD_FOR_VECTORS(i, width, n) sum += widen(load_some(a + i, width)) * widen(load_some(b + i, width));
  return sum_of(sum);
}

// y = x * factor; in double, since 1 / |x| may be outside float's range.
void scale_row(int64_t n, const float* x, double factor, float* y) {
  LGD_FOR_VECTORS(i, width, n) {
    const Vec value = __builtin_convertvector(widen(load_some(x + i, width)) * factor, Vec);
    if (width == lanes) store(y + i, value);
    else store_n(y + i, value, int(width));
  }
}

float row_maximum(int64_t n, const float* x) {
  float maximum = -__builtin_inff();
  Vec most = splat(maximum);
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) most = vmax(load(x + i), most);
  for (int lane = 0; lane < lanes; ++lane) maximum = most[lane] > maximum ? most[lane] : maximum;
  for (; i < n; ++i) maximum = x[i] > maximum ? x[i] : maximum;
  return maximum;
}

int64_t row_nearest(int64_t n, const float* x) {
  const float maximum = row_maximum(n, x);
  for (int64_t i = 0; i < n; ++i)
    if (x[i] == maximum) return i;
  return 0;
}

// Replaces scores by exp((score - peak) / temperature), exactly 1 at a peak, and sums them up.
PartSums exponentials(int64_t n, float* s, float* t, float s_peak, float t_peak, float s_factor, float t_factor) {
  PartSums total = {};
  constexpr int64_t chunk = 64 * lanes;  // floats of this many terms a lane, then doubles
  for (int64_t begin = 0; begin < n; begin += chunk) {
    const int64_t length = n - begin < chunk ? n - begin : chunk;
    Vec rest_s = {}, rest_t = {}, cross = {}, self = {};
    VecI at_s = {}, at_t = {};
    LGD_FOR_VECTORS(i, width, length) {
      float *ps = s + begin + i, *pt = t + begin + i;
      const Vec ds = (load_some(ps, width) - s_peak) * s_factor, dt = (load_some(pt, width) - t_peak) * t_factor;
      const VecI s_is_peak = ds == Vec{}, t_is_peak = dt == Vec{};
      const Vec es = s_is_peak ? splat(1.0f) : vexp(ds), et = t_is_peak ? splat(1.0f) : vexp(dt);
      if (width == lanes) {
        rest_s += s_is_peak ? Vec{} : es;
        rest_t += t_is_peak ? Vec{} : et;
        at_s -= s_is_peak;
        at_t -= t_is_peak;
        cross += et * ds;
        self += et * dt;
        store(ps, es);
        store(pt, et);
      } else {
        for (int lane = 0; lane < width; ++lane) {
          total.student_below += s_is_peak[lane] ? 0 : es[lane];
          total.teacher_below += t_is_peak[lane] ? 0 : et[lane];
          total.student_peaks += s_is_peak[lane] ? 1 : 0;
          total.teacher_peaks += t_is_peak[lane] ? 1 : 0;
          total.cross += et[lane] * ds[lane];
          total.self += et[lane] * dt[lane];
        }
        store_n(ps, es, int(width));
        store_n(pt, et, int(width));
      }
    }
    total.student_below += sum_of(widen(rest_s));
    total.teacher_below += sum_of(widen(rest_t));
    total.cross += sum_of(widen(cross));
    total.self += sum_of(widen(self));
    for (int lane = 0; lane < lanes; ++lane) {
      total.student_peaks += at_s[lane];
      total.teacher_peaks += at_t[lane];
    }
  }
  return total;
}

// weights = student e * s_factor - teacher e * t_factor, except where both are at their peak: `both`.
void difference_row(int64_t n, float* s, const float* t, float s_factor, float t_factor, float both) {
  LGD_FOR_VECTORS(i, width, n) {
    const Vec es = load_some(s + i, width), et = load_some(t + i, width);
    const VecI peak = (es == splat(1.0f)) & (et == splat(1.0f));
    const Vec value = peak ? splat(both) : es * s_factor - et * t_factor;
    if (width == lanes) store(s + i, value);
    else store_n(s + i, value, int(width));
  }
}

// d = (g - (g.z) z) / norm with g = sums + own * u.
void gradient_row(int64_t n, const float* sums, float own, const float* z, const float* u, double norm, float* d) {
  VecD projection = {};
  LGD_FOR_VECTORS(i, width, n) {
    const Vec g = load_some(u + i, width) * own + load_some(sums + i, width);
    projection += widen(g) * widen(load_some(z + i, width));
    if (width == lanes) store(d + i, g);
    else store_n(d + i, g, int(width));
  }
  const double along = sum_of(projection), factor = 1 / norm;
  LGD_FOR_VECTORS(i, width, n) {
    const VecD g = widen(load_some(d + i, width)), unit = widen(load_some(z + i, width));
    const Vec value = __builtin_convertvector((g - unit * along) * factor, Vec);
    if (width == lanes) store(d + i, value);
    else store_n(d + i, value, int(width));
  }
}

}  // namespace
}  // namespace lgd::LGD_ISA
