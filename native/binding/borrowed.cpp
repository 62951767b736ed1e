#include "binding/borrowed.h"

#include <algorithm>

namespace lgd::binding {

BorrowedArrays::BorrowedArrays(Napi::Env env) : env_(env) {
  auto kept = Napi::Object::New(env);
  kept.Set("results", Napi::Object::New(env));
  kept_ = Napi::Persistent(kept);
}

// An array of its own for one whose buffer may shrink; shared memory only grows.
template <class Array>
static Array with_fixed_buffer(Array array) {
  if (!array.template As<Napi::Object>().Get("buffer").template As<Napi::Object>().Get("resizable").ToBoolean())
    return array;
  auto copy = Array::New(array.Env(), array.ElementLength());
  std::copy_n(array.Data(), array.ElementLength(), copy.Data());
  return copy;
}

template <class Array>
Array BorrowedArrays::keep(const Napi::Value& value, const char* name, napi_typedarray_type type,
                           const char* type_name) {
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != type)
    fail(env_, "BAD_SHAPE", std::string(name) + ": expected a " + type_name);
  const auto array = with_fixed_buffer(value.As<Array>());
  kept_.Value().Set(uint32_t(names_.size()), array);
  names_.push_back(array.ElementLength() > 0 ? name : nullptr);
  return array;
}

void BorrowedArrays::check_whole() const {
  for (uint32_t i = 0; i < names_.size(); ++i)
    if (names_[i] && kept_.Value().Get(i).As<Napi::TypedArray>().ByteLength() == 0)
      fail(env_, "BAD_OPTION",
           std::string(names_[i]) + ": it was transferred while it was read: do so once the promise has settled");
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
