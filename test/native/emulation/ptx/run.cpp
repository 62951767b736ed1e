#include "run.h"

#include <algorithm>
#include <bit>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <filesystem>
#include <limits>
#include <random>
#include <unordered_map>

#include "symbols.h"
#include "watch.h"

namespace lgd::emulation::ptx {

const Operation* find_operation(std::string_view name) {
  static const Operations& all = *[] {
    Operations& made = *new Operations;
    add_arithmetic(made);
    add_memory(made);
    add_matrices(made);
    add_warpgroups(made);
    for (auto& [name, operation] : made) operation.name = name;
    return &made;
  }();
  const auto found = all.find(name);
  return found == all.end() ? nullptr : &found->second;
}

namespace {

// Lanes of a warp that stand at the same instruction. The one that is furthest behind runs, so that they meet again
// where their ways do.
struct Group {
  uint32_t at, lanes;
  bool waits = false;  // at an instruction of all lanes, for the others
};
enum class State { runs, waits, ended };

struct RunningWarp : Warp {
  std::vector<char> file;
  std::vector<Group> groups;
  uint32_t live = 0;
  State state = State::runs;
};

struct Running {
  const Kernel& kernel;
  const Launch& launch;
  std::vector<int64_t> executed;  // of each instruction, by warps
  Watcher* watcher;
};

void place(RunningWarp& warp, uint32_t at, uint32_t which) {
  auto next = warp.groups.begin();
  while (next != warp.groups.end() && next->at < at) ++next;
  if (next != warp.groups.end() && next->at == at) {
    next->lanes |= which;
    next->waits = false;
  } else {
    warp.groups.insert(next, {at, which});
  }
}

// Until all its lanes wait for the block or have ended.
void run_warp(Running& running, RunningWarp& warp) {
  const Instruction* const code = running.kernel.code.data();
  const bool notes = running.watcher && running.watcher->notes;
  for (;;) {
    if (warp.groups.empty()) {
      LGD_CHECK(warp.copies.empty(), "DEVICE_ERROR",
                "a warp ended with copies to shared memory that it did not wait for");
      LGD_CHECK(warp.product_count == 0, "DEVICE_ERROR",
                "a warp ended with products of its warpgroup that it did not wait for");
      warp.state = State::ended;
      return;
    }
    const auto ready =
        std::find_if(warp.groups.begin(), warp.groups.end(), [](const Group& group) { return !group.waits; });
    if (ready == warp.groups.end()) {
      warp.current = code + warp.groups.front().at;
      throw Error("DEVICE_ERROR", "an instruction of all lanes that some do not reach");
    }
    uint32_t at = ready->at;
    const uint32_t active = ready->lanes;
    const auto other = warp.groups.erase(ready);
    const uint32_t stop = other == warp.groups.end() ? std::numeric_limits<uint32_t>::max() : other->at;
    for (bool together = true; together;) {
      const Instruction& in = code[at];
      warp.current = &in;
      if (notes && (in.kind < Kind::together || in.kind > Kind::barrier || active == warp.live)) [[unlikely]]
        running.watcher->note(warp, in, active);
      switch (in.kind) {
        case Kind::ordinary:
          in.run(warp, in, active);
          ++running.executed[at++];
          together = at < stop;
          break;
        case Kind::together:
        case Kind::barrier:
          if (active != warp.live) {
            place(warp, at, active);
            std::find_if(warp.groups.begin(), warp.groups.end(), [&](const Group& group) {
              return group.at == at;
            })->waits = true;
            together = false;
            continue;
          }
          in.run(warp, in, active);
          ++running.executed[at++];
          if (in.kind == Kind::barrier) {
            place(warp, at, active);
            warp.state = State::waits;
            return;
          }
          break;
        case Kind::branch: {
          ++running.executed[at];
          uint32_t taken = active;
          if (in.guarded) taken &= in.negated ? ~warp.predicate(in.guard) : warp.predicate(in.guard);
          if (taken == 0) {
            together = ++at < stop;
          } else if (taken == active) {
            at = in.target;
            together = warp.groups.empty();
          } else {
            place(warp, in.target, taken);
            place(warp, at + 1, active & ~taken);
            at = std::numeric_limits<uint32_t>::max();
            together = false;
          }
          break;
        }
        case Kind::end:
          ++running.executed[at];
          warp.live &= ~active;
          for (Group& group : warp.groups) group.waits = false;
          at = std::numeric_limits<uint32_t>::max();
          together = false;
          break;
      }
      if (!together && at != std::numeric_limits<uint32_t>::max()) place(warp, at, active);
    }
  }
}

void fill(const Warp& warp, const Operand& operand, uint32_t value) {
  if (operand.width) std::fill_n(warp.at<uint32_t>(operand), lanes, value);
}

void prepare_warp(const Running& running, RunningWarp& warp, Block& block, int number, dim3 index) {
  const Kernel& kernel = running.kernel;
  const Extent size = running.launch.block, grid = running.launch.grid;
  const int threads = int(size.x * size.y * size.z);
  warp.file.resize(kernel.register_bytes + 64);
  std::memset(warp.file.data(), 0xff, warp.file.size());
  warp.registers = reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(warp.file.data()) + 63) / 64 * 64);
  warp.constants = kernel.constants.data();
  warp.block = &block;
  warp.number = number;
  warp.watcher = running.watcher;
  warp.copies.clear();
  warp.copy_groups.clear();
  warp.product_count = warp.committed = 0;
  warp.begun = warp.unfenced = false;
  const int here = std::min(lanes, threads - number * lanes);
  warp.live = here == lanes ? all_lanes : (1u << here) - 1;
  warp.groups = {{0, warp.live}};
  warp.state = State::runs;
  for (int lane = 0; lane < lanes; ++lane) {
    const unsigned thread = unsigned(number * lanes + lane);
    const unsigned at[3] = {thread % size.x, thread / size.x % size.y, thread / (size.x * size.y)};
    for (int axis = 0; axis < 3; ++axis)
      if (kernel.thread[axis].width) warp.at<uint32_t>(kernel.thread[axis])[lane] = at[axis];
    if (kernel.lane.width) warp.at<uint32_t>(kernel.lane)[lane] = uint32_t(lane);
  }
  const unsigned where[3] = {index.x, index.y, index.z}, sizes[3] = {size.x, size.y, size.z},
                 grids[3] = {grid.x, grid.y, grid.z};
  for (int axis = 0; axis < 3; ++axis) {
    fill(warp, kernel.block[axis], where[axis]);
    fill(warp, kernel.block_size[axis], sizes[axis]);
    fill(warp, kernel.grid_size[axis], grids[axis]);
  }
}

void run_block(Running& running, Block& block, std::vector<RunningWarp>& warps, std::vector<int>& sequence, Order how,
               std::mt19937& random) {
  for (size_t ended = 0; ended < warps.size();) {
    if (how == Order::random) std::shuffle(sequence.begin(), sequence.end(), random);
    for (const int number : sequence) {
      RunningWarp& warp = warps[number];
      if (warp.state == State::ended) continue;
      warp.state = State::runs;
      try {
        run_warp(running, warp);
      } catch (const Error& error) {
        throw Error(error.code, std::string(running.launch.name) + ", " + running.kernel.place_of(*warp.current) +
                                    ": " + error.what());
      }
      ended += warp.state == State::ended;
    }
    ++block.epoch;
    block.unfenced = std::any_of(warps.begin(), warps.end(), [](const RunningWarp& warp) { return warp.unfenced; });
    if (running.watcher) running.watcher->block_barrier();
  }
}

bool is_set(const char* variable) {
  const char* const text = std::getenv(variable);
  return text && *text;
}

// Null: nobody watches.
Watcher* watcher() {
  static Watcher* const one = [] {
    const char* const counts = "LGDISTILL_EMULATION_COUNTS";
    return (is_set(counts)                        ? count_into(std::getenv(counts))
            : is_set("LGDISTILL_EMULATION_RACES") ? watch_for_races()
                                                  : nullptr)
        .release();
  }();
  return one;
}

struct Found {
  Module* module;
  std::string symbol;
};
// Every kernel there is PTX of, by its demangled name.
const std::unordered_map<std::string, Found>& all_kernels() {
  static auto& modules = *new std::deque<Module>;
  static const auto& all = *[] {
    auto& made = *new std::unordered_map<std::string, Found>;
    for (const auto& entry : std::filesystem::directory_iterator(std::getenv("LGDISTILL_EMULATION_PTX"))) {
      if (entry.path().extension() != ".ptx") continue;
      Module& module = modules.emplace_back(entry.path().string());
      for (const std::string& symbol : module.symbols()) {
        // a header's comes with each file that includes it
        const auto [known, is_new] = made.try_emplace(demangled(symbol), Found{&module, symbol});
        LGD_CHECK(is_new || known->second.symbol == symbol, "DEVICE_ERROR", "two kernels of one name in ",
                  std::getenv("LGDISTILL_EMULATION_PTX"), ": ", demangled(symbol));
      }
    }
    return &made;
  }();
  return all;
}

const Kernel& kernel_of(const Launch& launch) {
  static auto& read = *new std::unordered_map<const void*, Kernel>;
  const auto known = read.find(launch.kernel);
  if (known != read.end()) return known->second;
  const std::string name = name_of(launch.kernel);
  const auto found = all_kernels().find(name);
  LGD_CHECK(found != all_kernels().end(), "DEVICE_ERROR", "no PTX of ", launch.name, ": ", name);
  Kernel kernel = found->second.module->kernel(found->second.symbol);
  const auto& parameters = kernel.parameters;
  LGD_CHECK(int(parameters.size()) == launch.parameters->count, "DEVICE_ERROR", name, " has ", parameters.size(),
            " parameters in PTX and ", launch.parameters->count, " here");
  for (size_t i = 0; i < parameters.size(); ++i)
    LGD_CHECK(parameters[i].first == launch.parameters->offsets[i], "DEVICE_ERROR", name, ": parameter ", i,
              " lies at ", parameters[i].first, " in PTX and at ", launch.parameters->offsets[i], " here");
  LGD_CHECK(parameters.back().first + parameters.back().second == launch.parameters->bytes, "DEVICE_ERROR", name,
            ": parameters take ", parameters.back().first + parameters.back().second, " bytes in PTX and ",
            launch.parameters->bytes, " here");
  return read.emplace(launch.kernel, std::move(kernel)).first->second;
}

}  // namespace

bool is_asked_for() {
  static const bool asked = is_set("LGDISTILL_EMULATION_PTX");
  return asked;
}

void run(const Launch& launch, const std::vector<int64_t>& blocks, Order how) {
  Running running{kernel_of(launch), launch, {}, watcher()};
  const Kernel& kernel = running.kernel;
  running.executed.resize(kernel.code.size());
  if (running.watcher) running.watcher->begin_kernel(launch, kernel);
  const unsigned threads = launch.block.x * launch.block.y * launch.block.z;
  LGD_CHECK(threads <= kernel.most_threads, "DEVICE_ERROR", launch.name, " launched with ", threads,
            " threads a block, of which it is compiled for ", kernel.most_threads);
  const size_t shared = kernel.shared_bytes + launch.shared_bytes, most_shared = most_shared_memory(launch.kernel);
  LGD_CHECK(shared <= most_shared, "DEVICE_ERROR", launch.name, " launched with ", launch.shared_bytes,
            " bytes of shared memory beside ", kernel.shared_bytes, " of its own, of which it may have ", most_shared);
  std::vector<RunningWarp> warps((threads + lanes - 1) / lanes);
  std::vector<int> sequence(warps.size());
  for (size_t i = 0; i < sequence.size(); ++i) sequence[i] = int(how == Order::reverse ? sequence.size() - 1 - i : i);
  std::mt19937 random(7);
  Warp::forget_global();
  const uint32_t shared_bytes = kernel.dynamic_at + uint32_t(launch.shared_bytes);
  std::vector<char> memory(shared_bytes + 128);
  Block block{&kernel, launch.arguments,
              reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(memory.data()) + 127) / 128 * 128), shared_bytes};
  for (const int64_t number : blocks) {
    const dim3 index(unsigned(number % launch.grid.x), unsigned(number / launch.grid.x % launch.grid.y),
                     unsigned(number / (int64_t(launch.grid.x) * launch.grid.y)));
    std::memset(block.shared, 0xff, shared_bytes);
    block.epoch = 0;
    block.unfenced = false;
    if (running.watcher) running.watcher->begin_block(block, number);
    for (size_t i = 0; i < warps.size(); ++i) prepare_warp(running, warps[i], block, int(i), index);
    run_block(running, block, warps, sequence, how, random);
  }
  if (running.watcher) running.watcher->end_kernel(launch, kernel, running.executed);
}

}  // namespace lgd::emulation::ptx
