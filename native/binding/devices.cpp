#include "binding/async.h"
#include "binding/exports.h"

namespace lgd::binding {

Napi::Value js_build_info(const Napi::CallbackInfo& info) {
  const BuildInfo build = build_info();
  auto out = Napi::Object::New(info.Env());
  out.Set("version", build.version);
  out.Set("buildId", build.build_id);
  out.Set("compiler", build.compiler);
  out.Set("isa", build.isa);
  out.Set("cuda", build.cuda);
  out.Set("cudaRuntime", build.cuda_runtime);
  out.Set("cudaArchitectures", to_js(info.Env(), build.cuda_architectures));
  return out;
}

Napi::Value js_cuda_driver(const Napi::CallbackInfo& info) { return Napi::Number::New(info.Env(), cuda_driver()); }

Napi::Value js_cuda_status(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const CudaStatus status = cuda_status();
  auto devices = Napi::Array::New(env, status.devices.size());
  for (uint32_t i = 0; i < status.devices.size(); ++i) {
    const CudaDeviceInfo& device = status.devices[i];
    auto item = Napi::Object::New(env);
    item.Set("index", device.index);
    item.Set("name", device.name);
    item.Set("computeCapability", device.compute_capability);
    item.Set("memoryBytes", device.memory_bytes);
    item.Set("multiprocessors", device.multiprocessors);
    item.Set("wgmma", device.wgmma);
    item.Set("programmaticLaunches", device.programmatic_launches);
    devices.Set(i, item);
  }
  auto out = Napi::Object::New(env);
  out.Set("available", status.available);
  out.Set("reason", status.reason);
  out.Set("driver", status.driver);
  out.Set("devices", devices);
  return out;
}

Napi::Value js_open_device(const Napi::CallbackInfo& info) {
  DeviceFeatures features;
  if (info.Length() > 3 && info[3].IsObject()) {
    const auto wanted = info[3].As<Napi::Object>();
    const auto read = [&](const char* name, bool& feature) {
      const Napi::Value value = wanted.Get(name);
      if (!value.IsUndefined()) feature = value.ToBoolean().Value();
    };
    read("wgmma", features.wgmma);
    read("programmaticLaunches", features.programmatic_launches);
  }
  return wrap(info.Env(),
              open_device(text(info[0], "kind"), integer(info[1], "index"), integer(info[2], "threads"), features));
}

Napi::Value js_wgmma_difference(const Napi::CallbackInfo& info) {
  const DevicePtr device = unwrap<Device>(info[0]);
  return run_async<double>(
      info.Env(), device, "wgmmaDifference", [device](double& result) { result = wgmma_difference(device); },
      [](Napi::Env env, const double& result) -> Napi::Value { return Napi::Number::New(env, result); });
}

Napi::Value js_programmatic_launch_time(const Napi::CallbackInfo& info) {
  const DevicePtr device = unwrap<Device>(info[0]);
  return run_async<double>(
      info.Env(), device, "programmaticLaunchTime",
      [device](double& result) { result = programmatic_launch_time(device); },
      [](Napi::Env env, const double& result) -> Napi::Value { return Napi::Number::New(env, result); });
}

Napi::Value js_device_info(const Napi::CallbackInfo& info) {
  const DeviceInfo device = device_info(unwrap<Device>(info[0]));
  auto out = Napi::Object::New(info.Env());
  out.Set("kind", device.kind);
  out.Set("name", device.name);
  out.Set("computeCapability", device.compute_capability);
  out.Set("products", device.products);
  out.Set("launches", device.launches);
  out.Set("index", device.index);
  out.Set("threads", device.threads);
  out.Set("memoryBytes", device.memory_bytes);
  out.Set("allocatedBytes", device.allocated_bytes);
  out.Set("peakBytes", device.peak_bytes);
  return out;
}

Napi::Value js_synchronize(const Napi::CallbackInfo& info) {
  const DevicePtr device = unwrap<Device>(info[0]);
  Settler settler = make_settler(info.Env(), [](Napi::Env env) { return env.Undefined(); });
  synchronize(device, std::move(settler.deliver));
  return settler.promise;
}

Napi::Value js_make_step(const Napi::CallbackInfo& info) {
  return wrap(info.Env(), make_step(unwrap<Device>(info[0])));
}

Napi::Value js_begin_step(const Napi::CallbackInfo& info) {
  begin_step(unwrap<DeviceStep>(info[0]));
  return info.Env().Undefined();
}

Napi::Value js_end_step(const Napi::CallbackInfo& info) {
  end_step(unwrap<DeviceStep>(info[0]));
  return info.Env().Undefined();
}

Napi::Value js_check_step(const Napi::CallbackInfo& info) {
  check_step(unwrap<DeviceStep>(info[0]), info[1].ToBoolean());
  return info.Env().Undefined();
}

static Napi::Object object_of(Napi::Env env, const GraphWay& way) {
  auto out = Napi::Object::New(env);
  out.Set("programmatic", way.programmatic);
  out.Set("inOrder", way.in_order);
  out.Set("oneCarveout", way.one_carveout);
  return out;
}

Napi::Value js_step_info(const Napi::CallbackInfo& info) {
  const DeviceStepPtr step = unwrap<DeviceStep>(info[0]);
  return run_async<StepInfo>(
      info.Env(), device_of(step), "step.info", [step](StepInfo& result) { result = step_info(step); },
      [](Napi::Env env, const StepInfo& counts) -> Napi::Value {
        auto out = Napi::Object::New(env);
        out.Set("eager", double(counts.eager));
        out.Set("launched", double(counts.launched));
        out.Set("interrupted", double(counts.interrupted));
        out.Set("instantiated", double(counts.instantiated));
        out.Set("nodes", double(counts.nodes));
        out.Set("changed", double(counts.changed));
        out.Set("programmatic", double(counts.programmatic));
        out.Set("way", object_of(env, counts.way));
        out.Set("tuning", counts.tuning);
        auto ways = Napi::Array::New(env, counts.ways.size());
        for (size_t i = 0; i < counts.ways.size(); ++i) {
          Napi::Object way = object_of(env, counts.ways[i].way);
          way.Set("milliseconds", counts.ways[i].milliseconds);
          ways[uint32_t(i)] = way;
        }
        out.Set("ways", ways);
        if (!counts.refused.empty()) out.Set("refused", counts.refused);
        return out;
      });
}

Napi::Value js_begin_branch(const Napi::CallbackInfo& info) {
  begin_branch(unwrap<Device>(info[0]));
  return info.Env().Undefined();
}

Napi::Value js_end_branch(const Napi::CallbackInfo& info) {
  end_branch(unwrap<Device>(info[0]));
  return info.Env().Undefined();
}

Napi::Value js_join_branch(const Napi::CallbackInfo& info) {
  join_branch(unwrap<Device>(info[0]));
  return info.Env().Undefined();
}

static Napi::Value wrap_tensor(Napi::Env env, TensorPtr tensor) {
  int64_t bytes = sizeof(float);
  for (int64_t size : shape_of(tensor)) bytes *= size;
  return wrap(env, std::move(tensor), bytes);
}

Napi::Value js_make_tensor(const Napi::CallbackInfo& info) {
  if (!info[1].IsArray()) fail(info.Env(), "BAD_SHAPE", "shape: expected an array of numbers");
  const auto array = info[1].As<Napi::Array>();
  std::vector<int64_t> shape(array.Length());
  for (uint32_t i = 0; i < array.Length(); ++i) shape[i] = whole_number(array.Get(i), "shape");
  return wrap_tensor(info.Env(), make_tensor(unwrap<Device>(info[0]), shape));
}

Napi::Value js_make_images(const Napi::CallbackInfo& info) {
  return wrap_tensor(info.Env(),
                     make_images(unwrap<Device>(info[0]), integer(info[1], "batch"), integer(info[2], "height"),
                                 integer(info[3], "width"), info[4].ToBoolean().Value()));
}

Napi::Value js_write_tensor(const Napi::CallbackInfo& info) {
  write_tensor(unwrap<Tensor>(info[0]), floats(info[1], "values"));
  return info.Env().Undefined();
}

Napi::Value js_copy_tensor(const Napi::CallbackInfo& info) {
  copy_tensor(unwrap<Tensor>(info[0]), unwrap<Tensor>(info[1]));
  return info.Env().Undefined();
}

Napi::Value js_write_images(const Napi::CallbackInfo& info) {
  write_images(unwrap<Tensor>(info[0]), floats(info[1], "pixels"));
  return info.Env().Undefined();
}

static Napi::Value read(const Napi::CallbackInfo& info, const char* stage,
                        void (*reader)(const TensorPtr&, std::vector<float>&)) {
  const TensorPtr tensor = unwrap<Tensor>(info[0]);
  return run_async<std::vector<float>>(
      info.Env(), device_of(tensor), stage, [tensor, reader](std::vector<float>& out) { reader(tensor, out); },
      [](Napi::Env env, const std::vector<float>& values) { return to_js(env, values); });
}
Napi::Value js_read_tensor(const Napi::CallbackInfo& info) { return read(info, "tensor.read", &read_tensor); }
Napi::Value js_read_images(const Napi::CallbackInfo& info) { return read(info, "images.read", &read_images); }

}  // namespace lgd::binding
