// Graphs of the emulated GPU. What it is strict about:
//   - nodes run in any order that the edges allow (streams.cpp);
//   - a graph copies from device memory only, to device and pinned memory; memory of its nodes must not have been freed
//     when it is launched; a node that is changed keeps its kernel, and launches before the change keep their
//     arguments;
//   - no edge is there twice, edges by which a kernel starts early join kernels by the port for it, and a change leaves
//     alone what the manual says it may not touch.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <utility>

#include "core/error.h"
#include "core/graph_tuner.h"
#include "faults.h"
#include "streams.h"

namespace lgd::emulation {

struct NodeHandle {
  GraphHandle* graph;
  size_t index;
};
struct GraphHandle {
  Graph graph;
  std::vector<std::unique_ptr<NodeHandle>> handles;
  bool programmatic = false, one_carveout = false;

  bool has(cudaGraphNode_t node) const { return node && node->graph == this; }
};
struct ExecutableGraph {
  GraphPtr graph;
};

namespace {

cudaError_t add_edge(cudaGraph_t graph, cudaGraphNode_t from, Node& to) {
  if (!graph->has(from) || std::count(to.after.begin(), to.after.end(), int(from->index)) > 0)
    return cudaErrorInvalidValue;
  to.after.push_back(int(from->index));
  return cudaSuccess;
}

template <class MakeOperation>
cudaError_t add_node(cudaGraphNode_t* handle, cudaGraph_t graph, const cudaGraphNode_t* after, size_t count,
                     const void* kernel, const Fixed& fixed, MakeOperation&& operation) {
  Node node{operation(), kernel, fixed, {}};
  for (size_t i = 0; i < count; ++i)
    if (const cudaError_t status = add_edge(graph, after[i], node); status != cudaSuccess) return status;
  graph->graph.nodes.push_back(std::move(node));
  *handle = graph->handles.emplace_back(new NodeHandle{graph, graph->handles.size()}).get();
  return cudaSuccess;
}

Fixed fixed_of_kernel() { return {size_t(current_device)}; }
Fixed fixed_of_copy(const void* to, const void* from) {
  const auto kind_of = [](const void* address) {
    return size_t(allocation_of(address) ? 1 + allocation_of(address)->pinned : 0);
  };
  return {size_t(current_device), kind_of(to), kind_of(from)};
}
Fixed fixed_of(const cudaMemsetParams& node) { return {size_t(current_device), node.elementSize, node.width}; }

Operation operation_of(const cudaKernelNodeParams& node) {
  return kernel_operation(node.func, node.gridDim, node.blockDim, node.kernelParams, node.sharedMemBytes);
}

Operation node_copy(void* to, const void* from, size_t bytes) {
  LGD_CHECK(bytes > 0, "DEVICE_ERROR", "a node of a graph that copies nothing");
  const Allocation *target = allocation_of(to), *source = allocation_of(from);
  LGD_CHECK(target && source && !source->pinned, "DEVICE_ERROR",
            "a graph that copies from the host, or to pageable memory");
  return copy_operation(to, from, bytes);
}

Operation operation_of(const cudaMemsetParams& node) {
  const size_t bytes = node.width * node.elementSize;
  LGD_CHECK(node.elementSize == 1 || node.elementSize == 2 || node.elementSize == 4, "DEVICE_ERROR",
            "a fill with elements of ", node.elementSize, " bytes");
  LGD_CHECK(bytes > 0 && node.value == 0 && node.height == 1, "DEVICE_ERROR",
            "a node of a graph that fills nothing, or with something else than zeros");
  LGD_CHECK(reinterpret_cast<uintptr_t>(node.dst) % node.elementSize == 0, "DEVICE_ERROR", "a misaligned fill");
  return zero_operation(node.dst, bytes);
}

// Chains of nodes: each goes on with one that it comes after, if no other does.
void find_lanes(Graph& graph) {
  std::vector<int> last;  // of each lane
  for (int i = 0; i < int(graph.nodes.size()); ++i) {
    Node& node = graph.nodes[size_t(i)];
    const auto goes_on = std::find_if(last.begin(), last.end(), [&](int before) {
      return std::find(node.after.begin(), node.after.end(), before) != node.after.end();
    });
    node.lane = int(goes_on - last.begin());
    if (goes_on == last.end()) last.push_back(i);
    else *goes_on = i;
  }
  graph.lanes = int(last.size());
}

// A way to run graphs as a variable spells it, a figure for each choice ("011"); none: the variable is not set.
std::optional<GraphWay> way_of(const char* variable) {
  const char* const text = std::getenv(variable);
  if (!text || std::strlen(text) != 3) return std::nullopt;
  return GraphWay{text[0] == '1', text[1] == '1', text[2] == '1'};
}

// All take the same time; $LGDISTILL_EMULATION_FASTEST_WAY makes one the fastest, and each choice that differs from it
// costs a tenth.
double milliseconds_of(const GraphWay& way) {
  const GraphWay fastest = way_of("LGDISTILL_EMULATION_FASTEST_WAY").value_or(way);
  return 1 + 0.1 * ((way.programmatic != fastest.programmatic) + (way.in_order != fastest.in_order) +
                    (way.one_carveout != fastest.one_carveout));
}

// Gives a node another operation, of the same kernel. CUDA may take a fill of another size; here it does not.
template <class MakeOperation>
cudaError_t change(cudaGraphExec_t executable, cudaGraphNode_t handle, const void* kernel, const Fixed& fixed,
                   MakeOperation&& operation) {
  const char* const refuse = std::getenv("LGDISTILL_EMULATION_REFUSE");
  if (refuse && std::strcmp(refuse, "1") == 0) return cudaErrorGraphExecUpdateFailure;
  GraphPtr& graph = executable->graph;
  if (graph.use_count() > 1) graph = std::make_shared<Graph>(*graph);  // a launch before this one keeps its own
  Node& node = graph->nodes[handle->index];
  LGD_CHECK(node.kernel == kernel, "DEVICE_ERROR", "a node of another kernel than ", node.operation.name);
  if (node.fixed != fixed) return cudaErrorInvalidValue;
  node.operation = operation();
  return cudaSuccess;
}

}  // namespace

}  // namespace lgd::emulation

using namespace lgd::emulation;

cudaError_t cudaGraphCreate(cudaGraph_t* graph, unsigned) {
  LGD_BEGIN(begin_call(__func__));
  *graph = new GraphHandle;
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  const std::lock_guard lock(mutex);
  const cudaError_t status = begin_call(__func__);
  delete graph;
  return status;
}

cudaError_t cudaGraphAddKernelNode(cudaGraphNode_t* node, cudaGraph_t graph, const cudaGraphNode_t* after, size_t count,
                                   const cudaKernelNodeParams* parameters) {
  LGD_BEGIN(begin_call(__func__));
  return add_node(node, graph, after, count, parameters->func, fixed_of_kernel(),
                  [&] { return operation_of(*parameters); });
}
cudaError_t cudaGraphAddMemcpyNode1D(cudaGraphNode_t* node, cudaGraph_t graph, const cudaGraphNode_t* after,
                                     size_t count, void* to, const void* from, size_t bytes, cudaMemcpyKind) {
  LGD_BEGIN(begin_call(__func__));
  return add_node(node, graph, after, count, nullptr, fixed_of_copy(to, from),
                  [&] { return node_copy(to, from, bytes); });
}
cudaError_t cudaGraphAddMemsetNode(cudaGraphNode_t* node, cudaGraph_t graph, const cudaGraphNode_t* after, size_t count,
                                   const cudaMemsetParams* parameters) {
  LGD_BEGIN(begin_call(__func__));
  return add_node(node, graph, after, count, nullptr, fixed_of(*parameters), [&] { return operation_of(*parameters); });
}

cudaError_t cudaGraphAddDependencies(cudaGraph_t graph, const cudaGraphNode_t* from, const cudaGraphNode_t* to,
                                     const cudaGraphEdgeData* edges, size_t count) {
  LGD_BEGIN(begin_call(__func__));
  for (size_t i = 0; i < count; ++i) {
    if (!graph->has(from[i]) || !graph->has(to[i])) return cudaErrorInvalidValue;
    Node &before = graph->graph.nodes[from[i]->index], &after = graph->graph.nodes[to[i]->index];
    const auto& [from_port, to_port, type] = edges[i];
    const bool programmatic = type == cudaGraphDependencyTypeProgrammatic;
    if (programmatic ? from_port != cudaGraphKernelNodePortProgrammatic || !before.kernel || !after.kernel
                     : type != cudaGraphDependencyTypeDefault || from_port != cudaGraphKernelNodePortDefault)
      return cudaErrorInvalidValue;
    if (to_port != 0) return cudaErrorInvalidValue;
    // What starts early waits first of all (emulation.cpp), so such an edge is as good as any.
    if (const cudaError_t status = add_edge(graph, from[i], after); status != cudaSuccess) return status;
    graph->programmatic |= programmatic;
  }
  return cudaSuccess;
}
cudaError_t cudaGraphKernelNodeSetAttribute(cudaGraphNode_t node, cudaLaunchAttributeID attribute,
                                            const cudaLaunchAttributeValue* value) {
  LGD_BEGIN(begin_call(__func__));
  if (!node->graph->graph.nodes[node->index].kernel || attribute != cudaLaunchAttributePreferredSharedMemoryCarveout ||
      value->sharedMemCarveout > 100)
    return cudaErrorInvalidValue;
  node->graph->one_carveout = true;
  return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t made, unsigned long long) {
  LGD_BEGIN(begin_call(__func__));
  auto graph = std::make_shared<Graph>(made->graph);
  find_lanes(*graph);
  const lgd::GraphWay way{made->programmatic, graph->lanes <= 1, made->one_carveout};
  const char* const refused = std::getenv("LGDISTILL_EMULATION_REFUSED_WAY");
  if (refused && std::strcmp(refused, "any") == 0) return cudaErrorMemoryAllocation;
  if (way_of("LGDISTILL_EMULATION_REFUSED_WAY") == way) return cudaErrorNotSupported;
  graph->milliseconds = milliseconds_of(way);
  *executable = new ExecutableGraph{std::move(graph)};
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  const std::lock_guard lock(mutex);
  const cudaError_t status = begin_call(__func__);
  delete executable;
  return status;
}

cudaError_t cudaGraphExecKernelNodeSetParams(cudaGraphExec_t executable, cudaGraphNode_t node,
                                             const cudaKernelNodeParams* parameters) {
  LGD_BEGIN(begin_call(__func__));
  return change(executable, node, parameters->func, fixed_of_kernel(), [&] { return operation_of(*parameters); });
}
cudaError_t cudaGraphExecMemcpyNodeSetParams1D(cudaGraphExec_t executable, cudaGraphNode_t node, void* to,
                                               const void* from, size_t bytes, cudaMemcpyKind) {
  LGD_BEGIN(begin_call(__func__));
  return change(executable, node, nullptr, fixed_of_copy(to, from), [&] { return node_copy(to, from, bytes); });
}
cudaError_t cudaGraphExecMemsetNodeSetParams(cudaGraphExec_t executable, cudaGraphNode_t node,
                                             const cudaMemsetParams* parameters) {
  LGD_BEGIN(begin_call(__func__));
  return change(executable, node, nullptr, fixed_of(*parameters), [&] { return operation_of(*parameters); });
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  LGD_BEGIN(begin_work(__func__, *stream));
  enqueue(*stream, executable->graph);
  return cudaSuccess;
}
