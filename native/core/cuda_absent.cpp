// Stands in for core/cuda_runtime.cu in a build without CUDA: the addon says so instead of failing to load.
#ifndef LGD_WITH_CUDA
#include "core/cuda_streams.h"
#include "core/device.h"

namespace lgd::cuda {

[[noreturn]] static void absent() {
  throw Error("DEVICE_UNAVAILABLE",
              "this addon was built without CUDA; rebuild it where nvcc is found (npm run build:native)");
}

bool compiled() { return false; }
int device_count(std::string& why) {
  why = "this addon was built without CUDA";
  return 0;
}
DeviceProperties properties(int) { absent(); }
bool has_warpgroups(int) { return false; }
bool has_programmatic_launches(int) { return false; }
Card card(int) { absent(); }
int driver_version() { return 0; }
int runtime_version() { return 0; }
void* create_stream(int) { absent(); }
void destroy_stream(void*) noexcept {}
void set_device(int) { absent(); }
void* allocate(size_t) { absent(); }
void release(void*) noexcept {}
void* allocate_pinned(size_t) { absent(); }
void release_pinned(void*) noexcept {}
void* create_event() { absent(); }
void destroy_event(void*) noexcept {}
const Kernels* kernels() { absent(); }

void load(const Launch&) { absent(); }
void run(const Work&, void*) { absent(); }
void synchronize(void*) { absent(); }
void enqueue_event(void*, void*) { absent(); }
void stream_wait(void*, void*) { absent(); }
void await_event(void*) { absent(); }
void* create_timed_event() { absent(); }
bool is_over(void*) { absent(); }
double milliseconds_between(void*, void*) { absent(); }
void* build_graph(const Tape&, const GraphWay&) { absent(); }
bool change_graph(void*, size_t, const Work&) { absent(); }
void launch_graph(void*, void*) { absent(); }
void destroy_graph(void*) noexcept {}

}  // namespace lgd::cuda
#endif
