// A warp of 32 lanes that runs PTX: its registers and what it has under way.
#pragma once
#include <cstring>

#include "module.h"

namespace lgd::emulation::ptx {

// The memory of a block, at shared addresses from first_shared_address on.
struct Block {
  const Kernel* kernel;
  const char* parameters;
  char* shared;
  uint32_t shared_bytes;
  int64_t epoch = 0;      // barriers so far
  bool unfenced = false;  // a warp came to the last of them with what Warp::unfenced says
};

struct Watcher;
struct Warp {
  int number = 0;              // in its block
  Watcher* watcher = nullptr;  // null: nobody watches
  char* registers;
  const char* constants;
  Block* block;
  const Instruction* current = nullptr;

  struct Copy {
    const Instruction* instruction;
    uint32_t to, lane;
    const char* from;  // null: zeros
    int64_t epoch;     // of the block, when it was issued
  };
  std::vector<Copy> copies;         // that were issued and not carried out
  std::vector<size_t> copy_groups;  // where each committed group of them ends

  const Instruction* products[64];  // of the warpgroup, not waited for
  int product_count = 0, committed = 0;
  // unfenced: stores to shared memory or copies that ended, which no fence followed
  bool begun = false, unfenced = false;

  template <class T>
  T* at(const Operand& operand) const {
    return reinterpret_cast<T*>((operand.constant ? const_cast<char*>(constants) : registers) + operand.at);
  }
  uint32_t& predicate(const Operand& operand) const { return *at<uint32_t>(operand); }

  // `bytes`: a power of two.
  char* shared(uint32_t address, uint32_t bytes) const {
    const uint32_t at = address - first_shared_address;
    if (uint64_t(at) + bytes > block->shared_bytes || at & (bytes - 1)) [[unlikely]]
      refuse_shared(at, bytes);
    return block->shared + at;
  }
  static char* global(uint64_t address, uint32_t bytes) {
    if (address & (bytes - 1)) [[unlikely]]
      refuse_global(bytes);
    const Found& near = found[address >> 16 & (most_found - 1)];
    if (address - near.first >= near.bytes || near.bytes - (address - near.first) < bytes) [[unlikely]]
      find_global(address, bytes);
    return reinterpret_cast<char*>(address);
  }
  static void forget_global();  // before a kernel, as memory may have come and gone

 private:
  // Allocations that accesses were of, by address. One kernel runs at a time.
  struct Found {
    uint64_t first, bytes;
  };
  static constexpr size_t most_found = 64;
  static inline Found found[most_found];

  static void find_global(uint64_t address, uint32_t bytes);  // throws where they are no allocation's
  [[noreturn]] void refuse_shared(uint32_t at, uint32_t bytes) const;
  [[noreturn]] static void refuse_global(uint32_t bytes);
};

// The operations by name; each file adds its own.
using Operations = std::map<std::string, Operation, std::less<>>;
void add_arithmetic(Operations& all);
void add_memory(Operations& all);
void add_matrices(Operations& all);
void add_warpgroups(Operations& all);

}  // namespace lgd::emulation::ptx
