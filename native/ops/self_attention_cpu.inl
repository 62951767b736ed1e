// Vector code of ops/self_attention.h, once per instruction set: one head of one image.
//
// Four queries at a time. Scores: the head's keys are turned around once, so that a vector holds one channel of several
// keys. Values lie right already: a vector holds several channels of one. Either product keeps 4 x 2 vectors of sums in
// registers. Backward: the same products for scores and d_out . v, four queries at a time; what these give their keys
// and values is added to where it goes.
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

// [tokens] rows of `width` values to turned [width][padded], zeros behind the last.
static void turn_around(int tokens, int width, const float* from, int64_t pitch, float* turned, int64_t padded) {
  for (int d = 0; d < width; ++d) {
    for (int64_t t = 0; t < tokens; ++t) turned[d * padded + t] = from[t * pitch + d];
    for (int64_t t = tokens; t < padded; ++t) turned[d * padded + t] = 0;
  }
}

// products[i][t] = scale * rows[i] . turned[:,t] for t < reach, and a few behind it; products [4][padded].
static void four_products(const float* const (&rows)[4], const float* turned, int64_t padded, int64_t reach, int width,
                          float scale, float* products) {
  for (int64_t t = 0; t < reach; t += 2 * lanes) {
    Vec sum[4][2];
    four_rows<2>(rows, turned + t, padded, width, lanes, sum);
    for (int i = 0; i < 4; ++i)
      for (int v = 0; v < 2; ++v) store(products + i * padded + t + v * lanes, sum[i][v] * scale);
  }
}

// qkv: the head's first query; out: its place. `keys` [width][padded] and `scores` [4][padded]: room.
void self_attention_head(const SelfAttentionShape& s, const float* qkv, float* out, float* keys, float* scores,
                         int64_t padded) {
  const int width = s.channels / s.heads;
  const int64_t pitch = 3 * int64_t(s.channels);
  const float *from = qkv + s.channels, *values = qkv + 2 * s.channels;
  turn_around(s.tokens, width, from, pitch, keys, padded);
  const float scale = 1.0f / __builtin_sqrtf(float(width));
  for (int first = 0; first < s.tokens; first += 4) {
    const int rows = s.tokens - first < 4 ? s.tokens - first : 4, reach = s.causal ? first + rows : s.tokens;
    const int64_t end = (int64_t(reach) + lanes - 1) / lanes * lanes;
    const float *query[4], *weight[4];
    for (int i = 0; i < 4; ++i) {
      query[i] = qkv + (first + (i < rows ? i : rows - 1)) * pitch;
      weight[i] = scores + i * padded;
    }
    four_products(query, keys, padded, reach, width, scale, scores);
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

// to[i] += sum over t < reach of slope[i][t] * keys[t], of 4 rows those that are there.
template <int V>
static inline void add_keys(const float* const (&slope)[4], const float* keys, int64_t pitch, int64_t reach, int width,
                            int rows, float* to) {
  Vec sum[4][V];
  four_rows<V>(slope, keys, pitch, reach, width, sum);
  for (int i = 0; i < rows; ++i)
    for (int v = 0; v < V; ++v) {
      const int n = v < V - 1 ? lanes : width;
      store_n(to + i * pitch + v * lanes, load_n(to + i * pitch + v * lanes, n) + sum[i][v], n);
    }
}

static inline float dot(const float* a, const float* b, int width) {
  Vec sums = {};
  LGD_FOR_VECTORS(c, n, width) sums += load_n(a + c, int(n)) * load_n(b + c, int(n));
  float sum = 0;
  for (int i = 0; i < lanes; ++i) sum += sums[i];
  return sum;
}

// to[c] += sum over i < 4 of factor[i] * rows[i][c].
static inline void add_four(const float (&factor)[4], const float* const (&rows)[4], int width, float* to) {
  int c = 0;
  for (; c + lanes <= width; c += lanes) {
    Vec sum = load(to + c);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) sum += load(rows[i] + c) * factor[i];
    store(to + c, sum);
  }
  if (c == width) return;
  Vec sum = load_n(to + c, width - c);
  for (int i = 0; i < 4; ++i) sum += load_n(rows[i] + c, width - c) * factor[i];
  store_n(to + c, sum, width - c);
}

// As self_attention_head; out, d_out and d_qkv: their places of this head. `turned` [2][width][padded], keys and values,
// and `products` [2][4][padded]: room.
void self_attention_head_backward(const SelfAttentionShape& s, const float* qkv, const float* out, const float* d_out,
                                  float* d_qkv, bool accumulate, float* turned, float* products, int64_t padded) {
  const int width = s.channels / s.heads;
  const int64_t pitch = 3 * int64_t(s.channels);
  float *keys = turned, *values = turned + width * padded, *weights = products, *slopes = products + 4 * padded;
  turn_around(s.tokens, width, qkv + s.channels, pitch, keys, padded);
  turn_around(s.tokens, width, qkv + 2 * s.channels, pitch, values, padded);
  if (!accumulate)
    for (int64_t t = 0; t < s.tokens; ++t)
      for (int part = 0; part < 3; ++part)
        for (int c = 0; c < width; ++c) d_qkv[t * pitch + part * s.channels + c] = 0;
  const float scale = 1.0f / __builtin_sqrtf(float(width));
  for (int first = 0; first < s.tokens; first += 4) {
    const int rows = s.tokens - first < 4 ? s.tokens - first : 4, reach = s.causal ? first + rows : s.tokens;
    const int64_t end = (int64_t(reach) + lanes - 1) / lanes * lanes;
    const float *query[4], *gradient[4];
    for (int i = 0; i < 4; ++i) {
      const int64_t row = first + (i < rows ? i : rows - 1);
      query[i] = qkv + row * pitch;
      gradient[i] = d_out + row * s.channels;
    }
    four_products(query, keys, padded, reach, width, scale, weights);
    four_products(gradient, values, padded, reach, width, 1, slopes);
    for (int i = 0; i < 4; ++i) {
      float *weight = weights + i * padded, *slope = slopes + i * padded;
      // a row that is not there gives nothing
      const float factor = (i < rows ? 1.0f : 0.0f) / soften(weight, s.causal && i < rows ? first + i + 1 : reach, end);
      const float mean = dot(gradient[i], out + (gradient[i] - d_out), width);
      for (int64_t t = 0; t < end; t += lanes) {
        const Vec share = load(weight + t) * factor;
        store(weight + t, share);
        store(slope + t, share * (load(slope + t) - mean) * scale);
      }
    }
    for (int64_t t = 0; t < reach; ++t) {
      float *to = d_qkv + t * pitch, share[4], slope[4];
      for (int i = 0; i < 4; ++i) {
        share[i] = weights[i * padded + t];
        slope[i] = slopes[i * padded + t];
      }
      add_four(slope, query, width, to + s.channels);
      add_four(share, gradient, width, to + 2 * s.channels);
    }
    float* to = d_qkv + int64_t(first) * pitch;
    const float* slope[4];
    for (int i = 0; i < 4; ++i) slope[i] = slopes + i * padded;
    int c = 0;
    for (; c + 2 * lanes <= width; c += 2 * lanes)
      add_keys<2>(slope, qkv + s.channels + c, pitch, reach, lanes, rows, to + c);
    for (; c < width; c += lanes)
      add_keys<1>(slope, qkv + s.channels + c, pitch, reach, width - c < lanes ? width - c : lanes, rows, to + c);
  }
}

}  // namespace
}  // namespace lgd::LGD_ISA
