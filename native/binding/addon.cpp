// Gives JavaScript what binding/exports.h lists.
#include "binding/exports.h"
#include "binding/marshal.h"

namespace lgd::binding {

// A C++ exception that leaves a function becomes a JavaScript error with its code.
template <Napi::Value (*function)(const Napi::CallbackInfo&)>
static Napi::Value entry(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] { return function(info); });
}

template <Napi::Value (*function)(const Napi::CallbackInfo&)>
static void add(Napi::Object exports, const char* name) {
  exports.Set(name, Napi::Function::New<entry<function>>(exports.Env(), name));
}

static Napi::Object init(Napi::Env, Napi::Object exports) {
#define LGD_ADD(function, name) add<function>(exports, name);
  LGD_EXPORTS(LGD_ADD)
#undef LGD_ADD
  return exports;
}

NODE_API_MODULE(lgdistill, init)

}  // namespace lgd::binding
