// Products of a warpgroup with both operands in shared memory (PTX ISA, "Asynchronous Warpgroup Level Matrix
// Instructions"). Each warp forms the rows that are its own, at its wait, from what shared memory holds then; so a
// barrier that is missing behind the wait, or a wait itself, shows.
#include <bit>

#include "tensor_core.h"
#include "watch.h"

#pragma GCC optimize("O3")

namespace lgd::emulation::ptx {

namespace {

void fence_copies(Warp& warp, const Instruction&, uint32_t) { warp.unfenced = false; }
void begin(Warp& warp, const Instruction&, uint32_t) { warp.begun = true; }
void commit(Warp& warp, const Instruction&, uint32_t) { warp.committed = warp.product_count; }

// Operands: sums, descriptors of a and b, add to the sums, signs of a and b, whether k is outer in a and in b.
void start(Warp& warp, const Instruction& in, uint32_t) {
  const int sums = in.count - 7;
  LGD_CHECK(warp.begun, "DEVICE_ERROR", "a warpgroup's product without wgmma.fence");
  LGD_CHECK(!warp.unfenced, "DEVICE_ERROR", "a warpgroup's product without fence.proxy.async behind copies or stores");
  LGD_CHECK(!warp.block->unfenced, "DEVICE_ERROR",
            "a warpgroup's product behind a barrier to which copies or stores came without fence.proxy.async");
  for (int i = 2; i < 5; ++i)
    LGD_CHECK(*warp.at<uint32_t>(in.operands[sums + i]) == 1, "DEVICE_ERROR",
              "a warpgroup's product that does not add, or subtracts");
  LGD_CHECK(warp.product_count < int(std::size(warp.products)), "DEVICE_ERROR",
            "more products of a warpgroup under way than are remembered");
  warp.products[warp.product_count++] = &in;
}

// Rows first to first + rows of a matrix of 16 k: put(row, k, value).
template <class Put>
void read_matrix(Warp& warp, const Instruction& in, uint64_t descriptor, bool k_outer, int first, int rows, Put&& put) {
  for (int row = 0; row < rows; ++row)
    for (int k = 0; k < 16; ++k) {
      const char* const from = warp.shared(element_address(descriptor, k_outer, first + row, k), 2);
      if (warp.watcher) [[unlikely]]
        warp.watcher->use(warp, {&in, true, false, 1, 2, {from}});
      uint16_t bits;
      std::memcpy(&bits, from, 2);
      put(row, k, std::bit_cast<float>(uint32_t(bits) << 16));
    }
}

void form(Warp& warp, const Instruction& in) {
  const int sums = in.count - 7, columns = sums * 2;
  const auto word = [&](int operand) { return *warp.at<uint32_t>(in.operands[sums + operand]); };
  float a[16][16], b[16][16][product_columns];  // [row][k], [column / 8][k][column % 8]
  read_matrix(warp, in, *warp.at<uint64_t>(in.operands[sums]), word(5), warp.number % 4 * 16, 16,
              [&](int row, int k, float value) { a[row][k] = value; });
  read_matrix(
      warp, in, *warp.at<uint64_t>(in.operands[sums + 1]), word(6), 0, columns,
      [&](int column, int k, float value) { b[column / product_columns][k][column % product_columns] = value; });
  // Sum j of a lane: row lane / 4 + 8 (j / 2 % 2), column 8 (j / 4) + 2 (lane % 4) + j % 2.
  for (int part = 0; part < sums / 4; ++part) {
    float values[16][product_columns];
    const auto each = [&](auto&& use) {
      for (int j = 0; j < 4; ++j)
        for (int lane = 0; lane < lanes; ++lane)
          use(warp.at<float>(in.operands[part * 4 + j])[lane], values[lane / 4 + j / 2 * 8][lane % 4 * 2 + j % 2]);
    };
    each([](float& sum, float& value) { value = sum; });
    add_products(hopper, least_bfloat16, 16, a, b[part], values);
    each([](float& sum, float& value) { sum = value; });
  }
}

void wait(Warp& warp, const Instruction& in, uint32_t) {
  LGD_CHECK(*warp.at<uint32_t>(in.operands[0]) == 0, "DEVICE_ERROR", "a wait for some of a warpgroup's products");
  LGD_CHECK(warp.committed == warp.product_count, "DEVICE_ERROR",
            "a wait for a warpgroup's products that were not committed");
  for (int i = 0; i < warp.product_count; ++i) form(warp, *warp.products[i]);
  warp.product_count = warp.committed = 0;
  warp.begun = false;
}

}  // namespace

void add_warpgroups(Operations& all) {
  all["fence.proxy.async.shared::cta"] = {&fence_copies, {}, Unit::control, 1, Kind::together};
  all["wgmma.fence.sync.aligned"] = {&begin, {}, Unit::control, 1, Kind::together};
  all["wgmma.commit_group.sync.aligned"] = {&commit, {}, Unit::control, 1, Kind::together};
  all["wgmma.wait_group.sync.aligned"] = {&wait, {4}, Unit::control, 1, Kind::together};
  for (const int columns : {64, 128}) {
    std::vector<uint8_t> widths(size_t(columns / 2), 4);
    widths.insert(widths.end(), {8, 8, 4, 4, 4, 4, 4});
    all["wgmma.mma_async.sync.aligned.m64n" + std::to_string(columns) + "k16.f32.bf16.bf16"] = {
        &start, widths, Unit::tensor, float(columns) / 8, Kind::together};
  }
}

}  // namespace lgd::emulation::ptx
