#include "graph/shape.h"

#include <algorithm>

#include "ops/layer_norm.h"
#include "ops/layout.h"
#include "ops/self_attention.h"

namespace lgd {

std::string text_of(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (const int64_t size : shape) {
    if (text.size() > 1) text += ',';
    text += std::to_string(size);
  }
  return text += ']';
}

static std::string text_of(const ValueShape& value) {
  return concat({value.h, "x", value.w, " with ", value.c, " channels"});
}

// Rows above the image that a convolution of `size` rows reads as zeros, or columns to its left.
//
// TensorFlow's `same` makes ceil(size / stride) positions and adds only as many zeros as their windows reach beyond the
// image, half of them here, the odd one at the end: before a stride of 2, an image of even sides has none here.
// models/stages.ts lowers a stride and spreads taps instead; Node::same stays the stride that it was, and the padding
// that of the coarse image, so that a position that both have sees the same pixels.
static int padding_of(const Node& node, int size, int kernel) {
  if (node.same == 0) return node.padding;
  const int coarse = (size - 1) / node.dilation + 1, positions = (coarse - 1) / node.same + 1;
  return std::max((positions - 1) * node.same + kernel - coarse, 0) / 2 * node.dilation;
}

namespace {

// Walks the nodes once, filling Shapes; one method an operation.
class Inference {
 public:
  Inference(const Graph& graph, const EncoderOptions& options, DeviceKind kind)
      : graph_(graph), kind_(kind), training_(options.training) {
    shapes_.batch = options.batch;
    shapes_.type = storage_type(kind, options.bfloat16);
    shapes_.rounds = options.bfloat16 && shapes_.type == DType::f32;
    shapes_.parameters.resize(graph.parameters.size());
    shapes_.values.push_back(images(options.height, options.width));
    check_size("its input", shapes_.values[0]);
  }

  Shapes run() {
    for (const Node& node : graph_.nodes) {
      const ValueShape result = infer(node);
      check_size(node.name, result);
      shapes_.values.push_back(result);
      if (training_) check_trainable(node);
    }
    check_padding();
    return std::move(shapes_);
  }

 private:
  // Convolutions of even stride read pairs of pixels; `repeat` reads nothing.
  ValueShape images(int h, int w) {
    const int stored = stored_image_channels(kind_, w);
    if (stored != 4) return {h, w, 3, stored};
    for (const Node& node : graph_.nodes)
      for (const int input : node.inputs)
        shapes_.widens_images |=
            input == 0 && node.op != OpKind::repeat &&
            !(node.op == OpKind::conv && node.groups == 1 && node.stride % 2 == 0 && node.dilation == 1);
    return {h, w, 3, shapes_.widens_images ? 8 : 4};
  }
  ValueShape value(int h, int w, int c) const { return {h, w, c, stored_channels(kind_, c)}; }
  const ValueShape& input(const Node& node, size_t i = 0) const { return shapes_.values[size_t(node.inputs[i])]; }

  ValueShape infer(const Node& node) {
    const ValueShape& x = input(node);
    switch (node.op) {
      case OpKind::conv: return conv(node);
      case OpKind::linear: return linear(node);
      case OpKind::batch_norm:
        for (size_t i = norm_weight; i <= norm_var; ++i) vector_parameter(node, i, x.c);
        return x;
      case OpKind::activation:
      case OpKind::dropout:
      case OpKind::stochastic_depth: return x;
      case OpKind::add: return add(node);
      case OpKind::channel_scale: return channel_scale(node);
      case OpKind::max_pool:
      case OpKind::avg_pool: return value(window(node, x.h, node.kernel), window(node, x.w, node.kernel), x.c);
      case OpKind::global_pool: return value(1, 1, x.c);
      case OpKind::resize:
        check_side(node, std::max(x.h, x.w) * int64_t(node.factor));
        return value(x.h * node.factor, x.w * node.factor, x.c);
      case OpKind::tokens: return tokens(node);
      case OpKind::first_token: return value(1, 1, x.c);
      case OpKind::query_attention: return attention(node);
      case OpKind::repeat: return repeat(node);
      case OpKind::positions: return positions(node);
      case OpKind::words: return words(node);
      case OpKind::layer_norm:
        whole_vectors(node, x);
        for (size_t i = 0; i < 2; ++i) vector_parameter(node, i, x.c);
        return x;
      case OpKind::layer_scale: vector_parameter(node, 0, x.c); return x;
      case OpKind::self_attention: return self_attention(node);
      case OpKind::rotary: return rotary(node);
      case OpKind::swiglu: return swiglu(node);
      case OpKind::end_token: return end_token(node);
    }
    throw Error("NATIVE_ERROR", "unreachable operation");
  }

  // Kernels number the pixels of a batch in 32 bits, and a little beyond; columns of tiles of channels in 16.
  void check_size(const std::string& what, const ValueShape& x) const {
    constexpr int64_t most = (int64_t(1) << 31) - (1 << 16), widest = 1 << 20;
    LGD_CHECK(x.pixels() <= most / shapes_.batch, "BAD_SHAPE", graph_.name, ", ", what, ": a batch of ", shapes_.batch,
              " images has more than ", most, " pixels in all of ", text_of(x),
              ". Use a smaller batch or smaller images.");
    LGD_CHECK(x.c <= widest, "BAD_SHAPE", graph_.name, ", ", what, ": ", x.c, " channels. Allowed: ", widest,
              " or fewer.");
  }
  // Kernels have 15 bits for a coordinate of a pixel that a convolution reads.
  void check_side(const Node& node, int64_t side) const {
    constexpr int64_t longest = 30000;
    LGD_CHECK(side < longest, "BAD_SHAPE", "node ", node.name, ": a side of ", side,
              " pixels, with what its window takes around. Allowed: less than ", longest, ". Use smaller images.");
  }

  // Positions of a window along one axis.
  int window(const Node& node, int size, int kernel) const {
    if (node.same > 0) return (size - 1) / node.stride + 1;
    const int64_t reach = int64_t(node.dilation) * (kernel - 1) + 1;
    LGD_CHECK(size + 2 * node.padding >= reach, "BAD_SHAPE", "node ", node.name, ": its window of ", reach,
              " pixels does not fit into ", text_of(input(node)), " (padding ", node.padding, "). Use larger images.");
    return int((size + 2 * node.padding - reach) / node.stride + 1);
  }

  ValueShape conv(const Node& node) {
    const ValueShape& x = input(node);
    const auto& shape = parameter(node, conv_weight).shape;
    LGD_CHECK(shape.size() == 4, "BAD_SHAPE", "parameter ", parameter(node, conv_weight).name, " has the shape ",
              text_of(shape), ". Allowed: 4 sizes, [K,C/groups,R,S].");
    LGD_CHECK(node.groups == 1 || node.groups == x.c, "BAD_SHAPE", "node ", node.name, " has ", node.groups,
              " groups. Allowed: 1 or ", x.c, ", the channels of its input.");
    const int k = int(shape[0]), r = int(shape[2]), s = int(shape[3]);
    const bool depthwise = node.groups > 1;
    if (depthwise)
      LGD_CHECK(r == s && (r == 3 || r == 5 || r == 7) && node.stride <= 2, "BAD_SHAPE", "node ", node.name,
                ": a depthwise kernel is ", r, "x", s, " with stride ", node.stride,
                ". Allowed: 3x3, 5x5 or 7x7, stride 1 or 2.");
    expect(node, conv_weight, {depthwise ? x.c : k, depthwise ? 1 : x.c, r, s});
    const int pad = padding_of(node, x.h, r);
    LGD_CHECK(pad == padding_of(node, x.w, s), "BAD_SHAPE", "node ", node.name, " pads ", text_of(x),
              " by other numbers of rows than of columns. Use images whose sides are even or odd alike.");
    const ValueShape y = value(window(node, x.h, r), window(node, x.w, s), k);
    check_side(node, std::max({x.h, x.w, y.h, y.w}) + int64_t(node.dilation) * (std::max(r, s) - 1) + pad);
    LGD_CHECK(!depthwise || int64_t(shapes_.batch) * k < int64_t(1) << 31, "BAD_SHAPE", "node ", node.name,
              ": a batch of ", shapes_.batch, " images with ", k,
              " channels is too large for a depthwise convolution. Use a smaller batch.");
    if (depthwise) lay(node, conv_weight, {1, int64_t(r) * s, k, 1, y.stored});
    else if (x.by_pairs()) lay(node, conv_weight, {k, int64_t(r) * s, x.c, y.stored, 8, s, pad % 2});
    else lay(node, conv_weight, {k, int64_t(r) * s, x.c, y.stored, x.stored});
    if (node.has_bias()) vector_parameter(node, conv_bias, k);
    shapes_.macs_per_image += double(y.pixels()) * k * r * s * (depthwise ? 1 : x.c);
    return y;
  }

  ValueShape linear(const Node& node) {
    const ValueShape& x = input(node);
    const auto& shape = parameter(node, conv_weight).shape;
    LGD_CHECK(shape.size() == 2, "BAD_SHAPE", "parameter ", parameter(node, conv_weight).name, " has the shape ",
              text_of(shape), ". Allowed: 2 sizes, [O,I].");
    const int k = int(shape[0]);
    expect(node, conv_weight, {k, x.c});
    check_side(node, std::max(x.h, x.w));
    const ValueShape y = value(x.h, x.w, k);
    lay(node, conv_weight, {k, 1, x.c, y.stored, x.stored});
    if (node.has_bias()) vector_parameter(node, conv_bias, k);
    shapes_.macs_per_image += double(y.pixels()) * k * x.c;
    return y;
  }

  ValueShape add(const Node& node) const {
    const ValueShape &a = input(node, 0), &b = input(node, 1);
    LGD_CHECK(a.h == b.h && a.w == b.w && a.c == b.c, "BAD_SHAPE", "node ", node.name, " adds ", text_of(a), " and ",
              text_of(b), ".");
    return a;
  }

  ValueShape channel_scale(const Node& node) const {
    const ValueShape &x = input(node, 0), &s = input(node, 1);
    LGD_CHECK(s.pixels() == 1 && s.c == x.c, "BAD_SHAPE", "node ", node.name, " scales ", text_of(x), " by ",
              text_of(s), ". Allowed: 1x1 with as many channels.");
    return x;
  }

  ValueShape tokens(const Node& node) {
    const ValueShape& x = input(node);
    table(node, 0, x.pixels() + 1, x.c, x.stored);
    return value(int(x.pixels()) + 1, 1, x.c);
  }

  ValueShape attention(const Node& node) {
    const ValueShape &q = input(node, 0), &k = input(node, 1), &v = input(node, 2);
    LGD_CHECK(q.pixels() == 1 && k.w == 1 && v.w == 1 && k.h == v.h && q.c == k.c && q.c == v.c, "BAD_SHAPE", "node ",
              node.name, " attends with a query of ", text_of(q), ", keys of ", text_of(k), ", values of ", text_of(v),
              ".");
    LGD_CHECK(q.c % node.heads == 0, "BAD_SHAPE", "node ", node.name, " has ", node.heads,
              " heads. Allowed: a divisor of ", q.c, ".");
    whole_vectors(node, q);
    shapes_.macs_per_image += 2.0 * k.h * k.c;
    return q;
  }

  ValueShape repeat(const Node& node) {
    const auto& shape = parameter(node, 0).shape;
    LGD_CHECK(shape.size() == 1, "BAD_SHAPE", "parameter ", parameter(node, 0).name, " has the shape ", text_of(shape),
              ". Allowed: 1 size, [C].");
    vector_parameter(node, 0, int(shape[0]));
    return value(1, 1, int(shape[0]));
  }

  ValueShape positions(const Node& node) {
    const ValueShape& x = input(node);
    const int64_t count = node.first + x.pixels();
    table(node, 0, count, x.c, x.stored);
    if (node.parameters.size() > 1) {
      LGD_CHECK(node.first > 0, "BAD_SHAPE", "node ", node.name, " has constant tokens, and first is 0.");
      table(node, 1, node.first, x.c, x.stored);
    }
    return value(int(count), 1, x.c);
  }

  ValueShape words(const Node& node) {
    const ValueShape& ids = input(node);
    LGD_CHECK(ids.w == 1 && ids.c == 3, "BAD_SHAPE", "node ", node.name, " reads token ids from ", text_of(ids),
              ". Allowed: a sequence with 3 channels.");
    const auto &word = parameter(node, 0).shape, &position = parameter(node, 1).shape;
    LGD_CHECK(word.size() == 2 && position.size() == 2 && word[1] == position[1], "BAD_SHAPE", "node ", node.name,
              " has words of ", text_of(word), " and positions of ", text_of(position), ". Allowed: [V,C] and [P,C].");
    LGD_CHECK(ids.h <= position[0], "BAD_SHAPE", "node ", node.name, " has ", ids.h, " tokens. Allowed: at most its ",
              position[0], " positions.");
    const ValueShape y = value(ids.h, 1, int(word[1]));
    table(node, 0, word[0], y.c, y.stored);
    table(node, 1, position[0], y.c, y.stored);
    return y;
  }

  ValueShape self_attention(const Node& node) {
    const ValueShape& qkv = input(node);
    const int channels = qkv.c / 3;
    LGD_CHECK(qkv.w == 1 && qkv.c % 3 == 0 && channels % node.heads == 0, "BAD_SHAPE", "node ", node.name, " has ",
              node.heads, " heads over ", text_of(qkv),
              ". Allowed: a sequence with three times a multiple of the heads as channels.");
    const ValueShape y = value(qkv.h, 1, channels);
    whole_vectors(node, y);
    const int width = channels / node.heads;
    LGD_CHECK(kind_ == DeviceKind::cpu || (width % 8 == 0 && width <= 128), "BAD_SHAPE", "node ", node.name,
              ": a head is ", width, " channels wide. Allowed on this device: a multiple of 8 up to 128.");
    shapes_.macs_per_image += 2.0 * qkv.h * qkv.h * channels;
    return y;
  }

  ValueShape rotary(const Node& node) {
    const ValueShape& qkv = input(node);
    LGD_CHECK(qkv.w == 1 && qkv.c % (3 * node.heads) == 0 && node.first < qkv.h, "BAD_SHAPE", "node ", node.name,
              " turns the tokens behind ", node.first, " with ", node.heads, " heads over ", text_of(qkv),
              ". Allowed: a sequence of more tokens, with three times a multiple of the heads as channels.");
    const int width = qkv.c / 3 / node.heads, step = kind_ == DeviceKind::cpu ? 2 : 16;
    LGD_CHECK(width % step == 0, "BAD_SHAPE", "node ", node.name, ": a head is ", width,
              " channels wide. Allowed on this device: a multiple of ", step, ".");
    table(node, 0, qkv.h - node.first, width, width);
    return qkv;
  }

  ValueShape swiglu(const Node& node) const {
    const ValueShape& x = input(node);
    LGD_CHECK(x.c % 2 == 0, "BAD_SHAPE", "node ", node.name, " halves the ", x.c, " channels of ", text_of(x),
              ". Allowed: an even number.");
    const ValueShape y = value(x.h, x.w, x.c / 2);
    whole_vectors(node, y);
    return y;
  }

  ValueShape end_token(const Node& node) const {
    const ValueShape &x = input(node, 0), &ids = input(node, 1);
    LGD_CHECK(x.w == 1 && ids.w == 1 && x.h == ids.h && ids.c == 3, "BAD_SHAPE", "node ", node.name, " looks in ",
              text_of(ids), " for a token of ", text_of(x), ".");
    return value(1, 1, x.c);
  }

  void whole_vectors(const Node& node, const ValueShape& x) const {
    LGD_CHECK(x.c == x.stored, "BAD_SHAPE", "node ", node.name, " has ", x.c,
              " channels. Allowed on this device: multiples of 8.");
  }

  // A table of `count` rows of channels; of positions, with the images' axis in front or without it.
  void table(const Node& node, size_t i, int64_t count, int channels, int stored) {
    const bool has_axis = node.op == OpKind::positions && parameter(node, i).shape.size() == 3;
    expect(node, i, has_axis ? std::vector<int64_t>{1, count, channels} : std::vector<int64_t>{count, channels});
    lay(node, i, {count, 1, channels, count, stored});
  }

  const GraphParameter& parameter(const Node& node, size_t i) const {
    return graph_.parameters[size_t(node.parameters[i])];
  }

  void expect(const Node& node, size_t i, const std::vector<int64_t>& shape) const {
    const GraphParameter& found = parameter(node, i);
    LGD_CHECK(found.shape == shape, "BAD_SHAPE", "node ", node.name, ": parameter ", found.name, " has the shape ",
              text_of(found.shape), ". Allowed: ", text_of(shape), ".");
  }

  void lay(const Node& node, size_t i, const ParameterLayout& layout) {
    ParameterLayout& place = shapes_.parameters[size_t(node.parameters[i])];
    constexpr double most = 1u << 31, longest = 1 << 22;
    const double columns = double(layout.stored_taps()) * double(layout.stored_columns);
    LGD_CHECK(columns <= longest && double(layout.stored_rows) * columns < most, "BAD_SHAPE", "node ", node.name,
              ": parameter ", parameter(node, i).name, " of ", text_of(parameter(node, i).shape),
              " is too large. Allowed: less than 2^31 numbers, and 2^22 in a row.");
    LGD_CHECK(place.rows == 0 || place == layout, "BAD_MODEL", "parameter ", parameter(node, i).name,
              " is used in two ways that differ.");
    place = layout;
  }

  void vector_parameter(const Node& node, size_t i, int channels) {
    expect(node, i, {channels});
    lay(node, i, {1, 1, channels, 1, stored_channels(kind_, channels)});
  }

  void check_trainable(const Node& node) const {
    LGD_CHECK(!is_forward_only(node.op), "BAD_MODEL", "node ", node.name,
              " has no backward: it works in forward-only plans.");
    if (node.op == OpKind::self_attention && kind_ == DeviceKind::cuda) {
      const int width = input(node).c / 3 / node.heads;
      LGD_CHECK(width <= widest_trained_head, "BAD_SHAPE", "node ", node.name, ": a head is ", width,
                " channels wide. Allowed in training on this device: ", widest_trained_head, " or fewer.");
      LGD_CHECK(shapes_.type == DType::bf16 || input(node).h <= most_float32_tokens, "BAD_SHAPE", "node ", node.name,
                ": a sequence of ", input(node).h,
                " tokens. Allowed in training in float32 on this device: ", most_float32_tokens,
                " or fewer. Use bfloat16, or smaller images.");
    }
    LGD_CHECK(node.op != OpKind::layer_norm || kind_ == DeviceKind::cpu || input(node).c <= layer_norm_widest,
              "BAD_SHAPE", "node ", node.name, ": layer norm trains at most ", layer_norm_widest,
              " channels on this device, found ", input(node).c, ".");
    if (node.op == OpKind::batch_norm)
      LGD_CHECK(
          int64_t(shapes_.batch) * input(node).pixels() > 1, "BAD_SHAPE", "node ", node.name,
          " has one value a channel, which has no variance. Use a larger batch, larger images or a forward-only plan.");
  }

  // Padded channels must stay zero, or weights behind them would learn from them; sigmoids make 0.5 of a zero.
  void check_padding() const {
    for (size_t i = 0; i < graph_.nodes.size(); ++i) {
      const Node& node = graph_.nodes[i];
      const ValueShape& y = shapes_.values[i + 1];
      if (y.c == y.stored || (node.act != Act::sigmoid && node.act != Act::hardsigmoid)) continue;
      for (const Node& user : graph_.nodes)
        for (size_t j = 0; j < user.inputs.size(); ++j)
          LGD_CHECK(user.inputs[j] != int(i) + 1 || (user.op == OpKind::channel_scale && j == 1), "BAD_MODEL", "node ",
                    node.name, " (sigmoid) has ", y.c, " channels and feeds ", user.name,
                    ". Allowed on this device: multiples of 8.");
    }
  }

  const Graph& graph_;
  const DeviceKind kind_;
  const bool training_;
  Shapes shapes_;
};

}  // namespace

Shapes infer_shapes(const Graph& graph, const EncoderOptions& options, DeviceKind kind) {
  return Inference(graph, options, kind).run();
}

ConvShape conv_shape(const Graph& graph, const Shapes& shapes, int index) {
  const Node& node = graph.nodes[size_t(index)];
  const ValueShape& x = shapes.values[size_t(node.inputs[0])];
  const ValueShape& y = shapes.values[size_t(index) + 1];
  const auto& weight = graph.parameters[size_t(node.parameters[conv_weight])].shape;
  if (node.op == OpKind::linear) return {shapes.batch, x.h, x.w, x.stored, y.stored, 1, 1, 1, 0, 1, y.h, y.w};
  const int kernel = int(weight[2]);
  const ConvShape shape{
      shapes.batch,  x.h, x.w, x.stored, y.stored, kernel, int(weight[3]), node.stride, padding_of(node, x.h, kernel),
      node.dilation, y.h, y.w};
  return x.by_pairs() ? by_pairs(shape) : shape;
}

ResizeShape resize_shape(const Graph& graph, const Shapes& shapes, int index) {
  const Node& node = graph.nodes[size_t(index)];
  const ValueShape& x = shapes.values[size_t(node.inputs[0])];
  return {shapes.batch, x.h, x.w, x.stored, node.factor};
}

PoolShape pool_shape(const Graph& graph, const Shapes& shapes, int index) {
  const Node& node = graph.nodes[size_t(index)];
  const ValueShape& x = shapes.values[size_t(node.inputs[0])];
  const ValueShape& y = shapes.values[size_t(index) + 1];
  return {shapes.batch, x.h, x.w, x.stored, node.kernel, node.stride, node.padding, y.h, y.w};
}

}  // namespace lgd
