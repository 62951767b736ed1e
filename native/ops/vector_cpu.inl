// Vector helpers of the CPU operations: tails, exponential, activations. Included by the .inl files, once per
// instruction set.
namespace lgd::LGD_ISA {
namespace {

#define LGD_INLINE static inline __attribute__((always_inline))

typedef int32_t VecI __attribute__((vector_size(LGD_LANES * 4)));

LGD_INLINE Vec vmax(Vec a, Vec b) { return a > b ? a : b; }  // a NaN in b stays
LGD_INLINE Vec vmin(Vec a, Vec b) { return a < b ? a : b; }

// The first n floats (0 <= n <= lanes), zeros behind them; memory behind them is not touched.
#if LGD_LANES == 16
LGD_INLINE Vec load_n(const float* p, int n) { return (Vec)_mm512_maskz_loadu_ps(__mmask16((1u << n) - 1), p); }
LGD_INLINE void store_n(float* p, Vec v, int n) { _mm512_mask_storeu_ps(p, __mmask16((1u << n) - 1), (__m512)v); }
#elif LGD_LANES == 8
LGD_INLINE __m256i first_n(int n) {
  const VecI index = {0, 1, 2, 3, 4, 5, 6, 7};
  return (__m256i)(index < n);
}
LGD_INLINE Vec load_n(const float* p, int n) { return (Vec)_mm256_maskload_ps(p, first_n(n)); }
LGD_INLINE void store_n(float* p, Vec v, int n) { _mm256_maskstore_ps(p, first_n(n), (__m256)v); }
#else
LGD_INLINE Vec load_n(const float* p, int n) {
  Vec v = {};
  for (int i = 0; i < LGD_LANES; ++i)
    if (i < n) v[i] = p[i];
  return v;
}
LGD_INLINE void store_n(float* p, Vec v, int n) {
  for (int i = 0; i < LGD_LANES; ++i)
    if (i < n) p[i] = v[i];
}
#endif

// body(i, width) over [0, count): whole vectors, then one of width < lanes.
#define LGD_FOR_VECTORS(i, width, count) \
  for (int64_t i = 0, width = 0; width = (count) - i < lanes ? (count) - i : lanes, i < (count); i += lanes)

// e^x: x = n ln2 + r, |r| <= ln2 / 2, a degree 6 polynomial for e^r (about 1 ulp in all), times 2^n.
// Clamped to the range of normal floats: 0 and infinity come out as about 1e-38 and 2e38. NaN stays NaN.
LGD_INLINE Vec vexp(Vec x) {
  const Vec clamped = vmin(splat(88.0f), vmax(splat(-87.3f), x));
  // 1.5 * 2^23 + 127: adding it rounds to an integer, held in the low bits as a float's exponent is
  const Vec magic = splat(12583039.0f);
  const Vec shifted = clamped * 1.44269504f + magic;
  const Vec n = shifted - magic;
  const Vec r = (clamped - n * 0.693359375f) + n * 2.1219444005471377e-4f;
  Vec q = splat(0.0013814540579915047f);  // (e^r - 1 - r) / r^2, least maximal relative error of e^r (3.6e-9)
  q = q * r + 0.00836874544620514f;
  q = q * r + 0.04166838899254799f;
  q = q * r + 0.1666652113199234f;
  q = q * r + 0.4999999403953552f;
  const Vec p = q * (r * r) + r + 1.0f;
  // a product, exact: added to the exponent of a NaN, its low bits could make a number of it
  return p * (Vec)((VecI)shifted << 23);
}

LGD_INLINE Vec vsigmoid(Vec x) { return 1.0f / (1.0f + vexp(-x)); }

// 1 - erf(x) for x >= 0, to 1.5e-7 (Abramowitz and Stegun 7.1.26).
LGD_INLINE Vec verfc(Vec x) {
  const Vec t = 1.0f / (1.0f + 0.3275911f * x);
  Vec p = splat(1.061405429f);
  p = p * t - 1.453152027f;
  p = p * t + 1.421413741f;
  p = p * t - 0.284496736f;
  p = p * t + 0.254829592f;
  return p * t * vexp(-(x * x));
}

// Phi(u), the normal distribution's: its tail on either side is half an erfc.
LGD_INLINE Vec vnormal(Vec u) {
  const Vec tail = 0.5f * verfc(vmax(u, -u) * 0.70710678f);
  return u > Vec{} ? 1.0f - tail : tail;
}

// What the tanh form of GELU takes for Phi(u): (1 + tanh y) / 2 = sigmoid(2 y).
LGD_INLINE Vec vnormal_tanh(Vec u) { return vsigmoid(1.5957691216f * (u + 0.044715f * (u * u * u))); }

template <Act act>
LGD_INLINE Vec act_value(Vec u) {
  if constexpr (act == Act::relu) return vmax(Vec{}, u);
  if constexpr (act == Act::relu6) return vmin(splat(6.0f), vmax(Vec{}, u));
  if constexpr (act == Act::silu) return u * vsigmoid(u);
  if constexpr (act == Act::hardswish) return u * vmin(splat(6.0f), vmax(Vec{}, u + 3.0f)) * (1.0f / 6.0f);
  if constexpr (act == Act::sigmoid) return vsigmoid(u);
  if constexpr (act == Act::hardsigmoid) return vmin(splat(6.0f), vmax(Vec{}, u + 3.0f)) * (1.0f / 6.0f);
  if constexpr (act == Act::gelu) return u * vnormal(u);
  if constexpr (act == Act::gelu_tanh) return u * vnormal_tanh(u);
  if constexpr (act == Act::quick_gelu) return u * vsigmoid(1.702f * u);
  return u;
}

// g * act'(u). At a kink: the side that PyTorch takes.
template <Act act>
LGD_INLINE Vec act_gradient(Vec u, Vec g) {
  if constexpr (act == Act::relu) return u > Vec{} ? g : Vec{};
  if constexpr (act == Act::relu6) return (u > Vec{}) & (u < splat(6.0f)) ? g : Vec{};
  if constexpr (act == Act::silu) {
    const Vec s = vsigmoid(u);
    return g * (s + u * s * (1.0f - s));
  }
  if constexpr (act == Act::hardswish) {
    const Vec slope = u * (1.0f / 3.0f) + 0.5f;
    return u < splat(-3.0f) ? Vec{} : (u <= splat(3.0f) ? g * slope : g);
  }
  if constexpr (act == Act::sigmoid) {
    const Vec s = vsigmoid(u);
    return g * s * (1.0f - s);
  }
  if constexpr (act == Act::hardsigmoid) return (u > splat(-3.0f)) & (u < splat(3.0f)) ? g * (1.0f / 6.0f) : Vec{};
  if constexpr (act == Act::gelu) return g * (vnormal(u) + u * (0.39894228f * vexp(-0.5f * (u * u))));
  if constexpr (act == Act::gelu_tanh) {
    const Vec s = vnormal_tanh(u);
    return g * (s + u * s * (1.0f - s) * (1.5957691216f + 0.21406934f * (u * u)));
  }
  if constexpr (act == Act::quick_gelu) {
    const Vec s = vsigmoid(1.702f * u);
    return g * (s + 1.702f * u * s * (1.0f - s));
  }
  return g;
}

template <Act act>
struct ActTag {
  static constexpr Act value = act;
};

// Calls body with the activation as a compile-time tag: those that stand behind a norm.
template <class Body>
LGD_INLINE void with_act(Act act, Body&& body) {
  switch (act) {
    case Act::none: return body(ActTag<Act::none>{});
    case Act::relu: return body(ActTag<Act::relu>{});
    case Act::relu6: return body(ActTag<Act::relu6>{});
    case Act::silu: return body(ActTag<Act::silu>{});
    case Act::hardswish: return body(ActTag<Act::hardswish>{});
    case Act::sigmoid: return body(ActTag<Act::sigmoid>{});
    case Act::hardsigmoid: return body(ActTag<Act::hardsigmoid>{});
    case Act::gelu:
    case Act::gelu_tanh:
    case Act::quick_gelu: return;  // core/activation.h: no step has them
  }
}

// Calls body with the activation as a compile-time tag: all of them.
template <class Body>
LGD_INLINE void with_any_act(Act act, Body&& body) {
  switch (act) {
    case Act::gelu: return body(ActTag<Act::gelu>{});
    case Act::gelu_tanh: return body(ActTag<Act::gelu_tanh>{});
    case Act::quick_gelu: return body(ActTag<Act::quick_gelu>{});
    default: return with_act(act, body);
  }
}

#undef LGD_INLINE
}  // namespace
}  // namespace lgd::LGD_ISA
