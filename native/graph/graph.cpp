#include "graph/graph.h"

#include <algorithm>
#include <cmath>
#include <unordered_map>

namespace lgd {
namespace {

constexpr double required = -1;

// One attribute: its range, its default (or `required`) and the field of Node that takes it.
struct AttributeRule {
  const char* name;
  double fallback, low, high;
  int Node::* whole;
  float Node::* real;
};

struct OpRule {
  const char* name;
  OpKind op;
  size_t inputs, least_parameters, most_parameters;
  bool has_kind;
  std::vector<AttributeRule> attributes;
};

constexpr double most = 1 << 16;

const std::vector<OpRule>& rules() {
  static const std::vector<OpRule> table = {
      {"conv",
       OpKind::conv,
       1,
       1,
       2,
       false,
       {{"stride", 1, 1, most, &Node::stride, nullptr},
        {"padding", 0, 0, most, &Node::padding, nullptr},
        {"same", 0, 0, most, &Node::same, nullptr},
        {"dilation", 1, 1, most, &Node::dilation, nullptr},
        {"groups", 1, 1, most, &Node::groups, nullptr}}},
      {"linear", OpKind::linear, 1, 1, 2, false, {}},
      {"batchNorm",
       OpKind::batch_norm,
       1,
       4,
       4,
       false,
       {{"eps", 1e-5, 0, 1, nullptr, &Node::eps}, {"momentum", 0.1, 0, 1, nullptr, &Node::momentum}}},
      {"activation", OpKind::activation, 1, 0, 0, true, {}},
      {"add", OpKind::add, 2, 0, 0, false, {}},
      {"channelScale", OpKind::channel_scale, 2, 0, 0, false, {}},
      {"maxPool",
       OpKind::max_pool,
       1,
       0,
       0,
       false,
       {{"kernel", required, 1, 8, &Node::kernel, nullptr},
        {"stride", 0, 1, most, &Node::stride, nullptr},
        {"padding", 0, 0, most, &Node::padding, nullptr}}},
      {"avgPool",
       OpKind::avg_pool,
       1,
       0,
       0,
       false,
       {{"kernel", required, 1, most, &Node::kernel, nullptr}, {"stride", 0, 1, most, &Node::stride, nullptr}}},
      {"globalPool", OpKind::global_pool, 1, 0, 0, false, {}},
      {"resize", OpKind::resize, 1, 0, 0, false, {{"factor", required, 1, 64, &Node::factor, nullptr}}},
      {"dropout", OpKind::dropout, 1, 0, 0, false, {{"p", required, 0, 0.999, nullptr, &Node::p}}},
      {"stochasticDepth", OpKind::stochastic_depth, 1, 0, 0, false, {{"p", required, 0, 0.999, nullptr, &Node::p}}},
      {"tokens", OpKind::tokens, 1, 1, 1, false, {}},
      {"firstToken", OpKind::first_token, 1, 0, 0, false, {}},
      {"queryAttention",
       OpKind::query_attention,
       3,
       0,
       0,
       false,
       {{"heads", required, 1, most, &Node::heads, nullptr}}},
      {"repeat", OpKind::repeat, 1, 1, 1, false, {}},
      {"positions", OpKind::positions, 1, 1, 2, false, {{"first", 0, 0, most, &Node::first, nullptr}}},
      {"words", OpKind::words, 1, 2, 2, false, {}},
      {"layerNorm", OpKind::layer_norm, 1, 2, 2, false, {{"eps", 1e-5, 0, 1, nullptr, &Node::eps}}},
      {"layerScale", OpKind::layer_scale, 1, 1, 1, false, {}},
      {"selfAttention",
       OpKind::self_attention,
       1,
       0,
       0,
       false,
       {{"heads", required, 1, most, &Node::heads, nullptr}, {"causal", 0, 0, 1, &Node::causal, nullptr}}},
      {"rotary",
       OpKind::rotary,
       1,
       1,
       1,
       false,
       {{"heads", required, 1, most, &Node::heads, nullptr}, {"first", 0, 0, most, &Node::first, nullptr}}},
      {"swiglu", OpKind::swiglu, 1, 0, 0, false, {}},
      {"endToken", OpKind::end_token, 2, 0, 0, false, {{"id", required, 0, (1 << 24) - 1, &Node::id, nullptr}}},
  };
  return table;
}

const std::pair<const char*, Act> activation_kinds[] = {
    {"relu", Act::relu},           {"relu6", Act::relu6},        {"silu", Act::silu},
    {"hardswish", Act::hardswish}, {"sigmoid", Act::sigmoid},    {"hardsigmoid", Act::hardsigmoid},
    {"gelu", Act::gelu},           {"geluTanh", Act::gelu_tanh}, {"quickGelu", Act::quick_gelu}};

template <class Table, class Name>
std::string listed(const Table& table, Name name) {
  std::string text;
  for (const auto& entry : table) text += (text.empty() ? "" : ", ") + std::string(name(entry));
  return text.empty() ? "none" : text;
}

const OpRule& rule_of(const GraphNode& node) {
  for (const OpRule& rule : rules())
    if (node.op == rule.name) return rule;
  throw_error("BAD_MODEL", {"node ", node.name, " has the unknown operation \"", node.op,
                            "\". Allowed: ", listed(rules(), [](const OpRule& rule) { return rule.name; }), "."});
}

void read_attributes(const GraphNode& from, const OpRule& rule, Node& node) {
  for (const auto& [name, value] : from.attributes) {
    bool known = false;
    for (const AttributeRule& attribute : rule.attributes) known |= name == attribute.name;
    LGD_CHECK(known, "BAD_MODEL", "node ", from.name, " (", from.op, ") has the unknown attribute \"", name,
              "\". Allowed: ", listed(rule.attributes, [](const AttributeRule& attribute) { return attribute.name; }),
              ".");
  }
  for (const AttributeRule& attribute : rule.attributes) {
    double value = attribute.fallback;
    bool given = false;
    for (const auto& [name, found] : from.attributes)
      if (name == attribute.name) value = found, given = true;
    LGD_CHECK(given || attribute.fallback != required, "BAD_MODEL", "node ", from.name, " (", from.op,
              ") needs the attribute \"", attribute.name, "\".");
    const bool in_range =
        value >= attribute.low && value <= attribute.high && (attribute.real || value == std::floor(value));
    LGD_CHECK(!given || in_range, "BAD_MODEL", "node ", from.name, " (", from.op, "): ", attribute.name, " is ", value,
              ". Allowed: ", attribute.whole ? "a whole number from " : "a number from ", attribute.low, " to ",
              attribute.high, ".");
    if (attribute.whole) node.*attribute.whole = int(value);
    else node.*attribute.real = float(value);
  }
  LGD_CHECK(node.same == 0 || node.padding == 0, "BAD_MODEL", "node ", from.name, " (", from.op, "): padding is ",
            node.padding, ". Allowed: 0 beside \"same\".");
  if (node.op == OpKind::max_pool || node.op == OpKind::avg_pool) {
    if (node.stride == 0) node.stride = node.kernel;
    LGD_CHECK(node.op == OpKind::max_pool || node.stride == node.kernel, "BAD_MODEL", "node ", from.name,
              " (avgPool): stride is ", node.stride, ". Allowed: the kernel size, ", node.kernel, ".");
    LGD_CHECK(2 * node.padding <= node.kernel, "BAD_MODEL", "node ", from.name, " (", from.op, "): padding is ",
              node.padding, ". Allowed: at most half of the kernel size ", node.kernel, ".");
  }
}

void read_labels(const GraphNode& from, const OpRule& rule, Node& node) {
  for (const auto& [name, value] : from.labels) {
    LGD_CHECK(rule.has_kind && name == "kind", "BAD_MODEL", "node ", from.name, " (", from.op,
              ") has the unknown label \"", name, "\".");
    for (const auto& [kind, act] : activation_kinds)
      if (value == kind) node.act = act;
    LGD_CHECK(node.act != Act::none, "BAD_MODEL", "node ", from.name, " has the unknown activation \"", value,
              "\". Allowed: ", listed(activation_kinds, [](const auto& entry) { return entry.first; }), ".");
  }
  LGD_CHECK(!rule.has_kind || node.act != Act::none, "BAD_MODEL", "node ", from.name,
            " (activation) needs the label \"kind\".");
}

using NameTable = std::unordered_map<std::string, int>;

NameTable index_parameters(const GraphSpec& spec) {
  NameTable index;
  for (size_t i = 0; i < spec.parameters.size(); ++i) {
    const GraphParameter& parameter = spec.parameters[i];
    LGD_CHECK(index.emplace(parameter.name, int(i)).second, "BAD_MODEL", "parameter ", parameter.name,
              " is listed twice.");
    for (const int64_t size : parameter.shape)
      LGD_CHECK(size >= 1 && size <= (int64_t(1) << 30), "BAD_MODEL", "parameter ", parameter.name, " has a size of ",
                size, ".");
  }
  return index;
}

Node parse_node(const GraphSpec& spec, const GraphNode& from, int values, const NameTable& names,
                std::vector<bool>& parameter_used) {
  const OpRule& rule = rule_of(from);
  Node node;
  node.op = rule.op;
  node.name = from.name;
  LGD_CHECK(from.inputs.size() == rule.inputs, "BAD_MODEL", "node ", from.name, " (", from.op, ") has ",
            from.inputs.size(), " inputs. Allowed: ", rule.inputs, ".");
  for (const int input : from.inputs)
    LGD_CHECK(input >= 0 && input < values, "BAD_MODEL", "node ", from.name, " reads value ", input,
              ". Allowed: values made before it, 0 to ", values - 1, ".");
  node.inputs = from.inputs;
  LGD_CHECK(from.parameters.size() >= rule.least_parameters && from.parameters.size() <= rule.most_parameters,
            "BAD_MODEL", "node ", from.name, " (", from.op, ") has ", from.parameters.size(),
            " parameters. Allowed: ", rule.least_parameters, " to ", rule.most_parameters, ".");
  for (const std::string& name : from.parameters) {
    const auto found = names.find(name);
    LGD_CHECK(found != names.end(), "BAD_MODEL", "node ", from.name, " names the parameter ", name,
              ", which the graph does not list.");
    const bool buffer = node.op == OpKind::batch_norm && node.parameters.size() >= norm_mean;
    LGD_CHECK(spec.parameters[size_t(found->second)].trainable != buffer, "BAD_MODEL", "parameter ", name, " of node ",
              from.name, " is ",
              buffer ? "trainable. Running statistics are buffers."
                     : "a buffer. Only running statistics are; for frozen weights use a forward-only plan.");
    node.parameters.push_back(found->second);
    parameter_used[size_t(found->second)] = true;
  }
  read_attributes(from, rule, node);
  read_labels(from, rule, node);
  return node;
}

}  // namespace

Graph parse_graph(const GraphSpec& spec) {
  LGD_CHECK(!spec.nodes.empty(), "BAD_MODEL", "graph ", spec.name, " has no nodes.");
  Graph graph;
  graph.name = spec.name;
  graph.parameters = spec.parameters;
  graph.outputs = spec.outputs;
  const NameTable names = index_parameters(spec);
  std::vector<bool> parameter_used(spec.parameters.size()), value_used(spec.nodes.size() + 1);
  for (size_t i = 0; i < spec.nodes.size(); ++i) {
    graph.nodes.push_back(parse_node(spec, spec.nodes[i], int(i) + 1, names, parameter_used));
    for (const int input : graph.nodes.back().inputs) value_used[size_t(input)] = true;
  }
  LGD_CHECK(!graph.outputs.empty(), "BAD_MODEL", "graph ", spec.name, " has no output.");
  for (size_t i = 0; i < graph.outputs.size(); ++i) {
    const int output = graph.outputs[i];
    LGD_CHECK(output >= 1 && output <= int(graph.nodes.size()), "BAD_MODEL", "graph ", spec.name,
              ": the output is value ", output, ". Allowed: 1 to ", graph.nodes.size(), ".");
    LGD_CHECK(std::find(graph.outputs.begin(), graph.outputs.begin() + int64_t(i), output) ==
                  graph.outputs.begin() + int64_t(i),
              "BAD_MODEL", "graph ", spec.name, " gives value ", output, " twice.");
    value_used[size_t(output)] = true;
  }
  for (size_t i = 0; i < graph.nodes.size(); ++i)
    LGD_CHECK(value_used[i + 1], "BAD_MODEL", "nothing uses what node ", graph.nodes[i].name, " makes.");
  for (size_t i = 0; i < parameter_used.size(); ++i)
    LGD_CHECK(parameter_used[i], "BAD_MODEL", "no node uses the parameter ", spec.parameters[i].name, ".");
  return graph;
}

}  // namespace lgd
