#include "graph/parameters.h"

#include <cmath>

#include "ops/kernels.h"

namespace lgd {
namespace {

constexpr int64_t alignment = 128;  // floats: 256 bytes of the bf16 shadow too
int64_t aligned(int64_t floats) { return (floats + alignment - 1) / alignment * alignment; }

// torchvision's order -> stored order, padding zero.
std::vector<float> pack(const ParameterLayout& layout, const std::vector<float>& values) {
  std::vector<float> stored(size_t(layout.stored_elements()), 0.f);
  for (int64_t row = 0; row < layout.rows; ++row)
    for (int64_t column = 0; column < layout.columns; ++column)
      for (int64_t tap = 0; tap < layout.taps; ++tap)
        stored[size_t(layout.place(row, column, tap))] =
            values[size_t((row * layout.columns + column) * layout.taps + tap)];
  return stored;
}

std::vector<float> unpack(const ParameterLayout& layout, const std::vector<float>& stored) {
  std::vector<float> values(size_t(layout.elements()));
  for (int64_t row = 0; row < layout.rows; ++row)
    for (int64_t column = 0; column < layout.columns; ++column)
      for (int64_t tap = 0; tap < layout.taps; ++tap)
        values[size_t((row * layout.columns + column) * layout.taps + tap)] =
            stored[size_t(layout.place(row, column, tap))];
  return values;
}

}  // namespace

ParameterTable::ParameterTable(const DevicePtr& device, const Graph& graph, const Shapes& shapes,
                               const EncoderOptions& options)
    : device_(device), type_(shapes.type), optimizer_(options.optimizer), places_(graph.parameters.size()) {
  const auto lay_out = [&](bool trainable, bool decay, int64_t& table) {
    for (size_t i = 0; i < places_.size(); ++i) {
      const GraphParameter& parameter = graph.parameters[i];
      if (parameter.trainable != trainable || (trainable && parameter.decay != decay)) continue;
      places_[i] = {shapes.parameters[i], table, trainable};
      table += aligned(places_[i].layout.stored_elements());
      if (trainable) trainable_elements_ += places_[i].layout.elements();
    }
  };
  lay_out(true, true, values_);
  decayed_ = values_;
  lay_out(true, false, values_);
  lay_out(false, false, buffers_);
  value_table_ = Buffer(device_, size_t(values_) * 4);
  buffer_table_ = Buffer(device_, size_t(buffers_) * 4);
  if (options.training) gradient_table_ = Buffer(device_, size_t(values_) * 4);
  if (options.training) momentum_table_ = Buffer(device_, size_t(values_) * 4);
  if (options.training && optimizer_ == Optimizer::adamw) second_moment_table_ = Buffer(device_, size_t(values_) * 4);
  if (type_ == DType::bf16 || shapes.rounds) shadow_table_ = Buffer(device_, size_t(values_) * size_of(type_));
}

size_t ParameterTable::bytes() const {
  return value_table_.bytes() + gradient_table_.bytes() + momentum_table_.bytes() + second_moment_table_.bytes() +
         shadow_table_.bytes() + buffer_table_.bytes();
}

float* ParameterTable::value(int parameter) const {
  const Place& place = places_[size_t(parameter)];
  return (place.trainable ? value_table_ : buffer_table_).as<float>() + place.offset;
}

float* ParameterTable::gradient(int parameter) const {
  const Place& place = places_[size_t(parameter)];
  return place.trainable && gradient_table_ ? gradient_table_.as<float>() + place.offset : nullptr;
}

const void* ParameterTable::operand(int parameter) const {
  if (!shadow_table_) return value(parameter);
  return shadow_table_.as<char>() + size_t(places_[size_t(parameter)].offset) * size_of(type_);
}

float* ParameterTable::slot_of(const Place& place, Slot slot) {
  const Buffer& table = slot == Slot::gradient        ? gradient_table_
                        : slot == Slot::momentum      ? momentum_table_
                        : slot == Slot::second_moment ? second_moment_table_
                        : place.trainable             ? value_table_
                                                      : buffer_table_;
  return table.as<float>() + place.offset;
}

void ParameterTable::write(int parameter, Slot slot, const std::vector<float>& values) {
  const Place& place = places_[size_t(parameter)];
  const std::vector<float> stored = pack(place.layout, values);
  device_->from_host(slot_of(place, slot), stored.data(), stored.size() * 4);
  if (slot == Slot::value && place.trainable && shadow_table_)
    device_->kernels->cast(*device_, int64_t(stored.size()), DType::bf16, value(parameter),
                           const_cast<void*>(operand(parameter)));
}

void ParameterTable::read(int parameter, Slot slot, std::vector<float>& values) {
  const Place& place = places_[size_t(parameter)];
  std::vector<float> stored(size_t(place.layout.stored_elements()));
  device_->to_host(stored.data(), slot_of(place, slot), stored.size() * 4);
  values = unpack(place.layout, stored);
}

void ParameterTable::zero_gradients() { device_->zero(gradient_table_.as<>(), gradient_table_.bytes()); }

void ParameterTable::zero_all() {
  for (const Buffer* table :
       {&value_table_, &buffer_table_, &gradient_table_, &momentum_table_, &second_moment_table_, &shadow_table_})
    if (*table) device_->zero(table->as<>(), table->bytes());
}

void* ParameterTable::shadow_from(int64_t place) const {
  return type_ == DType::bf16 ? shadow_table_.as<char>() + size_t(place) * size_of(type_) : nullptr;
}

// The padding of the table has no gradients.
void ParameterTable::clip(const OptimizerStep& step, float* factor, double* norm) {
  device_->kernels->clip_norm(*device_, values_, gradient_table_.as<float>(),
                              {std::abs(step.gradient_scale), step.clip_norm}, factor, norm);
}

void ParameterTable::sgd(const OptimizerStep& step, const float* clip) {
  const auto range = [&](int64_t from, int64_t to, double weight_decay) {
    if (from == to) return;
    const SgdStep numbers{float(step.learning_rate), float(step.momentum), float(weight_decay),
                          float(step.gradient_scale), clip};
    device_->kernels->sgd(*device_, to - from, numbers, gradient_table_.as<float>() + from,
                          momentum_table_.as<float>() + from, value_table_.as<float>() + from, shadow_from(from));
  };
  if (step.decay_norm_and_bias) {
    range(0, values_, step.weight_decay);
  } else {
    range(0, decayed_, step.weight_decay);
    range(decayed_, values_, 0);
  }
}

void ParameterTable::adamw(const OptimizerStep& step, const float* clip) {
  AdamwStep numbers = adamw_step(step.learning_rate, step.beta1, step.beta2, step.epsilon, step.weight_decay,
                                 step.gradient_scale, step.count, step.decay_norm_and_bias ? values_ : decayed_);
  numbers.clip = clip;
  device_->kernels->adamw(*device_, values_, numbers, gradient_table_.as<float>(), momentum_table_.as<float>(),
                          second_moment_table_.as<float>(), value_table_.as<float>(), shadow_from(0));
}

void ParameterTable::optimise(const OptimizerStep& step, const float* clip) {
  optimizer_ == Optimizer::adamw ? adamw(step, clip) : sgd(step, clip);
  if (shadow_table_ && type_ == DType::f32)
    device_->kernels->cast(*device_, values_, DType::bf16, value_table_.as<float>(), shadow_table_.as<>());
}

}  // namespace lgd
