#include "binding/exports.h"
#include "binding/marshal.h"

namespace lgd::binding {

namespace {

void read_triple(const Fields& fields, const char* name, float (&out)[3], Napi::Env env) {
  if (!fields.has(name)) return;
  const Napi::Value value = fields.value(name);
  if (!value.IsArray() || value.As<Napi::Array>().Length() != 3)
    fail(env, "BAD_OPTION", std::string("recipe.") + name + ": expected three numbers");
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

Napi::Uint8Array byte_array(const Napi::Value& value, const char* name) {
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != napi_uint8_array)
    fail(value.Env(), "BAD_SHAPE", std::string(name) + ": expected a Uint8Array");
  return value.As<Napi::Uint8Array>();
}

// Work on one JPEG file on one of libuv's threads. The arrays stay where they are, and alive, until it is done.
class JpegWork : public Napi::AsyncWorker {
 public:
  using Bytes = std::span<const uint8_t>;

  // `result`: what the promise resolves with.
  JpegWork(Napi::Uint8Array file, const Napi::Value& profile, const Napi::Value& result,
           std::function<void(Bytes file, Bytes profile)> work)
      : AsyncWorker(file.Env()),
        deferred_(Napi::Promise::Deferred::New(file.Env())),
        file_(file.Data(), file.ByteLength()),
        work_(std::move(work)) {
    auto kept = Napi::Object::New(file.Env());
    kept.Set("file", file);
    kept.Set("result", result);
    if (!profile.IsUndefined()) {
      auto array = byte_array(profile, "profile");
      profile_ = {array.Data(), array.ByteLength()};
      kept.Set("profile", array);
    }
    kept_ = Napi::Persistent(kept);
  }
  Napi::Promise promise() const { return deferred_.Promise(); }

 private:
  void Execute() override {
    try {
      work_(file_, profile_);
    } catch (...) { error_ = std::current_exception(); }
  }
  void OnOK() override {
    if (error_) deferred_.Reject(js_error(Env(), error_).Value());
    else deferred_.Resolve(kept_.Value().Get("result"));
  }

  const Napi::Promise::Deferred deferred_;
  const Bytes file_;
  Bytes profile_;
  const std::function<void(Bytes, Bytes)> work_;
  Napi::ObjectReference kept_;
  std::exception_ptr error_;
};

struct Size {
  int width, height;
};

Size read_size(const Napi::Value& width, const Napi::Value& height) {
  const Size size{integer(width, "width"), integer(height, "height")};
  constexpr int longest = 65535;  // a JPEG's sides are written in 16 bits
  if (size.width < 1 || size.height < 1 || size.width > longest || size.height > longest)
    fail(width.Env(), "BAD_SHAPE", "the sides of a decoded JPEG are from 1 to 65535");
  return size;
}

Napi::Promise queue(JpegWork* work) {  // it deletes itself
  work->Queue();
  return work->promise();
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
  const auto array = byte_array(info[3], "pixels");
  const PixelStorePtr store = unwrap<PixelStore>(info[0]);
  const int64_t index =
      append_pixels(store, integer(info[1], "width"), integer(info[2], "height"), array.Data(), array.ByteLength());
  const PixelStoreInfo now = pixel_store_info(store);
  report_bytes(info[0], int64_t(now.bytes - now.spilled_bytes));
  return Napi::Number::New(info.Env(), double(index));
}

Napi::Value js_place_pixels(const Napi::CallbackInfo& info) {
  const auto array = byte_array(info[4], "pixels");
  const PixelStorePtr store = unwrap<PixelStore>(info[0]);
  place_pixels(store, whole_number(info[1], "index"), integer(info[2], "width"), integer(info[3], "height"),
               array.Data(), array.ByteLength());
  report_bytes(info[0], int64_t(pixel_store_info(store).bytes));
  return info.Env().Undefined();
}

Napi::Value js_clear_pixels(const Napi::CallbackInfo& info) {
  clear_pixels(unwrap<PixelStore>(info[0]));
  return info.Env().Undefined();
}

Napi::Value js_map_pixels(const Napi::CallbackInfo& info) {
  const Fields fields(info[1], "pixelFile");
  PixelFileOptions options;
  fields.read("path", options.path);
  fields.read("offsets", options.offsets);
  fields.read("widths", options.widths);
  fields.read("heights", options.heights);
  fields.read("checksums", options.checksums);
  fields.read("names", options.names);
  map_pixels(unwrap<PixelStore>(info[0]), std::move(options));
  return info.Env().Undefined();
}

Napi::Value js_read_ahead(const Napi::CallbackInfo& info) {
  const std::vector<int32_t> images = integers(info[1], "images");
  read_ahead(unwrap<PixelStore>(info[0]), {images.begin(), images.end()});
  return info.Env().Undefined();
}

Napi::Value js_checksum(const Napi::CallbackInfo& info) {
  const auto array = byte_array(info[0], "bytes");
  const uint32_t before = info[1].IsUndefined() ? 0 : uint32_t(number(info[1], "before"));
  return Napi::Number::New(info.Env(), checksum(array.Data(), array.ByteLength(), before));
}

Napi::Value js_pixel_store_info(const Napi::CallbackInfo& info) {
  const PixelStoreInfo store = pixel_store_info(unwrap<PixelStore>(info[0]));
  auto out = Napi::Object::New(info.Env());
  out.Set("images", double(store.images));
  out.Set("bytes", store.bytes);
  out.Set("spilledBytes", store.spilled_bytes);
  out.Set("mappedBytes", store.mapped_bytes);
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

Napi::Value js_open_jpeg_decoder(const Napi::CallbackInfo& info) {
  open_jpeg_decoder(text(info[0], "path"));
  return info.Env().Undefined();
}

Napi::Value js_decode_jpeg(const Napi::CallbackInfo& info) {
  const Size size = read_size(info[1], info[2]);
  auto pixels = Napi::Uint8Array::New(info.Env(), size_t(size.width) * size.height * 3);
  return queue(
      new JpegWork(byte_array(info[0], "file"), info[3], pixels, [size, rgb = pixels.Data()](auto file, auto profile) {
        decode_jpeg(file, profile, size.width, size.height, rgb);
      }));
}

Napi::Value js_place_jpeg(const Napi::CallbackInfo& info) {
  const PixelStorePtr store = unwrap<PixelStore>(info[0]);
  const auto index = whole_number(info[1], "index");
  const Size size = read_size(info[3], info[4]);
  return queue(new JpegWork(byte_array(info[2], "file"), info[5], info.Env().Undefined(), [=](auto file, auto profile) {
    place_jpeg(store, index, file, profile, size.width, size.height);
  }));
}

}  // namespace lgd::binding
