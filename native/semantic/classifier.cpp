// engine.h: linear classifiers on frozen features, the cross entropy of an encoder's output, and SGD on tensors.
#include <algorithm>
#include <cstring>

#include "core/tensor.h"
#include "engine.h"
#include "optimizer/sgd.h"
#include "ops/kernels.h"
#include "semantic/kernels.h"

namespace lgd {

namespace {

bool is_matrix(const TensorPtr& tensor, int64_t rows, int64_t columns) {
  return tensor->type == DType::f32 && tensor->shape.size() == 2 && tensor->stored == tensor->shape[1] &&
         (rows < 0 || tensor->shape[0] == rows) && (columns < 0 || tensor->shape[1] == columns);
}

void check_labels(const std::vector<int32_t>& labels, int64_t classes, int32_t least) {
  for (int32_t label : labels)
    LGD_CHECK(label >= least && label < classes, "BAD_OPTION", "labels: there are ", classes, " classes, found ",
              label);
}

// Host integers where the device's kernels can read them, until the end of the step.
const int32_t* on_device(Context& device, const std::vector<int32_t>& values) {
  if (device.kind == DeviceKind::cpu) return values.data();
  const size_t bytes = values.size() * sizeof(int32_t);
  std::memcpy(device.stage(bytes), values.data(), bytes);
  return static_cast<const int32_t*>(device.send(bytes));
}

struct ClassifierMemory {
  float *rows, *norms, *logits, *turned, *product;

  ClassifierMemory(Carver& carver, const ClassifierArguments& arguments, int64_t count, int64_t dimension,
                   int64_t outputs) {
    const bool copied = arguments.unit || !arguments.rows.empty(), trained = arguments.d_weights != nullptr;
    rows = carver.take<float>(copied ? count * dimension : 0);
    norms = carver.take<float>(arguments.unit ? count : 0);
    logits = carver.take<float>(count * score_stride(outputs));
    turned = carver.take<float>(trained ? outputs * score_stride(count) : 0);
    product = carver.take<float>(trained ? outputs * dimension : 0);
  }
};

void run_classifier(Context& device, const ClassifierArguments& arguments) {
  const SemanticKernels& op = semantic_kernels(device);
  const int64_t dimension = arguments.features->shape[1], outputs = arguments.weights->shape[0],
                total = int64_t(arguments.labels.size());
  const int64_t classes = outputs / arguments.heads, stride = score_stride(outputs);
  const bool picked = !arguments.rows.empty(), trained = arguments.d_weights != nullptr;
  const int64_t most = rows_at_a_time(total, 2 * stride + dimension);
  // One list, so that one transfer serves both.
  std::vector<int32_t> lists = arguments.labels;
  lists.insert(lists.end(), arguments.rows.begin(), arguments.rows.end());
  const int32_t* labels = on_device(device, lists);

  const auto memory = carve<ClassifierMemory>(device, arguments, most, dimension, outputs);
  for (int64_t first = 0; first < total; first += most) {
    const int64_t count = std::min(most, total - first);
    const float* x = arguments.features->f32() + first * dimension;
    if (picked) {
      op.gather_rows(device, count, dimension, arguments.features->f32(), labels + total + first, memory.rows);
      x = memory.rows;
    }
    if (arguments.unit) {
      op.normalise_rows(device, count, dimension, x, memory.rows, memory.norms);
      x = memory.rows;
    }
    op.similarities(device, count, outputs, dimension, x, arguments.weights->f32(), memory.logits, stride);
    SoftmaxRows rows;
    rows.rows = count;
    rows.classes = classes;
    rows.heads = arguments.heads;
    rows.logits = memory.logits;
    rows.stride = stride;
    rows.bias = arguments.bias->f32();
    rows.labels = labels + first;
    rows.scale = arguments.scale;
    if (trained) {
      rows.gradient = memory.turned;
      rows.row_step = 1;
      rows.class_step = score_stride(count);
    }
    if (arguments.results) rows.results = arguments.results->f32() + first * arguments.heads * 3;
    op.softmax_rows(device, rows);
    if (!trained) continue;
    WeightedSums sums;
    sums.m = outputs;
    sums.n = count;
    sums.dimension = dimension;
    sums.weights = memory.turned;
    sums.stride = rows.class_step;
    sums.x = x;
    sums.add = first > 0;
    sums.sums = arguments.d_weights->f32();
    sums.totals = arguments.d_bias->f32();
    sums.product = memory.product;
    op.weighted_sums(device, sums);
  }
}

}  // namespace

void classifier_loss(ClassifierArguments arguments) {
  const TensorPtr &features = arguments.features, &weights = arguments.weights, &bias = arguments.bias,
                  &results = arguments.results;
  LGD_CHECK(is_matrix(features, -1, -1), "BAD_SHAPE", "features: expected a float32 tensor [N,D]");
  const int64_t rows = features->shape[0], dimension = features->shape[1];
  LGD_CHECK(is_matrix(weights, -1, dimension), "BAD_SHAPE", "weights: expected rows of ", dimension, " values");
  const int64_t outputs = weights->shape[0];
  LGD_CHECK(arguments.heads >= 1 && outputs % arguments.heads == 0, "BAD_SHAPE", "heads: ", outputs,
            " rows of weights do not make ", arguments.heads, " classifiers");
  LGD_CHECK(is_matrix(bias, 1, outputs), "BAD_SHAPE", "bias: expected [1,", outputs, "]");
  LGD_CHECK((arguments.d_weights == nullptr) == (arguments.d_bias == nullptr), "BAD_OPTION",
            "dWeights and dBias come together");
  if (arguments.d_weights)
    LGD_CHECK(is_matrix(arguments.d_weights, outputs, dimension) && is_matrix(arguments.d_bias, 1, outputs),
              "BAD_SHAPE", "gradients: expected the shapes of weights and bias");
  const int64_t count = int64_t(arguments.rows.empty() ? rows : int64_t(arguments.rows.size()));
  LGD_CHECK(int64_t(arguments.labels.size()) == count, "BAD_SHAPE", "labels: expected ", count, ", one a row, found ",
            arguments.labels.size());
  if (results)
    LGD_CHECK(is_matrix(results, count, 3 * arguments.heads), "BAD_SHAPE", "results: expected [", count, ",",
              3 * arguments.heads, "]");
  check_labels(arguments.labels, outputs / arguments.heads, 0);
  for (int32_t row : arguments.rows)
    LGD_CHECK(row >= 0 && row < rows, "BAD_OPTION", "rows: there are ", rows, ", found ", row);
  for (const TensorPtr& tensor : {weights, bias, results, arguments.d_weights, arguments.d_bias})
    LGD_CHECK(!tensor || tensor->device == features->device, "BAD_OPTION", "the tensors belong to different devices");
  const DevicePtr device = features->device;
  device->submit("classifier.loss", [device, arguments = std::move(arguments)] { run_classifier(*device, arguments); });
}

void softmax_loss(const TensorPtr& logits, std::vector<int32_t> labels, const TensorPtr& d_logits,
                  const TensorPtr& results, float scale) {
  LGD_CHECK(is_matrix(logits, -1, -1), "BAD_SHAPE", "logits: expected a float32 tensor [B,K]");
  const int64_t batch = logits->shape[0], classes = logits->shape[1];
  LGD_CHECK(int64_t(labels.size()) == batch, "BAD_SHAPE", "labels: expected ", batch, ", found ", labels.size());
  check_labels(labels, classes, -1);
  LGD_CHECK(!d_logits || is_matrix(d_logits, batch, classes), "BAD_SHAPE", "dLogits: expected the shape of the logits");
  LGD_CHECK(!results || is_matrix(results, batch, 3), "BAD_SHAPE", "results: expected [", batch, ",3]");
  for (const TensorPtr& tensor : {d_logits, results})
    LGD_CHECK(!tensor || tensor->device == logits->device, "BAD_OPTION", "the tensors belong to different devices");
  logits->device->submit("softmax.loss", [=, labels = std::move(labels)] {
    Context& device = *logits->device;
    SoftmaxRows rows;
    rows.rows = batch;
    rows.classes = classes;
    rows.logits = logits->f32();
    rows.stride = classes;
    rows.labels = on_device(device, labels);
    rows.scale = scale;
    rows.gradient = d_logits ? d_logits->f32() : nullptr;
    rows.row_step = classes;
    rows.class_step = 1;
    rows.results = results ? results->f32() : nullptr;
    semantic_kernels(device).softmax_rows(device, rows);
  });
}

void sgd_tensor(const TensorPtr& value, const TensorPtr& gradient, const TensorPtr& velocity,
                const OptimizerStep& numbers, int64_t begin, int64_t end) {
  const int64_t count = value->elements();
  LGD_CHECK(value->type == DType::f32 && value->shape == gradient->shape && value->shape == velocity->shape,
            "BAD_SHAPE", "value, gradient and velocity must be alike");
  LGD_CHECK(begin >= 0 && begin <= end && end <= count, "BAD_OPTION", "a range of ", count, " values: found ", begin,
            " to ", end);
  LGD_CHECK(value->device == gradient->device && value->device == velocity->device, "BAD_OPTION",
            "the tensors belong to different devices");
  value->device->submit("tensor.sgd", [=] {
    const SgdStep step = {float(numbers.learning_rate), float(numbers.momentum), float(numbers.weight_decay),
                          float(numbers.gradient_scale)};
    Context& device = *value->device;
    device.kernels->sgd(device, end - begin, step, gradient->f32() + begin, velocity->f32() + begin,
                        value->f32() + begin, nullptr);
  });
}

void write_rows(const TensorPtr& tensor, int64_t row, std::vector<float> values) {
  LGD_CHECK(is_matrix(tensor, -1, -1), "BAD_SHAPE", "expected a float32 tensor [N,D]");
  const int64_t width = tensor->shape[1], count = int64_t(values.size()) / width;
  LGD_CHECK(count * width == int64_t(values.size()) && row >= 0 && row + count <= tensor->shape[0], "BAD_SHAPE",
            values.size(), " values from row ", row, " do not fit [", tensor->shape[0], ",", width, "]");
  tensor->device->submit("tensor.rows", [tensor, row, width, values = std::move(values)] {
    tensor->device->from_host(tensor->f32() + row * width, values.data(), values.size() * sizeof(float));
  });
}

}  // namespace lgd
