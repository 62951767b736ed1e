// PTX as nvcc writes it, decoded for run.cpp: for each kernel its parameters, its shared variables and its
// instructions, whose operands are arrays of 32 values, one a lane. What an instruction does stands in arithmetic.cpp,
// memory.cpp, matrices.cpp and warpgroups.cpp.
#pragma once
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "descriptor.h"

namespace lgd::emulation::ptx {

constexpr int lanes = 32;
constexpr uint32_t all_lanes = ~0u;

// Where the values of an operand lie: among a warp's registers or a kernel's constants. A predicate is one word with a
// bit for each lane.
struct Operand {
  uint32_t at = 0;
  int32_t offset = 0;  // of an address in brackets
  uint8_t width = 0;   // bytes of a value; 0: a predicate
  bool constant = false;
};

struct Warp;
struct Instruction;
using Run = void (*)(Warp& warp, const Instruction& instruction, uint32_t active);
// together: all lanes of a warp must meet at it.
enum class Kind : uint8_t { ordinary, together, branch, barrier, end };
// What executes it, for counting.
enum class Unit : uint8_t { nothing, float32, integer, special, float64, memory, tensor, control };
constexpr size_t units = 8;
constexpr const char* unit_names[units] = {"nothing", "float32", "integer", "special",
                                           "float64", "memory",  "tensor",  "control"};

struct Operation {
  Run run = nullptr;
  std::vector<uint8_t> widths;  // of the operands, in order
  Unit unit = Unit::integer;
  float slots = 1;  // of issue that it takes as machine code, about
  Kind kind = Kind::ordinary;
  std::string name;
  bool unordered = false;  // load_unordered() and store_unordered() of core/cuda_device.cuh
};

struct Instruction {
  const Operation* operation = nullptr;
  Run run = nullptr;
  Kind kind = Kind::ordinary;
  uint8_t count = 0;  // of operands; memory: of the vector
  bool guarded = false, negated = false;
  uint32_t target = 0, line = 0;
  int place = 0;  // where in the source: see Kernel
  Operand guard;
  const Operand* operands = nullptr;  // among the kernel's

  const std::string& name() const { return operation->name; }
};

// A line of the source, and the one that it was inlined into; file 0: unknown.
struct Place {
  int file = 0, line = 0, outer_file = 0, outer_line = 0;
};

struct Kernel {
  std::string symbol;
  std::vector<std::pair<uint32_t, uint32_t>> parameters;  // offset and bytes of each
  std::vector<Instruction> code;
  std::vector<Operand> operands;  // of all instructions
  std::vector<char> constants;
  uint32_t register_bytes = 0;
  // of a block, by __launch_bounds__; without, whatever registers it takes, 255 a thread at most
  uint32_t most_threads = 256;
  // of its own variables, which lie before what a launch asks for
  uint32_t shared_bytes = 0;
  uint32_t dynamic_at = 0;
  Operand thread[3], block[3], block_size[3], grid_size[3], lane;  // width 0: not read
  std::string path;
  std::vector<Place> places;
  std::map<int, std::string> files;  // names by number

  // "bank_update.cu:12 < bank_update.cu:120"; line of the PTX where it does not say
  std::string place_of(const Instruction& instruction) const;
};

// A file of kernels, each read when it is asked for: a process runs few of them, and to read all took it up to a
// second. Throws DEVICE_ERROR with file and line for what it does not know.
class Module {
 public:
  explicit Module(const std::string& path);
  Module(Module&&);
  ~Module();
  std::vector<std::string> symbols() const;
  Kernel kernel(const std::string& symbol);

 private:
  class Reader;
  std::unique_ptr<Reader> reader_;
};

// The operation of a name and the shape of its operands ("mov.b64" with {%r1, %r2} last is "mov.b64 pack"); null:
// unknown.
const Operation* find_operation(std::string_view name);
// Loads and stores, by the widths of their registers and addresses.
const Operation* find_memory_operation(std::string_view name, int width, int address_width, int& count);

}  // namespace lgd::emulation::ptx
