// Vector code of ops/self_attention.h, once per instruction set: one head of one image.
//
// Four queries at a time. Scores: the head's keys are turned around once, so that a vector holds one channel of several
// keys. Values lie right already: a vector holds several channels of one. Either product keeps 4 x 2 vectors of sums in
// registers.
#include "ops/vector_cpu.inl"

namespace lgd::LGD_ISA {
namespace {

// sum[i][v] = sum over k < count of a[i][k] * b[k * pitch + v * lanes ...]; the last of the V vectors has `width`
// values.
template <int V>
static inline __attribute__((always_inline)) void four_rows(const float* const (&a)[4], const float* b, int64_t pitch,
                                                            int64_t count, int width, Vec (&sum)[4][V]) {
  for (int i = 0; i < 4; ++i)
    for (int v = 0; v < V; ++v) sum[i][v] = Vec{};
  for (int64_t k = 0; k < count; ++k, b += pitch) {
    Vec column[V];
    for (int v = 0; v < V; ++v)
      column[v] = v < V - 1 || width == lanes ? load(b + v * lanes) : load_n(b + v * lanes, width);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i)
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) sum[i][v] += column[v] * a[i][k];
  }
}

// Softmax of score[0, last), not yet divided by the sum, which is returned; zeros from there to `end`, a multiple of
// the lanes.
static float soften(float* score, int64_t last, int64_t end) {
  for (int64_t t = last; t < end; ++t) score[t] = -__builtin_inff();
  Vec most = load(score);
  for (int64_t t = lanes; t < end; t += lanes) most = vmax(most, load(score + t));
  float largest = most[0];
  for (int i = 1; i < lanes; ++i) largest = most[i] > largest ? most[i] : largest;
  Vec sums = {};
  for (int64_t t = 0; t < end; t += lanes) {
    const Vec weight = vexp(load(score + t) - largest);
    store(score + t, weight);
    sums += weight;
  }
  for (int64_t t = last; t < end; ++t) score[t] = 0;
  float sum = 0;
  for (int i = 0; i < lanes; ++i) sum += sums[i];
  return sum;
}

template <int V>
static inline void store_values(const float* const (&weight)[4], const float (&factor)[4], const float* values,
                                int64_t pitch, int64_t reach, int width, int rows, float* out, int64_t out_pitch) {
  Vec sum[4][V];
  four_rows<V>(weight, values, pitch, reach, width, sum);
  for (int i = 0; i < rows; ++i)
    for (int v = 0; v < V; ++v) {
      float* to = out + i * out_pitch + v * lanes;
      if (v < V - 1 || width == lanes) store(to, sum[i][v] * factor[i]);
      else store_n(to, sum[i][v] * factor[i], width);
    }
}

// qkv: the head's first query; out: its place. `keys` [width][padded] and `scores` [4][padded]: room.
void self_attention_head(const SelfAttentionShape& s, const float* qkv, float* out, float* keys, float* scores,
                         int64_t padded) {
  const int width = s.channels / s.heads;
  const int64_t pitch = 3 * int64_t(s.channels);
  const float *from = qkv + s.channels, *values = qkv + 2 * s.channels;
  for (int d = 0; d < width; ++d) {
    for (int64_t t = 0; t < s.tokens; ++t) keys[d * padded + t] = from[t * pitch + d];
    for (int64_t t = s.tokens; t < padded; ++t) keys[d * padded + t] = 0;
  }
  const float scale = 1.0f / __builtin_sqrtf(float(width));
  for (int first = 0; first < s.tokens; first += 4) {
    const int rows = s.tokens - first < 4 ? s.tokens - first : 4, reach = s.causal ? first + rows : s.tokens;
    const int64_t end = (int64_t(reach) + lanes - 1) / lanes * lanes;
    const float *query[4], *weight[4];
    for (int i = 0; i < 4; ++i) {
      query[i] = qkv + (first + (i < rows ? i : rows - 1)) * pitch;
      weight[i] = scores + i * padded;
    }
    for (int64_t t = 0; t < reach; t += 2 * lanes) {
      Vec sum[4][2];
      four_rows<2>(query, keys + t, padded, width, lanes, sum);
      for (int i = 0; i < 4; ++i)
        for (int v = 0; v < 2; ++v) store(scores + i * padded + t + v * lanes, sum[i][v] * scale);
    }
    float factor[4];
    for (int i = 0; i < 4; ++i)
      factor[i] = 1.0f / soften(scores + i * padded, s.causal && i < rows ? first + i + 1 : reach, end);
    float* to = out + int64_t(first) * s.channels;
    int c = 0;
    for (; c + 2 * lanes <= width; c += 2 * lanes)
      store_values<2>(weight, factor, values + c, pitch, reach, lanes, rows, to + c, s.channels);
    for (; c < width; c += lanes)
      store_values<1>(weight, factor, values + c, pitch, reach, width - c < lanes ? width - c : lanes, rows, to + c,
                      s.channels);
  }
}

}  // namespace
}  // namespace lgd::LGD_ISA
