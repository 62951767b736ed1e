// Forward-only plans on CUDA, from the steps of fuse.cpp, whose convolutions have their norms folded:
//
//   1x1 conv + residual of a 1x1 conv      one product over the channels of both, of which the sum alone is stored
//                                          (ops/conv.h, ConvSumShape)
//   dense conv -> mean of 2x2 windows      the convolution stores the mean, and its output if that is read elsewhere
//   tokens -> keys, values -> attention    with one query, over the tokens themselves, in bfloat16 (ops/attention.h,
//                                          AbsorbedShape)
#include <algorithm>
#include <utility>

#include "graph/program.h"
#include "ops/attention.h"

namespace lgd {
namespace {

class FoldedFusion {
 public:
  explicit FoldedFusion(Program& program)
      : program_(program), steps_(program.steps), reads_(program.shapes.values.size()) {
    for (const Step& step : steps_) {
      for (const int input : step.inputs) ++reads_[size_t(input)];
      if (step.residual >= 0) ++reads_[size_t(step.residual)];
    }
    for (const int output : program.outputs) ++reads_[size_t(output)];
  }

  void run() {
    for (Step& step : steps_) {
      if (step.op == OpKind::conv) add_convolution(step);
      if (step.op == OpKind::query_attention) absorb_keys_and_values(step);
    }
    for (Step& step : steps_)
      if (step.op == OpKind::conv) store_mean(step);
    std::erase_if(steps_,
                  [&](const Step& step) { return std::find(gone_.begin(), gone_.end(), step.node) != gone_.end(); });
  }

 private:
  const Node& node_of(const Step& step) const { return program_.graph.nodes[size_t(step.node)]; }
  const ValueShape& shape_of(int value) const { return program_.shapes.values[size_t(value)]; }
  // The step that makes `value`, if nobody else reads it; else null.
  const Step* maker_for_one(int value) const {
    const auto found =
        std::find_if(steps_.begin(), steps_.end(), [&](const Step& step) { return step.output == value; });
    return found != steps_.end() && reads_[size_t(value)] == 1 ? &*found : nullptr;
  }
  bool is_dense(const Step& step) const {
    return step.op == OpKind::conv && node_of(step).groups == 1 && step.mean < 0 && step.second < 0;
  }
  bool is_pointwise(const Step& step) const {
    if (!is_dense(step) || step.norm < 0) return false;
    return lgd::is_pointwise(conv_shape(program_.graph, program_.shapes, step.node));
  }

  void add_convolution(Step& step) {
    if (step.residual < 0 || !is_pointwise(step) || shape_of(step.inputs[0]).stored % 32 != 0) return;
    const Step* other = maker_for_one(step.residual);
    if (!other || !is_pointwise(*other) || other->residual >= 0 || other->act != Act::none) return;
    gone_.push_back(other->node);
    step.inputs.push_back(other->inputs[0]);
    step.second = other->node;
    step.second_norm = other->norm;
    step.residual = -1;
  }

  void store_mean(Step& step) {
    if (!is_dense(step) || !is_clamp(step.act)) return;
    const auto pool = std::find_if(steps_.begin(), steps_.end(), [&](const Step& reader) {
      return reader.op == OpKind::avg_pool && reader.inputs[0] == step.output && node_of(reader).kernel == 2;
    });
    if (pool == steps_.end()) return;
    const ValueShape& shape = shape_of(step.output);
    const bool alone = step.residual < 0 && reads_[size_t(step.output)] == 1;
    if (!alone && (shape.h % 2 != 0 || shape.w % 2 != 0)) return;
    gone_.push_back(pool->node);
    step.mean = pool->output;
    if (!alone) return;
    step.output = step.mean;
    std::swap(step, *pool);  // as other chains, the step stands where its last node stood
  }

  void absorb_keys_and_values(Step& step) {
    const Step *keys = maker_for_one(step.inputs[1]), *values = maker_for_one(step.inputs[2]);
    const auto is_layer = [](const Step* of) {
      return of && of->op == OpKind::linear && of->act == Act::none && of->residual < 0;
    };
    if (!is_layer(keys) || !is_layer(values) || keys->inputs != values->inputs) return;
    const ValueShape& tokens = shape_of(keys->inputs[0]);
    const AbsorbedShape shape{program_.shapes.batch, int(tokens.pixels()), tokens.stored, node_of(step).heads};
    if (program_.shapes.type != DType::bf16 || !can_absorb(shape) || shape_of(step.output).stored != shape.inner())
      return;
    gone_.insert(gone_.end(), {keys->node, values->node});
    step.inputs = {step.inputs[0], keys->inputs[0]};
    step.second = keys->node;
    step.third = values->node;
  }

  Program& program_;
  std::vector<Step>& steps_;
  std::vector<int> reads_;  // of each value
  std::vector<int> gone_;   // nodes whose steps are merged
};

}  // namespace

void fuse_folded(Program& program) { FoldedFusion(program).run(); }

}  // namespace lgd
