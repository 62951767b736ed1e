// Activations chosen at run time, in few instructions.
//
// Every activation is clamp(u), s(u) or u s(u), with s a logistic function or a ramp from 0 to 1; so one branch, the
// same for a whole launch, serves several values. A clamp's bounds are the last numbers that have a slope (so relu
// gives the smallest normal number where torch gives 0), which makes "the slope is 1" the same as "the value is u".
#pragma once
#include <cmath>
#include <limits>

#include "core/cuda_device.cuh"

namespace lgd {

struct ActForm {
  enum Kind : int { clamp, ramp, logistic, u_ramp, u_logistic } kind;
  float low, high;  // of a clamp: from the first number to the last where the slope is not 0
};
inline ActForm form_of(Act act) {
  constexpr float infinity = std::numeric_limits<float>::infinity(), above_0 = std::numeric_limits<float>::min();
  const float below_6 = std::nextafter(6.f, 0.f);
  switch (no_gelu(act)) {
    case Act::none: return {ActForm::clamp, -infinity, infinity};
    case Act::relu: return {ActForm::clamp, above_0, infinity};
    case Act::relu6: return {ActForm::clamp, above_0, below_6};
    case Act::silu: return {ActForm::u_logistic, 0, 0};
    case Act::hardswish: return {ActForm::u_ramp, 0, 0};
    case Act::sigmoid: return {ActForm::logistic, 0, 0};
    default: return {ActForm::ramp, 0, 0};  // hardsigmoid
  }
}

// Calls body(k, value, slope) -- act(u) and act'(u) -- for each u.
template <int count, class Body>
__device__ __forceinline__ void act_each(const ActForm& form, const float (&u)[count], Body&& body) {
  const auto each = [&](auto act_and_slope) {
#pragma unroll
    for (int k = 0; k < count; ++k) {
      float slope;
      const float value = act_and_slope(u[k], slope);
      body(k, value, slope);
    }
  };
  const auto ramp = [](float u) { return __saturatef(fmaf(u, 1.f / 6.f, 0.5f)); };  // of a NaN 0
  if (form.kind == ActForm::clamp) {
    each([&](float u, float& slope) {
      const float value = clamp_of(u, form.low, form.high);
      slope = value == u ? 1.f : 0.f;
      return value;
    });
  } else if (form.kind == ActForm::u_logistic) {
    each([](float u, float& slope) { return act_with_slope<Act::silu>(u, slope); });
  } else if (form.kind == ActForm::u_ramp) {
    each([&](float u, float& slope) {
      const float s = ramp(u);
      slope = fabsf(u) <= 3.f ? fmaf(u, 1.f / 3.f, 0.5f) : s;
      return u * s;
    });
  } else if (form.kind == ActForm::logistic) {
    each([](float u, float& slope) { return act_with_slope<Act::sigmoid>(u, slope); });
  } else {
    each([](float u, float& slope) {
      slope = fabsf(u) < 3.f ? 1.f / 6.f : 0.f;
      return act_of<Act::hardsigmoid>(u);
    });
  }
}

}  // namespace lgd
