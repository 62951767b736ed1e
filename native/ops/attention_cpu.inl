// Vector code of ops/attention.h, once per instruction set. Functions work on one image.
namespace lgd::LGD_ISA {
namespace {

void tokens_image(int pixels, int c, const float* __restrict x, const float* __restrict position,
                  float* __restrict tokens) {
  const float factor = 1.0f / float(pixels);
  for (int i = 0; i < c; ++i) tokens[i] = 0;
  for (int p = 0; p < pixels; ++p) {
    const float *in = x + int64_t(p) * c, *place = position + int64_t(1 + p) * c;
    float* out = tokens + int64_t(1 + p) * c;
    for (int i = 0; i < c; ++i) {
      tokens[i] += in[i];
      out[i] = in[i] + place[i];
    }
  }
  for (int i = 0; i < c; ++i) tokens[i] = tokens[i] * factor + position[i];
}

// `score` [tokens]: room for one head's weights.
void query_attention_image(const AttentionShape& s, const float* __restrict q, const float* __restrict k,
                           const float* __restrict v, float* __restrict out, float* __restrict score) {
  const int width = s.channels / s.heads;
  const float scale = 1.0f / __builtin_sqrtf(float(width));
  for (int h = 0; h < s.heads; ++h) {
    const int64_t at = int64_t(h) * width;
    float most = -__builtin_inff();
    for (int t = 0; t < s.tokens; ++t) {
      const float *a = q + at, *b = k + int64_t(t) * s.channels + at;
      Vec sum = {};
      int i = 0;
      for (; i + lanes <= width; i += lanes) sum += load(a + i) * load(b + i);
      float dot = 0;
      for (int lane = 0; lane < lanes; ++lane) dot += sum[lane];
      for (; i < width; ++i) dot += a[i] * b[i];
      score[t] = dot * scale;
      most = score[t] > most ? score[t] : most;
    }
    float total = 0;
    for (int t = 0; t < s.tokens; ++t) total += score[t] = __builtin_expf(score[t] - most);
    float* o = out + at;
    for (int i = 0; i < width; ++i) o[i] = 0;
    for (int t = 0; t < s.tokens; ++t) {
      const float weight = score[t] / total;
      const float* value = v + int64_t(t) * s.channels + at;
      for (int i = 0; i < width; ++i) o[i] += weight * value[i];
    }
  }
}

}  // namespace
}  // namespace lgd::LGD_ISA
