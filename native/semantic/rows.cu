// Row operations of the semantic loss: L2 norms, operands, the way back through the norms, and the means over the
// batch. All are bound by memory, or by the launch: each reads and writes its rows once (the gradient's shares once
// more, from L2).
#include "semantic/block_reduce.cuh"
#include "semantic/loss_kernels.cuh"

namespace lgd {

namespace {

__device__ double factor_of(float length) { return length > 0 ? 1 / double(length) : 0; }
// A value of the unit row; 0 of a row without a direction, whose values may be anything.
__device__ float unit_of(float value, double factor) { return factor > 0 ? float(value * factor) : 0.f; }

// One block a row. Sums in double: |x| must be right to float32's last bit, since t_T = 0.01 multiplies its error by
// 100. x and unit may be the same memory: a thread reads what it then writes.
__global__ void normalise_kernel(int64_t dimension, const float* x, float* unit, float* norm) {
  wait_for_inputs();
  x += blockIdx.x * dimension;
  unit += blockIdx.x * dimension;
  double squares[1] = {0};
  for (int64_t d = threadIdx.x; d < dimension; d += reduce_threads) squares[0] += double(x[d]) * double(x[d]);
  block_sum(squares);
  const float length = length_of(squares[0]);
  const double factor = factor_of(length);
  for (int64_t d = threadIdx.x; d < dimension; d += reduce_threads) unit[d] = unit_of(x[d], factor);
  if (threadIdx.x == 0) norm[blockIdx.x] = length;
}

// One block an image, so that the few images of a batch fill the chip; four a multiprocessor, as the compiler spills
// for more.
template <class T>
__global__ void __launch_bounds__(reduce_threads, 4)
    normalise_pairs_kernel(const __grid_constant__ loss_cuda::Pairs pairs, OperandLayout layout, T* rows) {
  wait_for_inputs();
  const int64_t image = blockIdx.x, at = image * pairs.dimension;
  const int dimension = int(pairs.dimension);
  const float *student = pairs.student + at, *teacher = pairs.teacher + at;
  double sums[3] = {0, 0, 0};
#pragma unroll 4
  for (int d = threadIdx.x; d < dimension; d += reduce_threads) {
    const double x = student[d], y = teacher[d];
    sums[0] += x * x;
    sums[1] += y * y;
    sums[2] += x * y;
  }
  block_sum(sums);
  const float lengths[2] = {length_of(sums[0]), length_of(sums[1])};
  const double factors[2] = {factor_of(lengths[0]), factor_of(lengths[1])};
  T *student_row = rows + image * layout.stride(), *teacher_row = rows + (pairs.batch + image) * layout.stride();
#pragma unroll 4
  for (int d = threadIdx.x; d < layout.plane; d += reduce_threads) {
    const float x = d < dimension ? unit_of(student[d], factors[0]) : 0.f,
                y = d < dimension ? unit_of(teacher[d], factors[1]) : 0.f;
    write_operand(layout, student_row + d, x);
    write_operand(layout, teacher_row + d, y);
    if (d < dimension) pairs.teacher_unit[at + d] = y;
  }
  if (threadIdx.x != 0) return;
  pairs.student_norm[image] = lengths[0];
  pairs.teacher_norm[image] = lengths[1];
  pairs.own_score[image] = factors[0] > 0 && factors[1] > 0 ? float(sums[2] * factors[0] * factors[1]) : 0.f;
}

__global__ void operands_kernel(int dimension, OperandLayout layout, const float* values, f16* operands) {
  wait_for_inputs();
  for (int d = threadIdx.x; d < layout.plane; d += reduce_threads)
    write_operand(layout, operands + blockIdx.x * layout.stride() + d,
                  d < dimension ? values[int64_t(blockIdx.x) * dimension + d] : 0.f);
}

__global__ void find_faults_kernel(int64_t rows, const float* norm, RowFaults* faults) {
  wait_for_inputs();
  Candidate found[2];
  mark_faults(rows, norm, found[0], found[1]);
  block_first(found);
  if (threadIdx.x == 0) *faults = faults_of(found[0], found[1]);
}

__device__ void reduce_loss(const loss_cuda::Finish& args) {
  double sums[6] = {};
  for (int64_t image = threadIdx.x; image < args.batch; image += reduce_threads) {
    const RowStats& one = args.stats[image];
    sums[0] += one.loss_visual;
    sums[1] += one.loss_textual;
    sums[2] += one.entropy_visual;
    sums[3] += one.entropy_textual;
    sums[4] += one.own_mass;
    sums[5] += one.agreement;
  }
  block_sum(sums);
  Candidate faults[4];
  mark_faults(args.batch, args.student_norm, faults[0], faults[1]);
  mark_faults(args.batch, args.teacher_norm, faults[2], faults[3]);
  block_first(faults);
  if (threadIdx.x != 0) return;
  const double share = 1 / double(args.batch);
  *args.record = {sums[0] * share,
                  sums[1] * share,
                  sums[2] * share,
                  sums[3] * share,
                  sums[4] * share,
                  sums[5] * share,
                  faults_of(faults[0], faults[1]),
                  faults_of(faults[2], faults[3])};
  if (args.cleared) *args.cleared = {};
}

// One block an image, and the last one for the means of the batch.
__global__ void __launch_bounds__(reduce_threads) finish_kernel(const __grid_constant__ loss_cuda::Finish args) {
  wait_for_inputs();
  if (blockIdx.x == args.rows) return reduce_loss(args);
  const int64_t at = blockIdx.x * args.dimension;
  const float length = args.norm[blockIdx.x], own = args.own_weight[blockIdx.x];
  const double factor = factor_of(length);
  double along[1] = {0};
  constexpr int at_once = 4;  // values whose loads are on their way together, before any store
  const auto walk = [&](auto body) {
    for (int64_t first = threadIdx.x; first < args.dimension; first += at_once * reduce_threads)
      body([&, first](auto one) {
#pragma unroll
        for (int i = 0; i < at_once; ++i)
          if (first + i * reduce_threads < args.dimension) one(i, at + first + i * reduce_threads);
      });
  };
  walk([&](auto each) {
    float g[at_once], x[at_once];
    each([&](int i, int64_t d) {
      g[i] = own * args.teacher_unit[d];
      x[i] = args.student[d];
    });
    for (int64_t part = 0; part < args.parts; ++part)
      each([&](int i, int64_t d) { g[i] += args.sums[part * args.part_size + d]; });
    each([&](int i, int64_t d) {
      g[i] *= args.factor;
      args.d_student[d] = factor > 0 ? g[i] : 0.f;
      along[0] += double(g[i]) * double(unit_of(x[i], factor));
    });
  });
  if (!(factor > 0)) return;  // the whole block
  block_sum(along);
  walk([&](auto each) {  // each thread reads what it wrote
    float g[at_once], x[at_once];
    each([&](int i, int64_t d) {
      g[i] = args.d_student[d];
      x[i] = args.student[d];
    });
    each([&](int i, int64_t d) {
      args.d_student[d] = float((double(g[i]) - along[0] * double(unit_of(x[i], factor))) * factor);
    });
  });
}

}  // namespace

void normalise_rows_cuda(Context& device, int64_t rows, int64_t dimension, const float* x, float* unit, float* norm) {
  if (rows > 0) LGD_LAUNCH(device, normalise_kernel, unsigned(rows), reduce_threads, 0, dimension, x, unit, norm);
}

void find_faults_cuda(Context& device, int64_t rows, const float* norm, RowFaults* faults) {
  LGD_LAUNCH(device, find_faults_kernel, 1, reduce_threads, 0, rows, norm, faults);
}

void write_operands(Context& device, int64_t rows, int64_t dimension, OperandLayout layout, const float* values,
                    void* operands) {
  if (rows > 0)
    LGD_LAUNCH(device, operands_kernel, unsigned(rows), reduce_threads, 0, int(dimension), layout, values,
               static_cast<f16*>(operands));
}

namespace loss_cuda {

void normalise_pairs(Context& device, const Pairs& pairs, float* rows) {
  const OperandLayout layout = {int(pairs.dimension), 1};
  LGD_LAUNCH(device, normalise_pairs_kernel<float>, unsigned(pairs.batch), reduce_threads, 0, pairs, layout, rows);
}

void normalise_pairs(Context& device, const Pairs& pairs, OperandLayout layout, f16* rows) {
  LGD_LAUNCH(device, normalise_pairs_kernel<f16>, unsigned(pairs.batch), reduce_threads, 0, pairs, layout, rows);
}

void finish_loss(Context& device, const Finish& finish) {
  LGD_LAUNCH(device, finish_kernel, unsigned(finish.rows + (finish.record ? 1 : 0)), reduce_threads, 0, finish);
}

}  // namespace loss_cuda

}  // namespace lgd
