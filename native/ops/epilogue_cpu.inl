// The epilogue of a convolution (ops/conv.h) over values that were just stored; once per instruction set, after
// ops/vector_cpu.inl.
namespace lgd::LGD_ISA {
namespace {

static inline bool has_work(const Epilogue& e) { return e.scale || e.shift || e.residual || e.act != Act::none; }

// `rows` rows of `columns` values, `stride` apart; the first value belongs to channel `channel`.
template <Act act>
static void finish_rows_of(const Epilogue& e, const float* residual, int64_t channel, int64_t rows, int64_t columns,
                           int64_t stride, float* out) {
  for (int64_t row = 0; row < rows; ++row, out += stride) {
    LGD_FOR_VECTORS(i, width, columns) {
      Vec u = load_n(out + i, width);
      if (e.scale) u *= load_n(e.scale + channel + i, width);
      if (e.shift) u += load_n(e.shift + channel + i, width);
      if (residual) u += load_n(residual + row * stride + i, width);
      store_n(out + i, act_value<act>(u), width);
    }
  }
}

// residual: at the place of `out`, or null.
static void finish_rows(const Epilogue& e, const float* residual, int64_t channel, int64_t rows, int64_t columns,
                        int64_t stride, float* out) {
  with_any_act(e.act, [&](auto tag) { finish_rows_of<tag.value>(e, residual, channel, rows, columns, stride, out); });
}

}  // namespace
}  // namespace lgd::LGD_ISA
