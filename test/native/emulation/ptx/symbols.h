// Names of kernels, the same for the host's compiler and nvcc's.
#pragma once
#include <string>

namespace lgd::emulation::ptx {

std::string demangled(const std::string& symbol);
// The function at this address, by the symbols of the file that it was loaded from.
std::string name_of(const void* function);

}  // namespace lgd::emulation::ptx
