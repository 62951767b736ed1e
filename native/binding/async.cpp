#include "binding/async.h"

namespace lgd::binding {

Settler make_settler(Napi::Env env, std::function<Napi::Value(Napi::Env)> to_value) {
  struct Pending {
    Napi::Promise::Deferred deferred;
    std::function<Napi::Value(Napi::Env)> to_value;
    std::exception_ptr error;
  };
  auto* pending = new Pending{Napi::Promise::Deferred::New(env), std::move(to_value), nullptr};
  auto function = Napi::ThreadSafeFunction::New(env, Napi::Function::New(env, [](const Napi::CallbackInfo&) {}), "lgdistill", 0, 1);
  Napi::Promise promise = pending->deferred.Promise();
  return {promise, [pending, function](std::exception_ptr error) mutable {
            pending->error = error;
            function.BlockingCall(pending, [](Napi::Env env, Napi::Function, Pending* pending) {
              std::unique_ptr<Pending> owned(pending);
              if (env == nullptr) return;  // the environment is going down
              Napi::HandleScope scope(env);
              if (owned->error) {
                owned->deferred.Reject(js_error(env, owned->error).Value());
                return;
              }
              try {
                owned->deferred.Resolve(owned->to_value(env));
              } catch (const Napi::Error& e) {
                owned->deferred.Reject(e.Value());
              }
            });
            function.Release();
          }};
}

}  // namespace lgd::binding
