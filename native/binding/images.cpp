#include "binding/exports.h"
#include "binding/marshal.h"

namespace lgd::binding {

namespace {

void read_triple(const Fields& fields, const char* name, float (&out)[3], Napi::Env env) {
  if (!fields.has(name)) return;
  const Napi::Value value = fields.value(name);
  if (!value.IsArray() || value.As<Napi::Array>().Length() != 3) fail(env, "BAD_OPTION", std::string("recipe.") + name + ": expected three numbers");
  for (uint32_t i = 0; i < 3; ++i) out[i] = float(number(value.As<Napi::Array>().Get(i), name));
}

AugmentRecipe read_recipe(const Napi::Value& value) {
  const Fields fields(value, "recipe");
  AugmentRecipe recipe;
  fields.read("train", recipe.train);
  fields.read("scaleMin", recipe.scale_min);
  fields.read("scaleMax", recipe.scale_max);
  fields.read("ratioMin", recipe.ratio_min);
  fields.read("ratioMax", recipe.ratio_max);
  fields.read("flipProbability", recipe.flip_probability);
  fields.read("jitterProbability", recipe.jitter_probability);
  fields.read("brightness", recipe.brightness);
  fields.read("contrast", recipe.contrast);
  fields.read("saturation", recipe.saturation);
  fields.read("hue", recipe.hue);
  fields.read("greyProbability", recipe.grey_probability);
  fields.read("blurProbability", recipe.blur_probability);
  fields.read("blurSigmaMin", recipe.blur_sigma_min);
  fields.read("blurSigmaMax", recipe.blur_sigma_max);
  fields.read("resize", recipe.resize);
  read_triple(fields, "mean", recipe.mean, value.Env());
  read_triple(fields, "std", recipe.std, value.Env());
  return recipe;
}

}  // namespace

Napi::Value js_make_pixel_store(const Napi::CallbackInfo& info) {
  const Fields fields(info[0], "pixelStore");
  PixelStoreOptions options;
  fields.read("memoryLimitBytes", options.memory_limit_bytes);
  fields.read("spillFolder", options.spill_folder);
  return wrap(info.Env(), make_pixel_store(options));
}

Napi::Value js_append_pixels(const Napi::CallbackInfo& info) {
  const Napi::Value pixels = info[3];
  if (!pixels.IsTypedArray() || pixels.As<Napi::TypedArray>().TypedArrayType() != napi_uint8_array)
    fail(info.Env(), "BAD_SHAPE", "pixels: expected a Uint8Array");
  const auto array = pixels.As<Napi::Uint8Array>();
  const PixelStorePtr store = unwrap<PixelStore>(info[0]);
  const int64_t index = append_pixels(store, int(number(info[1], "width")), int(number(info[2], "height")), array.Data(), array.ByteLength());
  const PixelStoreInfo now = pixel_store_info(store);
  report_bytes(info[0], int64_t(now.bytes - now.spilled_bytes));
  return Napi::Number::New(info.Env(), double(index));
}

Napi::Value js_pixel_store_info(const Napi::CallbackInfo& info) {
  const PixelStoreInfo store = pixel_store_info(unwrap<PixelStore>(info[0]));
  auto out = Napi::Object::New(info.Env());
  out.Set("images", double(store.images));
  out.Set("bytes", store.bytes);
  out.Set("spilledBytes", store.spilled_bytes);
  return out;
}

Napi::Value js_augment(const Napi::CallbackInfo& info) {
  const Fields fields(info[2], "batch");
  AugmentBatch batch;
  fields.read("images", batch.images);
  fields.read("drawIds", batch.draw_ids);
  fields.read("seed", batch.seed);
  fields.read("epoch", batch.epoch);
  augment(unwrap<PixelStore>(info[0]), read_recipe(info[1]), std::move(batch), unwrap<Tensor>(info[3]));
  return info.Env().Undefined();
}

}  // namespace lgd::binding
