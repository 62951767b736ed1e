// Feature regression on CUDA (semantic/feature_loss.h): one block an image, which reads its rows twice, then one block
// for the means. What it takes are two launches.
#include "semantic/block_reduce.cuh"
#include "semantic/feature_loss.h"

namespace lgd {

namespace {

__global__ void __launch_bounds__(reduce_threads) feature_rows_kernel(const __grid_constant__ FeatureLoss loss) {
  wait_for_inputs();
  const int64_t image = blockIdx.x, at = image * loss.dimension;
  const float *x = loss.student + at, *y = loss.teacher + at;
  double sums[3] = {0, 0, 0};
  for (int64_t d = threadIdx.x; d < loss.dimension; d += reduce_threads) {
    const double s = x[d], t = y[d];
    sums[0] += s * s;
    sums[1] += t * t;
    sums[2] += s * t;
  }
  block_sum(sums);
  const float lengths[2] = {length_of(sums[0]), length_of(sums[1])};
  const bool usable = lengths[0] > 0 && lengths[1] > 0;
  const double length = sqrt(sums[0]), other = sqrt(sums[1]), cosine = usable ? sums[2] / (length * other) : 0;
  const double factor = usable ? double(loss.scale) / (double(loss.batch) * length) : 0;
  for (int64_t d = threadIdx.x; d < loss.dimension; d += reduce_threads)
    loss.d_student[at + d] = usable ? float(factor * (cosine * double(x[d]) / length - double(y[d]) / other)) : 0.f;
  if (threadIdx.x != 0) return;
  loss.norms[image] = lengths[0];
  loss.norms[loss.batch + image] = lengths[1];
  loss.cosine[image] = float(cosine);
}

__global__ void __launch_bounds__(reduce_threads) feature_mean_kernel(const __grid_constant__ FeatureLoss loss) {
  wait_for_inputs();
  double sum[1] = {0};
  for (int64_t image = threadIdx.x; image < loss.batch; image += reduce_threads)
    sum[0] += 1 - double(loss.cosine[image]);
  block_sum(sum);
  Candidate faults[4];
  mark_faults(loss.batch, loss.norms, faults[0], faults[1]);
  mark_faults(loss.batch, loss.norms + loss.batch, faults[2], faults[3]);
  block_first(faults);
  if (threadIdx.x != 0) return;
  loss.record->loss_feature = sum[0] / double(loss.batch);
  loss.record->student = faults_of(faults[0], faults[1]);
  loss.record->teacher = faults_of(faults[2], faults[3]);
}

}  // namespace

void feature_loss_cuda(Context& device, const FeatureLoss& loss) {
  LGD_LAUNCH(device, feature_rows_kernel, unsigned(loss.batch), reduce_threads, 0, loss);
  LGD_LAUNCH(device, feature_mean_kernel, 1, reduce_threads, 0, loss);
}

}  // namespace lgd
