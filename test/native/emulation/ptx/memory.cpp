// What PTX loads, stores and copies. Shared accesses stay within what the block has, global ones within an allocation;
// every access is a multiple of its size.
#include <bit>

#include "core/cuda_device.cuh"
#include "streams.h"
#include "watch.h"

#pragma GCC optimize("O3")

namespace lgd::emulation::ptx {

void Warp::refuse_shared(uint32_t at, uint32_t bytes) const {
  LGD_CHECK(uint64_t(at) + bytes <= block->shared_bytes, "DEVICE_ERROR", "an access of ", bytes, " bytes at ",
            int32_t(at), " of ", block->shared_bytes, " bytes of shared memory");
  throw Error("DEVICE_ERROR", "a misaligned access of " + std::to_string(bytes) + " bytes of shared memory");
}
void Warp::refuse_global(uint32_t bytes) {
  throw Error("DEVICE_ERROR", "a misaligned access of " + std::to_string(bytes) + " bytes of global memory");
}
// Nor may they be ordinary host memory, which works here and is out of a GPU's reach.
void Warp::find_global(uint64_t address, uint32_t bytes) {
  Found here{};
  if (auto next = allocations.upper_bound(address); next != allocations.begin()) {
    --next;
    here = {next->first, next->second.bytes};
  }
  LGD_CHECK(address - here.first < here.bytes && here.bytes - (address - here.first) >= bytes, "DEVICE_ERROR",
            "an access of ", bytes, " bytes of global memory that are no allocation's");
  found[address >> 16 & (most_found - 1)] = here;
}
void Warp::forget_global() { std::fill_n(found, most_found, Found{}); }

namespace {

enum class Space { parameters, shared, global };

// Memory of `bytes` bytes that a lane's address is of.
template <Space space>
char* place(const Warp& warp, uint64_t address, uint32_t bytes) {
  if constexpr (space == Space::shared) return warp.shared(uint32_t(address), bytes);
  else if constexpr (space == Space::global) return Warp::global(address, bytes);
  else return const_cast<char*>(warp.block->parameters) + address;
}

// Tells who watches. Parameters are nobody's.
template <Space space, class A>
void watch(Warp& warp, const Instruction& in, uint32_t active, const A* addresses, int32_t offset, uint32_t bytes,
           bool writes) {
  if constexpr (space != Space::parameters) {
    Access access{&in, space == Space::shared, writes, active, bytes, {}};
    for (uint32_t left = active; left; left &= left - 1) {
      const int lane = std::countr_zero(left);
      access.addresses[lane] = place<space>(warp, addresses[lane] + int64_t(offset), bytes);
    }
    warp.watcher->use(warp, access);
  }
}

// T: in memory; R: a register; A: an address.
template <Space space, class T, class R, class A>
void load(Warp& warp, const Instruction& in, uint32_t active) {
  const A* const addresses = warp.at<A>(in.operands[0]);
  const int count = in.count;
  if (warp.watcher) [[unlikely]]
    watch<space>(warp, in, active, addresses, in.operands[0].offset, uint32_t(count * sizeof(T)), false);
  R* to[4];
  for (int i = 0; i < count; ++i) to[i] = warp.at<R>(in.operands[i + 1]);
  if (count == 1) {
    for (; active; active &= active - 1) {
      const int lane = std::countr_zero(active);
      T value;
      std::memcpy(&value, place<space>(warp, addresses[lane] + int64_t(in.operands[0].offset), sizeof(T)), sizeof(T));
      to[0][lane] = R(value);
    }
    return;
  }
  for (; active; active &= active - 1) {
    const int lane = std::countr_zero(active);
    const char* const from =
        place<space>(warp, addresses[lane] + int64_t(in.operands[0].offset), uint32_t(count * sizeof(T)));
    for (int i = 0; i < count; ++i) {
      T value;
      std::memcpy(&value, from + i * sizeof(T), sizeof(T));
      to[i][lane] = R(value);
    }
  }
}
template <Space space, class T, class R, class A>
void store(Warp& warp, const Instruction& in, uint32_t active) {
  const A* const addresses = warp.at<A>(in.operands[0]);
  const int count = in.count;
  if (warp.watcher) [[unlikely]]
    watch<space>(warp, in, active, addresses, in.operands[0].offset, uint32_t(count * sizeof(T)), true);
  if constexpr (space == Space::shared) warp.unfenced = true;
  const R* from[4];
  for (int i = 0; i < count; ++i) from[i] = warp.at<R>(in.operands[i + 1]);
  for (; active; active &= active - 1) {
    const int lane = std::countr_zero(active);
    char* const to = place<space>(warp, addresses[lane] + int64_t(in.operands[0].offset), uint32_t(count * sizeof(T)));
    for (int i = 0; i < count; ++i) {
      const T value = T(from[i][lane]);
      std::memcpy(to + i * sizeof(T), &value, sizeof(T));
    }
  }
}

template <Space space, class T, class R>
Run run_of(bool loads) {
  using Address = std::conditional_t<space == Space::shared, uint32_t, uint64_t>;
  return loads ? &load<space, T, R, Address> : &store<space, T, R, Address>;
}
template <Space space>
Run run_of(bool loads, std::string_view type, int width) {
  const bool is_signed = type[0] == 's';
  switch (std::atoi(std::string(type.substr(1)).c_str()) * 10 + width) {
    case 82: return is_signed ? run_of<space, int8_t, int16_t>(loads) : run_of<space, uint8_t, uint16_t>(loads);
    case 84: return is_signed ? run_of<space, int8_t, int32_t>(loads) : run_of<space, uint8_t, uint32_t>(loads);
    case 162: return run_of<space, uint16_t, uint16_t>(loads);
    case 164: return is_signed ? run_of<space, int16_t, int32_t>(loads) : run_of<space, uint16_t, uint32_t>(loads);
    case 324: return run_of<space, uint32_t, uint32_t>(loads);
    case 328: return is_signed ? run_of<space, int32_t, int64_t>(loads) : run_of<space, uint32_t, uint64_t>(loads);
    case 648: return run_of<space, uint64_t, uint64_t>(loads);
    default: return nullptr;
  }
}

// cp.async.ca or .cg.shared.global [to], [from], 16, bytes to read; the rest are zeros.
void issue_copy(Warp& warp, const Instruction& in, uint32_t active) {
  const uint32_t *const to = warp.at<uint32_t>(in.operands[0]), *const bytes = warp.at<uint32_t>(in.operands[3]);
  const uint64_t* const from = warp.at<uint64_t>(in.operands[1]);
  for (; active; active &= active - 1) {
    const int lane = std::countr_zero(active);
    LGD_CHECK(bytes[lane] == 0 || bytes[lane] == 16, "DEVICE_ERROR", "an asynchronous copy of ", bytes[lane], " bytes");
    warp.shared(to[lane], 16);
    warp.copies.push_back(
        {&in, to[lane], uint32_t(lane), bytes[lane] ? Warp::global(from[lane], 16) : nullptr, warp.block->epoch});
  }
}
void commit_copies(Warp& warp, const Instruction&, uint32_t) { warp.copy_groups.push_back(warp.copies.size()); }
// Of the first copies that are under way: those of an instruction together.
void watch_copies(Warp& warp, size_t end) {
  for (size_t first = 0, next; first < end; first = next) {
    Access to{warp.copies[first].instruction, true, true, 0, 16, {}, false, warp.copies[first].epoch},
        from{to.instruction, false, false, 0, 16, {}};
    for (next = first; next < end && warp.copies[next].instruction == to.instruction &&
                       (next == first || warp.copies[next].lane > warp.copies[next - 1].lane);
         ++next) {
      const Warp::Copy& copy = warp.copies[next];
      to.active |= 1u << copy.lane;
      to.addresses[copy.lane] = warp.shared(copy.to, 16);
      if (copy.from) from.active |= 1u << copy.lane;
      from.addresses[copy.lane] = copy.from;
    }
    warp.watcher->use(warp, to);
    if (from.active) warp.watcher->use(warp, from);
  }
}
// Copies happen at the wait, so that a missing one shows.
void wait_for_copies(Warp& warp, const Instruction& in, uint32_t) {
  const size_t pending = *warp.at<uint32_t>(in.operands[0]);
  if (warp.copy_groups.size() <= pending) return;
  const size_t over = warp.copy_groups.size() - pending, end = warp.copy_groups[over - 1];
  if (warp.watcher) [[unlikely]]
    watch_copies(warp, end);
  for (size_t i = 0; i < end; ++i) {
    const Warp::Copy& copy = warp.copies[i];
    char* const to = warp.shared(copy.to, 16);
    if (copy.from) std::memcpy(to, copy.from, 16);
    else std::memset(to, 0, 16);
  }
  warp.unfenced |= end > 0;
  warp.copies.erase(warp.copies.begin(), warp.copies.begin() + std::ptrdiff_t(end));
  warp.copy_groups.erase(warp.copy_groups.begin(), warp.copy_groups.begin() + std::ptrdiff_t(over));
  for (size_t& group : warp.copy_groups) group -= end;
}

// prefetch.global.L2 [from]: of far_piece bytes, half a line, as if no more came.
void prefetch(Warp& warp, const Instruction& in, uint32_t active) {
  for (uint32_t left = active; left; left &= left - 1) {
    const int lane = std::countr_zero(left);
    const uint64_t address = warp.at<uint64_t>(in.operands[0])[lane] + uint64_t(int64_t(in.operands[0].offset));
    (void)*Warp::global(address, 1);
    if (!warp.watcher) continue;
    Access access{&in, false, false, 1u << lane, far_piece, {}, true};
    // the rest of the piece may be no allocation's: it is fetched, not read
    access.addresses[lane] = reinterpret_cast<char*>(address / far_piece * far_piece);
    warp.watcher->use(warp, access);
  }
}

void to_shared(Warp& warp, const Instruction& in, uint32_t active) {
  uint64_t* const to = warp.at<uint64_t>(in.operands[0]);
  const uint64_t* const from = warp.at<uint64_t>(in.operands[1]);
  for (int lane = 0; lane < lanes; ++lane)
    if (active >> lane & 1)
      to[lane] = from[lane] - reinterpret_cast<uintptr_t>(warp.block->shared) + first_shared_address;
}
void from_shared(Warp& warp, const Instruction& in, uint32_t active) {
  uint64_t* const to = warp.at<uint64_t>(in.operands[0]);
  const uint64_t* const from = warp.at<uint64_t>(in.operands[1]);
  for (int lane = 0; lane < lanes; ++lane)
    if (active >> lane & 1)
      to[lane] = from[lane] - first_shared_address + reinterpret_cast<uintptr_t>(warp.block->shared);
}
void move_address(Warp& warp, const Instruction& in, uint32_t active) {
  uint64_t* const to = warp.at<uint64_t>(in.operands[0]);
  const uint64_t* const from = warp.at<uint64_t>(in.operands[1]);
  for (int lane = 0; lane < lanes; ++lane)
    if (active >> lane & 1) to[lane] = from[lane];
}

}  // namespace

// "ld.global.nc.v4.f32": a space, a vector, a type, and words on caches and order that change no value.
const Operation* find_memory_operation(std::string_view name, int width, int address_width, int& count) {
  static auto& known = *new std::map<std::string, Operation>;
  const std::string key = std::string(name) + " " + std::to_string(width);
  count = name.find(".v4.") != std::string_view::npos ? 4 : name.find(".v2.") != std::string_view::npos ? 2 : 1;
  auto found = known.find(key);
  if (found == known.end()) {
    const bool loads = name[0] == 'l';
    const std::string_view type = name.substr(name.rfind('.') + 1);
    const bool in_parameters = name.find(".param.") != std::string_view::npos,
               in_shared = name.find(".shared.") != std::string_view::npos;
    const bool in_global = name.find(".global.") != std::string_view::npos;
    if (address_width != (in_shared ? 4 : 8) || (in_parameters && !loads)) return nullptr;
    const Run run = in_parameters ? run_of<Space::parameters>(true, type, width)
                    : in_shared   ? run_of<Space::shared>(loads, type, width)
                    : in_global   ? run_of<Space::global>(loads, type, width)
                                  : nullptr;
    if (!run) return nullptr;
    const bool unordered = name.find(loads ? ".cg." : ".volatile.") != std::string_view::npos;
    Operation made{run,
                   {},
                   in_parameters ? Unit::nothing : Unit::memory,
                   in_parameters ? 0.f : 1.f,
                   Kind::ordinary,
                   std::string(name),
                   unordered};
    found = known.emplace(key, std::move(made)).first;
  }
  return &found->second;
}

void add_memory(Operations& all) {
  all["cp.async.ca.shared.global"] = all["cp.async.cg.shared.global"] = {&issue_copy, {4, 8, 4, 4}, Unit::memory, 1};
  all["prefetch.global.L2"] = {&prefetch, {8}, Unit::memory, 1};
  all["cp.async.commit_group"] = {&commit_copies, {}, Unit::control, 1, Kind::together};
  all["cp.async.wait_group"] = {&wait_for_copies, {4}, Unit::control, 1, Kind::together};
  all["cvta.to.global.u64"] = {&move_address, {8, 8}, Unit::nothing, 0};
  all["cvta.to.shared.u64"] = {&to_shared, {8, 8}, Unit::nothing, 0};
  all["cvta.shared.u64"] = {&from_shared, {8, 8}, Unit::nothing, 0};
}

}  // namespace lgd::emulation::ptx
