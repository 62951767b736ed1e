// A caller's typed arrays, read and written where they lie while a device works: nothing of their size is copied.
#pragma once
#include <span>

#include "binding/async.h"

namespace lgd::binding {

// Keeps arrays alive; made, used and destroyed on the main thread. Their owner may not change or transfer them until
// the call's promise has settled. One whose buffer may shrink is copied: its memory would go from under the work.
class BorrowedArrays {
 public:
  explicit BorrowedArrays(Napi::Env env);

  // A field's values; empty where the field is undefined. Throws BAD_SHAPE for anything but such an array.
  std::span<const float> floats(const Fields& fields, const char* name);
  std::span<const float> floats(const Napi::Value& value, const char* name);  // an argument's
  std::span<const uint8_t> bytes(const Fields& fields, const char* name);
  // A new array for the work to fill, which results() holds under this name.
  template <class T>
  std::span<T> make(const char* name, size_t count) {
    auto array = Napi::TypedArrayOf<T>::New(env_, count);
    results().Set(name, array);
    return {array.Data(), count};
  }
  Napi::Object results() const { return kept_.Value().Get("results").As<Napi::Object>(); }
  // BAD_OPTION where one was transferred meanwhile: nobody knows what the work has read there.
  void check_whole() const;

 private:
  template <class Array>
  Array keep(const Napi::Value& value, const char* name, napi_typedarray_type type, const char* type_name);

  Napi::Env env_;
  Napi::ObjectReference kept_;
  std::vector<const char*> names_;  // of the arrays, which kept_ has under their numbers
};

// run_async() with such arrays: the promise's value are the results, to which add_result() adds.
template <class Result>
Napi::Value run_with_arrays(Napi::Env env, const DevicePtr& device, const char* stage,
                            std::shared_ptr<BorrowedArrays> arrays, std::function<void(Result&)> work,
                            void (*add_result)(const Result&, Napi::Object results)) {
  auto result = std::make_shared<Result>();
  // The arrays' references go with this function, which lives and dies on the main thread; the work has the memory
  // alone.
  Settler settler = make_settler(env, [result, arrays = std::move(arrays), add_result](Napi::Env) -> Napi::Value {
    arrays->check_whole();
    Napi::Object results = arrays->results();
    add_result(*result, results);
    return results;
  });
  submit(device, stage, [result, work = std::move(work)] { work(*result); }, std::move(settler.deliver));
  return settler.promise;
}

}  // namespace lgd::binding
