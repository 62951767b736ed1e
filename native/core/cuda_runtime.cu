// The CUDA runtime calls behind Device. Every return code is checked; a failed call throws with CUDA's own words.
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "core/cuda_device.cuh"
#include "core/cuda_streams.h"
#include "core/device.h"

namespace lgd::cuda {

// After these "the process must be terminated and relaunched" (driver_types.h), and after memory or a link that cannot
// be trusted: whatever is called gives the same.
static bool is_lasting(cudaError_t status) {
  switch (int(status)) {  // by number: an older toolkit lacks some names
    case 214:
    case 220:
    case 226:
    case 700:
    case 702:
    case 710:
    case 714:
    case 715:
    case 716:
    case 717:
    case 718:
    case 719:
    case 721:
    case 810:
    case 911: return true;
    default: return false;
  }
}

// Code is loaded with a kernel's first launch, which may find no room for it.
static const char* code_of(cudaError_t status) {
  return status == cudaErrorMemoryAllocation ? "OUT_OF_MEMORY" : is_lasting(status) ? "DEVICE_LOST" : "DEVICE_ERROR";
}

// Not so an error that says nothing (cudaErrorUnknown): whatever was to run may run.
static bool is_refusal(cudaError_t status) { return !is_lasting(status) && status != cudaErrorUnknown; }

// `what` failed; of a launch also the kernel.
[[noreturn]] static void fail(cudaError_t status, std::string_view what) {
  cudaGetLastError();  // forgets one that does not last
  const std::string message = std::string(what) + " failed: " + cudaGetErrorString(status) + " (" +
                              cudaGetErrorName(status) + ")" +
                              (is_lasting(status) ? "; this process cannot use the GPU any more" : "");
  if (is_refusal(status)) throw Refusal(code_of(status), message);
  throw Error(code_of(status), message);
}
static void check(cudaError_t status, std::string_view call) {
  if (status != cudaSuccess) fail(status, call.substr(0, call.find('(')));
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
    why = absent ? "no NVIDIA driver is installed"
                 : std::string(cudaGetErrorString(status)) + " (" + cudaGetErrorName(status) + ")";
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

// Does the driver pass over the code for a card and make its own of PTX, which knows nothing of one generation's alone?
// CUDA_FORCE_JIT is the later name of the two; the earlier one overrules it, which costs speed at most here.
static bool is_made_of_ptx() {
  const auto is_on = [](const char* name) {
    const char* const text = std::getenv(name);
    return text && std::strcmp(text, "1") == 0;
  };
  return is_on("CUDA_FORCE_PTX_JIT") || is_on("CUDA_FORCE_JIT");
}

bool has_warpgroups(int index) {
  static const bool built = std::strstr(LGD_CUDA_ARCHITECTURES, "90a");
  int major = 0, minor = 0;
  LGD_CUDA(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, index));
  LGD_CUDA(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, index));
  return built && major == 9 && minor == 0 && !is_made_of_ptx();
}

// Kernels wait for those before them (wait_for_inputs()) in code for 9.0 alone, which other cards do not run; toolkit
// and driver must know such edges of graphs, too (12.3).
constexpr int programmatic_edges = 12030;
bool has_programmatic_launches(int index) {
  static const bool built = CUDART_VERSION >= programmatic_edges && std::strstr(LGD_CUDA_ARCHITECTURES, "90");
  int major = 0;
  LGD_CUDA(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, index));
  return built && major == 9 && driver_version() >= programmatic_edges && !is_made_of_ptx();
}

Card card(int index) {
  const auto value = [&](cudaDeviceAttr attribute) {
    int number = 0;
    LGD_CUDA(cudaDeviceGetAttribute(&number, attribute, index));
    return number;
  };
  return {value(cudaDevAttrMultiProcessorCount), size_t(value(cudaDevAttrMaxSharedMemoryPerMultiprocessor)),
          size_t(value(cudaDevAttrMaxSharedMemoryPerBlockOptin))};
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

static double mebibytes(size_t bytes) { return std::ceil(double(bytes) / (1 << 20) * 100) / 100; }

void* allocate(size_t bytes) {
  void* pointer = nullptr;
  const cudaError_t status = cudaMalloc(&pointer, bytes);
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    size_t free_bytes = 0, total_bytes = 0;
    LGD_CUDA(cudaMemGetInfo(&free_bytes, &total_bytes));
    throw_error("OUT_OF_MEMORY", {"cannot allocate ", mebibytes(bytes), " MiB on the GPU: ", mebibytes(free_bytes),
                                  " of ", mebibytes(total_bytes), " MiB are free"});
  }
  check(status, "cudaMalloc");
  return pointer;
}

// What frees memory "may perform implicit synchronization" (cuda_runtime_api.h), and of pinned memory nothing is said
// at all.
static void wait_for_device() noexcept {
  if (cudaDeviceSynchronize() != cudaSuccess) cudaGetLastError();  // a device that failed uses nothing any more
}

void release(void* pointer) noexcept {
  wait_for_device();
  cudaFree(pointer);
}

// Who divides a multiprocessor's memory between shared memory and level-1 cache ($LGDISTILL_CARVEOUT). It is not
// divided anew while blocks run there: a kernel that asks for another division than its neighbours may have to wait for
// their end. So beside the kernels that have something to ask for (the default), and the driver alone ("0"), there is
// one division for all kernels, those with little shared memory, too ("all"): shared memory as far as it goes, what the
// kernels with most of it need.
enum class Division { by_kernels, by_driver, one_for_all };
static Division division() {
  static const Division wanted = [] {
    const char* const text = std::getenv("LGDISTILL_CARVEOUT");
    const std::string_view value = text ? text : "";
    return value == "0" ? Division::by_driver : value == "all" ? Division::one_for_all : Division::by_kernels;
  }();
  return wanted;
}

// Copies mostly pass level-1 cache by, and it may have what is left; but where it serves, these blocks take what they
// need (and 1 KiB each, the system's), in hundredths, which the driver rounds to what the card can.
static int carveout_of(int device, size_t bytes, int blocks) {
  if (blocks <= 0 || division() == Division::one_for_all) return cudaSharedmemCarveoutMaxShared;
  int all = 0;
  LGD_CUDA(cudaDeviceGetAttribute(&all, cudaDevAttrMaxSharedMemoryPerMultiprocessor, device));
  return int(std::min<size_t>(100, (size_t(blocks) * (bytes + 1024) * 100 + size_t(all) - 1) / size_t(all)));
}

static void prefer_carveout(const void* kernel, int percent) {
  LGD_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, percent));
}

// Before a kernel's first launch, or before it becomes a node of a graph. Mutexes and maps here are never destroyed: a
// device's thread may still launch while the process exits.
static void prefer_for_all(const void* kernel) {
  if (division() != Division::one_for_all) return;
  static std::mutex& mutex = *new std::mutex;
  static auto& preferred = *new std::set<std::pair<int, const void*>>;
  int device = 0;
  LGD_CUDA(cudaGetDevice(&device));
  const std::lock_guard lock(mutex);
  if (preferred.contains({device, kernel})) return;
  prefer_carveout(kernel, cudaSharedmemCarveoutMaxShared);
  preferred.insert({device, kernel});
}

// Its mangled name; "" where nobody tells, which a GPU that is lost may not.
static std::string symbol_of(const void* kernel) {
  const char* symbol = nullptr;
#if CUDART_VERSION >= 12030
  if (cudaFuncGetName(&symbol, kernel) != cudaSuccess) cudaGetLastError(), symbol = nullptr;
#endif
  return symbol ? symbol : "";
}

void allow_shared_memory(const void* kernel, size_t bytes, int blocks) {
  static std::mutex& mutex = *new std::mutex;
  static auto& allowed = *new std::map<std::pair<int, const void*>, size_t>;
  int device = 0;
  LGD_CUDA(cudaGetDevice(&device));
  const std::lock_guard lock(mutex);
  size_t& most = allowed[{device, kernel}];
  if (bytes <= most) return;
  const cudaError_t status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes));
  if (status != cudaSuccess)
    fail(status,
         "allowing " + std::to_string(bytes) + " bytes of shared memory to a kernel (" + symbol_of(kernel) + ")");
  if (division() != Division::by_driver) prefer_carveout(kernel, carveout_of(device, bytes, blocks));
  most = bytes;
}

int resident_blocks(const void* kernel, int threads, size_t shared) {
  static std::mutex& mutex = *new std::mutex;
  static auto& known = *new std::map<std::tuple<int, const void*, int, size_t>, int>;
  prefer_for_all(kernel);
  int device = 0;
  LGD_CUDA(cudaGetDevice(&device));
  const std::lock_guard lock(mutex);
  int& blocks = known[{device, kernel, threads, shared}];
  if (blocks == 0) LGD_CUDA(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, threads, shared));
  return blocks;
}

void* allocate_pinned(size_t bytes) {
  void* pointer = nullptr;
  const cudaError_t status = cudaHostAlloc(&pointer, bytes, cudaHostAllocDefault);
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    throw_error("OUT_OF_MEMORY", {"cannot allocate ", mebibytes(bytes),
                                  " MiB of the machine's memory for copies to the GPU (pinned memory)"});
  }
  check(status, "cudaHostAlloc");
  return pointer;
}
void release_pinned(void* pointer) noexcept {
  wait_for_device();
  cudaFreeHost(pointer);
}

void* create_event(bool host_waits) {
  cudaEvent_t event;
  LGD_CUDA(cudaEventCreateWithFlags(&event, cudaEventDisableTiming | (host_waits ? cudaEventBlockingSync : 0)));
  return event;
}
void destroy_event(void* event) noexcept { cudaEventDestroy(static_cast<cudaEvent_t>(event)); }

// ---- core/cuda_streams.h --------------------------------------------------------------------------------------------

static cudaStream_t as_stream(void* stream) { return static_cast<cudaStream_t>(stream); }
static cudaEvent_t as_event(void* event) { return static_cast<cudaEvent_t>(event); }

void synchronize(void* stream) { LGD_CUDA(cudaStreamSynchronize(as_stream(stream))); }
void enqueue_event(void* event, void* stream) { LGD_CUDA(cudaEventRecord(as_event(event), as_stream(stream))); }
void stream_wait(void* stream, void* event) { LGD_CUDA(cudaStreamWaitEvent(as_stream(stream), as_event(event), 0)); }
void await_event(void* event) { LGD_CUDA(cudaEventSynchronize(as_event(event))); }

void* create_timed_event() {
  cudaEvent_t event;
  LGD_CUDA(cudaEventCreate(&event));
  return event;
}
bool is_over(void* event) {
  const cudaError_t status = cudaEventQuery(as_event(event));
  if (status == cudaErrorNotReady) return cudaGetLastError(), false;
  check(status, "cudaEventQuery");
  return true;
}
double milliseconds_between(void* begin, void* end) {
  float milliseconds = 0;
  LGD_CUDA(cudaEventElapsedTime(&milliseconds, as_event(begin), as_event(end)));
  return milliseconds;
}

static dim3 dim3_of(const Extent& extent) { return {extent.x, extent.y, extent.z}; }

// The addresses of a launch's arguments, as the runtime wants them.
struct ArgumentList {
  void* pointers[most_parameters];

  explicit ArgumentList(const Launch& launch) {
    for (int i = 0; i < launch.parameters->count; ++i)
      pointers[i] = const_cast<char*>(launch.arguments) + launch.parameters->offsets[i];
  }
};

static void check_launch(cudaError_t status, const Launch& launch, std::string symbol = "") {
  if (status == cudaSuccess) return;
  if (symbol.empty()) symbol = symbol_of(launch.kernel);
  fail(status,
       std::string("launching ") + launch.name + (symbol.empty() || symbol == launch.name ? "" : " = " + symbol));
}

// Does every launch wait for its kernel, so that a fault is the launch's own error?
static bool waits_for_launches() {
  static const bool waits = [] {
    const char* const text = std::getenv("CUDA_LAUNCH_BLOCKING");
    return text && *text && std::strcmp(text, "0") != 0;
  }();
  return waits;
}

void load(const Launch& launch) {
  cudaFuncAttributes attributes;
  check_launch(cudaFuncGetAttributes(&attributes, launch.kernel), launch);
}

void run(const Work& work, void* stream) {
  switch (work.kind) {
    case Work::Kind::kernel: {
      const Launch& launch = work.launch;
      prefer_for_all(launch.kernel);
      const std::string symbol = waits_for_launches() ? symbol_of(launch.kernel) : "";
      ArgumentList arguments(launch);
      return check_launch(cudaLaunchKernel(launch.kernel, dim3_of(launch.grid), dim3_of(launch.block),
                                           arguments.pointers, launch.shared_bytes, as_stream(stream)),
                          launch, symbol);
    }
    case Work::Kind::copy:
      return LGD_CUDA(cudaMemcpyAsync(work.to, work.from, work.bytes, cudaMemcpyDefault, as_stream(stream)));
    case Work::Kind::zero: return LGD_CUDA(cudaMemsetAsync(work.to, 0, work.bytes, as_stream(stream)));
  }
}

// ---- graphs ---------------------------------------------------------------------------------------------------------

namespace {

// Nodes are changed through the graph that they were made in, so it lives as long as the executable one.
struct BuiltGraph {
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  std::vector<cudaGraphNode_t> nodes;

  BuiltGraph() = default;
  BuiltGraph(const BuiltGraph&) = delete;
  BuiltGraph& operator=(const BuiltGraph&) = delete;
  ~BuiltGraph() {
    if (executable) cudaGraphExecDestroy(executable);
    if (graph) cudaGraphDestroy(graph);
  }
};

cudaKernelNodeParams kernel_node(const Launch& launch, ArgumentList& arguments) {
  cudaKernelNodeParams node{};
  node.func = const_cast<void*>(launch.kernel);
  node.gridDim = dim3_of(launch.grid);
  node.blockDim = dim3_of(launch.block);
  node.sharedMemBytes = unsigned(launch.shared_bytes);
  node.kernelParams = arguments.pointers;
  return node;
}

cudaMemsetParams zero_node(const Work& work) {
  const unsigned element = work.bytes % 4 == 0 && reinterpret_cast<uintptr_t>(work.to) % 4 == 0 ? 4 : 1;
  cudaMemsetParams node{};
  node.dst = work.to;
  node.elementSize = element;
  node.width = work.bytes / element;
  node.height = 1;
  return node;
}

}  // namespace

#if CUDART_VERSION >= 12030
static void add_programmatic_edge(cudaGraph_t graph, cudaGraphNode_t from, cudaGraphNode_t to) {
  cudaGraphEdgeData edge{};
  edge.from_port = cudaGraphKernelNodePortProgrammatic;
  edge.type = cudaGraphDependencyTypeProgrammatic;
#if CUDART_VERSION >= 13000
  LGD_CUDA(cudaGraphAddDependencies(graph, &from, &to, &edge, 1));
#else
  LGD_CUDA(cudaGraphAddDependencies_v2(graph, &from, &to, &edge, 1));
#endif
}
#else
static void add_programmatic_edge(cudaGraph_t, cudaGraphNode_t, cudaGraphNode_t) {
  throw Refusal("DEVICE_ERROR", "this build has no programmatic launches: its CUDA toolkit is older than 12.3");
}
#endif

#if CUDART_VERSION >= 13000
static void prefer_max_shared(cudaGraphNode_t node) {
  cudaLaunchAttributeValue value{};
  value.sharedMemCarveout = cudaSharedmemCarveoutMaxShared;
  LGD_CUDA(cudaGraphKernelNodeSetAttribute(node, cudaLaunchAttributePreferredSharedMemoryCarveout, &value));
}
#else
static void prefer_max_shared(cudaGraphNode_t) {
  throw Refusal("DEVICE_ERROR", "this build cannot prefer a carve-out in a graph: its CUDA toolkit is older than 13.0");
}
#endif

void* build_graph(const Tape& tape, const GraphWay& way) {
  auto built = std::make_unique<BuiltGraph>();
  LGD_CUDA(cudaGraphCreate(&built->graph, 0));
  std::vector<cudaGraphNode_t> before;
  for (size_t i = 0; i < tape.size(); ++i) {
    before.clear();
    for (const int piece : tape.before(i, way.in_order)) before.push_back(built->nodes[size_t(piece)]);
    const Work work = tape[i];
    const bool starts_early = way.programmatic && tape.may_start_early(i, way.in_order);
    const cudaGraphNode_t kernel_before = starts_early ? before[0] : nullptr;
    if (starts_early) before.clear();
    cudaGraphNode_t& node = built->nodes.emplace_back();
    switch (work.kind) {
      case Work::Kind::kernel: {
        prefer_for_all(work.launch.kernel);
        ArgumentList arguments(work.launch);
        const cudaKernelNodeParams made = kernel_node(work.launch, arguments);
        check_launch(cudaGraphAddKernelNode(&node, built->graph, before.data(), before.size(), &made), work.launch);
        if (starts_early) add_programmatic_edge(built->graph, kernel_before, node);
        if (way.one_carveout) prefer_max_shared(node);
        break;
      }
      case Work::Kind::copy:
        LGD_CUDA(cudaGraphAddMemcpyNode1D(&node, built->graph, before.data(), before.size(), work.to, work.from,
                                          work.bytes, cudaMemcpyDefault));
        break;
      case Work::Kind::zero: {
        const cudaMemsetParams made = zero_node(work);
        LGD_CUDA(cudaGraphAddMemsetNode(&node, built->graph, before.data(), before.size(), &made));
        break;
      }
    }
  }
  LGD_CUDA(cudaGraphInstantiate(&built->executable, built->graph, 0));
  return built.release();
}

bool change_graph(void* graph, size_t index, const Work& work) {
  BuiltGraph& built = *static_cast<BuiltGraph*>(graph);
  const cudaGraphNode_t node = built.nodes[index];
  cudaError_t status = cudaSuccess;
  switch (work.kind) {
    case Work::Kind::kernel: {
      ArgumentList arguments(work.launch);
      const cudaKernelNodeParams changed = kernel_node(work.launch, arguments);
      status = cudaGraphExecKernelNodeSetParams(built.executable, node, &changed);
      break;
    }
    case Work::Kind::copy:
      status =
          cudaGraphExecMemcpyNodeSetParams1D(built.executable, node, work.to, work.from, work.bytes, cudaMemcpyDefault);
      break;
    case Work::Kind::zero: {
      const cudaMemsetParams changed = zero_node(work);
      status = cudaGraphExecMemsetNodeSetParams(built.executable, node, &changed);
      break;
    }
  }
  if (status != cudaSuccess && is_refusal(status)) {
    cudaGetLastError();
    return false;
  }
  check(status, "changing a node of a CUDA graph");
  return true;
}

void launch_graph(void* graph, void* stream) {
  LGD_CUDA(cudaGraphLaunch(static_cast<BuiltGraph*>(graph)->executable, as_stream(stream)));
}
void destroy_graph(void* graph) noexcept { delete static_cast<BuiltGraph*>(graph); }

}  // namespace lgd::cuda
