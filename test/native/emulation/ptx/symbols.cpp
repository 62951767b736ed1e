#include "symbols.h"

#include <cxxabi.h>
#include <dlfcn.h>
#include <elf.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <unordered_map>
#include <vector>

#include "core/error.h"

namespace lgd::emulation::ptx {

namespace {

// Symbols of functions by address in an ELF file; `positioned`: addresses are where it lies in memory.
struct Table {
  bool positioned = false;
  std::unordered_map<uint64_t, std::string> names;
};
Table read_table(const char* path) {
  std::ifstream file(path, std::ios::binary);
  const std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
  const auto at = [&]<class T>(uint64_t offset, T) {
    LGD_CHECK(offset + sizeof(T) <= bytes.size(), "DEVICE_ERROR", path, " is cut short");
    T value;
    std::memcpy(&value, bytes.data() + offset, sizeof(T));
    return value;
  };
  Table table;
  const auto header = at(0, Elf64_Ehdr{});
  table.positioned = header.e_type == ET_EXEC;
  for (int i = 0; i < header.e_shnum; ++i) {
    const auto section = at(header.e_shoff + uint64_t(i) * header.e_shentsize, Elf64_Shdr{});
    if (section.sh_type != SHT_SYMTAB) continue;
    const auto strings = at(header.e_shoff + uint64_t(section.sh_link) * header.e_shentsize, Elf64_Shdr{});
    for (uint64_t offset = 0; offset < section.sh_size; offset += sizeof(Elf64_Sym)) {
      const auto symbol = at(section.sh_offset + offset, Elf64_Sym{});
      if (ELF64_ST_TYPE(symbol.st_info) == STT_FUNC && symbol.st_value)
        table.names.emplace(symbol.st_value, bytes.data() + strings.sh_offset + symbol.st_name);
    }
  }
  return table;
}

}  // namespace

std::string demangled(const std::string& symbol) {
  int status = 0;
  const std::unique_ptr<char, void (*)(void*)> name(abi::__cxa_demangle(symbol.c_str(), nullptr, nullptr, &status),
                                                    std::free);
  return status == 0 ? name.get() : symbol;
}

std::string name_of(const void* function) {
  static auto& tables = *new std::map<std::string, Table>;
  Dl_info module{};
  LGD_CHECK(dladdr(function, &module), "DEVICE_ERROR", "a kernel that no file was loaded with");
  auto found = tables.find(module.dli_fname);
  if (found == tables.end()) found = tables.emplace(module.dli_fname, read_table(module.dli_fname)).first;
  const uint64_t address = reinterpret_cast<uintptr_t>(function) -
                           (found->second.positioned ? 0 : reinterpret_cast<uintptr_t>(module.dli_fbase));
  const auto name = found->second.names.find(address);
  LGD_CHECK(name != found->second.names.end(), "DEVICE_ERROR", module.dli_fname,
            " has no symbol of a kernel: was it stripped?");
  return demangled(name->second);
}

}  // namespace lgd::emulation::ptx
