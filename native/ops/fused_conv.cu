// Gradients of dense convolutions on the matrix core, with the norms and activations around them made on the way
// (ops/fused.h).
//
// data:    M = input pixels, N = C channels, reduction over (r, s, k):  A gathers dy, B = weights with k outer. With a
//          stride the input pixels fall into stride^2 phases, each a convolution of stride 1 with the taps that reach
//          it: nothing is multiplied by zero.
// weight:  M = K, N = (r, s, c), reduction over the output pixels, split over blocks and added in a fixed order.
//
// Bytes at least: data reads g, y and w, what the target holds (old g, its y), and writes g; weight reads g, y and x.
// For the 1x1 layers of mobile networks that is all that counts; the sums of the norm below ride on the stores.
#include <algorithm>
#include <optional>
#include <vector>

#include "ops/conv_epilogues.cuh"
#include "ops/conv_gradients.h"
#include "ops/conv_loaders.cuh"
#include "ops/lazy_operands.cuh"
#include "ops/matrix_core.cuh"
#include "ops/norm_finish.cuh"
#include "ops/partial_sums.h"

namespace lgd {
namespace {

// Of a kernel over pairs of pixels: eight columns are a pair, and half of the first and of the last may be no tap,
// whose weights stay zero.
struct PairEnds {
  int pairs;         // along x; 0: there are none
  bool first, last;  // begins, ends with half a pair
  explicit PairEnds(const ConvShape& s)
      : pairs(s.pair_taps ? s.s : 0), first(s.pad % 2 != 0), last((s.pair_taps + s.pad) % 2 != 0) {}
  __device__ __forceinline__ F8 cut(int column, F8 x) const {
    if (pairs == 0) return x;
    const int pair = column / 8 % pairs;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (first && pair == 0) x.v[i] = 0;
      if (last && pair == pairs - 1) x.v[i + 4] = 0;
    }
    return x;
  }
};

// A part of the weights' gradient, or the whole of it, which is added to what is there; its columns go back to their
// places.
struct StorePartial {
  static constexpr int sums = 0;
  struct Fetched {};
  float* out;
  int64_t pitch, split_pitch;
  bool add;
  where::TapColumns columns;
  PairEnds ends;
  __device__ __forceinline__ void prepare(int, F8&, F8&) const {}
  __device__ __forceinline__ Fetched fetch(int, int) const { return {}; }
  __device__ __forceinline__ void store(int row, int column, const F8& x, const Fetched&, const F8&, const F8&) const {
    put8(out + int64_t(blockIdx.z) * split_pitch + row * pitch + columns.place(column), ends.cut(column, x), add);
  }
};

// One phase: its tile, its operands, and how many blocks will leave sums.
template <class T, class Body>
void with_phase(const Context& ctx, const ConvShape& s, const where::Phase& phase, const LazyGradient& dy,
                const void* w, Body&& body) {
  const read::Gradient<T> gradient(dy);
  const read::Stored<T> weights{static_cast<const T*>(w)};
  const auto with_operands = [&](auto a, auto b) {
    // Three numbers a channel of dy lie beside the tiles: the wide ones are too much for a block of most cards from 640
    // channels on.
    const auto fits = [&](auto tile) {
      return matrix::shared_bytes<T, decltype(tile), decltype(a), decltype(b), ReachTarget<T>>(a, b) <=
             ctx.card.block_shared_bytes;
    };
    matrix::with_tile<T, 3, decltype(a)::Where::overlaps>(
        ctx, phase.rows(s.n), s.c, int64_t(phase.taps()) * s.k, [&](auto tile) { body(tile, a, b); }, fits);
  };
  if (is_pointwise(s))
    with_operands(Loader{where::Rows{int(s.rows()), s.k}, gradient}, Loader{where::Columns{s.k, s.c}, weights});
  else with_operands(Loader{where::Reaching(s, phase), gradient}, Loader{where::PhaseWeights(s, phase), weights});
}

// The phases of a data gradient, and the parts of sums that their blocks will leave.
template <class T>
struct Phases {
  std::vector<where::Phase> phases;
  std::vector<int> first;  // part of each phase
  int parts = 0;
  Phases(const Context& ctx, const ConvShape& s, const LazyGradient& dy) {
    for (int py = 0; py < std::min(s.stride, s.h); ++py)
      for (int px = 0; px < std::min(s.stride, s.w); ++px) phases.emplace_back(s, py, px);
    for (const where::Phase& phase : phases)
      with_phase<T>(ctx, s, phase, dy, nullptr, [&](auto tile, auto a, auto b) {
        using Tile = decltype(tile);
        first.push_back(parts);
        using A = decltype(a);
        using B = decltype(b);
        using Out = ReachTarget<T>;
        parts += matrix::walkers<T, Tile, A, B, Out>(ctx, phase.rows(s.n), s.c,
                                                     matrix::shared_bytes<T, Tile, A, B, Out>(a, b));
      });
  }
  size_t sum_bytes(int channels) const { return size_t(parts) * 2 * channels * sizeof(float); }
};

template <class T>
void data_gradient_of(Context& ctx, const ConvShape& s, const LazyGradient& dy, const void* w,
                      const GradientTarget& target, const Phases<T>& all, float* partial) {
  const std::vector<where::Phase>& phases = all.phases;
  for (size_t i = 0; i < phases.size(); ++i) {
    const where::Phase& phase = phases[i];
    const int64_t K = int64_t(phase.taps()) * s.k;
    if (K == 0 && target.accumulate && !target.y) continue;  // nothing is added
    ReachTarget<T> out(s, phase, target);
    if (partial) out.partial = partial + size_t(all.first[i]) * 2 * s.c;
    with_phase<T>(ctx, s, phase, dy, w, [&](auto tile, auto a, auto b) {
      matrix::launch_walking<T, decltype(tile)>(ctx, a, b, out, phase.rows(s.n), s.c, K);
    });
  }
  if (partial) finish_gradient(ctx, partial, all.parts, s.c, int64_t(s.n) * s.h * s.w, target.norm);
}

template <class T>
void weight_gradient_of(Context& ctx, const ConvShape& s, const LazyInput& x, const LazyGradient& dy, float* dw) {
  const int64_t M = s.k, N = int64_t(s.r) * s.s * s.c, K = s.rows();
  const Loader a{where::Columns{int(K), s.k}, read::Gradient<T>(dy)};
  const read::Activation<T> activation(x);
  matrix::with_split_tile<T, 3>(ctx, M, N, [&](auto tile) {
    float* partial = nullptr;
    int parts = 1;
    const auto launch = [&](const auto& b) {
      const StorePartial out{dw, N, M * N, true, where::TapColumns(s.taps(), s.c), PairEnds(s)};
      matrix::launch_split<T, decltype(tile)>(ctx, a, b, out, M, N, K, [&](StorePartial& store, int count) {
        parts = count;
        if (parts == 1) return;
        store.out = partial = partial_sums(ctx).take(ctx, parts, M * N);
        store.add = false;
      });
    };
    if (is_pointwise(s)) launch(Loader{where::Columns{int(K), s.c, FastDivide(uint32_t(s.oh * s.ow))}, activation});
    else launch(Loader{where::PatchColumns(s), activation});
    if (parts > 1) partial_sums(ctx).add(ctx, {{partial, dw, M * N, parts}});
  });
}

// Both gradients. Each element of dy is used by every tap and by every tile of columns. Where that is often, making it
// once and storing it costs less than making it again each time: three passes over memory, of which the products save
// two.
template <class T>
void both_gradients(Context& ctx, const ConvShape& s, DType type, const LazyInput& x, const LazyGradient& dy,
                    const void* w, float* dw, const GradientTarget* target) {
  constexpr int64_t often = 8;
  const auto tiles = [](int64_t count) { return (count + 127) / 128; };  // of the wide ones
  const bool stores = dy.y && tiles(int64_t(s.taps()) * s.c) + (target ? s.taps() * tiles(s.c) : 0) >= often;
  LazyGradient gradient = dy;
  if (stores) gradient = {};  // which may take other tiles
  std::optional<Phases<T>> phases;
  if (target) phases.emplace(ctx, s, gradient);

  const size_t dy_bytes = stores ? size_t(s.rows()) * s.k * sizeof(T) : 0,
               sum_bytes = target && target->y ? phases->sum_bytes(s.c) : 0;
  char* memory = dy_bytes + sum_bytes > 0 ? static_cast<char*>(ctx.scratch(dy_bytes + sum_bytes)) : nullptr;
  if (stores) {
    store_gradient(ctx, s.rows(), s.k, type, dy, memory);
    gradient.g = memory;
  }
  weight_gradient_of<T>(ctx, s, x, gradient, dw);
  if (target)
    data_gradient_of<T>(ctx, s, gradient, w, *target, *phases,
                        sum_bytes > 0 ? reinterpret_cast<float*>(memory + dy_bytes) : nullptr);
}

}  // namespace

void data_gradient(Context& ctx, const ConvShape& s, DType type, const LazyGradient& dy, const void* w,
                   const GradientTarget& target) {
  check_dense(s);
  LGD_CHECK(!s.pair_taps, "BAD_SHAPE", "images have no gradient");
  with_type(type, [&]<class T>(T) {
    const Phases<T> phases(ctx, s, dy);
    data_gradient_of<T>(ctx, s, dy, w, target, phases,
                        target.y ? static_cast<float*>(ctx.scratch(phases.sum_bytes(s.c))) : nullptr);
  });
}

void weight_gradient(Context& ctx, const ConvShape& s, DType type, const LazyInput& x, const LazyGradient& dy,
                     float* dw) {
  check_dense(s);
  check_gate(s, x);
  with_type(type, [&]<class T>(T) { weight_gradient_of<T>(ctx, s, x, dy, dw); });
}

void conv_norm_backward_cuda(Context& ctx, const ConvShape& s, DType type, const LazyInput& x, const LazyGradient& dy,
                             const void* w, float* dw, const GradientTarget* target) {
  LGD_CHECK(!dy.gate, "BAD_SHAPE", "the gradient of a dense convolution has no gate");
  check_gate(s, x);
  if (target && suits_pointwise(ctx, s, type)) return pointwise_backward(ctx, s, x, dy, w, dw, *target);
  check_dense(s);
  LGD_CHECK(!s.pair_taps || !target, "BAD_SHAPE", "images have no gradient");
  with_type(type, [&]<class T>(T) { both_gradients<T>(ctx, s, type, x, dy, w, dw, target); });
}

}  // namespace lgd
