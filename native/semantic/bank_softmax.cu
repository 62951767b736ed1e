// Both softmaxes of every image from stored scores, their losses and entropies, the nearest categories and the weights
// of the gradient. One block an image; the entries of a row are spread over its threads. Reads the scores three times
// (peaks, sums, weights): a row pair of 4 (K textual + K visual) values, 16 KB at K = 1000, stays in the block's cache
// between the passes. Writes one weight an anchor. Two reductions over the block in all, for both parts at once: they
// are the time of this kernel, not the bytes.
#include "semantic/block_reduce.cuh"
#include "semantic/loss_kernels.cuh"

namespace lgd::loss_cuda {

namespace {

// Float32 weights belong to the checking mode, which sums in float64. Beside float16 rounding the fast exponential's is
// nothing, nor is that of sums in float32, and some cards make 64 operations in float32 in the time of one in float64.
template <class Weight>
using Sum = std::conditional_t<sizeof(Weight) == 2, float, double>;
template <class Weight>
__device__ __forceinline__ float exponential(float x);
template <>
__device__ __forceinline__ float exponential<float>(float x) {
  return expf(x);
}
template <>
__device__ __forceinline__ float exponential<f16>(float x) {
  return exp_of(x);
}

__device__ __forceinline__ void put(float* to, float value) { *to = value; }
__device__ __forceinline__ void put(f16* to, float value) { *to = __float2half_rn(value); }

// One part of one image: exponentials in units of e^(peak).
struct Part {
  int64_t begin, end;  // columns
  float s_peak, t_peak;
  bool own;           // has the own entry in front, with these scores:
  float own_student;  // and 1 of the teacher
  float weight;
};
// Entries at the peak count exactly 1 each and are kept apart, so that Z = 1 + rest keeps the digits of a small rest.
enum { s_below, s_peaks, t_below, t_peaks, cross, self, part_sums };

template <class Value>
__device__ __forceinline__ void add_entry(Value* sums, Value ds, Value dt, Value es, Value et) {
  sums[s_below] += ds == 0 ? 0 : es;
  sums[s_peaks] += ds == 0 ? 1 : 0;
  sums[t_below] += dt == 0 ? 0 : et;
  sums[t_peaks] += dt == 0 ? 1 : 0;
  sums[cross] += et * ds;
  sums[self] += et * dt;
}

template <class Weight>
__device__ __forceinline__ void add_part(const Part& part, const Softmax& args, const float* s, const float* t,
                                         Sum<Weight>* sums) {
  float ds[4], dt[4];
  each_of_thread(
      part.begin, part.end,
      [&](int i, int64_t k) {
        ds[i] = s[k];
        dt[i] = t[k];
      },
      [&](int i, int64_t) {
        ds[i] = (ds[i] - part.s_peak) * args.student_factor;
        dt[i] = (dt[i] - part.t_peak) * args.teacher_factor;
        add_entry<Sum<Weight>>(sums, ds[i], dt[i], exponential<Weight>(ds[i]), exponential<Weight>(dt[i]));
      });
}

struct PartResult {
  double loss, entropy, own_mass;
  float own_weight;
};

// What a part's sums say; the weights of its columns go to weights[k - begin].
template <class Weight>
__device__ __forceinline__ PartResult finish_part(const Part& part, const Softmax& args, const float* s, const float* t,
                                                  Sum<Weight>* sums, Weight* weights, int64_t begin) {
  using Value = Sum<Weight>;
  Value own_student = 0, own_teacher = 0;
  if (part.own) {
    const Value ds = Value(part.own_student - part.s_peak) * args.student_factor,
                dt = Value(1.f - part.t_peak) * args.teacher_factor;
    own_student = exp(ds);
    own_teacher = exp(dt);
    add_entry(sums, ds, dt, own_student, own_teacher);
  }
  // q - p = 1 / Z_S - 1 / Z_T without cancellation where both are at their peak.
  const Value s_rest = sums[s_below] + (sums[s_peaks] - 1), t_rest = sums[t_below] + (sums[t_peaks] - 1),
              s_sum = 1 + s_rest, t_sum = 1 + t_rest;
  const Value both = (t_rest - s_rest) / (s_sum * t_sum);
  if (part.weight != 0) {
    const float from_student = float(part.weight / s_sum), from_teacher = float(part.weight / t_sum),
                at_both = float(part.weight * both);
    float ds[4], dt[4];
    each_of_thread(
        part.begin, part.end,
        [&](int i, int64_t k) {
          ds[i] = s[k];
          dt[i] = t[k];
        },
        [&](int i, int64_t k) {
          ds[i] = (ds[i] - part.s_peak) * args.student_factor;
          dt[i] = (dt[i] - part.t_peak) * args.teacher_factor;
          put(weights + (k - begin), ds[i] == 0 && dt[i] == 0 ? at_both
                                                              : exponential<Weight>(ds[i]) * from_student -
                                                                    exponential<Weight>(dt[i]) * from_teacher);
        });
  }
  PartResult result = {0, 0, 0, 0};
  if (threadIdx.x == 0) {
    result.loss = log1p(double(s_rest)) - double(sums[cross]) / t_sum;
    result.entropy = log1p(double(t_rest)) - double(sums[self]) / t_sum;
    result.own_mass = double(own_teacher) / t_sum;
    if (part.own)
      result.own_weight = float(
          part.weight * (own_student == 1 && own_teacher == 1 ? both : own_student / s_sum - own_teacher / t_sum));
  }
  return result;
}

// Weights of columns [begin, end). In place, `weights` are the student's scores, and begin is 0.
template <class Weight>
__global__ void __launch_bounds__(reduce_threads, sizeof(Weight) == 2 ? 4 : 3)
    bank_softmax_kernel(const __grid_constant__ Softmax args, const float* student, const float* teacher,
                        int64_t stride, int64_t begin, int64_t end, Weight* weights, int64_t weight_stride) {
  wait_for_inputs();
  const int64_t image = blockIdx.x;
  const float *s = student + image * stride, *t = teacher + image * stride;
  weights += image * weight_stride;
  Candidate first[4] = {thread_first(args.textual, s), thread_first(args.textual, t),
                        thread_first(args.total - args.textual, s + args.textual),
                        thread_first(args.total - args.textual, t + args.textual)};
  block_first(first);
  const float own = args.own_score[image];
  const Part textual = {0, args.textual, first[0].score, first[1].score, false, 0, args.textual_weight};
  const Part visual = {args.textual, args.total, fmaxf(first[2].score, own), fmaxf(first[3].score, 1.f),
                       true,         own,        args.visual_weight};
  Sum<Weight> sums[2 * part_sums] = {};
  if (args.textual_part) add_part<Weight>(textual, args, s, t, sums);
  if (args.visual_part) add_part<Weight>(visual, args, s, t, sums + part_sums);
  block_sum(sums);
  RowStats row = {};
  row.agreement = args.textual > 0 && first[0].column == first[1].column;
  float own_weight = 0;
  if (args.textual_part) {
    const PartResult part = finish_part<Weight>(textual, args, s, t, sums, weights, begin);
    row.loss_textual = part.loss;
    row.entropy_textual = part.entropy;
  }
  if (args.visual_part) {
    const PartResult part = finish_part<Weight>(visual, args, s, t, sums + part_sums, weights, begin);
    row.loss_visual = part.loss;
    row.entropy_visual = part.entropy;
    row.own_mass = part.own_mass;
    own_weight = part.own_weight;
  }
  if constexpr (sizeof(Weight) == 2) {
    const int64_t filled = (end - begin + 7) / 8 * 8;
    for (int64_t k = end - begin + threadIdx.x; k < filled; k += reduce_threads) put(weights + k, 0.f);
  }
  if (threadIdx.x != 0) return;
  args.own_weight[image] = own_weight;
  args.stats[image] = row;
  if (args.assignment) args.assignment[image] = first[1].column == no_column ? 0 : first[1].column;
}

}  // namespace

void softmax_in_place(Context& device, const Softmax& softmax, float* student, const float* teacher, int64_t stride) {
  LGD_LAUNCH(device, bank_softmax_kernel<float>, unsigned(softmax.batch), reduce_threads, 0, softmax, student, teacher,
             stride, 0, softmax.total, student, stride);
}

void softmax_to_f16(Context& device, const Softmax& softmax, const float* student, const float* teacher, int64_t stride,
                    int64_t begin, int64_t end, f16* weights, int64_t weight_stride) {
  LGD_LAUNCH(device, bank_softmax_kernel<f16>, unsigned(softmax.batch), reduce_threads, 0, softmax, student, teacher,
             stride, begin, end, weights, weight_stride);
}

}  // namespace lgd::loss_cuda
