// Checks of the CPU operations: every operation against float64 loops on ragged shapes, and the same bits for 1, 2 and
// 3 threads.
//   cpu_ops                       exit code 0 and a line with the count, or one line a failure
//   cpu_ops bench [model] [threads]   times every operation of one training step (mobilenet_v2, resnet18,
//     efficientnet_b0)
// LGDISTILL_ISA=baseline|avx2|avx512 selects the vector code.
#include <cstdlib>

#include "check.h"
#include "core/simd.h"

using namespace lgd;

// Results that must not depend on the number of threads: the reductions.
static Floats reductions(int threads) {
  Check data(threads);
  Floats all;
  auto keep = [&](const Floats& values) { all.insert(all.end(), values.begin(), values.end()); };
  for (const ConvShape& s : {conv_shape(8, 16, 16, 24, 40, 1, 1, 0), conv_shape(6, 12, 12, 16, 32, 3, 1, 1),
                             conv_shape(4, 16, 16, 3, 16, 3, 2, 1), conv_shape(64, 1, 1, 300, 200, 1, 1, 0)}) {
    const Floats x = data.normal(int64_t(s.n) * s.h * s.w * s.c), dy = data.normal(s.rows() * s.k),
                 w = data.normal(int64_t(s.k) * s.r * s.s * s.c);
    Floats dw(w.size()), bias(s.k), y(dy.size()), dx(x.size());
    conv_backward_weight_cpu(data.device, s, F32, x.data(), dy.data(), dw.data(), bias.data());
    conv_forward_cpu(data.device, s, F32, x.data(), w.data(), {}, y.data());
    conv_backward_data_cpu(data.device, s, F32, dy.data(), w.data(), dx.data(), false);
    keep(dw), keep(bias), keep(y), keep(dx);
  }
  const ConvShape d = conv_shape(9, 13, 13, 40, 40, 3, 1, 1);
  const Floats x = data.normal(int64_t(d.n) * d.h * d.w * d.c), dy = data.normal(d.rows() * d.c),
               gamma = data.normal(d.c);
  Floats dw(9 * d.c), dx(x.size()), y(x.size()), mean(d.c), rstd(d.c), running(d.c), d_gamma(d.c), d_beta(d.c);
  depthwise_backward_weight_cpu(data.device, d, F32, x.data(), dy.data(), dw.data(), nullptr);
  const NormShape shape{d.rows(), d.c, 1e-5f, 0.1f, Act::relu6};
  norm_act_forward_cpu(data.device, shape, F32,
                       {x.data(), nullptr, gamma.data(), gamma.data(), running.data(), running.data(), mean.data(),
                        rstd.data(), y.data()});
  norm_act_backward_cpu(data.device, shape, F32,
                        {x.data(), nullptr, dy.data(), gamma.data(), gamma.data(), mean.data(), rstd.data(),
                         d_gamma.data(), d_beta.data(), dx.data(), nullptr, false, false});
  keep(dw), keep(y), keep(dx), keep(mean), keep(rstd), keep(d_gamma), keep(d_beta);
  return all;
}

int main(int count, char** arguments) {
  if (count > 1 && std::string(arguments[1]) == "bench") {
    bench(count > 3 ? std::atoi(arguments[3]) : 2, count > 2 ? arguments[2] : "mobilenet_v2");
    return 0;
  }
  int cases = 0, failures = 0;
  for (int threads : {1, 3}) {
    Check check(threads);
    check_conv(check);
    check_depthwise(check);
    check_norm(check);
    check_elements(check);
    check_pool(check);
    check_transformer(check);
    cases += check.cases;
    failures += check.failures;
  }
  Check check(1);
  const Floats one = reductions(1);
  check.identical("1 and 2 threads", one, reductions(2));
  check.identical("1 and 3 threads", one, reductions(3));
  cases += check.cases;
  failures += check.failures;
  std::printf("%s: %d checks, %d failures\n", isa_name(cpu_isa()), cases, failures);
  return failures ? 1 : 0;
}
