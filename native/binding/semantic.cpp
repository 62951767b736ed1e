#include "binding/borrowed.h"
#include "binding/exports.h"

namespace lgd::binding {

namespace {

// A head has no accessor for its device, so the calls that wait are given it beside the head.
DevicePtr device_argument(const Napi::CallbackInfo& info, int index) { return unwrap<Device>(info[index]); }

Napi::Value from_metrics(Napi::Env env, const SemanticMetrics& metrics) {
  auto out = Napi::Object::New(env);
  out.Set("loss", metrics.loss);
  out.Set("lossVisual", metrics.loss_visual);
  out.Set("lossTextual", metrics.loss_textual);
  out.Set("klVisual", metrics.kl_visual);
  out.Set("klTextual", metrics.kl_textual);
  out.Set("entropyVisual", metrics.entropy_visual);
  out.Set("entropyTextual", metrics.entropy_textual);
  out.Set("ownMass", metrics.own_mass);
  out.Set("agreement", metrics.agreement);
  out.Set("categoriesHit", metrics.categories_hit);
  out.Set("categoriesSeen", metrics.categories_seen);
  return out;
}

}  // namespace

Napi::Value js_bank_loss(const Napi::CallbackInfo& info) {
  const Fields fields(info[1], "bankLoss");
  const auto arrays = std::make_shared<BorrowedArrays>(info.Env());
  BankLossArguments arguments;
  arguments.student = arrays->floats(fields, "student");
  arguments.teacher = arrays->floats(fields, "teacher");
  arguments.textual = arrays->floats(fields, "textual");
  arguments.visual = arrays->floats(fields, "visual");
  arguments.queue = arrays->floats(fields, "queue");
  arguments.gradient = arrays->make<float>("gradient", arguments.student.size());
  fields.read("dimension", arguments.dimension);
  fields.read("studentTemperature", arguments.student_temperature);
  fields.read("teacherTemperature", arguments.teacher_temperature);
  fields.read("alpha", arguments.alpha);
  fields.read("bfloat16", arguments.bfloat16);
  const DevicePtr device = device_argument(info, 0);
  return run_with_arrays<BankLossResult>(
      info.Env(), device, "bankLoss", arrays,
      [device, arguments](BankLossResult& result) { result = bank_loss(device, arguments); },
      [](const BankLossResult& result, Napi::Object out) {
        out.Set("loss", result.loss);
        out.Set("lossVisual", result.loss_visual);
        out.Set("lossTextual", result.loss_textual);
        out.Set("klVisual", result.kl_visual);
        out.Set("klTextual", result.kl_textual);
      });
}

Napi::Value js_feature_loss(const Napi::CallbackInfo& info) {
  const Fields fields(info[1], "featureLoss");
  const auto arrays = std::make_shared<BorrowedArrays>(info.Env());
  FeatureLossArguments arguments;
  arguments.student = arrays->floats(fields, "student");
  arguments.teacher = arrays->floats(fields, "teacher");
  arguments.gradient = arrays->make<float>("gradient", arguments.student.size());
  fields.read("dimension", arguments.dimension);
  const DevicePtr device = device_argument(info, 0);
  return run_with_arrays<double>(
      info.Env(), device, "featureLoss", arrays,
      [device, arguments](double& loss) { loss = feature_loss(device, arguments); },
      [](const double& loss, Napi::Object out) { out.Set("loss", loss); });
}

Napi::Value js_bank_update(const Napi::CallbackInfo& info) {
  struct Nothing {};
  const Fields fields(info[1], "bankUpdate");
  const auto arrays = std::make_shared<BorrowedArrays>(info.Env());
  BankUpdateArguments arguments;
  arguments.teacher = arrays->floats(fields, "teacher");
  arguments.textual = arrays->floats(fields, "textual");
  arguments.visual = arrays->floats(fields, "visual");
  arguments.seen = arrays->bytes(fields, "seen");
  fields.read("dimension", arguments.dimension);
  fields.read("momentum", arguments.momentum);
  arguments.assignment = arrays->make<int32_t>(
      "assignment", arguments.dimension > 0 ? arguments.teacher.size() / size_t(arguments.dimension) : 0);
  arguments.visual_after = arrays->make<float>("visual", arguments.visual.size());
  arguments.seen_after = arrays->make<uint8_t>("seen", arguments.seen.size());
  const DevicePtr device = device_argument(info, 0);
  return run_with_arrays<Nothing>(
      info.Env(), device, "bankUpdate", arrays, [device, arguments](Nothing&) { bank_update(device, arguments); },
      [](const Nothing&, Napi::Object) {});
}

Napi::Value js_make_semantic_head(const Napi::CallbackInfo& info) {
  const Fields fields(info[1], "semanticHead");
  SemanticOptions options;
  fields.read("dimension", options.dimension);
  fields.read("categories", options.categories);
  fields.read("queueSize", options.queue_size);
  fields.read("useTextual", options.use_textual);
  fields.read("useVisual", options.use_visual);
  fields.read("feature", options.feature);
  fields.read("alpha", options.alpha);
  fields.read("studentTemperature", options.student_temperature);
  fields.read("teacherTemperature", options.teacher_temperature);
  fields.read("momentum", options.momentum);
  fields.read("bfloat16", options.bfloat16);
  const int64_t rows = 2 * options.categories + options.queue_size;
  return wrap(info.Env(), make_semantic_head(device_argument(info, 0), options),
              rows * options.dimension * int64_t(sizeof(float)));
}

Napi::Value js_write_semantic_state(const Napi::CallbackInfo& info) {
  const Fields fields(info[1], "semanticState");
  SemanticState state;
  fields.read("textual", state.textual);
  fields.read("visual", state.visual);
  fields.read("queue", state.queue);
  fields.read("seen", state.seen);
  fields.read("queuePosition", state.queue_position);
  fields.read("queueFilled", state.queue_filled);
  write_semantic_state(unwrap<SemanticHead>(info[0]), std::move(state));
  return info.Env().Undefined();
}

Napi::Value js_read_semantic_state(const Napi::CallbackInfo& info) {
  const SemanticHeadPtr head = unwrap<SemanticHead>(info[1]);
  return run_async<SemanticState>(
      info.Env(), device_argument(info, 0), "semanticState.read",
      [head](SemanticState& state) { read_semantic_state(head, state); },
      [](Napi::Env env, const SemanticState& state) -> Napi::Value {
        auto out = Napi::Object::New(env);
        out.Set("textual", to_js(env, state.textual));
        out.Set("visual", to_js(env, state.visual));
        out.Set("queue", to_js(env, state.queue));
        out.Set("seen", to_js(env, state.seen));
        out.Set("queuePosition", double(state.queue_position));
        out.Set("queueFilled", double(state.queue_filled));
        return out;
      });
}

Napi::Value js_head_loss(const Napi::CallbackInfo& info) {
  bank_loss(unwrap<SemanticHead>(info[0]), unwrap<Tensor>(info[1]), unwrap<Tensor>(info[2]), unwrap<Tensor>(info[3]),
            float(number(info[4], "scale")), integer(info[5], "slot"));
  return info.Env().Undefined();
}

Napi::Value js_head_update(const Napi::CallbackInfo& info) {
  if (!info[1].IsArray()) fail(info.Env(), "BAD_OPTION", "teacherBatches: expected an array of tensors");
  const auto array = info[1].As<Napi::Array>();
  std::vector<TensorPtr> batches;
  for (uint32_t i = 0; i < array.Length(); ++i) batches.push_back(unwrap<Tensor>(array.Get(i)));
  bank_update(unwrap<SemanticHead>(info[0]), batches, integer(info[2], "slot"));
  return info.Env().Undefined();
}

Napi::Value js_read_metrics(const Napi::CallbackInfo& info) {
  const SemanticHeadPtr head = unwrap<SemanticHead>(info[1]);
  const int slot = integer(info[2], "slot");
  return run_async<SemanticMetrics>(
      info.Env(), device_argument(info, 0), "metrics.read",
      [head, slot](SemanticMetrics& out) { out = read_metrics(head, slot); },
      [](Napi::Env env, const SemanticMetrics& metrics) { return from_metrics(env, metrics); });
}

Napi::Value js_top_similar(const Napi::CallbackInfo& info) {
  struct Result {
    std::vector<int32_t> indices;
    std::vector<float> scores;
  };
  const DevicePtr device = device_argument(info, 0);
  const auto arrays = std::make_shared<BorrowedArrays>(info.Env());
  const std::span<const float> queries = arrays->floats(info[1], "queries"), bank = arrays->floats(info[2], "bank");
  const int64_t dimension = whole_number(info[3], "dimension");
  const int k = integer(info[4], "k");
  return run_with_arrays<Result>(
      info.Env(), device, "topSimilar", arrays,
      [=](Result& result) { top_similar(device, queries, bank, dimension, k, result.indices, result.scores); },
      [](const Result& result, Napi::Object out) {
        out.Set("indices", to_js(out.Env(), result.indices));
        out.Set("scores", to_js(out.Env(), result.scores));
      });
}

}  // namespace lgd::binding
