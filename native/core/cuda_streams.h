// What core/timeline.cpp needs of the CUDA runtime beyond core/device.h: ordering between streams, and graphs.
// Streams, events, graphs and executable graphs are the runtime's own handles.
#pragma once
#include <cstddef>

namespace lgd::cuda {

void enqueue_event(void* event, void* stream);
void stream_wait(void* stream, void* event);   // later work of the stream waits for the event's last record; draws the stream into a capture
void await_event(void* event);                 // the host waits; returns at once for an event that was never recorded

// Work of this thread for `stream`, and for streams that wait for its events, becomes nodes of a graph instead of running.
void begin_capture(void* stream);
// The graph; every stream drawn in must have been waited for by `stream`. Ends the capture even where it throws.
void* end_capture(void* stream);
void discard_capture(void* stream) noexcept;

size_t graph_nodes(void* graph);
void destroy_graph(void* graph) noexcept;
void* instantiate(void* graph);
bool update(void* executable, void* graph);    // takes over the graph's arguments; false if its shape differs
void launch(void* executable, void* stream);
void destroy_executable(void* executable) noexcept;  // one that runs is freed when it is done

}  // namespace lgd::cuda
