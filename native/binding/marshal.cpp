#include "binding/marshal.h"

#include <cmath>
#include <new>

namespace lgd::binding {

Napi::Error js_error(Napi::Env env, const std::string& code, const std::string& message) {
  Napi::Error error = Napi::Error::New(env, message);
  error.Set("code", Napi::String::New(env, code));
  return error;
}

Napi::Error js_error(Napi::Env env, std::exception_ptr error) {
  try {
    std::rethrow_exception(error);
  } catch (const Error& e) {
    Napi::Error made = js_error(env, e.code, e.what());
    if (e.system_error != 0) made.Set("errno", Napi::Number::New(env, -e.system_error));  // as Node's own errors
    return made;
  } catch (const std::bad_alloc&) {
    return js_error(env, "OUT_OF_MEMORY", "the host is out of memory");
  } catch (const std::exception& e) { return js_error(env, "NATIVE_ERROR", e.what()); }
}

void fail(Napi::Env env, const std::string& code, const std::string& message) { throw js_error(env, code, message); }

static const char this_addon = 0;  // its address is another one in every addon of a process

static void report(Napi::Env env, Handle& handle, int64_t bytes) {
  if (bytes != handle.reported) Napi::MemoryManagement::AdjustExternalMemory(env, bytes - handle.reported);
  handle.reported = bytes;
}

Napi::Value wrap_handle(Napi::Env env, const char* type, std::shared_ptr<void> object, int64_t bytes) {
  auto* handle = new Handle{&this_addon, type, std::move(object)};
  const auto wrapped = Napi::External<Handle>::New(env, handle, [](Napi::Env env, Handle* handle) {
    report(env, *handle, 0);
    delete handle;
  });
  report(env, *handle, bytes);
  return wrapped;
}

static Handle* handle_of(const Napi::Value& value, const char* type) {
  if (!value.IsExternal()) fail(value.Env(), "BAD_OPTION", std::string("expected the handle of a ") + type);
  Handle* handle = value.As<Napi::External<Handle>>().Data();
  if (handle->addon != &this_addon)
    fail(value.Env(), "BAD_OPTION",
         std::string("this ") + type +
             " was made by another addon: objects of cuda-emulated devices and of others do not mix");
  return handle;
}

std::shared_ptr<void> unwrap_handle(const Napi::Value& value, const char* type) {
  Handle* handle = handle_of(value, type);
  if (std::string_view(handle->type) != type)
    fail(value.Env(), "BAD_OPTION", std::string("expected a ") + type + ", found a " + handle->type);
  if (!handle->object) fail(value.Env(), "DISPOSED", std::string("this ") + type + " was disposed");
  return handle->object;
}

Napi::Value release_handle(const Napi::CallbackInfo& info) {
  Handle* handle = handle_of(info[0], "native object");
  handle->object.reset();
  report(info.Env(), *handle, 0);
  return info.Env().Undefined();
}

void report_bytes(const Napi::Value& handle, int64_t bytes) {
  report(handle.Env(), *handle_of(handle, "native object"), bytes);
}

template <class T>
static std::vector<T> typed(const Napi::Value& value, const char* name, napi_typedarray_type type,
                            const char* type_name) {
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != type)
    fail(value.Env(), "BAD_SHAPE", std::string(name) + ": expected a " + type_name);
  auto array = value.As<Napi::TypedArrayOf<T>>();
  return std::vector<T>(array.Data(), array.Data() + array.ElementLength());
}

std::vector<float> floats(const Napi::Value& value, const char* name) {
  return typed<float>(value, name, napi_float32_array, "Float32Array");
}
std::vector<int32_t> integers(const Napi::Value& value, const char* name) {
  return typed<int32_t>(value, name, napi_int32_array, "Int32Array");
}
std::vector<uint8_t> bytes(const Napi::Value& value, const char* name) {
  return typed<uint8_t>(value, name, napi_uint8_array, "Uint8Array");
}

template <class Array, class T>
static Napi::Value copied(Napi::Env env, const std::vector<T>& values) {
  Array array = Array::New(env, values.size());
  std::copy(values.begin(), values.end(), array.Data());
  return array;
}
Napi::Value to_js(Napi::Env env, const std::vector<float>& values) { return copied<Napi::Float32Array>(env, values); }
Napi::Value to_js(Napi::Env env, const std::vector<int32_t>& values) { return copied<Napi::Int32Array>(env, values); }
Napi::Value to_js(Napi::Env env, const std::vector<uint8_t>& values) { return copied<Napi::Uint8Array>(env, values); }

Napi::Value to_js(Napi::Env env, const std::vector<int64_t>& values) {
  auto array = Napi::Array::New(env, values.size());
  for (uint32_t i = 0; i < values.size(); ++i) array.Set(i, Napi::Number::New(env, double(values[i])));
  return array;
}

Napi::Value to_js(Napi::Env env, const std::vector<std::string>& values) {
  auto array = Napi::Array::New(env, values.size());
  for (uint32_t i = 0; i < values.size(); ++i) array.Set(i, Napi::String::New(env, values[i]));
  return array;
}

double number(const Napi::Value& value, const char* name) {
  if (!value.IsNumber()) fail(value.Env(), "BAD_OPTION", std::string(name) + ": expected a number");
  return value.As<Napi::Number>().DoubleValue();
}

std::string text(const Napi::Value& value, const char* name) {
  if (!value.IsString()) fail(value.Env(), "BAD_OPTION", std::string(name) + ": expected a string");
  return value.As<Napi::String>().Utf8Value();
}

Fields::Fields(const Napi::Value& value, const char* what) : what_(what) {
  if (!value.IsObject()) fail(value.Env(), "BAD_OPTION", std::string(what) + ": expected an object");
  object_ = value.As<Napi::Object>();
}

Napi::Value Fields::value(const char* name) const { return object_.Get(name); }
bool Fields::has(const char* name) const { return !object_.Get(name).IsUndefined(); }

double Fields::number(const char* name) const {
  const Napi::Value value = object_.Get(name);
  if (!value.IsNumber()) fail(object_.Env(), "BAD_OPTION", std::string(what_) + "." + name + ": expected a number");
  return value.As<Napi::Number>().DoubleValue();
}

void Fields::read(const char* name, bool& out) const {
  if (!has(name)) return;
  const Napi::Value value = object_.Get(name);
  if (!value.IsBoolean())
    fail(object_.Env(), "BAD_OPTION", std::string(what_) + "." + name + ": expected true or false");
  out = value.As<Napi::Boolean>().Value();
}

static int64_t whole(Napi::Env env, double value, const std::string& name) {
  if (!(std::floor(value) == value && std::abs(value) <= 9007199254740992.0))
    fail(env, "BAD_OPTION", name + ": expected a whole number");
  return int64_t(value);
}
static int narrow(Napi::Env env, int64_t wide, const std::string& name) {
  if (wide != int64_t(int(wide))) fail(env, "BAD_OPTION", name + ": out of range");
  return int(wide);
}

int64_t whole_number(const Napi::Value& value, const char* name) {
  return whole(value.Env(), number(value, name), name);
}
int integer(const Napi::Value& value, const char* name) { return narrow(value.Env(), whole_number(value, name), name); }

void Fields::read(const char* name, int64_t& out) const {
  if (has(name)) out = whole(object_.Env(), number(name), std::string(what_) + "." + name);
}
void Fields::read(const char* name, int& out) const {
  int64_t wide = out;
  read(name, wide);
  out = narrow(object_.Env(), wide, std::string(what_) + "." + name);
}
void Fields::read(const char* name, uint64_t& out) const {
  if (!has(name)) return;
  int64_t wide = 0;
  read(name, wide);
  if (wide < 0) fail(object_.Env(), "BAD_OPTION", std::string(what_) + "." + name + ": must not be negative");
  out = uint64_t(wide);
}
void Fields::read(const char* name, float& out) const {
  if (has(name)) out = float(number(name));
}
void Fields::read(const char* name, double& out) const {
  if (has(name)) out = number(name);
}
void Fields::read(const char* name, std::string& out) const {
  if (has(name)) out = text(object_.Get(name), name);
}
void Fields::read(const char* name, std::vector<float>& out) const {
  if (has(name)) out = floats(object_.Get(name), name);
}
void Fields::read(const char* name, std::vector<uint8_t>& out) const {
  if (has(name)) out = bytes(object_.Get(name), name);
}

void Fields::read(const char* name, std::vector<double>& out) const {
  if (has(name)) out = typed<double>(object_.Get(name), name, napi_float64_array, "Float64Array");
}
void Fields::read(const char* name, std::vector<int32_t>& out) const {
  if (has(name)) out = integers(object_.Get(name), name);
}
void Fields::read(const char* name, std::vector<uint32_t>& out) const {
  if (has(name)) out = typed<uint32_t>(object_.Get(name), name, napi_uint32_array, "Uint32Array");
}

void Fields::read(const char* name, std::vector<int64_t>& out) const {
  if (!has(name)) return;
  const Napi::Value value = object_.Get(name);
  if (!value.IsArray() && !value.IsTypedArray())
    fail(object_.Env(), "BAD_OPTION", std::string(what_) + "." + name + ": expected an array of numbers");
  const auto array = value.As<Napi::Object>();
  const uint32_t length =
      value.IsArray() ? value.As<Napi::Array>().Length() : uint32_t(value.As<Napi::TypedArray>().ElementLength());
  out.resize(length);
  for (uint32_t i = 0; i < length; ++i) out[i] = whole(object_.Env(), binding::number(array.Get(i), name), name);
}

void Fields::read(const char* name, std::vector<uint64_t>& out) const {
  std::vector<int64_t> wide;
  read(name, wide);
  if (has(name)) out.assign(wide.begin(), wide.end());
}

}  // namespace lgd::binding
