// Promises for work on a device's thread. No JavaScript value is touched off the main thread: the work fills a plain
// C++ result, which is turned into JavaScript once it is back.
#pragma once
#include "binding/marshal.h"

namespace lgd::binding {

// `deliver` must be called once, from any thread, with null or an error: an environment that ends waits for it. The
// promise settles on the main thread: to_value(env) makes its value. to_value is destroyed there too, and not before
// the work is done.
struct Settler {
  Napi::Promise promise;
  std::function<void(std::exception_ptr)> deliver;
};
Settler make_settler(Napi::Env env, std::function<Napi::Value(Napi::Env)> to_value);

// Runs work(result) on the device's thread after everything queued before; resolves with to_value(env, result).
template <class Result>
Napi::Value run_async(Napi::Env env, const DevicePtr& device, const char* stage, std::function<void(Result&)> work,
                      Napi::Value (*to_value)(Napi::Env, const Result&)) {
  auto result = std::make_shared<Result>();
  Settler settler = make_settler(env, [result, to_value](Napi::Env env) { return to_value(env, *result); });
  submit(device, stage, [result, work = std::move(work)] { work(*result); }, std::move(settler.deliver));
  return settler.promise;
}

}  // namespace lgd::binding
