// Puts a stretch of PTX into an order like ptxas's: by the longest way to its end, so that loads start early and what
// needs them waits behind other work.
#include <algorithm>
#include <queue>
#include <unordered_map>

#include "trace.h"

namespace lgd::emulation::ptx {

namespace {

constexpr int short_skip = 16;        // instructions that a guard replaces a branch for, at most
constexpr int assumed_of_load = 200;  // cycles from global memory, in the compiler's eyes

uint32_t register_of(const Operand& operand) { return operand.at / register_stride; }

size_t results_of(const Instruction& in) {
  const std::string& name = in.name();
  if (name.starts_with("mma.") || name.starts_with("ldmatrix.")) return 4;
  if (name.starts_with("shfl.") || name.ends_with(" unpack")) return 2;
  return in.kind == Kind::ordinary || in.kind == Kind::together ? 1 : 0;
}

Needs::Memory memory_of(const std::string& name) {
  using M = Needs::Memory;
  if (name.starts_with("ldmatrix.")) return M::load_shared;
  if (name.starts_with("wgmma.mma")) return M::product;
  if (name.find("prefetch") != std::string::npos) return M::prefetch;
  if (name.starts_with("cp.async.commit")) return M::commit;
  if (name.starts_with("cp.async.c")) return M::copy;
  const bool shared = name.find(".shared.") != std::string::npos, global = name.find(".global.") != std::string::npos;
  if (name.starts_with("ld."))
    return shared                                  ? M::load_shared
           : !global                               ? M::none
           : name.find(".nc") != std::string::npos ? M::load_constant
                                                   : M::load_global;
  if (name.starts_with("st.")) return shared ? M::store_shared : M::store_global;
  return M::none;
}

int latency_of(const Instruction& in, Needs::Memory memory) {
  using M = Needs::Memory;
  if (memory == M::load_shared) return 30;
  if (memory == M::load_global || memory == M::load_constant) return assumed_of_load;
  if (in.name().starts_with("shfl.")) return 25;
  switch (in.operation->unit) {
    case Unit::nothing: return 0;
    case Unit::special: return 20;
    case Unit::tensor: return 33;
    case Unit::float64: return 10;
    default: return in.operation->slots > 1 ? int(4 + 2 * in.operation->slots) : 5;
  }
}

// Cycles of a unit in a quarter of a multiprocessor.
double pipe_of(const Operation& operation) {
  if (operation.name.starts_with("wgmma.")) return operation.unit == Unit::tensor ? operation.slots * 4 / 0.85 : 0;
  switch (operation.unit) {
    case Unit::float32: return 1.0 * operation.slots;
    case Unit::integer: return 4.0 / 3 * operation.slots;
    case Unit::special: return 8;
    case Unit::float64: return 2.0 * operation.slots;
    case Unit::tensor: return 4 / 0.62;
    default: return 0;
  }
}

}  // namespace

std::vector<Needs> needs_of(const Kernel& kernel) {
  std::vector<Needs> all(kernel.code.size());
  for (size_t at = 0; at < all.size(); ++at) {
    const Instruction& in = kernel.code[at];
    Needs& needs = all[at];
    needs.memory = memory_of(in.name());
    needs.slots = needs.memory == Needs::Memory::product ? 1 : in.operation->slots;
    needs.pipe = pipe_of(*in.operation);
    needs.latency = latency_of(in, needs.memory);
    if (in.kind == Kind::branch) {
      needs.skips = in.guarded && in.target > at && in.target - at <= size_t(short_skip);
      needs.ends_stretch = !needs.skips;
      if (in.guarded) needs.from.push_back(register_of(in.guard));
      continue;
    }
    needs.ends_stretch = in.kind == Kind::barrier || in.kind == Kind::end || in.name().starts_with("cp.async.wait") ||
                         in.name().starts_with("wgmma.fence") || in.name().starts_with("wgmma.wait") ||
                         in.name().starts_with("bar.warp");
    const auto add = [&](std::vector<uint32_t>& to, const Operand& operand) {
      if (!operand.constant) to.push_back(register_of(operand));
    };
    const bool loads = in.name().starts_with("ld."), stores = in.name().starts_with("st.");
    const size_t count = loads || stores ? in.count + size_t(1) : in.operation->widths.size();
    const size_t results = needs.memory == Needs::Memory::copy || needs.memory == Needs::Memory::commit ||
                                   needs.memory == Needs::Memory::prefetch || needs.memory == Needs::Memory::product ||
                                   needs.ends_stretch
                               ? 0
                               : results_of(in);
    for (size_t i = 0; i < count; ++i) {
      const bool is_result = loads ? i > 0 : !stores && i < results;
      add(is_result ? needs.to : needs.from, in.operands[i]);
    }
  }
  return all;
}

std::vector<uint16_t> schedule(const std::vector<Needs>& needs, const Event* begin, size_t count) {
  struct Node {
    std::vector<std::pair<uint16_t, int>> after;  // nodes behind, and how many cycles
    int before = 0, longest = 0, ready = 0;
  };
  using M = Needs::Memory;
  std::vector<Node> nodes(count);
  const auto order = [&](int first, size_t second, int cycles) {
    if (first < 0 || size_t(first) == second) return;
    nodes[size_t(first)].after.push_back({uint16_t(second), cycles});
    ++nodes[second].before;
  };
  std::unordered_map<uint32_t, int> written;
  std::unordered_map<uint32_t, std::vector<int>> read;
  int skip = -1;
  // Uses that the next must stay behind: one that writes, and those since that read; of copies, one that ends a group,
  // and those since.
  struct Uses {
    int last = -1;
    std::vector<int> since;
  } shared, global, groups;
  const auto open = [&](Uses& of, size_t i) {
    order(of.last, i, 0);
    of.since.push_back(int(i));
  };
  const auto close = [&](Uses& of, size_t i) {
    order(of.last, i, 0);
    for (const int use : of.since) order(use, i, 0);
    of = {int(i), {}};
  };
  for (size_t i = 0; i < count; ++i) {
    const Needs& of = needs[begin[i].instruction];
    for (const uint32_t reg : of.from) {
      const auto found = written.find(reg);
      if (found != written.end()) order(found->second, i, needs[begin[size_t(found->second)].instruction].latency);
    }
    for (const uint32_t reg : of.to) {
      const auto found = written.find(reg);
      if (found != written.end()) order(found->second, i, 1);
      for (const int reader : read[reg]) order(reader, i, 0);
      read[reg].clear();
    }
    for (const uint32_t reg : of.from) read[reg].push_back(int(i));
    for (const uint32_t reg : of.to) written[reg] = int(i);
    if (of.memory != M::none) order(skip, i, 5);
    switch (of.memory) {
      case M::load_shared: open(shared, i); break;
      case M::store_shared: close(shared, i); break;
      case M::load_global: open(global, i); break;
      case M::store_global: close(global, i); break;
      case M::copy: open(groups, i); break;
      case M::commit: close(groups, i); break;
      default: break;
    }
    if (of.skips) skip = int(i);
    if (of.ends_stretch)
      for (size_t other = 0; other < i; ++other) order(int(other), i, 0);
  }
  for (size_t i = count; i-- > 0;)
    for (const auto& [next, cycles] : nodes[i].after)
      nodes[i].longest = std::max(nodes[i].longest, nodes[next].longest + std::max(cycles, 1));
  // What can start now, by the longest way; what can start later, by when.
  const auto less_urgent = [&](uint16_t a, uint16_t b) {
    return nodes[a].longest != nodes[b].longest ? nodes[a].longest < nodes[b].longest : a > b;
  };
  const auto later = [&](uint16_t a, uint16_t b) {
    return nodes[a].ready != nodes[b].ready ? nodes[a].ready > nodes[b].ready : a > b;
  };
  std::priority_queue<uint16_t, std::vector<uint16_t>, decltype(less_urgent)> now(less_urgent);
  std::priority_queue<uint16_t, std::vector<uint16_t>, decltype(later)> soon(later);
  for (size_t i = 0; i < count; ++i)
    if (nodes[i].before == 0) now.push(uint16_t(i));
  std::vector<uint16_t> result;
  result.reserve(count);
  for (int cycle = 0; result.size() < count;) {
    if (now.empty()) cycle = std::max(cycle, nodes[soon.top()].ready);
    while (!soon.empty() && nodes[soon.top()].ready <= cycle) {
      now.push(soon.top());
      soon.pop();
    }
    const uint16_t at = now.top();
    now.pop();
    result.push_back(at);
    if (needs[begin[at].instruction].slots > 0) ++cycle;
    for (const auto& [next, cycles] : nodes[at].after) {
      nodes[next].ready = std::max(nodes[next].ready, cycle + cycles - 1);
      if (--nodes[next].before == 0) soon.push(next);
    }
  }
  return result;
}

}  // namespace lgd::emulation::ptx
