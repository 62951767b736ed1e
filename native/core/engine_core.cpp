// engine.h: build, devices, steps, tensors.
#include <algorithm>
#include <mutex>
#include <sstream>
#include <thread>
#include <utility>

#if defined(__linux__)
#include <dlfcn.h>
#endif

#include "core/simd.h"
#include "core/tensor.h"
#include "core/timeline.h"
#include "engine.h"
#include "ops/kernels.h"
#include "ops/launch_trial.h"
#include "ops/warpgroup_trial.h"

#ifndef LGD_VERSION
#define LGD_VERSION "0.0.0"
#endif
#ifndef LGD_BUILD_ID
#define LGD_BUILD_ID "unknown"
#endif
#ifndef LGD_CUDA_ARCHITECTURES
#define LGD_CUDA_ARCHITECTURES ""
#endif

namespace lgd {

BuildInfo build_info() {
  BuildInfo info;
  info.version = LGD_VERSION;
  info.build_id = LGD_BUILD_ID;
  info.compiler = "g++ " __VERSION__;
  info.isa = isa_name(cpu_isa());
  info.cuda = cuda::compiled();
  info.cuda_runtime = cuda::runtime_version();
  std::istringstream list(LGD_CUDA_ARCHITECTURES);
  for (std::string arch; std::getline(list, arch, ' ');)
    if (!arch.empty()) info.cuda_architectures.push_back(arch);
  return info;
}

// CUDA's own question for the version starts the driver.
int cuda_driver() {
  if (!cuda::compiled()) return 0;
#if defined(__linux__)
  if (void* const library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL)) {  // kept open: the runtime opens the same
    int version = 0;
    const auto ask = reinterpret_cast<int (*)(int*)>(dlsym(library, "cuDriverGetVersion"));
    return ask && ask(&version) == 0 ? version : 0;
  }
#endif
  return 0;
}

CudaStatus cuda_status() {
  CudaStatus status;
  try {
    status.driver = cuda::driver_version();
    const int count = cuda::device_count(status.reason);
    for (int index = 0; index < count; ++index) {
      const auto props = cuda::properties(index);
      status.devices.push_back({index, props.name, std::to_string(props.major) + "." + std::to_string(props.minor),
                                double(props.memory_bytes), props.multiprocessors, has_wanted_warpgroups(index),
                                has_wanted_programmatic_launches(index)});
    }
    status.available = !status.devices.empty();
  } catch (const std::exception& e) { status.reason = e.what(); }
  return status;
}

DevicePtr open_device(const std::string& kind, int index, int threads, const DeviceFeatures& features) {
  if (threads <= 0) threads = std::max(1u, std::thread::hardware_concurrency());
  if (kind == "cpu") return std::make_shared<Device>(DeviceKind::cpu, 0, threads);
  LGD_CHECK(kind == "cuda", "BAD_OPTION", "unknown device kind \"", kind, "\"; cpu and cuda are known");
  std::string why;
  const int count = cuda::device_count(why);
  if (count == 0) throw Error("DEVICE_UNAVAILABLE", why);
  if (index < 0 || index >= count)
    throw_error("DEVICE_UNAVAILABLE",
                {"there is no CUDA device ", index, "; devices 0 to ", count - 1, " are present"});
  const auto props = cuda::properties(index);
  if (props.major < 8)
    throw_error("DEVICE_UNAVAILABLE", {props.name, " has compute capability ", props.major, ".", props.minor,
                                       "; 8.0 (A100) or later is needed for bfloat16 matrix instructions"});
  auto device = std::make_shared<Device>(DeviceKind::cuda, index, threads);
  device->warpgroups &= features.wgmma;  // nobody else has it yet
  device->programmatic_launches &= features.programmatic_launches;
  return device;
}

double wgmma_difference(const DevicePtr& device) { return warpgroup_difference(*device); }
double programmatic_launch_time(const DevicePtr& device) { return programmatic_launch_time(*device); }

DeviceInfo device_info(const DevicePtr& device) {
  DeviceInfo info;
  info.kind = device->kind == DeviceKind::cuda ? "cuda" : "cpu";
  info.index = device->index;
  info.threads = device->pool.size();
  if (device->kind == DeviceKind::cuda) {
    const auto& props = device->properties;
    info.name = props.name;
    info.compute_capability = std::to_string(props.major) + "." + std::to_string(props.minor);
    info.memory_bytes = double(props.memory_bytes);
    info.products = device->warpgroups ? "wgmma" : "mma.sync";
    info.launches = device->programmatic_launches ? "programmatic" : "serialized";
  } else {
    info.name = std::string("CPU (") + isa_name(cpu_isa()) + ")";
  }
  info.allocated_bytes = double(device->allocated_bytes());
  info.peak_bytes = double(device->peak_bytes());
  return info;
}

void synchronize(const DevicePtr& device, std::function<void(std::exception_ptr)> done) {
  submit(device, "synchronize", [device] { device->synchronize(); }, std::move(done));
}

void submit(const DevicePtr& device, std::string stage, std::function<void()> work,
            std::function<void(std::exception_ptr)> done) {
  // which lives until then
  device->ask(std::move(stage), std::move(work),
              [device, done = std::move(done)](std::exception_ptr error) { done(error); });
}

// ---- steps ----------------------------------------------------------------------------------------------------------

struct DeviceStep {
  DevicePtr device;
  std::shared_ptr<StepGraph> graph = std::make_shared<StepGraph>();
  // of the device's thread
  int64_t lost_before = 0;
  bool begun = false;
  std::vector<std::function<void()>> undo;
  std::mutex mutex;
  std::exception_ptr loss;   // guarded by it: what cost the first step that is not whole
  bool from_before = false;  // so is this: had that failed before the step began, and so as no part of it?

  bool is_whole() const { return begun && device->lost() == lost_before; }
  void lose(std::exception_ptr error, bool before) {
    std::lock_guard lock(mutex);
    if (loss) return;
    loss = std::move(error);
    from_before = before;
  }
};

DeviceStepPtr make_step(const DevicePtr& device) {
  auto step = std::make_shared<DeviceStep>();
  step->device = device;
  return step;
}

const DevicePtr& device_of(const DeviceStepPtr& step) { return step->device; }

static void submit_to_cuda(const DevicePtr& device, const char* stage, std::function<void()> work) {
  if (device->kind == DeviceKind::cuda) device->submit(stage, std::move(work));
}

void begin_step(const DeviceStepPtr& step) {
  step->device->submit(
      "step.begin", [step] { step->device->begin_step(step->graph); },
      [step](std::exception_ptr error) {
        step->lost_before = step->device->lost();
        step->begun = !error;
        step->undo.clear();  // of one that was never ended
        if (error) step->lose(std::move(error), true);
      });
}
void end_step(const DeviceStepPtr& step, bool given_up) {
  step->device->submit(
      "step.end", [step] { step->device->end_step(); },
      [step, given_up](std::exception_ptr error) {
        Device& device = *step->device;
        if (error) step->lose(error, false);
        else if (device.lost() != step->lost_before) step->lose(device.last_loss(), false);
        for (const auto& undo : std::exchange(step->undo, {}))
          if (given_up || error || !step->is_whole()) undo();
      });
}
void undo_if_given_up(const DeviceStepPtr& step, std::function<void()> undo) { step->undo.push_back(std::move(undo)); }

// All of it is submitted by one thread without a question in between: none of it is another's.
void begin_update(const DeviceStepPtr& step) {
  step->device->submit("step.update", [step] { step->device->pass_over(!step->is_whole()); });
}
void end_update(const DeviceStepPtr& step) {
  step->device->submit("step.updated", [] {}, [step](const std::exception_ptr&) { step->device->pass_over(false); });
}

void check_step(const DeviceStepPtr& step, bool is_told) {
  std::exception_ptr loss;
  bool from_before;
  {
    std::lock_guard lock(step->mutex);
    loss = std::exchange(step->loss, nullptr);
    from_before = step->from_before;
  }
  if (is_told && !from_before) return;
  try {
    if (loss) std::rethrow_exception(loss);
  } catch (const Error& e) {
    throw Error(e.code, std::string(from_before ? "a step was not taken, as other work on its device had failed: "
                                                : "a step is not whole, as work on its device failed meanwhile: ") +
                            e.what());
  }
}

StepInfo step_info(const DeviceStepPtr& step) {
  const StepGraph& graph = *step->graph;
  const StepCounts& counts = graph.counts;
  return {counts.eager,        counts.launched, counts.interrupted,
          counts.instantiated, counts.nodes,    counts.changed,
          counts.programmatic, graph.way,       graph.graph && !graph.tuner.done(),
          graph.tuner.times(), graph.refused};
}

void begin_branch(const DevicePtr& device) {
  submit_to_cuda(device, "branch.begin", [device] { device->begin_branch(); });
}
void end_branch(const DevicePtr& device) {
  submit_to_cuda(device, "branch.end", [device] { device->end_branch(); });
}
void join_branch(const DevicePtr& device) {
  submit_to_cuda(device, "branch.join", [device] { device->join_branch(); });
}

// ---- tensors --------------------------------------------------------------------------------------------------------

static TensorPtr make(const DevicePtr& device, std::vector<int64_t> shape, int stored, DType type) {
  auto tensor = std::make_shared<Tensor>();
  tensor->device = device;
  tensor->shape = std::move(shape);
  tensor->stored = stored;
  tensor->type = type;
  const size_t bytes = size_t(tensor->elements()) * size_of(type);
  tensor->buffer = Buffer(device, bytes);
  device->submit("tensor.zero", [tensor, bytes] { tensor->device->zero(tensor->buffer.as<>(), bytes); });
  return tensor;
}

TensorPtr make_tensor(const DevicePtr& device, const std::vector<int64_t>& shape) {
  LGD_CHECK(!shape.empty(), "BAD_SHAPE", "a tensor needs at least one dimension");
  double elements = 1;
  for (int64_t size : shape) {
    LGD_CHECK(size > 0 && size < int64_t(1) << 31, "BAD_SHAPE", "a tensor's sizes must be from 1 to 2^31 - 1, found ",
              size);
    elements *= double(size);
  }
  LGD_CHECK(elements < double(int64_t(1) << 53), "BAD_SHAPE", "a tensor of ", elements, " values is too large");
  return make(device, shape, int(shape.back()), DType::f32);
}

TensorPtr make_images(const DevicePtr& device, int batch, int height, int width, bool bfloat16) {
  LGD_CHECK(batch > 0 && height > 0 && width > 0, "BAD_SHAPE", "images need positive sizes, found ", batch, "x", height,
            "x", width);
  LGD_CHECK(batch <= most_images, "BAD_SHAPE", "a batch of ", batch, " images. Allowed: ", most_images, " or fewer");
  return make(device, {batch, height, width, 3}, stored_image_channels(device->kind, width),
              storage_type(device->kind, bfloat16));
}

const DevicePtr& device_of(const TensorPtr& tensor) { return tensor->device; }
std::vector<int64_t> shape_of(const TensorPtr& tensor) { return tensor->shape; }

void write_tensor(const TensorPtr& tensor, std::vector<float> values) {
  LGD_CHECK(tensor->type == DType::f32 && tensor->stored == tensor->shape.back(), "BAD_SHAPE",
            "this tensor holds images; write it with write_images");
  LGD_CHECK(int64_t(values.size()) == tensor->elements(), "BAD_SHAPE", "expected ", tensor->elements(),
            " values, found ", values.size());
  tensor->device->submit("tensor.write", [tensor, values = std::move(values)] {
    tensor->device->from_host(tensor->buffer.as<>(), values.data(), values.size() * 4);
  });
}

void copy_tensor(const TensorPtr& from, const TensorPtr& to) {
  LGD_CHECK(from->device == to->device, "BAD_OPTION", "the tensors belong to different devices");
  LGD_CHECK(from->shape == to->shape && from->type == to->type && from->stored == to->stored, "BAD_SHAPE",
            "the tensors differ in shape or type");
  from->device->submit(
      "tensor.copy", [from, to] { from->device->copy(to->buffer.as<>(), from->buffer.as<>(), from->buffer.bytes()); });
}

void read_tensor(const TensorPtr& tensor, std::vector<float>& values) {
  LGD_CHECK(tensor->type == DType::f32, "BAD_SHAPE", "this tensor is not float32");
  values.resize(tensor->elements());
  tensor->device->to_host(values.data(), tensor->buffer.as<>(), values.size() * 4);
}

static float from_bf16(uint16_t bits) {
  const uint32_t word = uint32_t(bits) << 16;
  float value;
  std::memcpy(&value, &word, 4);
  return value;
}

void write_images(const TensorPtr& images, std::vector<float> nchw) {
  LGD_CHECK(images->shape.size() == 4, "BAD_SHAPE", "expected a batch of images");
  const int64_t batch = images->shape[0], pixels = images->shape[1] * images->shape[2];
  LGD_CHECK(int64_t(nchw.size()) == batch * 3 * pixels, "BAD_SHAPE", "expected ", batch * 3 * pixels, " values ([",
            batch, ",3,", images->shape[1], ",", images->shape[2], "]), found ", nchw.size());
  images->device->submit("images.write", [images, batch, pixels, nchw = std::move(nchw)] {
    const int stored = images->stored;
    std::vector<float> nhwc(size_t(images->elements()), 0.f);
    for (int64_t b = 0; b < batch; ++b)
      for (int c = 0; c < 3; ++c)
        for (int64_t p = 0; p < pixels; ++p) nhwc[(b * pixels + p) * stored + c] = nchw[(b * 3 + c) * pixels + p];
    Device& device = *images->device;
    if (images->type == DType::f32) {
      device.from_host(images->buffer.as<>(), nhwc.data(), nhwc.size() * 4);
    } else {
      float* staged = static_cast<float*>(device.scratch(nhwc.size() * 4));
      device.from_host(staged, nhwc.data(), nhwc.size() * 4);
      device.kernels->cast(device, int64_t(nhwc.size()), DType::bf16, staged, images->buffer.as<>());
    }
  });
}

void read_images(const TensorPtr& images, std::vector<float>& nchw) {
  LGD_CHECK(images->shape.size() == 4, "BAD_SHAPE", "expected a batch of images");
  const int64_t batch = images->shape[0], pixels = images->shape[1] * images->shape[2];
  const int stored = images->stored;
  std::vector<uint8_t> raw(images->buffer.bytes());
  images->device->to_host(raw.data(), images->buffer.as<>(), raw.size());
  nchw.resize(size_t(batch * 3 * pixels));
  for (int64_t b = 0; b < batch; ++b)
    for (int c = 0; c < 3; ++c)
      for (int64_t p = 0; p < pixels; ++p) {
        const size_t at = size_t((b * pixels + p) * stored + c);
        float value;
        if (images->type == DType::f32) {
          std::memcpy(&value, raw.data() + at * 4, 4);
        } else {
          uint16_t bits;
          std::memcpy(&bits, raw.data() + at * 2, 2);
          value = from_bf16(bits);
        }
        nchw[(b * 3 + c) * pixels + p] = value;
      }
}

}  // namespace lgd
