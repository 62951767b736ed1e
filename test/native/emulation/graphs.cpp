// Graphs of the emulated GPU. What it is strict about:
//   - nodes run in any order that the edges allow (streams.cpp);
//   - a graph copies from device memory only, to device and pinned memory; memory of its nodes must not have been freed when it is launched; a node
//     that is changed keeps its kernel, and launches before the change keep their arguments.
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
};
struct ExecutableGraph { GraphPtr graph; };

namespace {

// What starts early waits first of all (emulation.cpp), so such an edge is as good as any.
cudaGraphNode_t add_node(cudaGraph_t graph, const cudaGraphNode_t* after, size_t count, Operation operation, const void* kernel) {
  Node node{std::move(operation), kernel, {}};
  for (size_t i = 0; i < count; ++i) node.after.push_back(int(after[i]->index));
  graph->graph.nodes.push_back(std::move(node));
  return graph->handles.emplace_back(new NodeHandle{graph, graph->handles.size()}).get();
}

Operation operation_of(const cudaKernelNodeParams& node) { return kernel_operation(node.func, node.gridDim, node.blockDim, node.kernelParams, node.sharedMemBytes); }

Operation node_copy(void* to, const void* from, size_t bytes) {
  LGD_CHECK(bytes > 0, "DEVICE_ERROR", "a node of a graph that copies nothing");
  const Allocation *target = allocation_of(to), *source = allocation_of(from);
  LGD_CHECK(target && source && !source->pinned, "DEVICE_ERROR", "a graph that copies from the host, or to pageable memory");
  return copy_operation(to, from, bytes);
}

Operation operation_of(const cudaMemsetParams& node) {
  const size_t bytes = node.width * node.elementSize;
  LGD_CHECK(bytes > 0 && node.value == 0 && node.height == 1, "DEVICE_ERROR", "a node of a graph that fills nothing, or with something else than zeros");
  LGD_CHECK(reinterpret_cast<uintptr_t>(node.dst) % node.elementSize == 0, "DEVICE_ERROR", "a misaligned fill");
  return zero_operation(node.dst, bytes);
}

// Chains of nodes: each goes on with one that it comes after, if no other does.
void find_lanes(Graph& graph) {
  std::vector<int> last;  // of each lane
  for (int i = 0; i < int(graph.nodes.size()); ++i) {
    Node& node = graph.nodes[size_t(i)];
    const auto goes_on = std::find_if(last.begin(), last.end(), [&](int before) { return std::find(node.after.begin(), node.after.end(), before) != node.after.end(); });
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

// All take the same time; $LGDISTILL_EMULATION_FASTEST_WAY makes one the fastest, and each choice that differs from it costs a tenth.
double milliseconds_of(const GraphWay& way) {
  const GraphWay fastest = way_of("LGDISTILL_EMULATION_FASTEST_WAY").value_or(way);
  return 1 + 0.1 * ((way.programmatic != fastest.programmatic) + (way.in_order != fastest.in_order) + (way.one_carveout != fastest.one_carveout));
}

// Gives a node another operation, of the same kernel.
template <class MakeOperation> cudaError_t change(cudaGraphExec_t executable, cudaGraphNode_t handle, const void* kernel, MakeOperation&& operation) {
  const char* const refuse = std::getenv("LGDISTILL_EMULATION_REFUSE");
  if (refuse && std::strcmp(refuse, "1") == 0) return cudaErrorGraphExecUpdateFailure;
  GraphPtr& graph = executable->graph;
  if (graph.use_count() > 1) graph = std::make_shared<Graph>(*graph);  // a launch before this one keeps its own
  Node& node = graph->nodes[handle->index];
  LGD_CHECK(node.kernel == kernel, "DEVICE_ERROR", "a node of another kernel than ", node.operation.name);
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

cudaError_t cudaGraphAddKernelNode(cudaGraphNode_t* node, cudaGraph_t graph, const cudaGraphNode_t* after, size_t count, const cudaKernelNodeParams* parameters) {
  LGD_BEGIN(begin_call(__func__));
  *node = add_node(graph, after, count, operation_of(*parameters), parameters->func);
  return cudaSuccess;
}
cudaError_t cudaGraphAddMemcpyNode1D(cudaGraphNode_t* node, cudaGraph_t graph, const cudaGraphNode_t* after, size_t count, void* to, const void* from, size_t bytes, cudaMemcpyKind) {
  LGD_BEGIN(begin_call(__func__));
  *node = add_node(graph, after, count, node_copy(to, from, bytes), nullptr);
  return cudaSuccess;
}
cudaError_t cudaGraphAddMemsetNode(cudaGraphNode_t* node, cudaGraph_t graph, const cudaGraphNode_t* after, size_t count, const cudaMemsetParams* parameters) {
  LGD_BEGIN(begin_call(__func__));
  *node = add_node(graph, after, count, operation_of(*parameters), nullptr);
  return cudaSuccess;
}

cudaError_t cudaGraphAddDependencies(cudaGraph_t graph, const cudaGraphNode_t* from, const cudaGraphNode_t* to, const cudaGraphEdgeData* edges, size_t count) {
  LGD_BEGIN(begin_call(__func__));
  for (size_t i = 0; i < count; ++i) {
    graph->graph.nodes[to[i]->index].after.push_back(int(from[i]->index));
    graph->programmatic |= edges[i].type == cudaGraphDependencyTypeProgrammatic;
  }
  return cudaSuccess;
}
cudaError_t cudaGraphKernelNodeSetAttribute(cudaGraphNode_t node, cudaLaunchAttributeID, const cudaLaunchAttributeValue*) {
  LGD_BEGIN(begin_call(__func__));
  node->graph->one_carveout = true;
  return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t made, unsigned long long) {
  LGD_BEGIN(begin_call(__func__));
  auto graph = std::make_shared<Graph>(made->graph);
  find_lanes(*graph);
  const lgd::GraphWay way{made->programmatic, graph->lanes <= 1, made->one_carveout};
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

cudaError_t cudaGraphExecKernelNodeSetParams(cudaGraphExec_t executable, cudaGraphNode_t node, const cudaKernelNodeParams* parameters) {
  LGD_BEGIN(begin_call(__func__));
  return change(executable, node, parameters->func, [&] { return operation_of(*parameters); });
}
cudaError_t cudaGraphExecMemcpyNodeSetParams1D(cudaGraphExec_t executable, cudaGraphNode_t node, void* to, const void* from, size_t bytes, cudaMemcpyKind) {
  LGD_BEGIN(begin_call(__func__));
  return change(executable, node, nullptr, [&] { return node_copy(to, from, bytes); });
}
cudaError_t cudaGraphExecMemsetNodeSetParams(cudaGraphExec_t executable, cudaGraphNode_t node, const cudaMemsetParams* parameters) {
  LGD_BEGIN(begin_call(__func__));
  return change(executable, node, nullptr, [&] { return operation_of(*parameters); });
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  LGD_BEGIN(begin_work(__func__, *stream));
  enqueue(*stream, executable->graph);
  return cudaSuccess;
}
