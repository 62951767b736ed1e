// JavaScript values to plain C++ and back. Every failed check names the argument or the field.
#pragma once
#include <napi.h>

#include <optional>
#include <string>
#include <vector>

#include "engine.h"

namespace lgd::binding {

// Thrown errors become JavaScript errors with a `code` property; lib/addon/addon.ts turns them into LgdError.
Napi::Error js_error(Napi::Env env, const std::string& code, const std::string& message);
Napi::Error js_error(Napi::Env env, std::exception_ptr error);
[[noreturn]] void fail(Napi::Env env, const std::string& code, const std::string& message);

// Runs body; a C++ exception becomes a JavaScript one.
template <class Body>
Napi::Value guarded(Napi::Env env, Body&& body) {
  try {
    return body();
  } catch (const Napi::Error&) { throw; } catch (...) {
    throw js_error(env, std::current_exception());
  }
}

// A handle owns one shared object of the engine; release() drops it early, later use is a DISPOSED error. `addon` tells
// addons apart that one process has loaded beside each other: their objects do not mix. `reported` is what V8 has been
// told that the object holds outside its heap: with it the collector knows that a forgotten handle of a few bytes keeps
// an encoder's memory (on a GPU's as on the host's) from being used again. A hint, so about the right size is enough.
struct Handle {
  const void* addon;
  const char* type;
  std::shared_ptr<void> object;
  int64_t reported = 0;
};
Napi::Value wrap_handle(Napi::Env env, const char* type, std::shared_ptr<void> object, int64_t bytes);
void report_bytes(const Napi::Value& handle, int64_t bytes);
std::shared_ptr<void> unwrap_handle(const Napi::Value& value, const char* type);
Napi::Value release_handle(const Napi::CallbackInfo& info);

template <class T>
struct HandleName;
template <>
struct HandleName<Device> {
  static constexpr const char* value = "device";
};
template <>
struct HandleName<Tensor> {
  static constexpr const char* value = "tensor";
};
template <>
struct HandleName<PixelStore> {
  static constexpr const char* value = "pixel store";
};
template <>
struct HandleName<DeviceStep> {
  static constexpr const char* value = "step";
};
template <>
struct HandleName<Encoder> {
  static constexpr const char* value = "encoder";
};
template <>
struct HandleName<SemanticHead> {
  static constexpr const char* value = "semantic head";
};
template <>
struct HandleName<RowFile> {
  static constexpr const char* value = "row file";
};

template <class T>
Napi::Value wrap(Napi::Env env, std::shared_ptr<T> object, int64_t bytes = 0) {
  return wrap_handle(env, HandleName<T>::value, std::static_pointer_cast<void>(std::move(object)), bytes);
}
template <class T>
std::shared_ptr<T> unwrap(const Napi::Value& value) {
  return std::static_pointer_cast<T>(unwrap_handle(value, HandleName<T>::value));
}

// Typed arrays: copied out, so that the caller may change them at once.
std::vector<float> floats(const Napi::Value& value, const char* name);
std::vector<uint8_t> bytes(const Napi::Value& value, const char* name);
std::vector<int32_t> integers(const Napi::Value& value, const char* name);
Napi::Value to_js(Napi::Env env, const std::vector<float>& values);
Napi::Value to_js(Napi::Env env, const std::vector<int32_t>& values);
Napi::Value to_js(Napi::Env env, const std::vector<uint8_t>& values);
Napi::Value to_js(Napi::Env env, const std::vector<int64_t>& values);  // plain numbers: shapes
Napi::Value to_js(Napi::Env env, const std::vector<std::string>& values);

// Reads the fields of an options object. A missing field keeps the C++ default; a field of the wrong type is an error
// naming it.
class Fields {
 public:
  explicit Fields(const Napi::Value& value, const char* what);
  bool has(const char* name) const;
  void read(const char* name, bool& out) const;
  void read(const char* name, int& out) const;
  void read(const char* name, int64_t& out) const;
  void read(const char* name, uint64_t& out) const;
  void read(const char* name, float& out) const;
  void read(const char* name, double& out) const;
  void read(const char* name, std::string& out) const;
  void read(const char* name, std::vector<float>& out) const;
  void read(const char* name, std::vector<uint8_t>& out) const;
  void read(const char* name, std::vector<double>& out) const;    // Float64Array
  void read(const char* name, std::vector<int32_t>& out) const;   // Int32Array
  void read(const char* name, std::vector<uint32_t>& out) const;  // Uint32Array
  void read(const char* name, std::vector<int64_t>& out) const;   // array of numbers or typed array
  void read(const char* name, std::vector<uint64_t>& out) const;
  Napi::Value value(const char* name) const;

 private:
  double number(const char* name) const;
  Napi::Object object_;
  const char* what_;
};

double number(const Napi::Value& value, const char* name);
int64_t whole_number(const Napi::Value& value, const char* name);
int integer(const Napi::Value& value, const char* name);  // of 32 bits
std::string text(const Napi::Value& value, const char* name);

}  // namespace lgd::binding
