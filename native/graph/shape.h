// Sizes of every value and parameter of a graph, for one batch size, resolution and storage type.
#pragma once
#include <string>
#include <vector>

#include "graph/graph.h"
#include "ops/conv.h"
#include "ops/pool.h"
#include "ops/resize.h"

namespace lgd {

std::string text_of(const std::vector<int64_t>& shape);  // "[256,224,224,3]", for messages

struct ValueShape {
  int h = 0, w = 0, c = 0;
  int stored = 0;  // channels as stored (ops/layout.h)
  int64_t pixels() const { return int64_t(h) * w; }
  bool by_pairs() const { return c == 3 && stored == 4; }  // images that convolutions read by pairs of pixels
};

// How a parameter lies in device memory. Torchvision's order is [rows][columns][taps] (OIHW, with taps = H W); stored
// is [stored_rows][taps][stored_columns], padding zero. A vector is one row of one tap; a depthwise kernel one row of C
// columns.
struct ParameterLayout {
  int64_t rows = 0, taps = 1, columns = 0, stored_rows = 0, stored_columns = 0;
  // Of a kernel over pairs of pixels (ConvShape::pair_taps): [stored_rows][H][pairs][2][4].
  int pair_taps = 0, pair_first = 0;  // its W, or 0; where the first tap stands in its pair
  int64_t pairs() const { return (pair_first + pair_taps + 1) / 2; }
  int64_t stored_taps() const { return pair_taps ? taps / pair_taps * pairs() : taps; }
  int64_t elements() const { return rows * taps * columns; }
  int64_t stored_elements() const { return stored_rows * stored_taps() * stored_columns; }
  int64_t place(int64_t row, int64_t column, int64_t tap) const {
    if (!pair_taps) return (row * taps + tap) * stored_columns + column;
    const int64_t x = pair_first + tap % pair_taps;
    return (row * stored_taps() + tap / pair_taps * pairs() + x / 2) * stored_columns + x % 2 * 4 + column;
  }
  bool operator==(const ParameterLayout&) const = default;
};

struct Shapes {
  int batch = 0;
  DType type = DType::f32;
  bool rounds = false;                      // on the CPU: float32 that is rounded wherever CUDA would store bfloat16
  std::vector<ValueShape> values;           // values[0]: the image batch
  std::vector<ParameterLayout> parameters;  // like Graph::parameters
  // the graph needs images of eight channels where they are stored with four (ops/layout.h)
  bool widens_images = false;
  double macs_per_image = 0;  // multiply-adds of convolutions, linear layers and attention

  int64_t rows(int value) const { return batch * values[size_t(value)].pixels(); }
  int64_t stored_elements(int value) const { return rows(value) * values[size_t(value)].stored; }
  size_t bytes(int value) const { return size_t(stored_elements(value)) * size_of(type); }
};

// Throws BAD_SHAPE naming the node: channels that do not match, parameters of another shape, images too small.
// BAD_MODEL: an operation that the plan or the backend does not have.
Shapes infer_shapes(const Graph& graph, const EncoderOptions& options, DeviceKind kind);

// The kernels' arguments for a node.
ConvShape conv_shape(const Graph& graph, const Shapes& shapes, int node);
ResizeShape resize_shape(const Graph& graph, const Shapes& shapes, int node);
PoolShape pool_shape(const Graph& graph, const Shapes& shapes, int node);

}  // namespace lgd
