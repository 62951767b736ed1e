// Holds every CUDA operation to its CPU twin on ragged shapes, in float32 and in bfloat16 storage: on a GPU
// (scripts/gpu-check), or on the emulated one (test/native/emulated-programs.test.ts). Inputs are rounded to bfloat16
// before both twins see them, outputs start as NaN.
// Usage: cuda_ops [small] [every=N] [seconds=N] [part of a name]
//   small leaves out the shapes that take an emulation long; every=N takes one check in N, of which none may take
//   longer than so many seconds. progress.h says what else it takes, and how it ends where a check loses the GPU.
#include <algorithm>
#include <tuple>
#include <utility>

#include "progress.h"
#include "run.h"

using namespace lgd;

namespace lgd::testing {

bool small = false;
namespace {
int every = 1;
Progress progress;
std::shared_ptr<Device> cpu, gpu;
std::string wanted;  // checks whose names hold this
}  // namespace

FewMultiprocessors::FewMultiprocessors() : kept(std::exchange(gpu->card.multiprocessors, 2)) {}
FewMultiprocessors::~FewMultiprocessors() { gpu->card.multiprocessors = kept; }

void check(const std::string& name, const Body& body, double float32_tolerance, const std::vector<DType>& types) {
  if (name.find(wanted) == std::string::npos || !progress.is_next(every)) return;
  std::vector<std::vector<float>> expected;
  progress.watch(name);
  cpu->run(name, [&] {
    Run run(cpu, DType::f32);
    body(run);
    expected = run.results();
  });
  for (const DType type : types) {
    std::vector<std::vector<float>> found;
    std::string error;
    progress.watch(name);
    try {
      gpu->run(name, [&] {
        Run run(gpu, type);
        body(run);
        found = run.results();
      });
    } catch (const std::exception& e) { error = e.what(); }
    const double tolerance = type == DType::f32 ? float32_tolerance : 1e-2;
    double worst = error.empty() ? 0 : INFINITY;
    for (size_t o = 0; o < found.size(); ++o) {
      double difference = 0, norm = 1e-30;
      for (size_t i = 0; i < found[o].size(); ++i) {
        difference += std::pow(double(found[o][i]) - expected[o][i], 2);
        norm += std::pow(double(expected[o][i]), 2);
      }
      const double relative = std::sqrt(difference / norm);
      worst = std::isnan(relative) ? INFINITY : std::max(worst, relative);
    }
    ++progress.checks;
    if (!(worst <= tolerance)) {
      ++progress.failures;
      std::printf("FAIL %-52s %s: relative error %.2e %s\n", name.c_str(), type == DType::f32 ? "float32 " : "bfloat16",
                  worst, error.c_str());
    }
    if (!error.empty()) progress.go_on(name, gpu);
  }
}

void refuse(const std::string& name, const std::string& reason, const Body& body) {
  if (name.find(wanted) == std::string::npos || !progress.is_next(every)) return;
  for (const DType type : {DType::f32, DType::bf16}) {
    std::string found = "nothing was refused";
    progress.watch(name);
    try {
      gpu->run(name, [&] {
        Run run(gpu, type);
        body(run);
        gpu->synchronize();
      });
    } catch (const std::exception& e) { found = e.what(); }
    ++progress.checks;
    if (found.find(reason) != std::string::npos) continue;
    ++progress.failures;
    std::printf("FAIL %-52s %s: %s\n", name.c_str(), type == DType::f32 ? "float32 " : "bfloat16", found.c_str());
    progress.go_on(name, gpu);
  }
}

}  // namespace lgd::testing

using namespace lgd::testing;

namespace {

void convolutions(const std::vector<ConvShape>& shapes) {
  for (const ConvShape& s : shapes) {
    if (lgd::testing::small && double(s.rows()) * s.k * s.r * s.s * s.c > 3e7) continue;
    const size_t x = size_t(s.n) * s.h * s.w * s.c, y = size_t(s.rows()) * s.k, w = size_t(s.k) * s.r * s.s * s.c;
    const float fan = 1 / std::sqrt(float(s.r * s.s * s.c));
    check(describe("conv_forward", s), [=](Run& t) {
      void *a = t.input(x), *b = t.input(w, fan);
      t.ops.conv_forward(*t.device, s, t.type, a, b, {}, t.output(y));
    });
    static int turn = 0;
    const Act act = Act(turn++ % (int(Act::quick_gelu) + 1));
    check(describe("conv_forward + epilogue", s), [=](Run& t) {
      void *a = t.input(x), *b = t.input(w, fan);
      Epilogue e{t.input32(s.k, 0.3f, 1), t.input32(s.k), t.input(y), act};
      t.ops.conv_forward(*t.device, s, t.type, a, b, e, t.output(y));
    });
    if (s.oh > 1 && s.ow > 1)
      check(describe("conv_forward + mean", s), [=](Run& t) {
        void *a = t.input(x), *b = t.input(w, fan);
        Epilogue e{t.input32(s.k, 0.3f, 1), t.input32(s.k), nullptr, Act(int(act) % (int(Act::relu6) + 1)),
                   t.output(size_t(s.n) * (s.oh / 2) * (s.ow / 2) * s.k)};
        t.ops.conv_forward(*t.device, s, t.type, a, b, e, nullptr);
      });
    if (s.oh % 2 == 0 && s.ow % 2 == 0)
      check(describe("conv_forward beside its mean", s), [=](Run& t) {
        void *a = t.input(x), *b = t.input(w, fan);
        Epilogue e{t.input32(s.k, 0.3f, 1), t.input32(s.k), int(act) % 2 ? t.input(y) : nullptr,
                   Act(int(act) % (int(Act::relu6) + 1)), t.output(size_t(s.n) * (s.oh / 2) * (s.ow / 2) * s.k)};
        t.ops.conv_forward(*t.device, s, t.type, a, b, e, t.output(y));
      });
    for (bool accumulate : {false, true})
      check(describe(accumulate ? "conv_backward_data +=" : "conv_backward_data", s), [=](Run& t) {
        void *g = t.input(y), *b = t.input(w, fan);
        t.ops.conv_backward_data(*t.device, s, t.type, g, b, accumulate ? t.sum(x) : t.output(x), accumulate);
      });
    check(describe("conv_backward_weight", s), [=](Run& t) {
      void *a = t.input(x), *g = t.input(y);
      float* dw = t.sum32(w);
      t.ops.conv_backward_weight(*t.device, s, t.type, a, g, dw, t.sum32(s.k));
    });
  }
}

void convolutions() {
  convolutions({conv(2, 9, 7, 8, 16, 3, 1, 1), conv(3, 15, 13, 24, 40, 3, 2, 1), conv(2, 20, 20, 64, 64, 3, 1, 1),
                conv(4, 17, 17, 8, 64, 7, 2, 3), conv(5, 14, 14, 96, 24, 1, 1, 0), conv(2, 28, 28, 144, 40, 1, 1, 0),
                conv(6, 14, 14, 64, 128, 1, 2, 0), conv(70, 1, 1, 520, 264, 1, 1, 0), conv(1, 1, 1, 8, 8, 1, 1, 0),
                conv(2, 12, 12, 32, 200, 3, 1, 2, 2), conv(16, 28, 28, 256, 512, 1, 1, 0),
                conv(130, 1, 1, 1280, 1000, 1, 1, 0)});
  const FewMultiprocessors few;
  convolutions({conv(2, 15, 13, 24, 72, 3, 1, 1), conv(3, 11, 12, 104, 136, 1, 1, 0),
                conv(1, 17, 16, 136, 200, 3, 2, 1), conv(300, 1, 1, 104, 264, 1, 1, 0)});
}

// Images by pairs of their pixels: kernels that begin and end with a pair, with half of one, and both.
void images_by_pairs() {
  for (const ConvShape& pixels :
       {conv(2, 16, 18, 4, 64, 7, 2, 3), conv(3, 9, 14, 4, 16, 3, 2, 1), conv(2, 12, 12, 4, 40, 4, 4, 0),
        conv(1, 8, 10, 4, 8, 3, 2, 0), conv(1, 20, 20, 4, 24, 2, 2, 1)}) {
    const ConvShape s = by_pairs(pixels);
    const size_t x = size_t(s.n) * s.h * s.w * s.c, y = size_t(s.rows()) * s.k, w = size_t(s.k) * s.taps() * s.c;
    check(describe("images by pairs", pixels), [=](Run& t) {
      void *a = t.input(x), *b = t.input(w, 1 / std::sqrt(float(s.taps() * s.c)));
      t.ops.conv_forward(*t.device, s, t.type, a, b, {}, t.output(y));
      t.ops.conv_backward_weight(*t.device, s, t.type, a, t.input(y), t.sum32(w), nullptr);
    });
  }
  check("widen_images",
        [](Run& t) { t.ops.widen_images(*t.device, 333, t.type, t.input(333 * 4), t.output(333 * 8)); });
}

// Two 1x1 convolutions in one, their weights folded on the way; the second ends within a k tile, too.
void sums_of_convolutions(const std::vector<ConvSumShape>& shapes) {
  for (const ConvSumShape& s : shapes)
    check("conv_sum " + std::to_string(s.rows) + "x(" + std::to_string(s.c) + "+" + std::to_string(s.c2) + ")x" +
              std::to_string(s.k),
          [=](Run& t) {
            const float fan = 1 / std::sqrt(float(s.c + s.c2));
            const FoldedConv first{t.input32(size_t(s.k) * s.c, fan), t.input32(s.k, 0.3f, 1), t.input32(s.k)},
                second{t.input32(size_t(s.k) * s.c2, fan), t.input32(s.k, 0.3f, -1), t.input32(s.k)};
            void *x = t.input(size_t(s.rows) * s.c), *x2 = t.input(size_t(s.rows) * s.c2),
                 *w = t.output(size_t(s.weights()));
            float* shift = t.output32(s.k);
            t.ops.conv_sum_fold(*t.device, s, t.type, first, second, w, shift);
            t.ops.conv_sum_forward(*t.device, s, t.type, x, x2, w, shift, Act::relu, t.output(size_t(s.rows) * s.k));
          });
}

void sums_of_convolutions() {
  sums_of_convolutions({{75, 96, 64, 72}, {333, 32, 200, 136}});
  const FewMultiprocessors few;
  sums_of_convolutions({{333, 32, 200, 136}, {700, 64, 40, 24}, {1300, 256, 32, 264}});
}

// Gradients between defer_sums and finish_sums: more than wait at once, in number and (the depthwise ones, 7 MB each,
// not among small shapes) in bytes, with few parts and many, one at a time and two, and some of them added to twice.
void deferred_sums() {
  check("deferred sums", [](Run& t) {
    std::vector<std::pair<ConvShape, float*>> all;
    for (int i = 0; i < 40; ++i) {
      const ConvShape s =
          i % 3 == 0 ? conv(3, 9, 9, 8 + i / 3 * 8, 16, 1, 1, 0) : conv(40, 8, 8, 8, 8 + i % 4 * 8, 1, 1, 0);
      all.push_back({s, t.sum32(size_t(s.k) * s.c)});
    }
    all.push_back(all[38]);
    all.push_back(all[39]);
    std::vector<std::pair<float*, float*>> norms(all.size() - 3);
    for (auto& [d_weight, d_bias] : norms) d_weight = t.sum32(24), d_bias = t.sum32(24);
    size_t norm = 0;
    const ConvShape wide = conv(66, 4, 2, 2048, 2048, 5, 1, 2);
    std::vector<float*> wide_dw;
    for (int i = 0; i < (lgd::testing::small ? 0 : 3); ++i) wide_dw.push_back(t.sum32(size_t(25) * wide.c));
    t.ops.defer_sums(*t.device);
    for (float* dw : wide_dw) {
      const void *x = t.input(size_t(wide.rows()) * wide.c), *dy = t.input(size_t(wide.rows()) * wide.c);
      t.ops.depthwise_backward_weight(*t.device, wide, t.type, x, dy, dw, nullptr);
    }
    for (const auto& [s, dw] : all) {
      const void *x = t.input(size_t(s.rows()) * s.c), *dy = t.input(size_t(s.rows()) * s.k);
      t.ops.conv_backward_weight(*t.device, s, t.type, x, dy, dw, nullptr);
      const auto& [d_weight, d_bias] = norms[norm++ % norms.size()];
      const void *of = t.input(40 * 24), *gradient = t.input(40 * 24);
      t.ops.layer_norm_backward(*t.device, {40, 24, 1e-5f}, t.type, of, gradient, t.input32(24), t.output(40 * 24),
                                false, d_weight, d_bias);
    }
    t.ops.finish_sums(*t.device);
    const ConvShape& s = all[1].first;  // and one that waits for nothing
    const void *x = t.input(size_t(s.rows()) * s.c), *dy = t.input(size_t(s.rows()) * s.k);
    t.ops.conv_backward_weight(*t.device, s, t.type, x, dy, t.sum32(size_t(s.k) * s.c), nullptr);
  });
}

void depthwise() {
  for (const ConvShape& s :
       {conv(2, 9, 7, 8, 8, 3, 1, 1), conv(3, 15, 13, 24, 24, 3, 2, 1), conv(2, 14, 14, 72, 72, 5, 1, 2),
        conv(2, 17, 19, 136, 136, 5, 2, 2), conv(4, 4, 4, 960, 960, 3, 1, 1), conv(2, 12, 12, 16, 16, 3, 1, 2, 2),
        conv(1, 2, 2, 8, 8, 5, 2, 2), conv(9, 28, 28, 192, 192, 3, 1, 1), conv(2, 13, 11, 40, 40, 7, 1, 3),
        conv(1, 2, 1, 8, 8, 7, 1, 3), conv(3, 7, 16, 96, 96, 7, 1, 3), conv(2, 9, 14, 16, 16, 7, 2, 3),
        conv(1, 9, 8, 72, 72, 7, 1, 0), conv(5, 15, 9, 8, 8, 7, 1, 6, 2)}) {
    const size_t x = size_t(s.n) * s.h * s.w * s.c, y = size_t(s.rows()) * s.k, w = size_t(s.r) * s.s * s.c;
    check(describe("depthwise_forward", s), [=](Run& t) {
      void *a = t.input(x), *b = t.input(w, 0.3f);
      Epilogue e{t.input32(s.k, 0.3f, 1), t.input32(s.k), nullptr, Act::relu6};
      t.ops.depthwise_forward(*t.device, s, t.type, a, b, e, t.output(y));
    });
    for (bool accumulate : {false, true})
      check(describe("depthwise_backward_data", s), [=](Run& t) {
        void *g = t.input(y), *b = t.input(w, 0.3f);
        t.ops.depthwise_backward_data(*t.device, s, t.type, g, b, accumulate ? t.sum(x) : t.output(x), accumulate);
      });
    check(describe("depthwise_backward_weight", s), [=](Run& t) {
      void *a = t.input(x), *g = t.input(y);
      t.ops.depthwise_backward_weight(*t.device, s, t.type, a, g, t.sum32(w), nullptr);
      t.ops.depthwise_backward_weight(*t.device, s, t.type, a, g, t.sum32(w), t.sum32(s.c));
    });
  }
}

void norms() {
  for (auto [rows, channels] :
       {std::pair<int64_t, int>{3, 8}, {1000, 24}, {4097, 64}, {777, 1280}, {50, 2304}, {100000, 16}})
    for (Act act : {Act::none, Act::relu, Act::relu6, Act::silu, Act::hardswish})
      for (bool residual : {false, true}) {
        if (lgd::testing::small && (rows * channels > 300000 || (residual && act != Act::relu))) continue;
        const NormShape shape{rows, channels, 1e-5f, 0.1f, act};
        const size_t count = size_t(rows) * channels;
        // Where an activation's slope jumps and its argument lies there to rounding, an element of the gradient differs
        // as a whole: among so many now and then one does.
        const bool jumps = act == Act::relu || act == Act::relu6 || act == Act::hardswish;
        const double tolerance = jumps && count > 100000 ? 5e-3 : 2e-5;
        const std::string name = "norm_act " + std::to_string(rows) + "x" + std::to_string(channels) + " act " +
                                 std::to_string(int(act)) + (residual ? " residual" : "");
        check(
            name,
            [=](Run& t) {
              NormForward f{};
              f.x = t.stored(t.draw(count, 2, 3));
              f.residual = residual ? t.input(count) : nullptr;
              f.gamma = t.input32(channels, 0.3f, 1);
              f.beta = t.input32(channels);
              f.running_mean = t.sum32(channels);
              f.running_var = t.sum32(channels);
              f.mean = t.output32(channels);
              f.rstd = t.output32(channels);
              f.y = t.output(count);
              t.ops.norm_act_forward(*t.device, shape, t.type, f);
              NormBackward b{};
              b.x = f.x;
              b.residual = f.residual;
              b.dy = t.input(count);
              b.gamma = f.gamma;
              b.beta = f.beta;
              b.mean = f.mean;
              b.rstd = f.rstd;
              b.d_gamma = t.sum32(channels);
              b.d_beta = t.sum32(channels);
              b.accumulate_dx = residual;
              b.dx = residual ? t.sum(count) : t.output(count);
              b.d_residual = residual ? t.output(count) : nullptr;
              t.ops.norm_act_backward(*t.device, shape, t.type, b);
              if (!residual) return;
              b.dx = t.output(count);
              b.d_residual = t.sum(count);
              std::swap(b.accumulate_dx, b.accumulate_residual);
              t.ops.norm_act_backward(*t.device, shape, t.type, b);
            },
            tolerance);
      }
  check("norm_fold + affine_act", [](Run& t) {
    float *scale = t.output32(48), *shift = t.output32(48), *gamma = t.input32(48), *beta = t.input32(48),
          *mean = t.input32(48), *var = t.input32(48, 0.1f, 1);
    t.ops.norm_fold(*t.device, 48, 1e-3f, gamma, beta, mean, var, scale, shift);
    void *x = t.input(48 * 99), *residual = t.input(48 * 99);
    t.ops.affine_act_forward(*t.device, 99, 48, t.type, x, scale, shift, residual, Act::relu, t.output(48 * 99));
    t.ops.affine_act_forward(*t.device, 99, 48, t.type, x, nullptr, shift, nullptr, Act::silu, t.output(48 * 99));
  });
}

void elementwise() {
  const size_t count = 8 * 4321;
  for (Act act : {Act::none, Act::relu, Act::relu6, Act::silu, Act::hardswish, Act::sigmoid, Act::hardsigmoid})
    check("act " + std::to_string(int(act)), [=](Run& t) {
      void *x = t.input(count, 3), *dy = t.input(count);
      t.ops.act_forward(*t.device, count, t.type, act, x, t.output(count));
      t.ops.act_backward(*t.device, count, t.type, act, x, dy, t.output(count), false);
      t.ops.act_backward(*t.device, count, t.type, act, x, dy, t.sum(count), true);
    });
  check("add", [=](Run& t) {
    void *a = t.input(count), *b = t.input(count);
    t.ops.add_forward(*t.device, count, t.type, a, b, t.output(count));
  });
  for (const ScaleShape& s : {ScaleShape{3, 49, 72}, ScaleShape{2, 1, 8}, ScaleShape{2, 100, 960}})
    check("channel_scale", [=](Run& t) {
      const size_t big = size_t(s.n) * s.pixels * s.channels, small = size_t(s.n) * s.channels;
      void *x = t.input(big), *k = t.input(small), *dy = t.input(big);
      t.ops.channel_scale_forward(*t.device, s, t.type, x, k, t.output(big));
      t.ops.channel_scale_backward(*t.device, s, t.type, x, k, dy, t.output(big), false, t.output(small));
      t.ops.channel_scale_backward(*t.device, s, t.type, x, k, dy, t.sum(big), true, t.output(small));
    });
  for (int64_t per_unit : {int64_t(1), int64_t(8 * 7)})
    check("drop " + std::to_string(per_unit), [=](Run& t) {
      const DropShape s{8 * 7 * 50, per_unit, 0.3f, 1234567890123ull, 77, 5};
      void *x = t.input(s.count), *dy = t.input(s.count);
      t.ops.drop_forward(*t.device, s, t.type, x, t.output(s.count));
      t.ops.drop_backward(*t.device, s, t.type, dy, t.sum(s.count), true);
    });
}

void pools_and_borders() {
  for (const PoolShape& s : {PoolShape{2, 17, 15, 64, 3, 2, 1, 9, 8}, PoolShape{3, 8, 8, 8, 3, 2, 1, 4, 4},
                             PoolShape{2, 6, 6, 24, 2, 2, 0, 3, 3}}) {
    const size_t x = size_t(s.n) * s.h * s.w * s.c, y = size_t(s.n) * s.oh * s.ow * s.c;
    check("max_pool", [=](Run& t) {
      std::vector<float> few = t.draw(x);
      for (float& v : few) v = std::round(v);  // many ties
      void *a = t.stored(few), *dy = t.input(y);
      t.ops.max_pool_forward(*t.device, s, t.type, a, t.output(y));
      t.ops.max_pool_backward(*t.device, s, t.type, a, dy, t.output(x), false);
    });
  }
  for (const PoolShape& s : {PoolShape{2, 8, 6, 16, 2, 2, 0, 4, 3}, PoolShape{2, 9, 7, 16, 2, 2, 0, 4, 3}}) {
    const size_t x = size_t(s.n) * s.h * s.w * s.c, y = size_t(s.n) * s.oh * s.ow * s.c;
    for (int factor : {1, 2, 3, 8})
      check("resize " + std::to_string(factor), [=](Run& t) {
        const ResizeShape r{s.n, s.oh, s.ow, s.c, factor};
        const size_t large = y * factor * factor;
        t.ops.resize_forward(*t.device, r, t.type, t.input(y), t.output(large));
        const void* dy = t.input(large);
        t.ops.resize_backward(*t.device, r, t.type, dy, t.output(y), false);
        t.ops.resize_backward(*t.device, r, t.type, dy, t.sum(y), true);
      });
    check("avg_pool", [=](Run& t) {
      void *a = t.input(x), *dy = t.input(y);
      t.ops.avg_pool_forward(*t.device, s, t.type, a, t.output(y));
      t.ops.avg_pool_backward(*t.device, s, t.type, dy, t.output(x), false);
    });
  }
  for (int channels : {8, 72, 1280})
    check("global_pool", [=](Run& t) {
      const size_t x = size_t(3) * 49 * channels, y = size_t(3) * channels;
      void *a = t.input(x), *dy = t.input(y);
      t.ops.global_pool_forward(*t.device, 3, 49, channels, t.type, a, t.output(y));
      t.ops.global_pool_backward(*t.device, 3, 49, channels, t.type, dy, t.sum(x), true);
    });
  for (const AttentionShape& s :
       {AttentionShape{3, 5, 64, 4}, AttentionShape{2, 50, 2048, 32}, AttentionShape{4, 10, 768, 12}})
    check("attention pooling", [=](Run& t) {
      const int pixels = s.tokens - 1;
      void* x = t.input(size_t(s.n) * pixels * s.channels);
      void* tokens = t.output(size_t(s.n) * s.tokens * s.channels);
      t.ops.tokens_forward(*t.device, s.n, pixels, s.channels, t.type, x, t.input32(size_t(s.tokens) * s.channels),
                           tokens);
      t.ops.first_token_forward(*t.device, s.n, s.tokens, s.channels, t.type, tokens,
                                t.output(size_t(s.n) * s.channels));
      void *q = t.input(size_t(s.n) * s.channels), *k = t.input(size_t(s.n) * s.tokens * s.channels),
           *v = t.input(size_t(s.n) * s.tokens * s.channels);
      t.ops.query_attention_forward(*t.device, s, t.type, q, k, v, t.output(size_t(s.n) * s.channels));
    });
  // Heads in one block and in more, tokens of one block of 64 and of more; the scores spread, so that a few tokens have
  // most of the weight.
  for (const AbsorbedShape& s :
       {AbsorbedShape{3, 5, 128, 2}, AbsorbedShape{2, 50, 2048, 32}, AbsorbedShape{65, 64, 256, 4},
        AbsorbedShape{1, 197, 768, 12}, AbsorbedShape{2, 80, 128, 40}})
    check("attention pooling, absorbed " + std::to_string(s.tokens) + "x" + std::to_string(s.channels),
          [=](Run& t) {
            const float fan = 1 / std::sqrt(float(s.channels));
            const size_t out = size_t(s.n) * s.inner(), weights = size_t(s.inner()) * s.channels;
            void *q = t.input(out, 2), *x = t.input(size_t(s.n) * s.tokens * s.channels), *wk = t.input(weights, fan),
                 *wv = t.input(weights, fan);
            t.ops.absorbed_attention_forward(*t.device, s, t.type, q, x, wk, wv,
                                             s.n % 2 ? t.input32(s.inner()) : nullptr, t.output(out));
          },
          0, {DType::bf16});
  check("unpack, pack, sgd", [](Run& t) {
    void* x = t.input(40 * 24);
    t.ops.unpack_output(*t.device, 40, 19, 24, t.type, x, t.output32(40 * 19));
    t.ops.pack_gradient(*t.device, 40, 19, 24, t.type, t.input32(40 * 19), t.output(40 * 24));
    constexpr int count = 4999;  // more than one multiprocessor's blocks take at once
    const float* g = t.input32(count);
    t.ops.sgd(*t.device, count, {0.1f, 0.9f, 1e-4f, 0.5f}, g, t.sum32(count), t.sum32(count), nullptr);
  });
  check("adamw", [](Run& t) {
    constexpr int count = 4999;
    const float* g = t.input32(count);
    float *m = t.sum32(count), *v = t.sum32(count, 0.1f, 1);  // a second moment is not below zero
    t.ops.adamw(*t.device, count, adamw_step(0.01, 0.9, 0.97, 1e-3, 0.1, 0.5, 3, 3001), g, m, v, t.sum32(count),
                nullptr);
  });
  // Fewer than a vector has, ends within one, and blocks that go around; squares that float32 holds, and that it does
  // not; norms above what they are clipped to, and one below.
  for (const auto& [count, scale, most] :
       {std::tuple{3, 1.f, 0.25}, {4999, 1.f, 7.}, {70001, 1e30f, 5.}, {262147, 1e-3f, 1e-3}, {6001, 1e-3f, 1.}})
    check("clip to a norm " + std::to_string(count), [=](Run& t) {
      const float* g = t.input32(count, scale);
      float* factor = t.output32(1);
      t.ops.clip_norm(*t.device, count, g, {0.5, most}, factor, reinterpret_cast<double*>(t.input32(2)));
      t.ops.sgd(*t.device, count, {0.1f, 0.9f, 1e-4f, 0.5f, factor}, g, t.sum32(count), t.sum32(count), nullptr);
      AdamwStep step = adamw_step(0.01, 0.9, 0.97, 1e-3, 0.1, 0.5, 3, count / 2);
      step.clip = factor;
      t.ops.adamw(*t.device, count, step, g, t.sum32(count), t.sum32(count, 0.1f, 1), t.sum32(count), nullptr);
    });
}

}  // namespace

int main(int argc, char** argv) {
  std::setvbuf(stdout, nullptr, _IOLBF, BUFSIZ);  // what was found is kept where the program is killed
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "small") == 0) lgd::testing::small = true;
    else if (std::strncmp(argv[i], "every=", 6) == 0) lgd::testing::every = std::max(1, std::atoi(argv[i] + 6));
    else if (!progress.reads(argv[i])) lgd::testing::wanted = argv[i];
  }
  cpu = std::make_shared<Device>(DeviceKind::cpu, 0, 8);
  gpu = std::make_shared<Device>(DeviceKind::cuda, 0, 1);
  convolutions();
  images_by_pairs();
  sums_of_convolutions();
  deferred_sums();
  depthwise();
  norms();
  elementwise();
  pools_and_borders();
  fused_convolutions();
  fused_depthwise();
  fused_norms();
  transformers();
  linear_layers();
  ++progress.checks;
  if (!is_model_right()) {
    ++progress.failures;
    std::printf("FAIL the model of tensor cores\n");
  }
  std::string added;
  try {
    added = tensor_cores(gpu);
  } catch (const std::exception& e) {
    added = std::string("in a way that could not be tried: ") + e.what();
  }  // the count is told all the same
  std::printf("cuda operations: %d checks, %d failed; dense products by %s, added %s\n", progress.checks,
              progress.failures, gpu->warpgroups ? "warpgroups" : "warps", added.c_str());
  cpu.reset();  // not after main(), while the CUDA runtime unloads
  gpu.reset();
  return progress.failures ? 1 : 0;
}
