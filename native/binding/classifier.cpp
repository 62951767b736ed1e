#include "binding/exports.h"
#include "binding/marshal.h"

namespace lgd::binding {

namespace {

TensorPtr optional_tensor(const Napi::Value& value) {
  return value.IsUndefined() || value.IsNull() ? nullptr : unwrap<Tensor>(value);
}

}  // namespace

Napi::Value js_classifier_loss(const Napi::CallbackInfo& info) {
  const Fields fields(info[0], "classifierLoss");
  ClassifierArguments arguments;
  arguments.features = unwrap<Tensor>(fields.value("features"));
  arguments.weights = unwrap<Tensor>(fields.value("weights"));
  arguments.bias = unwrap<Tensor>(fields.value("bias"));
  arguments.d_weights = optional_tensor(fields.value("dWeights"));
  arguments.d_bias = optional_tensor(fields.value("dBias"));
  arguments.results = optional_tensor(fields.value("results"));
  arguments.labels = integers(fields.value("labels"), "labels");
  if (fields.has("rows")) arguments.rows = integers(fields.value("rows"), "rows");
  fields.read("heads", arguments.heads);
  fields.read("unit", arguments.unit);
  fields.read("scale", arguments.scale);
  classifier_loss(std::move(arguments));
  return info.Env().Undefined();
}

Napi::Value js_softmax_loss(const Napi::CallbackInfo& info) {
  const Fields fields(info[0], "softmaxLoss");
  float scale = 1;
  fields.read("scale", scale);
  softmax_loss(unwrap<Tensor>(fields.value("logits")), integers(fields.value("labels"), "labels"),
               optional_tensor(fields.value("dLogits")), optional_tensor(fields.value("results")), scale);
  return info.Env().Undefined();
}

Napi::Value js_detection_loss(const Napi::CallbackInfo& info) {
  const Fields fields(info[0], "detectionLoss");
  DetectionArguments arguments;
  arguments.output = unwrap<Tensor>(fields.value("output"));
  arguments.d_output = optional_tensor(fields.value("dOutput"));
  arguments.results = unwrap<Tensor>(fields.value("results"));
  fields.read("levels", arguments.levels);
  fields.read("classes", arguments.classes);
  arguments.labels = integers(fields.value("labels"), "labels");
  arguments.boxes = floats(fields.value("boxes"), "boxes");
  fields.read("classScale", arguments.class_scale);
  fields.read("boxScale", arguments.box_scale);
  fields.read("centreScale", arguments.centre_scale);
  detection_loss(std::move(arguments));
  return info.Env().Undefined();
}

Napi::Value js_sgd_tensor(const Napi::CallbackInfo& info) {
  const Fields fields(info[1], "sgdTensor");
  const TensorPtr value = unwrap<Tensor>(info[0]);
  OptimizerStep step;
  fields.read("learningRate", step.learning_rate);
  fields.read("momentum", step.momentum);
  fields.read("weightDecay", step.weight_decay);
  fields.read("gradientScale", step.gradient_scale);
  int64_t begin = 0, end = 1;
  for (int64_t size : shape_of(value)) end *= size;
  fields.read("begin", begin);
  fields.read("end", end);
  sgd_tensor(value, unwrap<Tensor>(fields.value("gradient")), unwrap<Tensor>(fields.value("velocity")), step, begin,
             end);
  return info.Env().Undefined();
}

Napi::Value js_write_rows(const Napi::CallbackInfo& info) {
  write_rows(unwrap<Tensor>(info[0]), whole_number(info[1], "row"), floats(info[2], "values"));
  return info.Env().Undefined();
}

}  // namespace lgd::binding
