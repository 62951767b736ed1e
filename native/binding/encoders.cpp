#include <algorithm>
#include <limits>

#include "binding/async.h"
#include "binding/exports.h"

namespace lgd::binding {

namespace {

Napi::Array list(const Fields& fields, const char* name, Napi::Env env) {
  const Napi::Value value = fields.value(name);
  if (!value.IsArray()) fail(env, "BAD_MODEL", std::string("the graph's ") + name + ": expected an array");
  return value.As<Napi::Array>();
}

// Places of values; what is far outside stays outside.
std::vector<int> places(const std::vector<int64_t>& wide) {
  std::vector<int> out;
  for (const int64_t place : wide) out.push_back(int(std::clamp<int64_t>(place, -1, std::numeric_limits<int>::max())));
  return out;
}

GraphNode read_node(const Napi::Value& value) {
  const Fields fields(value, "node");
  GraphNode node;
  fields.read("op", node.op);
  fields.read("name", node.name);
  std::vector<int64_t> inputs;
  fields.read("inputs", inputs);
  node.inputs = places(inputs);
  if (fields.has("parameters")) {
    const auto names = list(fields, "parameters", value.Env());
    for (uint32_t i = 0; i < names.Length(); ++i) node.parameters.push_back(text(names.Get(i), "node.parameters"));
  }
  if (fields.has("attributes")) {
    if (!fields.value("attributes").IsObject())
      fail(value.Env(), "BAD_MODEL", "the graph's attributes: expected an object");
    const auto attributes = fields.value("attributes").As<Napi::Object>();
    const auto keys = attributes.GetPropertyNames();
    for (uint32_t i = 0; i < keys.Length(); ++i) {
      const std::string key = keys.Get(i).As<Napi::String>();
      const Napi::Value item = attributes.Get(key);
      if (item.IsString()) node.labels.emplace_back(key, text(item, key.c_str()));
      else node.attributes.emplace_back(key, number(item, key.c_str()));
    }
  }
  return node;
}

GraphSpec read_graph(const Napi::Value& value) {
  const Fields fields(value, "graph");
  GraphSpec graph;
  fields.read("name", graph.name);
  std::vector<int64_t> outputs(1);
  fields.read("output", outputs[0]);
  if (fields.has("further")) {
    std::vector<int64_t> further;
    fields.read("further", further);
    outputs.insert(outputs.end(), further.begin(), further.end());
  }
  graph.outputs = places(outputs);
  const auto nodes = list(fields, "nodes", value.Env());
  for (uint32_t i = 0; i < nodes.Length(); ++i) graph.nodes.push_back(read_node(nodes.Get(i)));
  const auto parameters = list(fields, "parameters", value.Env());
  for (uint32_t i = 0; i < parameters.Length(); ++i) {
    const Fields item(parameters.Get(i), "parameter");
    GraphParameter parameter;
    item.read("name", parameter.name);
    item.read("shape", parameter.shape);
    item.read("trainable", parameter.trainable);
    item.read("decay", parameter.decay);
    graph.parameters.push_back(std::move(parameter));
  }
  return graph;
}

Slot read_slot(const Napi::Value& value) {
  const std::string slot = text(value, "slot");
  if (slot == "value") return Slot::value;
  if (slot == "gradient") return Slot::gradient;
  if (slot == "momentum") return Slot::momentum;
  if (slot == "secondMoment") return Slot::second_moment;
  fail(value.Env(), "BAD_OPTION", "slot: expected value, gradient, momentum or secondMoment, found " + slot);
}

Optimizer read_optimizer(const Fields& fields, Napi::Env env) {
  std::string name = "sgd";
  fields.read("optimizer", name);
  if (name == "sgd") return Optimizer::sgd;
  if (name == "adamw") return Optimizer::adamw;
  fail(env, "BAD_OPTION", "optimizer: expected sgd or adamw, found " + name);
}

}  // namespace

Napi::Value js_make_encoder(const Napi::CallbackInfo& info) {
  const Fields fields(info[2], "encoder");
  EncoderOptions options;
  fields.read("batch", options.batch);
  fields.read("height", options.height);
  fields.read("width", options.width);
  fields.read("bfloat16", options.bfloat16);
  fields.read("training", options.training);
  options.optimizer = read_optimizer(fields, info.Env());
  EncoderPtr encoder = make_encoder(unwrap<Device>(info[0]), read_graph(info[1]), options);
  const EncoderInfo sizes = encoder_info(encoder);
  return wrap(info.Env(), std::move(encoder), int64_t(sizes.arena_bytes + sizes.parameter_bytes));
}

Napi::Value js_encoder_info(const Napi::CallbackInfo& info) {
  const EncoderInfo encoder = encoder_info(unwrap<Encoder>(info[0]));
  auto out = Napi::Object::New(info.Env());
  out.Set("outputSize", double(encoder.output_size));
  auto outputs = Napi::Array::New(info.Env());
  for (uint32_t i = 0; i < encoder.outputs.size(); ++i) outputs.Set(i, to_js(info.Env(), encoder.outputs[i]));
  out.Set("outputs", outputs);
  out.Set("macsPerImage", encoder.macs_per_image);
  out.Set("parameters", encoder.parameters);
  out.Set("arenaBytes", encoder.arena_bytes);
  out.Set("parameterBytes", encoder.parameter_bytes);
  out.Set("kernelsForward", encoder.kernels_forward);
  out.Set("kernelsBackward", encoder.kernels_backward);
  return out;
}

Napi::Value js_write_parameter(const Napi::CallbackInfo& info) {
  write_parameter(unwrap<Encoder>(info[0]), text(info[1], "name"), read_slot(info[2]), floats(info[3], "values"));
  return info.Env().Undefined();
}

Napi::Value js_read_parameter(const Napi::CallbackInfo& info) {
  const EncoderPtr encoder = unwrap<Encoder>(info[0]);
  const std::string name = text(info[1], "name");
  const Slot slot = read_slot(info[2]);
  return run_async<std::vector<float>>(
      info.Env(), device_of(encoder_output(encoder)), "parameter.read",
      [encoder, name, slot](std::vector<float>& out) { read_parameter(encoder, name, slot, out); },
      [](Napi::Env env, const std::vector<float>& values) { return to_js(env, values); });
}

Napi::Value js_forward(const Napi::CallbackInfo& info) {
  const Fields fields(info[2], "forward");
  ForwardOptions options;
  fields.read("training", options.training);
  fields.read("seed", options.seed);
  fields.read("step", options.step);
  forward(unwrap<Encoder>(info[0]), unwrap<Tensor>(info[1]), options);
  return info.Env().Undefined();
}

Napi::Value js_keep_statistics(const Napi::CallbackInfo& info) {
  keep_statistics(unwrap<Encoder>(info[0]), unwrap<DeviceStep>(info[1]));
  return info.Env().Undefined();
}

Napi::Value js_encoder_output(const Napi::CallbackInfo& info) {
  return wrap(info.Env(), encoder_output(unwrap<Encoder>(info[0])));
}

Napi::Value js_zero_gradients(const Napi::CallbackInfo& info) {
  zero_gradients(unwrap<Encoder>(info[0]));
  return info.Env().Undefined();
}

Napi::Value js_backward(const Napi::CallbackInfo& info) {
  backward(unwrap<Encoder>(info[0]), unwrap<Tensor>(info[1]), info[2].ToBoolean());
  return info.Env().Undefined();
}

Napi::Value js_optimizer_step(const Napi::CallbackInfo& info) {
  const Fields fields(info[1], "optimizerStep");
  OptimizerStep step;
  fields.read("learningRate", step.learning_rate);
  fields.read("weightDecay", step.weight_decay);
  fields.read("decayNormAndBias", step.decay_norm_and_bias);
  fields.read("gradientScale", step.gradient_scale);
  fields.read("momentum", step.momentum);
  fields.read("beta1", step.beta1);
  fields.read("beta2", step.beta2);
  fields.read("epsilon", step.epsilon);
  fields.read("count", step.count);
  fields.read("clipNorm", step.clip_norm);
  fields.read("slot", step.slot);
  optimizer_step(unwrap<Encoder>(info[0]), step);
  return info.Env().Undefined();
}

Napi::Value js_read_gradient_norm(const Napi::CallbackInfo& info) {
  const EncoderPtr encoder = unwrap<Encoder>(info[0]);
  return run_async<double>(
      info.Env(), device_of(encoder_output(encoder)), "gradient.norm",
      [norm = gradient_norm(encoder, integer(info[1], "slot"))](double& out) { out = norm(); },
      [](Napi::Env env, const double& norm) -> Napi::Value { return Napi::Number::New(env, norm); });
}

}  // namespace lgd::binding
