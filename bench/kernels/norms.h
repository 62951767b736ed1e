// The numbers around a batch norm, and the lazy values made with them (ops/fused.h), as the rows draw them.
#pragma once
#include "operands.h"

namespace lgd::bench {

inline NormTarget norm_target(Operands& t, int channels) {
  const size_t count = size_t(channels);
  NormTarget norm;
  norm.eps = 1e-3f;
  norm.momentum = 0.1f;
  norm.gamma = t.values32(count, 0.3f, 1);
  norm.beta = t.values32(count);
  norm.running_mean = t.values32(count);
  norm.running_var = t.values32(count, 0.1f, 1);
  for (float** out : {&norm.mean, &norm.rstd, &norm.scale, &norm.shift}) *out = t.out_means(count);
  return norm;
}

inline NormGradient norm_gradient(Operands& t, int channels) {
  const size_t count = size_t(channels);
  NormGradient norm;
  norm.gamma = t.values32(count, 0.3f, 1);
  norm.mean = t.values32(count, 0.1f);
  norm.rstd = t.values32(count, 0.1f, 1);
  norm.d_gamma = t.out_sums(count);
  norm.d_beta = t.out_sums(count);
  for (float** out : {&norm.a, &norm.b, &norm.c}) *out = t.out_means(count);
  return norm;
}

// An activation over a norm: [n][per_image] raw values.
inline LazyInput lazy_input(Operands& t, size_t per_image, int channels, Act act, bool gated = false) {
  LazyInput x;
  x.y = t.images(per_image);
  x.scale = t.values32(size_t(channels), 0.2f, 1);
  x.shift = t.values32(size_t(channels), 0.5f);
  x.act = act;
  if (gated) x.gate = t.images(size_t(channels), 0.1f, 0.6f);
  return x;
}

inline LazyGradient lazy_gradient(Operands& t, size_t per_image, int channels) {
  LazyGradient dy;
  dy.g = t.images(per_image);
  dy.y = t.images(per_image);
  dy.a = t.values32(size_t(channels), 0.3f, 1);
  dy.b = t.values32(size_t(channels), 0.1f);
  dy.c = t.values32(size_t(channels), 0.1f);
  return dy;
}

// Where the gradient of a convolution's input goes: finished through the norm under it, or as it is where there is a
// gate or no norm.
inline GradientTarget gradient_target(Operands& t, size_t per_image, int channels, const LazyInput& x) {
  GradientTarget target;
  target.g = t.out_images(per_image);
  if (x.scale == nullptr || x.gate != nullptr) return target;
  target.y = x.y;
  target.scale = x.scale;
  target.shift = x.shift;
  target.act = x.act;
  target.norm = norm_gradient(t, channels);
  return target;
}

}  // namespace lgd::bench
