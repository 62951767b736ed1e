// Stands in for core/cuda_runtime.cu in a build without CUDA: the addon says so instead of failing to load.
#ifndef LGD_WITH_CUDA
#include "core/cuda_streams.h"
#include "core/device.h"

namespace lgd::cuda {

[[noreturn]] static void absent() {
  throw Error("DEVICE_UNAVAILABLE", "this addon was built without CUDA; rebuild it where nvcc is found (npm run build:native)");
}

bool compiled() { return false; }
int device_count(std::string& why) {
  why = "this addon was built without CUDA";
  return 0;
}
DeviceProperties properties(int) { absent(); }
int driver_version() { return 0; }
int runtime_version() { return 0; }
void* create_stream(int) { absent(); }
void destroy_stream(void*) noexcept {}
void set_device(int) { absent(); }
void* allocate(size_t) { absent(); }
void release(void*) noexcept {}
void copy_async(void*, const void*, size_t, void*) { absent(); }
void zero_async(void*, size_t, void*) { absent(); }
void synchronize(void*) { absent(); }
void* allocate_pinned(size_t) { absent(); }
void release_pinned(void*) noexcept {}
void* create_event() { absent(); }
void destroy_event(void*) noexcept {}
const Kernels* kernels() { absent(); }

void enqueue_event(void*, void*) { absent(); }
void stream_wait(void*, void*) { absent(); }
void await_event(void*) { absent(); }
void begin_capture(void*) { absent(); }
void* end_capture(void*) { absent(); }
void discard_capture(void*) noexcept {}
size_t graph_nodes(void*) { absent(); }
void destroy_graph(void*) noexcept {}
void* instantiate(void*) { absent(); }
bool update(void*, void*) { absent(); }
void launch(void*, void*) { absent(); }
void destroy_executable(void*) noexcept {}

}  // namespace lgd::cuda
#endif
