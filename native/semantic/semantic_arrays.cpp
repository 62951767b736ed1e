// engine.h: the loss, the update and the search for callers with arrays of their own.
#include <algorithm>
#include <cmath>

#include "semantic/row_check.h"
#include "semantic/semantic_head.h"

namespace lgd {

namespace {

int64_t rows_of(const char* name, std::span<const float> values, int64_t dimension) {
  LGD_CHECK(dimension > 0, "BAD_SHAPE", "dimension: expected a positive number, found ", dimension);
  LGD_CHECK(values.size() % size_t(dimension) == 0, "BAD_SHAPE", name, ": ", values.size(),
            " values do not make rows of ", dimension);
  return int64_t(values.size()) / dimension;
}

// Device memory with the given parts, one behind the other.
template <class... Parts>
Buffer upload(const DevicePtr& device, const Parts&... parts) {
  Buffer buffer(device, (size_t(0) + ... + (parts.size() * sizeof(parts[0]))));
  char* at = buffer.as<char>();
  const auto put = [&](const auto& part) {
    device->from_host(at, part.data(), part.size() * sizeof(part[0]));
    at += part.size() * sizeof(part[0]);
  };
  (put(parts), ...);
  return buffer;
}

template <class T>
std::vector<T> download(const DevicePtr& device, const Buffer& buffer, int64_t count) {
  std::vector<T> values(count);
  device->to_host(values.data(), buffer.as<>(), size_t(count) * sizeof(T));
  return values;
}

// Host values where the device's kernels can read them: on the CPU as they lie, on a GPU in its memory.
template <class T>
class DeviceValues {
 public:
  DeviceValues(const DevicePtr& device, std::span<const T> host) : host_(host) {
    if (device->kind == DeviceKind::cuda) copy_ = upload(device, host);
  }
  const T* data() const { return copy_ ? copy_.template as<T>() : host_.data(); }

 private:
  std::span<const T> host_;
  Buffer copy_;
};

// The same for host memory that kernels write: send() takes along what stands there, collect() brings what they left.
template <class T>
class DeviceResult {
 public:
  DeviceResult(const DevicePtr& device, std::span<T> host) : device_(device), host_(host) {
    if (device->kind == DeviceKind::cuda) memory_ = Buffer(device, host.size_bytes());
  }
  T* data() const { return memory_ ? memory_.template as<T>() : host_.data(); }
  void send() const {
    if (memory_) device_->from_host(memory_.template as<>(), host_.data(), host_.size_bytes());
  }
  void collect() const {
    if (memory_) device_->to_host(host_.data(), memory_.template as<>(), host_.size_bytes());
  }

 private:
  DevicePtr device_;
  std::span<T> host_;
  Buffer memory_;
};

// Throws NON_FINITE or ZERO_EMBEDDING; a row that may be zero is one without a use for its direction.
void check_values(Context& device, const char* name, std::span<const float> values, int64_t dimension,
                  bool needs_direction = true) {
  RowFaults faults = check_rows(device, rows_of(name, values, dimension), dimension, values.data());
  if (!needs_direction) faults.zero = 0;
  throw_faults(name, faults);
}

BankLossShape loss_shape(const BankLossArguments& arguments) {
  BankLossShape shape;
  shape.dimension = arguments.dimension;
  shape.batch = rows_of("student", arguments.student, shape.dimension);
  shape.textual = rows_of("textual", arguments.textual, shape.dimension);
  shape.visual = rows_of("visual", arguments.visual, shape.dimension);
  shape.queue = rows_of("queue", arguments.queue, shape.dimension);
  shape.textual_part = shape.textual > 0;
  shape.visual_part = shape.visual + shape.queue > 0;
  LGD_CHECK(shape.batch > 0, "BAD_SHAPE", "student: expected at least one row");
  LGD_CHECK(arguments.teacher.size() == arguments.student.size(), "BAD_SHAPE", "teacher: expected ",
            arguments.student.size(), " values, as many as student, found ", arguments.teacher.size());
  LGD_CHECK(shape.textual == 0 || shape.visual == 0 || shape.textual == shape.visual, "BAD_SHAPE", "visual: expected ",
            shape.textual, " rows, as many as textual, found ", shape.visual);
  LGD_CHECK(arguments.alpha >= 0 && arguments.alpha <= 1, "BAD_OPTION", "alpha must be in [0, 1], found ",
            arguments.alpha);
  LGD_CHECK(shape.textual_part || arguments.alpha == 1, "BAD_OPTION", "without a textual bank alpha must be 1, found ",
            arguments.alpha);
  LGD_CHECK(shape.visual_part || arguments.alpha == 0, "BAD_OPTION",
            "without a visual bank or a queue alpha must be 0, found ", arguments.alpha);
  LGD_CHECK(arguments.student_temperature > 0 && arguments.teacher_temperature > 0, "BAD_OPTION",
            "temperatures must be positive");
  return shape;
}

}  // namespace

BankLossResult bank_loss(const DevicePtr& device, const BankLossArguments& arguments) {
  const BankLossShape shape = loss_shape(arguments);
  const BankLossSettings settings = {arguments.alpha, arguments.student_temperature, arguments.teacher_temperature, 1,
                                     products_of(*device, arguments.bfloat16)};
  check_values(*device, "student", arguments.student, shape.dimension);
  check_values(*device, "teacher", arguments.teacher, shape.dimension);
  check_values(*device, "textual", arguments.textual, shape.dimension);
  check_values(*device, "visual", arguments.visual, shape.dimension, false);
  check_values(*device, "queue", arguments.queue, shape.dimension);

  const DeviceValues student(device, arguments.student), teacher(device, arguments.teacher);
  const DeviceResult gradient(device, arguments.gradient);
  const Buffer record(device, sizeof(LossRecord));
  Buffer anchors, operands;
  BankLossArrays arrays;
  arrays.student = student.data();
  arrays.teacher = teacher.data();
  if (device->kind == DeviceKind::cuda) {
    anchors = upload(device, arguments.textual, arguments.visual, arguments.queue);
    arrays.anchors = anchors.as<float>();
  } else {
    arrays.anchors = arguments.textual.data();
    arrays.visual = arguments.visual.data();
    arrays.queue = arguments.queue.data();
  }
  if (arguments.bfloat16) {
    const OperandLayout layout =
        operand_layout(shape.dimension, arguments.student_temperature, arguments.teacher_temperature);
    operands = Buffer(device, size_t(shape.anchors() * layout.stride()) * sizeof(uint16_t));
    write_operands(*device, shape.anchors(), shape.dimension, layout, anchors.as<float>(), operands.as<>());
    arrays.operands = operands.as<>();
  }
  arrays.d_student = gradient.data();
  arrays.record = record.as<LossRecord>();
  semantic_kernels(*device).bank_loss(*device, shape, settings, arrays);

  gradient.collect();
  const LossRecord found = download<LossRecord>(device, record, 1)[0];
  throw_faults("student", found.student);
  throw_faults("teacher", found.teacher);
  BankLossResult result;
  result.loss_visual = found.loss_visual;
  result.loss_textual = found.loss_textual;
  result.kl_visual = found.loss_visual - found.entropy_visual;
  result.kl_textual = found.loss_textual - found.entropy_textual;
  result.loss = double(arguments.alpha) * found.loss_visual + (1 - double(arguments.alpha)) * found.loss_textual;
  if (!std::isfinite(result.loss))
    throw Error("NON_FINITE", "the loss is not finite: a bank's values are beyond the range of its products");
  return result;
}

double feature_loss(const DevicePtr& device, const FeatureLossArguments& arguments) {
  const int64_t dimension = arguments.dimension, batch = rows_of("student", arguments.student, dimension);
  LGD_CHECK(batch > 0, "BAD_SHAPE", "student: expected at least one row");
  LGD_CHECK(arguments.teacher.size() == arguments.student.size(), "BAD_SHAPE", "teacher: expected ",
            arguments.student.size(), " values, as many as student, found ", arguments.teacher.size());
  check_values(*device, "student", arguments.student, dimension);
  check_values(*device, "teacher", arguments.teacher, dimension);
  const DeviceValues student(device, arguments.student), teacher(device, arguments.teacher);
  const DeviceResult gradient(device, arguments.gradient);
  const Buffer record(device, sizeof(LossRecord)), memory(device, size_t(3 * batch) * sizeof(float));
  device->zero(record.as<>(), sizeof(LossRecord));
  semantic_kernels(*device).feature_loss(
      *device, {batch, dimension, 1, student.data(), teacher.data(), gradient.data(), memory.as<float>(),
                memory.as<float>() + 2 * batch, record.as<LossRecord>()});
  gradient.collect();
  const LossRecord found = download<LossRecord>(device, record, 1)[0];
  throw_faults("student", found.student);
  throw_faults("teacher", found.teacher);
  return found.loss_feature;
}

void bank_update(const DevicePtr& device, const BankUpdateArguments& arguments) {
  const int64_t dimension = arguments.dimension;
  const int64_t rows = rows_of("teacher", arguments.teacher, dimension),
                categories = rows_of("textual", arguments.textual, dimension);
  LGD_CHECK(rows > 0 && categories > 0, "BAD_SHAPE", "teacher and textual need at least one row each");
  LGD_CHECK(arguments.visual.size() == arguments.textual.size(), "BAD_SHAPE", "visual: expected ",
            arguments.textual.size(), " values, as many as textual, found ", arguments.visual.size());
  LGD_CHECK(int64_t(arguments.seen.size()) == categories, "BAD_SHAPE", "seen: expected ", categories, " flags, found ",
            arguments.seen.size());
  LGD_CHECK(int64_t(arguments.assignment.size()) == rows && arguments.visual_after.size() == arguments.visual.size() &&
                arguments.seen_after.size() == arguments.seen.size(),
            "BAD_SHAPE", "the results' sizes do not fit the arguments'");
  LGD_CHECK(arguments.momentum >= 0 && arguments.momentum < 1, "BAD_OPTION", "momentum must be in [0, 1), found ",
            arguments.momentum);
  check_values(*device, "teacher", arguments.teacher, dimension);
  check_values(*device, "textual", arguments.textual, dimension);
  check_values(*device, "visual", arguments.visual, dimension, false);

  // The results' own memory receives the bank as it was, and the update works there.
  constexpr int64_t copied_at_once = 65536;
  device->pool.for_range(int64_t(arguments.visual.size()), copied_at_once, [&](int64_t begin, int64_t end) {
    std::copy(arguments.visual.begin() + begin, arguments.visual.begin() + end, arguments.visual_after.begin() + begin);
  });
  std::transform(arguments.seen.begin(), arguments.seen.end(), arguments.seen_after.begin(),
                 [](uint8_t flag) { return uint8_t(flag != 0); });
  const DeviceValues teacher(device, arguments.teacher), textual(device, arguments.textual);
  const DeviceResult visual(device, arguments.visual_after);
  const DeviceResult seen(device, arguments.seen_after);
  const DeviceResult assignment(device, arguments.assignment);
  visual.send();
  seen.send();
  const Buffer record(device, sizeof(UpdateRecord));
  BankTargets targets;
  targets.textual = textual.data();
  targets.visual = visual.data();
  targets.seen = seen.data();
  semantic_kernels(*device).bank_update(*device, dimension, categories, arguments.momentum, {{teacher.data(), rows}},
                                        targets, {}, assignment.data(), record.as<UpdateRecord>());
  throw_faults("teacher", download<UpdateRecord>(device, record, 1)[0].teacher);
  visual.collect();
  seen.collect();
  assignment.collect();
}

namespace {

// Unit rows of `values` in device memory; throws when one has no direction.
Buffer unit_rows(const DevicePtr& device, const char* who, std::span<const float> values, int64_t dimension) {
  const int64_t rows = rows_of(who, values, dimension);
  const SemanticKernels& op = semantic_kernels(*device);
  const DeviceValues raw(device, values);
  const Buffer norm(device, size_t(rows) * sizeof(float)), faults(device, sizeof(RowFaults));
  Buffer unit(device, values.size() * sizeof(float));
  op.normalise_rows(*device, rows, dimension, raw.data(), unit.as<float>(), norm.as<float>());
  op.find_faults(*device, rows, norm.as<float>(), faults.as<RowFaults>());
  throw_faults(who, download<RowFaults>(device, faults, 1)[0]);
  return unit;
}

}  // namespace

void top_similar(const DevicePtr& device, std::span<const float> queries, std::span<const float> bank,
                 int64_t dimension, int k, std::vector<int32_t>& indices, std::vector<float>& scores) {
  const int64_t rows = rows_of("queries", queries, dimension), candidates = rows_of("bank", bank, dimension);
  LGD_CHECK(k > 0 && k <= candidates, "BAD_SHAPE", "k must be from 1 to the bank's ", candidates, " rows, found ", k);
  indices.clear();
  scores.clear();
  if (rows == 0) return;
  const SemanticKernels& op = semantic_kernels(*device);
  const Buffer query_units = unit_rows(device, "query", queries, dimension),
               bank_units = unit_rows(device, "bank", bank, dimension);
  const Buffer top_indices(device, size_t(rows) * k * sizeof(int32_t)),
      top_scores(device, size_t(rows) * k * sizeof(float));
  const int64_t stride = score_stride(candidates);
  const int64_t rows_at_once = rows_at_a_time(rows, stride);
  float* block = static_cast<float*>(device->scratch(size_t(rows_at_once * stride) * sizeof(float)));
  for (int64_t begin = 0; begin < rows; begin += rows_at_once) {
    const int64_t count = std::min(rows_at_once, rows - begin);
    op.similarities(*device, count, candidates, dimension, query_units.as<float>() + begin * dimension,
                    bank_units.as<float>(), block, stride);
    op.select_top(*device, count, candidates, k, block, stride, top_indices.as<int32_t>() + begin * k,
                  top_scores.as<float>() + begin * k);
  }
  indices = download<int32_t>(device, top_indices, rows * k);
  scores = download<float>(device, top_scores, rows * k);
}

}  // namespace lgd
