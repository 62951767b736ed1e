#include "semantic/feature_loss.h"

#include <cmath>

#include "ops/common_cpu.h"

namespace lgd {

void feature_loss_cpu(Context& device, const FeatureLoss& loss) {
  const int64_t batch = loss.batch, dimension = loss.dimension;
  device.pool.for_range(batch, ceil_div(16384, dimension), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const float *x = loss.student + i * dimension, *y = loss.teacher + i * dimension;
      float* gradient = loss.d_student + i * dimension;
      double squares = 0, others = 0, product = 0;
      for (int64_t d = 0; d < dimension; ++d) {
        squares += double(x[d]) * x[d];
        others += double(y[d]) * y[d];
        product += double(x[d]) * y[d];
      }
      const auto kept = [](double sum) {
        return std::isfinite(sum) && std::isfinite(float(std::sqrt(sum))) ? float(std::sqrt(sum)) : std::nanf("");
      };
      loss.norms[i] = kept(squares);
      loss.norms[batch + i] = kept(others);
      const bool usable = loss.norms[i] > 0 && loss.norms[batch + i] > 0;
      const double length = std::sqrt(squares), other = std::sqrt(others),
                   cosine = usable ? product / (length * other) : 0;
      loss.cosine[i] = float(cosine);
      const double factor = usable ? loss.scale / (double(batch) * length) : 0;
      for (int64_t d = 0; d < dimension; ++d)
        gradient[d] = usable ? float(factor * (cosine * x[d] / length - y[d] / other)) : 0.0f;
    }
  });
  double sum = 0;
  for (int64_t i = 0; i < batch; ++i) sum += 1 - double(loss.cosine[i]);
  loss.record->loss_feature = sum / double(batch);
  find_faults_cpu(device, batch, loss.norms, &loss.record->student);
  find_faults_cpu(device, batch, loss.norms + batch, &loss.record->teacher);
}

}  // namespace lgd
