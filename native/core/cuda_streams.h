// What core/timeline.cpp needs of the CUDA runtime beyond core/device.h: work for streams, order between them, and graphs.
// Streams and events are the runtime's own handles.
#pragma once
#include <cstddef>

#include "core/graph_tuner.h"
#include "core/tape.h"

namespace lgd::cuda {

void run(const Work& work, void* stream);      // copies in any direction (unified addressing)
void synchronize(void* stream);
void enqueue_event(void* event, void* stream);
void stream_wait(void* stream, void* event);   // later work of the stream waits for the event's last record
void await_event(void* event);                 // the host waits; returns at once for an event that was never recorded
void* create_timed_event();                    // an event that tells when it was reached; destroy_event() frees it
bool is_over(void* event);                     // has the event's last record been reached? Nobody waits
double milliseconds_between(void* begin, void* end);  // of two timed events that are over

// A graph with a node for each piece of the tape, ready to be launched as often as wished; each launch runs behind the one before.
void* build_graph(const Tape& tape, const GraphWay& way);
// Gives a node, by its number on the tape, the arguments of other work of the same kind and kernel; launches before keep theirs. False if
// the driver cannot: the graph must be built again.
bool change_graph(void* graph, size_t node, const Work& work);
void launch_graph(void* graph, void* stream);
void destroy_graph(void* graph) noexcept;      // one that runs is freed when it is done

}  // namespace lgd::cuda
