// Writes down when every kernel, copy and fill of a CUDA program ran, with CUPTI. Not part of the program: the driver
// loads it where
//   CUDA_INJECTION64_PATH=libkernel_trace.so LGDISTILL_TRACE=file
// are set and libcupti can be loaded. One line an operation: start and end in nanoseconds, stream, launch (nodes of one
// graph launch share it), graph (0: none) and name, with tabs between. test/gpu/gaps.ts reads it. Recording makes each
// operation take about a microsecond longer; what is measured with it is where the GPU idles, not how fast it is.
#include <cupti.h>
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <mutex>

namespace {

constexpr size_t buffer_bytes = 8 << 20;

struct Cupti {
  decltype(&cuptiActivityRegisterCallbacks) register_callbacks;
  decltype(&cuptiActivityEnable) enable;
  decltype(&cuptiActivityFlushAll) flush;
  decltype(&cuptiActivityGetNextRecord) next;
} cupti;

std::FILE* file = nullptr;
std::mutex writing;

void CUPTIAPI give_buffer(uint8_t** buffer, size_t* size, size_t* most_records) {
  *buffer = static_cast<uint8_t*>(std::aligned_alloc(8, buffer_bytes));
  *size = *buffer ? buffer_bytes : 0;
  *most_records = 0;
}

// Records grow at their end from one version of CUPTI to the next: these first ones with a graphId are in the headers
// of CUDA 12 and 13 alike, and what they name lies where it does in the newest.
template <class Record>
void write(const Record& record, const char* name) {
  std::fprintf(file, "%llu\t%llu\t%u\t%u\t%u\t%s\n", static_cast<unsigned long long>(record.start),
               static_cast<unsigned long long>(record.end), record.streamId, record.correlationId, record.graphId,
               name);
}

void CUPTIAPI take_buffer(CUcontext, uint32_t, uint8_t* buffer, size_t, size_t valid) {
  const std::lock_guard lock(writing);
  for (CUpti_Activity* record = nullptr; file && cupti.next(buffer, valid, &record) == CUPTI_SUCCESS;) {
    switch (record->kind) {
      case CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL: {
        const auto& kernel = *reinterpret_cast<const CUpti_ActivityKernel7*>(record);
        write(kernel, kernel.name);
        break;
      }
      case CUPTI_ACTIVITY_KIND_MEMCPY: write(*reinterpret_cast<const CUpti_ActivityMemcpy4*>(record), "copy"); break;
      case CUPTI_ACTIVITY_KIND_MEMSET: write(*reinterpret_cast<const CUpti_ActivityMemset3*>(record), "fill"); break;
      default: break;
    }
  }
  std::free(buffer);
}

void finish() {
  cupti.flush(CUPTI_ACTIVITY_FLAG_FLUSH_FORCED);
  const std::lock_guard lock(writing);
  std::fclose(file);
  file = nullptr;
}

template <class Function>
bool find(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  return function != nullptr;
}

bool start() {
  const char* path = std::getenv("LGDISTILL_TRACE");
  void* library = dlopen("libcupti.so." LGD_CUPTI_MAJOR, RTLD_NOW);
  if (!path || !library) return false;
  if (!find(library, "cuptiActivityRegisterCallbacks", cupti.register_callbacks) ||
      !find(library, "cuptiActivityEnable", cupti.enable) || !find(library, "cuptiActivityFlushAll", cupti.flush) ||
      !find(library, "cuptiActivityGetNextRecord", cupti.next))
    return false;
  if (cupti.register_callbacks(give_buffer, take_buffer) != CUPTI_SUCCESS) return false;
  for (const CUpti_ActivityKind kind :
       {CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL, CUPTI_ACTIVITY_KIND_MEMCPY, CUPTI_ACTIVITY_KIND_MEMSET})
    if (cupti.enable(kind) != CUPTI_SUCCESS) return false;
  file = std::fopen(path, "w");
  return file && std::atexit(finish) == 0;
}

}  // namespace

// The driver calls it when CUDA starts.
extern "C" __attribute__((visibility("default"))) int InitializeInjection() {
  if (!start())
    std::fprintf(stderr, "kernel_trace: nothing is recorded (LGDISTILL_TRACE, libcupti.so." LGD_CUPTI_MAJOR ")\n");
  return 1;
}
