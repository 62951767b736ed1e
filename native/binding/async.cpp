#include "binding/async.h"

#include <condition_variable>
#include <mutex>

namespace lgd::binding {

namespace {

// One promise on its way. Its JavaScript values are made, used and dropped on the main thread.
class Settlement {
 public:
  Settlement(Napi::Env env, std::function<Napi::Value(Napi::Env)> to_value)
      : env_(env),
        deferred_(Napi::Promise::Deferred::New(env)),
        to_value_(std::move(to_value)),
        function_(Napi::ThreadSafeFunction::New(env, Napi::Function::New(env, [](const Napi::CallbackInfo&) {}),
                                                "lgdistill", 0, 1)) {
    // After the function, whose own hook frees it: hooks run in reverse, and deliver() must find it.
    napi_add_env_cleanup_hook(env_, &Settlement::before_exit, this);
  }

  Napi::Promise promise() const { return deferred_.Promise(); }

  void deliver(std::exception_ptr error, const std::shared_ptr<Settlement>& self) {
    const std::lock_guard lock(mutex_);
    error_ = error;
    delivered_ = true;
    function_.BlockingCall(new std::shared_ptr<Settlement>(self),
                           [](Napi::Env env, Napi::Function, std::shared_ptr<Settlement>* self) {
                             const std::unique_ptr<std::shared_ptr<Settlement>> owned(self);
                             if (env != nullptr) (*owned)->settle(env);
                           });
    function_.Release();
    changed_.notify_all();
  }

 private:
  void settle(Napi::Env env) {
    // until deliver() has let the function go: without the hook, an environment that ends here frees it
    { const std::lock_guard lock(mutex_); }
    napi_remove_env_cleanup_hook(env_, &Settlement::before_exit, this);
    const auto to_value = std::move(to_value_);  // what it holds goes with this call
    to_value_ = nullptr;
    Napi::HandleScope scope(env);
    if (error_) {
      deferred_.Reject(js_error(env, error_).Value());
      return;
    }
    try {
      deferred_.Resolve(to_value(env));
    } catch (const Napi::Error& e) { deferred_.Reject(e.Value()); }
  }

  // An environment that ends (a worker that is terminated, a process that exits) takes the function and whatever memory
  // the work reads: it waits for the work.
  static void before_exit(void* context) {
    auto* self = static_cast<Settlement*>(context);
    std::unique_lock lock(self->mutex_);
    self->changed_.wait(lock, [self] { return self->delivered_; });
    self->to_value_ = nullptr;
  }

  const napi_env env_;
  const Napi::Promise::Deferred deferred_;
  std::function<Napi::Value(Napi::Env)> to_value_;
  Napi::ThreadSafeFunction function_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool delivered_ = false;
  std::exception_ptr error_;
};

}  // namespace

Settler make_settler(Napi::Env env, std::function<Napi::Value(Napi::Env)> to_value) {
  auto settlement = std::make_shared<Settlement>(env, std::move(to_value));
  return {settlement->promise(), [settlement](std::exception_ptr error) { settlement->deliver(error, settlement); }};
}

}  // namespace lgd::binding
