// Stands in for CUDA's own header, as far as native/core/cuda_runtime.cu uses it: so the product's own calls, and what
// it makes of their errors, run on the emulated GPU. Names and numbers are CUDA's; each function does to host memory
// what the toolkit's manual says (runtime.cpp, graphs.cpp), or fails as it is told to (faults.h).
#pragma once
#include <cstddef>

#include "core/cuda_device.cuh"

#undef gridDim  // of kernels, where nothing else has the name
#undef blockDim
#define CUDART_VERSION 13000
#ifndef LGD_CUDA_ARCHITECTURES
#define LGD_CUDA_ARCHITECTURES "90a"
#endif

// name, number, words; whether the process can use the GPU no more
#define LGD_CUDA_ERRORS(error)                                                                                         \
  error(cudaSuccess, 0, "no error", false) error(cudaErrorInvalidValue, 1, "invalid argument", false) error(           \
      cudaErrorMemoryAllocation, 2, "out of memory",                                                                   \
      false) error(cudaErrorDevicesUnavailable, 46, "CUDA-capable device(s) is/are busy or unavailable",               \
                   false) error(cudaErrorNoDevice, 100, "no CUDA-capable device is detected",                          \
                                false) error(cudaErrorInvalidDevice, 101, "invalid device ordinal", false)             \
      error(cudaErrorECCUncorrectable, 214, "uncorrectable ECC error encountered", true) error(                        \
          cudaErrorNvlinkUncorrectable, 220, "uncorrectable NVLink error detected during the execution",               \
          true) error(cudaErrorContained, 226, "Invalid access of peer GPU memory over nvlink or a hardware error",    \
                      true) error(cudaErrorInvalidResourceHandle, 400, "invalid resource handle",                      \
                                  false) error(cudaErrorNotReady, 600, "device not ready", false)                      \
          error(cudaErrorIllegalAddress, 700, "an illegal memory access was encountered", true) error(                 \
              cudaErrorLaunchOutOfResources, 701, "too many resources requested for launch", false)                    \
              error(cudaErrorLaunchTimeout, 702, "the launch timed out and was terminated", true) error(               \
                  cudaErrorAssert, 710, "device-side assert triggered", true)                                          \
                  error(cudaErrorHardwareStackError, 714, "hardware stack error", true) error(                         \
                      cudaErrorIllegalInstruction, 715, "an illegal instruction was encountered", true)                \
                      error(cudaErrorMisalignedAddress, 716, "misaligned address", true) error(                        \
                          cudaErrorInvalidAddressSpace, 717, "operation not supported on global/shared address space", \
                          true) error(cudaErrorInvalidPc, 718, "invalid program counter", true)                        \
                          error(cudaErrorLaunchFailure, 719, "unspecified launch failure", true)                       \
                              error(cudaErrorTensorMemoryLeak, 721, "tensor memory not completely deallocated", true)  \
                                  error(cudaErrorNotSupported, 801, "operation not supported", false)                  \
                                      error(cudaErrorMpsClientTerminated, 810, "MPS client terminated", true)          \
                                          error(cudaErrorGraphExecUpdateFailure, 910,                                  \
                                                "the graph update was not performed", false)                           \
                                              error(cudaErrorExternalDevice, 911, "error in a device outside of CUDA", \
                                                    true) error(cudaErrorUnknown, 999, "unknown error", true)

enum cudaError_t {
#define LGD_NUMBER(name, number, words, lasts) name = number,
  LGD_CUDA_ERRORS(LGD_NUMBER)
#undef LGD_NUMBER
};
const char* cudaGetErrorName(cudaError_t status);
const char* cudaGetErrorString(cudaError_t status);
cudaError_t cudaGetLastError();

// ---- devices, memory ------------------------------------------------------------------------------------------------
struct cudaDeviceProp {
  char name[256];
  int major, minor, multiProcessorCount;
  size_t totalGlobalMem;
};
enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount,
  cudaDevAttrComputeCapabilityMajor,
  cudaDevAttrComputeCapabilityMinor,
  cudaDevAttrMaxSharedMemoryPerMultiprocessor,
  cudaDevAttrMaxSharedMemoryPerBlockOptin
};
cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaDriverGetVersion(int* version);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaDeviceSynchronize();

constexpr unsigned cudaHostAllocDefault = 0;
cudaError_t cudaMalloc(void** pointer, size_t bytes);
cudaError_t cudaFree(void* pointer);
cudaError_t cudaHostAlloc(void** pointer, size_t bytes, unsigned flags);
cudaError_t cudaFreeHost(void* pointer);
cudaError_t cudaMemGetInfo(size_t* free, size_t* total);

// ---- streams, events ------------------------------------------------------------------------------------------------
namespace lgd::emulation {
struct Stream;
struct EventHandle;
struct GraphHandle;
struct NodeHandle;
struct ExecutableGraph;
}  // namespace lgd::emulation
using cudaStream_t = lgd::emulation::Stream*;
using cudaEvent_t = lgd::emulation::EventHandle*;
constexpr unsigned cudaStreamNonBlocking = 1, cudaEventDisableTiming = 2;
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags);
cudaError_t cudaEventCreate(cudaEvent_t* event);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventQuery(cudaEvent_t event);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end);

// ---- work -----------------------------------------------------------------------------------------------------------
enum cudaMemcpyKind { cudaMemcpyDefault = 4 };
enum cudaFuncAttribute {
  cudaFuncAttributeMaxDynamicSharedMemorySize = 8,
  cudaFuncAttributePreferredSharedMemoryCarveout = 9
};
constexpr int cudaSharedmemCarveoutMaxShared = 100;
struct cudaFuncAttributes {};
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* kernel);
cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value);
cudaError_t cudaFuncGetName(const char** name, const void* kernel);
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void* kernel, int threads, size_t shared);
cudaError_t cudaLaunchKernel(const void* kernel, dim3 grid, dim3 block, void** arguments, size_t shared,
                             cudaStream_t stream);
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream);
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream);

// ---- graphs ---------------------------------------------------------------------------------------------------------
using cudaGraph_t = lgd::emulation::GraphHandle*;
using cudaGraphNode_t = lgd::emulation::NodeHandle*;
using cudaGraphExec_t = lgd::emulation::ExecutableGraph*;
struct cudaKernelNodeParams {
  void* func;
  dim3 gridDim, blockDim;
  unsigned sharedMemBytes;
  void** kernelParams;
};
struct cudaMemsetParams {
  void* dst;
  unsigned elementSize, value;
  size_t width, height;
};
constexpr unsigned char cudaGraphKernelNodePortDefault = 0, cudaGraphKernelNodePortProgrammatic = 1;
enum cudaGraphDependencyType { cudaGraphDependencyTypeDefault, cudaGraphDependencyTypeProgrammatic };
struct cudaGraphEdgeData {
  unsigned char from_port, to_port, type;
};
enum cudaLaunchAttributeID { cudaLaunchAttributePreferredSharedMemoryCarveout = 14 };
struct cudaLaunchAttributeValue {
  unsigned sharedMemCarveout;
};
cudaError_t cudaGraphCreate(cudaGraph_t* graph, unsigned flags);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphAddKernelNode(cudaGraphNode_t* node, cudaGraph_t graph, const cudaGraphNode_t* after, size_t count,
                                   const cudaKernelNodeParams* parameters);
cudaError_t cudaGraphAddMemcpyNode1D(cudaGraphNode_t* node, cudaGraph_t graph, const cudaGraphNode_t* after,
                                     size_t count, void* to, const void* from, size_t bytes, cudaMemcpyKind kind);
cudaError_t cudaGraphAddMemsetNode(cudaGraphNode_t* node, cudaGraph_t graph, const cudaGraphNode_t* after, size_t count,
                                   const cudaMemsetParams* parameters);
cudaError_t cudaGraphAddDependencies(cudaGraph_t graph, const cudaGraphNode_t* from, const cudaGraphNode_t* to,
                                     const cudaGraphEdgeData* edges, size_t count);
cudaError_t cudaGraphKernelNodeSetAttribute(cudaGraphNode_t node, cudaLaunchAttributeID attribute,
                                            const cudaLaunchAttributeValue* value);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long flags);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable);
cudaError_t cudaGraphExecKernelNodeSetParams(cudaGraphExec_t executable, cudaGraphNode_t node,
                                             const cudaKernelNodeParams* parameters);
cudaError_t cudaGraphExecMemcpyNodeSetParams1D(cudaGraphExec_t executable, cudaGraphNode_t node, void* to,
                                               const void* from, size_t bytes, cudaMemcpyKind kind);
cudaError_t cudaGraphExecMemsetNodeSetParams(cudaGraphExec_t executable, cudaGraphNode_t node,
                                             const cudaMemsetParams* parameters);
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream);
