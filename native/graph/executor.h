// Runs a compiled program on the device's thread: forward and backward, one kernel call after another.
#pragma once
#include "graph/parameters.h"
#include "graph/program.h"
#include "ops/fused.h"
#include "ops/layer_norm.h"

namespace lgd {

struct Kernels;
struct Excitation;

class Executor {
 public:
  Executor(const DevicePtr& device, const Program& program, ParameterTable& parameters);

  size_t arena_bytes() const { return arena_.bytes() + sums_.bytes() + taken_.bytes(); }
  int kernels_forward() const { return int(program_.steps.size() + program_.outputs.size()); }
  int kernels_backward() const;

  // The folded scale and shift of every norm no longer match its parameters and statistics.
  void parameters_changed() { folded_ = -1; }

  // images: as Tensor stores them; output float32, all outputs one behind the other. Batch statistics and dropping when
  // options.training.
  void forward(const void* images, float* output, const ForwardOptions& options);
  // After a training forward of the same images. Adds to the parameters' gradients.
  void backward(const void* images, const float* d_output);

 private:
  // Per norm, [C] each: mean and rstd of the batch; scale and shift, of the batch or folded from the running
  // statistics; a, b, c of its gradient (ops/fused.h).
  struct NormNumbers {
    float *mean, *rstd, *scale, *shift, *a, *b, *c;
  };

  const void* take_images(const void* images);
  const Node& node_of(const Step& step) const { return program_.graph.nodes[size_t(step.node)]; }
  void* value(int number) const;
  void* gradient(int number) const;
  void pass(int time);           // of MemoryPlan: zeroes what is not alive, where that is asked for
  void round_value(int number);  // Shapes::rounds: what a step has just stored
  void round_gradient(int number);
  NormNumbers norm_numbers(int node) const;
  void fold_norms();
  void fold_sums();

  void forward_step(const Step& step);
  void forward_conv(const Step& step);
  void forward_conv_sum(const Step& step);
  void forward_norm(const Step& step);
  void forward_drop(const Step& step);
  // executor_sequence.cpp
  void forward_sequence(const Step& step);
  void backward_sequence(const Step& step, const StepGradient& writes);
  void backward_step(const Step& step, const StepGradient& writes);
  void backward_conv(const Step& step, const StepGradient& writes);
  void backward_norm(const Step& step, const StepGradient& writes);
  void backward_add(const Step& step, const StepGradient& writes);
  void forward_scale(const Step& step);
  void backward_scale(const Step& step, const StepGradient& writes);
  LayerNormShape layer_norm_shape(const Step& step) const;
  DropShape drop_shape(int node, int value) const;

  // executor_layers.cpp
  RowsShape rows_shape(int value) const;
  LazyInput lazy_input(int value) const;
  LazyInput ingredients(int value) const;
  LazyGradient lazy_gradient(const Step& conv) const;
  NormGradient norm_gradient(int node) const;
  GradientTarget gradient_target(int value) const;
  GradientTarget input_target(const Step&, const StepGradient&) const;
  void forward_layer(const Step& step);
  void forward_conv_norm(const Step& step);
  void forward_join(const Step& step);
  void forward_gate(const Step& step);
  void backward_layer(const Step& step, const StepGradient& writes);
  void backward_conv_norm(const Step& step, const StepGradient& writes);
  void backward_join(const Step& step, const StepGradient& writes);
  void backward_squeeze(const Step& step, const StepGradient& writes);
  void backward_gate(const Step& step, const StepGradient& writes);
  void forward_linear(const Step& step);
  void backward_linear(const Step& step, const StepGradient& writes);
  Excitation excitation(const Step& step) const;
  void forward_excitation(const Step& step);
  void backward_excitation(const Step& step, const StepGradient& writes);
  void finish_activation(int value, const void* dy, void* g);
  void pass_on(int from, int to, GradientWrite write);

  DevicePtr device_;
  const Kernels& kernels_;
  const Program& program_;
  ParameterTable& parameters_;
  Buffer arena_, norms_;
  // the images as the first steps read them, where that is not how they came: widened, or rounded
  Buffer taken_;
  Buffer discarded_;  // norm numbers that nobody wants: of an evaluating forward through layers
  float* gate_pooled(const RowsShape& shape) const {
    return gates_.as<float>() + 4 * int64_t(shape.images) * shape.channels;
  }
  // sums of the gate under way, one at a time (fuse_layers.cpp), [4][N][C], and its pooled gradient, [N][C]
  // (ops/fused.h)
  Buffer gates_;
  std::vector<int64_t> norm_offsets_;  // node -> floats in norms_, or nowhere
  // Of steps with a second convolution: the shift, [K] float32, and behind it the weights of both.
  struct Sum {
    ConvSumShape shape;
    float* shift;
    void* w;
  };
  Sum sum_of(const Step& step) const;
  Buffer sums_;
  std::vector<int64_t> sum_offsets_;  // node -> bytes in sums_, or nowhere
  const void* images_ = nullptr;      // of the call that runs
  ForwardOptions options_;            // of the last forward
  // Device::lost() when the norms were folded: what was lost later may have been that; -1: they are not
  int64_t folded_ = -1;
};

}  // namespace lgd
