// Runs the blocks that one of an H100's multiprocessors would have of products whose times are known, by their PTX, for
// the model of emulation/ptx/clock.h (scripts/kernels/clock.mjs --calibrate gives the environment). Prints a line for
// each, in order: what it is, M, N, K, what was measured, in which unit.
#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <vector>

#include "plain_product.cuh"
#include "ptx/run.h"
#include "streams.h"

namespace {

using namespace lgd;

// Room for any of them; pages come as they are used.
char* operands() {
  static void* const all =
      mmap(nullptr, size_t(4) << 30, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  LGD_CHECK(all != MAP_FAILED, "OUT_OF_MEMORY", "no 4 GiB of addresses");
  emulation::allocations[reinterpret_cast<uintptr_t>(all)] = {size_t(4) << 30, false, 0, {}, {}};
  return static_cast<char*>(all);
}

// in_cache: its operands fit level-2 cache, or are read again while they are there.
template <int BM, int BN, int WM, int WN, int stages, int BK>
void run(const char* name, int M, int N, int K, double measured, const char* unit, bool in_cache) {
  using Arguments = PackedArguments<const bf16*, const bf16*, bf16*, int, int, int>;
  char* const all = operands();
  const Arguments arguments(reinterpret_cast<bf16*>(all), reinterpret_cast<bf16*>(all + (size_t(1800) << 20)),
                            reinterpret_cast<bf16*>(all + (size_t(2) << 30)), M, N, K);
  Launch launch;
  launch.name = "plain_product";
  launch.kernel = reinterpret_cast<const void*>(&clock::plain_product<BM, BN, WM, WN, stages, BK>);
  launch.grid.x = unsigned(((M + BM - 1) / BM) * ((N + BN - 1) / BN));
  launch.block.x = WM * WN * 32;
  launch.shared_bytes = size_t(stages) * (BM + BN) * BK * 2;
  launch.parameters = &Arguments::parameters;
  launch.arguments = arguments.bytes;
  allow_shared_memory(&clock::plain_product<BM, BN, WM, WN, stages, BK>, launch.shared_bytes);
  constexpr int64_t multiprocessors = 132;
  const int64_t most = K < 4096 ? 40 : 8;  // of long ones more give the same number of cycles, to the last
  const int64_t over = launch.grid.x % multiprocessors;
  std::vector<int64_t> blocks;
  for (int64_t block = (over ? over : multiprocessors) / 2; block < launch.grid.x && int64_t(blocks.size()) < most;
       block += multiprocessors)
    blocks.push_back(block);
  setenv("LGDISTILL_EMULATION_WARM", in_cache ? "1" : "0", 1);
  emulation::ptx::run(launch, blocks, emulation::Order::forward);
  std::printf("%s;%d;%d;%d;%g;%s\n", name, M, N, K, measured, unit);
}

}  // namespace

// Measured on an H100 80GB HBM3 by CUDA events, medians of 20.
int main() {
  run<128, 128, 2, 2, 3, 64>("8192^3: 128 x 128 x 64, 4 warps, 3 stages", 8192, 8192, 8192, 420, "TF", true);
  run<128, 128, 2, 2, 4, 32>("8192^3: 128 x 128 x 32, 4 warps, 4 stages", 8192, 8192, 8192, 374, "TF", true);
  run<128, 128, 2, 4, 4, 32>("8192^3: 128 x 128 x 32, 8 warps, 4 stages", 8192, 8192, 8192, 318, "TF", true);
  run<128, 256, 2, 4, 3, 32>("8192^3: 128 x 256 x 32, 8 warps, 3 stages", 8192, 8192, 8192, 320, "TF", true);
  run<128, 32, 4, 1, 4, 32>("1x1, 96 to 24 channels at 56 x 56", 256 * 56 * 56, 24, 96, 2.47, "TB/s", false);
  run<128, 128, 2, 2, 3, 32>("1x1, 16 to 96 channels at 112 x 112", 256 * 112 * 112, 96, 16, 2.12, "TB/s", false);
  run<128, 64, 2, 2, 4, 32>("3x3 unfolded, 64 channels at 56 x 56", 256 * 56 * 56, 64, 576, 130, "TF", false);
  run<128, 128, 2, 2, 4, 32>("3x3 unfolded, 128 channels at 28 x 28", 256 * 28 * 28, 128, 1152, 232, "TF", false);
  run<64, 64, 2, 2, 4, 64>("scores of a bank, 512 x 2000 x 1024", 512, 2000, 1024, 17, "us", true);
}
