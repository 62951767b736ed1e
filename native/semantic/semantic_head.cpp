#include "semantic/semantic_head.h"

#include <algorithm>
#include <cmath>

namespace lgd {

// ---- metrics --------------------------------------------------------------------------------------------------------

void throw_faults(const char* who, const RowFaults& faults) {
  if (faults.non_finite > 0)
    throw_error("NON_FINITE", {"row ", faults.non_finite - 1, " of the ", who,
                               " embeddings has a value that is not finite, or is longer than float32 can hold"});
  if (faults.zero > 0)
    throw_error("ZERO_EMBEDDING",
                {"row ", faults.zero - 1, " of the ", who, " embeddings is zero; it has no direction"});
}

SemanticMetrics read_metrics(const SemanticHeadPtr& head, int slot) {
  head->records.check(slot);
  const StepRecord record = head->records.read(slot);
  throw_faults("student", record.loss.student);
  throw_faults("teacher", record.loss.teacher);
  throw_faults("teacher", record.update.teacher);
  SemanticMetrics metrics;
  metrics.loss_visual = record.loss.loss_visual;
  metrics.loss_textual = record.loss.loss_textual;
  metrics.entropy_visual = record.loss.entropy_visual;
  metrics.entropy_textual = record.loss.entropy_textual;
  metrics.kl_visual = metrics.loss_visual - metrics.entropy_visual;
  metrics.kl_textual = metrics.loss_textual - metrics.entropy_textual;
  const double alpha = head->options.alpha;
  metrics.loss = head->options.feature ? record.loss.loss_feature
                                       : alpha * metrics.loss_visual + (1 - alpha) * metrics.loss_textual;
  metrics.own_mass = record.loss.own_mass;
  metrics.agreement = record.loss.agreement;
  metrics.categories_hit = record.update.categories_hit;
  metrics.categories_seen = record.update.categories_seen;
  if (!std::isfinite(metrics.loss))
    throw Error("NON_FINITE", "the loss is not finite: a bank or the queue has a value that is not finite");
  return metrics;
}

// ---- the teachers' rows ---------------------------------------------------------------------------------------------

TeacherMemory::Rows TeacherMemory::begin(const DevicePtr& device, const TensorPtr& teacher) {
  for (const auto& batch : batches_) {
    const TensorPtr seen = batch.lock();
    if (seen && seen != teacher) continue;  // one that is gone cannot come to an update
    clear();
    break;
  }
  const int64_t count = teacher->shape[0], dimension = teacher->shape[1], begin = rows_;
  if (begin + count > capacity_) {
    const int64_t capacity = std::max(begin + count, 2 * begin);
    Buffer unit(device, size_t(capacity * dimension) * sizeof(float)), norm(device, size_t(capacity) * sizeof(float)),
        assignment(device, size_t(capacity) * sizeof(int32_t));
    if (begin > 0) {
      device->copy(unit.as<>(), unit_.as<>(), size_t(begin * dimension) * sizeof(float));
      device->copy(norm.as<>(), norm_.as<>(), size_t(begin) * sizeof(float));
      device->copy(assignment.as<>(), assignment_.as<>(), size_t(begin) * sizeof(int32_t));
    }
    unit_ = std::move(unit);
    norm_ = std::move(norm);
    assignment_ = std::move(assignment);
    capacity_ = capacity;
  }
  batches_.push_back(teacher);
  rows_ += count;
  return {unit_.as<float>() + begin * dimension, norm_.as<float>() + begin, assignment_.as<int32_t>() + begin};
}

KnownTeachers TeacherMemory::known(const std::vector<TensorPtr>& batches) const {
  const auto same = [](const std::weak_ptr<Tensor>& seen, const TensorPtr& batch) { return seen.lock() == batch; };
  if (batches.empty() || !std::equal(batches_.begin(), batches_.end(), batches.begin(), batches.end(), same)) return {};
  return {unit_.as<float>(), norm_.as<float>(), assignment_.as<int32_t>()};
}

// ---- the head -------------------------------------------------------------------------------------------------------

Products products_of(const Context& device, bool bfloat16) {
  LGD_CHECK(!bfloat16 || device.kind == DeviceKind::cuda, "BAD_OPTION", "bfloat16 operands are available on CUDA only");
  return bfloat16 ? Products::f16 : Products::f32;
}

static void check_options(const Context& device, const SemanticOptions& options) {
  LGD_CHECK(options.dimension > 0, "BAD_SHAPE", "the embedding dimension must be positive, found ", options.dimension);
  LGD_CHECK(options.categories >= 0 && options.queue_size >= 0, "BAD_SHAPE",
            "categories and queueSize must not be negative");
  LGD_CHECK(options.student_temperature > 0 && options.teacher_temperature > 0, "BAD_OPTION",
            "temperatures must be positive");
  LGD_CHECK(options.alpha >= 0 && options.alpha <= 1, "BAD_OPTION", "alpha must be in [0, 1], found ", options.alpha);
  LGD_CHECK(options.momentum >= 0 && options.momentum < 1, "BAD_OPTION", "momentum must be in [0, 1), found ",
            options.momentum);
  const bool textual = options.categories > 0 && options.use_textual;
  const bool visual = (options.categories > 0 && options.use_visual) || options.queue_size > 0;
  LGD_CHECK(!options.feature || (!options.use_textual && !options.use_visual && options.queue_size == 0), "BAD_OPTION",
            "feature regression takes no bank into the loss");
  LGD_CHECK(options.feature || textual || options.alpha == 1, "BAD_OPTION",
            "without a textual bank in the loss alpha must be 1, found ", options.alpha);
  LGD_CHECK(options.feature || visual || options.alpha == 0, "BAD_OPTION",
            "without a visual bank or a queue in the loss alpha must be 0, found ", options.alpha);
  products_of(device, options.bfloat16);
}

SemanticHead::SemanticHead(const DevicePtr& device_, const SemanticOptions& options_)
    : device(device_), options(options_), records(device_) {
  const int64_t K = options.categories, D = options.dimension;
  anchors = Buffer(device, size_t((visual_in_loss() ? 2 : 1) * K + options.queue_size) * D * sizeof(float));
  if (!visual_in_loss()) idle_visual = Buffer(device, size_t(K * D) * sizeof(float));
  seen = Buffer(device, size_t(K));
  layout = operand_layout(D, options.student_temperature, options.teacher_temperature);
  if (options.bfloat16)
    operands = Buffer(device, size_t(queue_row() + options.queue_size) * layout.stride() * sizeof(uint16_t));
}

SemanticHeadPtr make_semantic_head(const DevicePtr& device, const SemanticOptions& options) {
  check_options(*device, options);
  auto head = std::make_shared<SemanticHead>(device, options);
  device->submit("semantic.make", [head] {
    Context& device = *head->device;
    device.zero(head->anchors.as<>(), head->anchors.bytes());
    device.zero(head->idle_visual.as<>(), head->idle_visual.bytes());
    device.zero(head->seen.as<>(), head->seen.bytes());
    device.zero(head->operands.as<>(), head->operands.bytes());
  });
  return head;
}

// An empty array leaves its part as it is; the queue comes with its position and its count.
void write_semantic_state(const SemanticHeadPtr& head, SemanticState state) {
  const int64_t K = head->options.categories, D = head->options.dimension, Q = head->options.queue_size;
  const auto check = [](const char* name, size_t found, int64_t expected) {
    LGD_CHECK(found == 0 || int64_t(found) == expected, "BAD_SHAPE", name, ": expected ", expected, " values, found ",
              found);
  };
  check("textual", state.textual.size(), K * D);
  check("visual", state.visual.size(), K * D);
  check("seen", state.seen.size(), K);
  check("queue", state.queue.size(), Q * D);
  if (!state.queue.empty()) {
    LGD_CHECK(state.queue_filled >= 0 && state.queue_filled <= Q, "BAD_BANK", "queueFilled must be in [0, ", Q,
              "], found ", state.queue_filled);
    LGD_CHECK(state.queue_position >= 0 && state.queue_position < Q, "BAD_BANK", "queuePosition must be in [0, ", Q,
              "), found ", state.queue_position);
    LGD_CHECK(state.queue_filled == Q || state.queue_position == state.queue_filled, "BAD_BANK", "a queue with ",
              state.queue_filled, " of ", Q, " rows filled must continue there, not at ", state.queue_position);
  }
  for (uint8_t& flag : state.seen) flag = flag != 0;
  head->device->submit("semantic.write", [head, state = std::move(state)] {
    Context& device = *head->device;
    const SemanticOptions& options = head->options;
    const auto put = [&](void* to, const auto& values) {
      device.from_host(to, values.data(), values.size() * sizeof(values[0]));
    };
    put(head->textual(), state.textual);
    put(head->visual(), state.visual);
    put(head->seen.as<>(), state.seen);
    put(head->queue(), state.queue);
    if (head->operands)
      write_operands(device, head->queue_row() + options.queue_size, options.dimension, head->layout,
                     head->anchors.as<float>(), head->operands.as<>());
    head->teachers.clear();
    if (!state.queue.empty()) {
      head->queue_position = state.queue_position;
      head->queue_filled = state.queue_filled;
    }
  });
}

void read_semantic_state(const SemanticHeadPtr& head, SemanticState& state) {
  const int64_t K = head->options.categories, D = head->options.dimension, Q = head->options.queue_size;
  const auto get = [&](auto& values, const void* from, int64_t count) {
    values.resize(size_t(count));
    head->device->to_host(values.data(), from, values.size() * sizeof(values[0]));
  };
  get(state.textual, head->textual(), K * D);
  get(state.visual, head->visual(), K * D);
  get(state.seen, head->seen.as<>(), K);
  get(state.queue, head->queue(), Q * D);
  state.queue_position = head->queue_position;
  state.queue_filled = head->queue_filled;
}

// ---- a step ---------------------------------------------------------------------------------------------------------

static void check_embeddings(const SemanticHead& head, const char* name, const Tensor& tensor, int64_t batch) {
  const bool matches = tensor.type == DType::f32 && tensor.shape.size() == 2 &&
                       tensor.shape[1] == head.options.dimension && tensor.stored == tensor.shape[1] &&
                       (batch < 0 || tensor.shape[0] == batch);
  LGD_CHECK(matches, "BAD_SHAPE", name, ": expected float32 embeddings of ", head.options.dimension, " values",
            batch < 0 ? "" : ", as many as students");
  LGD_CHECK(tensor.device == head.device, "BAD_OPTION", name, ": the tensor belongs to another device than the head");
}

static void run_feature_loss(Context& device, int64_t batch, int64_t dimension, float scale,
                             const BankLossArrays& arrays) {
  float* memory = static_cast<float*>(device.scratch(size_t(3 * batch) * sizeof(float)));
  semantic_kernels(device).feature_loss(device, {batch, dimension, scale, arrays.student, arrays.teacher,
                                                 arrays.d_student, memory, memory + 2 * batch, arrays.record});
}

void bank_loss(const SemanticHeadPtr& head, const TensorPtr& student, const TensorPtr& teacher,
               const TensorPtr& d_student, float scale, int slot) {
  check_embeddings(*head, "student", *student, -1);
  check_embeddings(*head, "teacher", *teacher, student->shape[0]);
  check_embeddings(*head, "dStudent", *d_student, student->shape[0]);
  head->records.check(slot);
  head->device->submit("semantic.loss", [=] {
    const SemanticOptions& options = head->options;
    BankLossShape shape;
    shape.batch = student->shape[0];
    shape.dimension = options.dimension;
    shape.textual = options.categories;
    shape.visual = head->visual_in_loss() ? options.categories : 0;
    shape.queue = head->queue_filled;
    shape.textual_part = head->textual_in_loss();
    shape.visual_part = head->visual_in_loss() || head->has_queue();
    const BankLossSettings settings = {options.alpha, options.student_temperature, options.teacher_temperature, scale,
                                       products_of(*head->device, options.bfloat16)};
    StepRecord* record = head->records.at(slot);
    BankLossArrays arrays;
    arrays.student = student->f32();
    arrays.teacher = teacher->f32();
    arrays.anchors = head->anchors.as<float>();
    arrays.operands = head->operand(0);
    arrays.d_student = d_student->f32();
    arrays.record = &record->loss;
    arrays.cleared = &record->update;  // until bank_update: not the counts of the step that had this slot before
    if (head->device->kind == DeviceKind::cuda) {
      const TeacherMemory::Rows rows = head->teachers.begin(head->device, teacher);
      arrays.teacher_unit = rows.unit;
      arrays.teacher_norm = rows.norm;
      arrays.assignment = rows.assignment;
    }
    // the rest of its records stays as it was made: zeros
    const bool alone = options.feature && options.categories == 0;
    // of feature regression: how often both agree, and the teacher's rows
    if (!alone) semantic_kernels(*head->device).bank_loss(*head->device, shape, settings, arrays);
    if (options.feature) run_feature_loss(*head->device, shape.batch, shape.dimension, scale, arrays);
    head->records.publish(slot);
  });
}

void bank_update(const SemanticHeadPtr& head, const std::vector<TensorPtr>& teacher_batches, int slot) {
  LGD_CHECK(!teacher_batches.empty(), "BAD_OPTION", "bank_update needs at least one batch of teacher embeddings");
  for (const TensorPtr& batch : teacher_batches) check_embeddings(*head, "teacher", *batch, -1);
  head->records.check(slot);
  head->device->submit("semantic.update", [=] {
    const SemanticOptions& options = head->options;
    std::vector<TeacherBatch> batches;
    int64_t rows = 0;
    for (const TensorPtr& batch : teacher_batches) {
      batches.push_back({batch->f32(), batch->shape[0]});
      rows += batch->shape[0];
    }
    BankTargets targets;
    if (options.categories > 0) {
      targets.textual = head->textual();
      targets.visual = head->visual();
      targets.seen = head->seen.as<uint8_t>();
      if (head->visual_in_loss()) targets.visual_operands = head->operand(options.categories);
    }
    if (head->has_queue()) {
      targets.queue = head->queue();
      targets.queue_size = options.queue_size;
      targets.queue_position = head->queue_position;
      targets.queue_operands = head->operand(head->queue_row());
    }
    targets.layout = head->layout;
    if (!targets.textual && !targets.queue) return;  // feature regression without names keeps nothing
    semantic_kernels(*head->device)
        .bank_update(*head->device, options.dimension, options.categories, options.momentum, batches, targets,
                     head->teachers.known(teacher_batches), nullptr, &head->records.at(slot)->update);
    head->teachers.clear();
    if (head->has_queue()) {
      head->device->undo_if_dropped([head, position = head->queue_position, filled = head->queue_filled] {
        head->queue_position = position;
        head->queue_filled = filled;
      });
      head->queue_position = (head->queue_position + rows) % options.queue_size;
      head->queue_filled = std::min(head->queue_filled + rows, options.queue_size);
    }
    head->records.publish(slot);
  });
}

}  // namespace lgd
