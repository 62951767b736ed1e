#include "binding/borrowed.h"

namespace lgd::binding {

BorrowedArrays::BorrowedArrays(Napi::Env env) : env_(env) {
  auto kept = Napi::Object::New(env);
  kept.Set("results", Napi::Object::New(env));
  kept_ = Napi::Persistent(kept);
}

template <class Array>
Array BorrowedArrays::keep(const Napi::Value& value, const char* name, napi_typedarray_type type,
                           const char* type_name) {
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != type)
    fail(env_, "BAD_SHAPE", std::string(name) + ": expected a " + type_name);
  kept_.Value().Set(count_++, value);
  return value.As<Array>();
}

std::span<const float> BorrowedArrays::floats(const Fields& fields, const char* name) {
  return fields.has(name) ? floats(fields.value(name), name) : std::span<const float>();
}

std::span<const float> BorrowedArrays::floats(const Napi::Value& value, const char* name) {
  auto array = keep<Napi::Float32Array>(value, name, napi_float32_array, "Float32Array");
  return {array.Data(), array.ElementLength()};
}

std::span<const uint8_t> BorrowedArrays::bytes(const Fields& fields, const char* name) {
  if (!fields.has(name)) return {};
  auto array = keep<Napi::Uint8Array>(fields.value(name), name, napi_uint8_array, "Uint8Array");
  return {array.Data(), array.ElementLength()};
}

}  // namespace lgd::binding
