// Layer norm, self-attention and sequences: CUDA against CPU.
#include "run.h"

namespace lgd::testing {
namespace {

void self_attention(const SelfAttentionShape& s) {
  char name[96];
  std::snprintf(name, sizeof name, "self_attention %dx%dx%d heads %d%s", s.n, s.tokens, s.channels, s.heads,
                s.causal ? " causal" : "");
  check(name, [=](Run& t) {
    const size_t out = size_t(s.n) * s.tokens * s.channels;
    void* qkv = t.input(3 * out, 1.5f);
    t.ops.self_attention_forward(*t.device, s, t.type, qkv, t.output(out));
  });
  if (s.channels / s.heads > widest_trained_head) return;
  for (const bool accumulate : {false, true}) {
    std::snprintf(name, sizeof name, "self_attention_backward %dx%dx%d heads %d%s%s", s.n, s.tokens, s.channels,
                  s.heads, s.causal ? " causal" : "", accumulate ? " added" : "");
    check(name, [=](Run& t) {
      const size_t count = size_t(s.n) * s.tokens * s.channels;
      void *qkv = t.input(3 * count, 1.5f), *out = t.output(count), *d_out = t.input(count);
      t.ops.self_attention_forward(*t.device, s, t.type, qkv, out);
      t.ops.self_attention_backward(*t.device, s, t.type, qkv, out, d_out,
                                    accumulate ? t.sum(3 * count) : t.output(3 * count), accumulate);
    });
  }
}

// Into another place, where the first tokens and the values are copied, and in place.
void rotary(const RotaryShape& s) {
  char name[96];
  std::snprintf(name, sizeof name, "rotary %dx%dx%d heads %d behind %d", s.n, s.tokens, s.channels, s.heads, s.first);
  const size_t row = 3 * size_t(s.channels), all = size_t(s.n) * s.tokens * row;
  check(name, [=](Run& t) {
    const float* angles = t.input32(size_t(s.tokens - s.first) * (s.channels / s.heads), 0.7f);
    t.ops.rotary_forward(*t.device, s, t.type, t.input(all), angles, t.output(all));
  });
  check(std::string(name) + " in place", [=](Run& t) {
    const float* angles = t.input32(size_t(s.tokens - s.first) * (s.channels / s.heads), 0.7f);
    void* qkv = t.sum(all);
    t.ops.rotary_forward(*t.device, s, t.type, qkv, angles, qkv);
  });
}

void sequences(const SequenceShape& s) {
  const size_t row = size_t(s.channels), all = size_t(s.n) * s.tokens * row;
  check("positions, words, end_token, repeat " + std::to_string(s.tokens), [=](Run& t) {
    const float* position = t.input32(s.tokens * row);
    const float* value = t.input32(row);
    // the last: nothing but constant tokens
    for (const int first : {0, 1, 5, s.tokens})
      if (first <= s.tokens) {
        const size_t read = size_t(s.n) * (s.tokens - first) * row;
        void* x = t.input(std::max(read, row));
        const float* constant = t.input32(std::max(size_t(first), size_t(1)) * row);
        t.ops.positions_forward(*t.device, s, t.type, first, x, position, nullptr, t.output(all));
        if (first > 0) t.ops.positions_forward(*t.device, s, t.type, first, x, position, constant, t.output(all));
      }
    std::vector<float> digits(size_t(s.n) * s.tokens * 8);
    for (int n = 0; n < s.n; ++n)
      for (int p = 0; p < s.tokens; ++p) {
        float* id = &digits[(size_t(n) * s.tokens + p) * 8];
        const bool end = n > 0 && p >= n % s.tokens;  // the first image has no end token
        id[0] = end ? 255 : float((n * 37 + p * 11) % 250);
        id[1] = end ? 2 : float(p % 2);
        if (p == 0 && n < 2) id[2] = n == 0 ? -1e9f : NAN;  // no digits
      }
    const void* ids = t.stored(digits);
    // the end token is past the table: its last row
    t.ops.words_forward(*t.device, s, t.type, 8, 767, ids, t.input32(767 * row), position, t.output(all));
    t.ops.end_token_forward(*t.device, s, t.type, 8, 255 + 2 * 256, t.input(all), ids, t.output(s.n * row));
    t.ops.repeat_forward(*t.device, s.n, s.channels, t.type, value, t.output(s.n * row));
  });
}

void sequence_gradients(const SequenceShape& s) {
  const size_t row = size_t(s.channels), all = size_t(s.n) * s.tokens * row;
  check("positions_backward, first_token_backward " + std::to_string(s.tokens), [=](Run& t) {
    const void* dy = t.input(all);
    for (const int first : {0, 1, s.tokens - 1}) {
      const size_t behind = all - size_t(s.n) * first * row;
      t.ops.positions_backward(*t.device, s, t.type, first, dy, t.output(behind), false, t.sum32(s.tokens * row),
                               nullptr);
      t.ops.positions_backward(*t.device, s, t.type, first, dy, t.sum(behind), true, t.sum32(s.tokens * row),
                               first > 0 ? t.sum32(first * row) : nullptr);
      t.ops.positions_backward(*t.device, s, t.type, first, dy, nullptr, false, t.sum32(s.tokens * row), nullptr);
    }
    const void* d_token = t.input(s.n * row);
    for (const bool accumulate : {false, true})
      t.ops.first_token_backward(*t.device, s.n, s.tokens, s.channels, t.type, d_token,
                                 accumulate ? t.sum(all) : t.output(all), accumulate);
  });
}

}  // namespace

void transformers() {
  for (auto [rows, channels] :
       {std::pair<int64_t, int>{1, 8}, {7, 24}, {3000, 40}, {50, 320}, {50, 768}, {333, 1664}, {9, 2048}}) {
    check("layer_norm " + std::to_string(rows) + "x" + std::to_string(channels), [=](Run& t) {
      const void* x = t.stored(t.draw(size_t(rows) * channels, 2, 3));
      const float *weight = t.input32(channels, 0.3f, 1), *bias = t.input32(channels);
      t.ops.layer_norm_forward(*t.device, {rows, channels, rows % 2 ? 0.5f : 1e-5f}, t.type, x, weight, bias,
                               t.output(size_t(rows) * channels));
    });
    for (const bool accumulate : {false, true})
      check("layer_norm_backward " + std::to_string(rows) + "x" + std::to_string(channels), [=](Run& t) {
        const size_t count = size_t(rows) * channels;
        const void *x = t.stored(t.draw(count, 2, 3)), *dy = t.stored(t.draw(count, 1, 0.5f));
        const float* weight = t.input32(channels, 0.3f, 1);
        void* dx = accumulate ? t.sum(count) : t.output(count);
        t.ops.layer_norm_backward(*t.device, {rows, channels, rows % 2 ? 0.5f : 1e-5f}, t.type, x, dy, weight, dx,
                                  accumulate, t.sum32(channels), t.sum32(channels));
      });
  }
  refuse("layer_norm_backward of too many channels", "up to 2048 channels", [](Run& t) {
    float* sums = t.sum32(2056);
    t.ops.layer_norm_backward(*t.device, {1, 2056, 1e-5f}, t.type, t.input(2056), t.input(2056), t.input32(2056),
                              t.output(2056), false, sums, sums);
  });
  for (const RowsShape& s : {RowsShape{1, 1, 8}, {3, 49, 24}, {9, 100, 40}, {70, 4, 320}, {5, 1, 768}})
    for (const bool drops : {false, true})
      check("layer_scale " + std::to_string(s.rows()) + "x" + std::to_string(s.channels), [=](Run& t) {
        const size_t count = size_t(s.rows()) * s.channels;
        const DropShape drop{int64_t(count), int64_t(count) / s.images, 0.4f, 7, 3, 5};
        const void *x = t.input(count), *residual = t.input(count), *dy = t.input(count);
        const float* gamma = t.input32(s.channels);
        const DropShape* of = drops ? &drop : nullptr;
        t.ops.layer_scale_forward(*t.device, s, t.type, x, gamma, of, nullptr, t.output(count));
        t.ops.layer_scale_forward(*t.device, s, t.type, x, gamma, of, residual, t.output(count));
        t.ops.layer_scale_backward(*t.device, s, t.type, x, gamma, of, dy, t.output(count), false, t.sum32(s.channels));
        t.ops.layer_scale_backward(*t.device, s, t.type, x, gamma, of, dy, t.sum(count), true, t.sum32(s.channels));
      });
  // Every width of the kernel, whole and ragged, with sequences of one tile of keys and of more.
  for (const bool causal : {false, true})
    for (const SelfAttentionShape& s : {SelfAttentionShape{1, 1, 8, 1, causal},
                                        {2, 5, 48, 3, causal},
                                        {2, 50, 128, 2, causal},
                                        {1, 65, 64, 2, causal},
                                        {1, 130, 72, 1, causal},
                                        {1, 197, 192, 3, causal},
                                        {3, 17, 64, 1, causal},
                                        {2, 96, 80, 2, causal},
                                        {1, 64, 160, 2, causal},
                                        {1, 77, 96, 1, causal},
                                        {1, 197, 104, 1, causal},
                                        {1, 33, 128, 1, causal}})
      self_attention(s);
  for (const RotaryShape& s : {RotaryShape{1, 1, 16, 1, 0}, {3, 7, 96, 3, 5}, {2, 70, 128, 2, 1}, {1, 30, 256, 2, 0}})
    rotary(s);
  for (auto [rows, channels] : {std::pair<int64_t, int>{1, 8}, {77, 40}, {130, 1536}})
    check("swiglu " + std::to_string(rows) + "x" + std::to_string(channels), [=](Run& t) {
      const size_t out = size_t(rows) * channels;
      t.ops.swiglu_forward(*t.device, rows, channels, t.type, t.input(2 * out, 3), t.output(out));
    });
  sequences({3, 7, 24});
  sequences({5, 2, 512});
  sequence_gradients({3, 7, 24});
  sequence_gradients({37, 2, 512});
  const size_t count = 8 * 4321;
  for (Act act : {Act::gelu, Act::gelu_tanh, Act::quick_gelu}) {
    check("act " + std::to_string(int(act)), [=](Run& t) {
      void *x = t.input(count, 3), *dy = t.input(count);
      t.ops.act_forward(*t.device, count, t.type, act, x, t.output(count));
      t.ops.act_backward(*t.device, count, t.type, act, x, dy, t.output(count), false);
      t.ops.act_backward(*t.device, count, t.type, act, x, dy, t.sum(count), true);
    });
    const ConvShape s = conv(70, 1, 1, 64, 256, 1, 1, 0);
    check("linear and act " + std::to_string(int(act)), [=](Run& t) {
      void *x = t.input(70 * 64), *w = t.input(256 * 64, 0.125f);
      t.ops.conv_forward(*t.device, s, t.type, x, w, {nullptr, t.input32(256), nullptr, act}, t.output(70 * 256));
    });
  }
}

}  // namespace lgd::testing
