// The CUDA runtime calls behind Device. Every return code is checked; a failed call throws with CUDA's own words.
#include <cuda_runtime.h>

#include <cstring>
#include <map>
#include <mutex>
#include <utility>

#include "core/cuda_device.cuh"
#include "core/cuda_streams.h"
#include "core/device.h"

namespace lgd::cuda {

static void check(cudaError_t status, const char* call) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // clears the sticky copy of a non-fatal error
  throw Error(status == cudaErrorMemoryAllocation ? "OUT_OF_MEMORY" : "DEVICE_ERROR",
              std::string(call) + " failed: " + cudaGetErrorString(status) + " (" + cudaGetErrorName(status) + ")");
}
#define LGD_CUDA(call) check((call), #call)

bool compiled() { return true; }

int device_count(std::string& why) {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess) {
    cudaGetLastError();
    int driver = 0;  // 0 where there is none, of which cudaGetDeviceCount says that its version is insufficient
    const bool absent = cudaDriverGetVersion(&driver) == cudaSuccess && driver == 0;
    why = absent ? "no NVIDIA driver is installed" : cudaGetErrorString(status);
    return 0;
  }
  if (count == 0) why = "no CUDA device is present";
  return count;
}

DeviceProperties properties(int index) {
  cudaDeviceProp props;
  LGD_CUDA(cudaGetDeviceProperties(&props, index));
  return {props.name, props.major, props.minor, props.multiProcessorCount, props.totalGlobalMem};
}

bool has_warpgroups(int index) {
  static const bool built = std::strstr(LGD_CUDA_ARCHITECTURES, "90a");
  int major = 0, minor = 0;
  LGD_CUDA(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, index));
  LGD_CUDA(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, index));
  return built && major == 9 && minor == 0;
}

size_t block_shared_memory(int index) {
  int bytes = 0;
  LGD_CUDA(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, index));
  return size_t(bytes);
}

int driver_version() {
  int version = 0;
  if (cudaDriverGetVersion(&version) != cudaSuccess) cudaGetLastError();
  return version;
}

int runtime_version() { return CUDART_VERSION; }

void* create_stream(int index) {
  LGD_CUDA(cudaSetDevice(index));
  cudaStream_t stream;
  LGD_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  return stream;
}

void destroy_stream(void* stream) noexcept { cudaStreamDestroy(static_cast<cudaStream_t>(stream)); }
void set_device(int index) { LGD_CUDA(cudaSetDevice(index)); }

void* allocate(size_t bytes) {
  void* pointer = nullptr;
  const cudaError_t status = cudaMalloc(&pointer, bytes);
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    size_t free_bytes = 0, total_bytes = 0;
    cudaMemGetInfo(&free_bytes, &total_bytes);
    throw Error("OUT_OF_MEMORY", detail::concat("cannot allocate ", bytes >> 20, " MiB on the GPU: ", free_bytes >> 20, " of ",
                                                total_bytes >> 20, " MiB are free; use a smaller batch or resolution"));
  }
  check(status, "cudaMalloc");
  return pointer;
}

void release(void* pointer) noexcept { cudaFree(pointer); }

void allow_shared_memory(const void* kernel, size_t bytes) {
  static std::mutex mutex;
  static std::map<std::pair<int, const void*>, size_t> allowed;
  int device = 0;
  LGD_CUDA(cudaGetDevice(&device));
  const std::lock_guard lock(mutex);
  size_t& most = allowed[{device, kernel}];
  if (bytes <= most) return;
  LGD_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes)));
  most = bytes;
}

void copy_async(void* to, const void* from, size_t bytes, void* stream) {
  LGD_CUDA(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, static_cast<cudaStream_t>(stream)));
}
void zero_async(void* device, size_t bytes, void* stream) {
  LGD_CUDA(cudaMemsetAsync(device, 0, bytes, static_cast<cudaStream_t>(stream)));
}
void synchronize(void* stream) { LGD_CUDA(cudaStreamSynchronize(static_cast<cudaStream_t>(stream))); }

void* allocate_pinned(size_t bytes) {
  void* pointer = nullptr;
  LGD_CUDA(cudaHostAlloc(&pointer, bytes, cudaHostAllocDefault));
  return pointer;
}
void release_pinned(void* pointer) noexcept { cudaFreeHost(pointer); }

void* create_event() {
  cudaEvent_t event;
  LGD_CUDA(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  return event;
}
void destroy_event(void* event) noexcept { cudaEventDestroy(static_cast<cudaEvent_t>(event)); }

// ---- core/cuda_streams.h ------------------------------------------------------------------------------------------------------

static cudaStream_t as_stream(void* stream) { return static_cast<cudaStream_t>(stream); }
static cudaEvent_t as_event(void* event) { return static_cast<cudaEvent_t>(event); }
static cudaGraph_t as_graph(void* graph) { return static_cast<cudaGraph_t>(graph); }
static cudaGraphExec_t as_executable(void* executable) { return static_cast<cudaGraphExec_t>(executable); }

void enqueue_event(void* event, void* stream) { LGD_CUDA(cudaEventRecord(as_event(event), as_stream(stream))); }
void stream_wait(void* stream, void* event) { LGD_CUDA(cudaStreamWaitEvent(as_stream(stream), as_event(event), 0)); }
void await_event(void* event) { LGD_CUDA(cudaEventSynchronize(as_event(event))); }

// Relaxed: other threads allocate and free meanwhile, and this one may have to load a module for a kernel it has not used before.
void begin_capture(void* stream) { LGD_CUDA(cudaStreamBeginCapture(as_stream(stream), cudaStreamCaptureModeRelaxed)); }

void* end_capture(void* stream) {
  cudaGraph_t graph = nullptr;
  LGD_CUDA(cudaStreamEndCapture(as_stream(stream), &graph));
  return graph;
}

void discard_capture(void* stream) noexcept {
  cudaGraph_t graph = nullptr;
  cudaStreamEndCapture(as_stream(stream), &graph);  // fails where the capture was spoilt, and ends it all the same
  if (graph) cudaGraphDestroy(graph);
  cudaGetLastError();
}

size_t graph_nodes(void* graph) {
  size_t count = 0;
  LGD_CUDA(cudaGraphGetNodes(as_graph(graph), nullptr, &count));
  return count;
}

void destroy_graph(void* graph) noexcept { cudaGraphDestroy(as_graph(graph)); }

void* instantiate(void* graph) {
  cudaGraphExec_t executable = nullptr;
  LGD_CUDA(cudaGraphInstantiate(&executable, as_graph(graph), 0));
  return executable;
}

bool update(void* executable, void* graph) {
  cudaGraphExecUpdateResultInfo result;
  const cudaError_t status = cudaGraphExecUpdate(as_executable(executable), as_graph(graph), &result);
  if (status == cudaErrorGraphExecUpdateFailure) {
    cudaGetLastError();
    return false;
  }
  check(status, "cudaGraphExecUpdate");
  return true;
}

void launch(void* executable, void* stream) { LGD_CUDA(cudaGraphLaunch(as_executable(executable), as_stream(stream))); }
void destroy_executable(void* executable) noexcept { cudaGraphExecDestroy(as_executable(executable)); }

}  // namespace lgd::cuda
