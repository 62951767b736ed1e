// The numbers of an encoder, in flat float32 tables: values (decayed parameters first, then norm scales and biases),
// gradients and what the optimiser keeps (momentum, and for AdamW the second moment too) laid out alike, and buffers
// (running statistics). With bfloat16 a rounded shadow of the values feeds the convolutions.
#pragma once
#include "core/device.h"
#include "graph/shape.h"

namespace lgd {

class ParameterTable {
 public:
  // Allocates values, and gradients and the optimiser's tables when training: a step that finds no room for them would
  // have moved other things by then. Throws OUT_OF_MEMORY.
  ParameterTable(const DevicePtr& device, const Graph& graph, const Shapes& shapes, const EncoderOptions& options);

  bool trainable(int parameter) const { return places_[size_t(parameter)].trainable; }
  int64_t elements(int parameter) const { return places_[size_t(parameter)].layout.elements(); }
  int64_t trainable_elements() const { return trainable_elements_; }  // without padding
  size_t bytes() const;

  float* value(int parameter) const;
  float* gradient(int parameter) const;      // null in forward-only plans and for buffers
  const void* operand(int parameter) const;  // a convolution's weights in the storage type, rounded if the plan rounds

  // Device thread. Numbers in torchvision's order; sizes were checked by the caller.
  void write(int parameter, Slot slot, const std::vector<float>& values);
  void read(int parameter, Slot slot, std::vector<float>& values);
  void zero_gradients();
  void zero_all();                                            // at the start
  const Buffer& statistics() const { return buffer_table_; }  // of the norms; all buffers are such
  // What gradients clipped by step.clip_norm (above 0) are multiplied by goes to `factor`, their norm to `norm`
  // (optimizer/clip_norm.h).
  void clip(const OptimizerStep& step, float* factor, double* norm);
  void optimise(const OptimizerStep& step, const float* clip);  // null: not clipped

 private:
  struct Place {
    ParameterLayout layout;
    int64_t offset = 0;  // in floats, in the table of values or of buffers
    bool trainable = true;
  };
  float* slot_of(const Place& place, Slot slot);
  void sgd(const OptimizerStep& step, const float* clip);
  void adamw(const OptimizerStep& step, const float* clip);
  void* shadow_from(int64_t place) const;

  DevicePtr device_;
  DType type_;
  Optimizer optimizer_;
  std::vector<Place> places_;
  int64_t decayed_ = 0, values_ = 0, buffers_ = 0, trainable_elements_ = 0;  // table sizes in floats
  Buffer value_table_, gradient_table_, momentum_table_, second_moment_table_, shadow_table_, buffer_table_;
};

}  // namespace lgd
