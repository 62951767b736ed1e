// What the lanes of a warp do together: exchanges, and matrices in fragments (PTX ISA, "Warp Level Matrix
// Instructions").
#include <bit>

#include "core/cuda_device.cuh"
#include "tensor_core.h"
#include "watch.h"

#pragma GCC optimize("O3")

namespace lgd::emulation::ptx {

namespace {

void meet(Warp& warp, const Instruction& in, uint32_t active) {
  LGD_CHECK(in.count == 0 || *warp.at<uint32_t>(in.operands[in.count - 1]) == active, "DEVICE_ERROR",
            "a warp's collective of other lanes than its mask names");
}

// Orders what its lanes do to memory.
void order_warp(Warp& warp, const Instruction& in, uint32_t active) {
  meet(warp, in, active);
  if (warp.watcher) warp.watcher->warp_barrier(warp);
}

// shfl.sync.bfly.b32 or idx.b32 to|found, from, mask or lane, 31, members
template <bool by_mask>
void exchange(Warp& warp, const Instruction& in, uint32_t active) {
  meet(warp, in, active);
  LGD_CHECK(*warp.at<uint32_t>(in.operands[4]) == 31, "DEVICE_ERROR", "an exchange within parts of a warp");
  uint32_t* const to = warp.at<uint32_t>(in.operands[0]);
  const uint32_t *const from = warp.at<uint32_t>(in.operands[2]), *const mask = warp.at<uint32_t>(in.operands[3]);
  uint32_t before[lanes];
  std::memcpy(before, from, sizeof before);
  for (int lane = 0; lane < lanes; ++lane) to[lane] = before[(by_mask ? lane ^ mask[lane] : mask[lane]) & 31];
  warp.predicate(in.operands[1]) = all_lanes;
}
void ballot(Warp& warp, const Instruction& in, uint32_t active) {
  meet(warp, in, active);
  uint32_t* const to = warp.at<uint32_t>(in.operands[0]);
  const uint32_t flags = warp.predicate(in.operands[1]);
  for (int lane = 0; lane < lanes; ++lane) to[lane] = flags;
}

// Lane l gives the address of row l % 8 of matrix l / 8; register i of lane l is of matrix i, row l / 4, columns 2 (l %
// 4) and the next.
template <bool transposed>
void load_matrices(Warp& warp, const Instruction& in, uint32_t) {
  const uint32_t* const addresses = warp.at<uint32_t>(in.operands[4]);
  if (warp.watcher) [[unlikely]] {
    Access access{&in, true, false, all_lanes, 16, {}};
    for (int lane = 0; lane < lanes; ++lane)
      access.addresses[lane] = warp.shared(addresses[lane] + uint32_t(in.operands[4].offset), 16);
    warp.watcher->use(warp, access);
  }
  for (int matrix = 0; matrix < 4; ++matrix) {
    uint16_t values[8][8];
    for (int row = 0; row < 8; ++row)
      std::memcpy(values[row], warp.shared(addresses[matrix * 8 + row] + uint32_t(in.operands[4].offset), 16), 16);
    uint32_t* const to = warp.at<uint32_t>(in.operands[matrix]);
    for (int lane = 0; lane < lanes; ++lane) {
      const int row = lane / 4, column = lane % 4 * 2;
      to[lane] = transposed ? values[column][row] | uint32_t(values[column + 1][row]) << 16
                            : values[row][column] | uint32_t(values[row][column + 1]) << 16;
    }
  }
}

float of_bfloat16(uint16_t bits) { return std::bit_cast<float>(uint32_t(bits) << 16); }
float of_float16(uint16_t bits) { return __half2float({bits}); }

// Operands d[4], a[4], b[2], c[4] of m16n8k16.
template <float value(uint16_t), int least_exponent>
void multiply(Warp& warp, const Instruction& in, uint32_t) {
  const auto word = [&](int operand, int lane) { return warp.at<uint32_t>(in.operands[operand])[lane]; };
  float left[16][16], right[16][8], sums[16][8];
  for (int lane = 0; lane < lanes; ++lane) {
    const int outer = lane / 4, inner = lane % 4 * 2;
    for (int i = 0; i < 4; ++i) {
      const uint32_t a = word(4 + i, lane);
      left[outer + i % 2 * 8][i / 2 * 8 + inner] = value(uint16_t(a));
      left[outer + i % 2 * 8][i / 2 * 8 + inner + 1] = value(uint16_t(a >> 16));
      sums[outer + i / 2 * 8][inner + i % 2] = warp.at<float>(in.operands[10 + i])[lane];
    }
    for (int i = 0; i < 2; ++i) {
      const uint32_t b = word(8 + i, lane);
      right[i * 8 + inner][outer] = value(uint16_t(b));
      right[i * 8 + inner + 1][outer] = value(uint16_t(b >> 16));
    }
  }
  add_products(tensor_core, least_exponent, 16, left, right, sums);
  for (int lane = 0; lane < lanes; ++lane)
    for (int i = 0; i < 4; ++i) warp.at<float>(in.operands[i])[lane] = sums[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
}

void wait_for_block(Warp& warp, const Instruction& in, uint32_t) {
  LGD_CHECK(*warp.at<uint32_t>(in.operands[0]) == 0, "DEVICE_ERROR", "a barrier other than the block's");
}

// One kernel runs at a time here, so those before are done.
void wait_for_kernels_before(Warp&, const Instruction&, uint32_t) {}

}  // namespace

void add_matrices(Operations& all) {
  all["shfl.sync.bfly.b32"] = {&exchange<true>, {4, 0, 4, 4, 4, 4}, Unit::memory, 1, Kind::together};
  all["shfl.sync.idx.b32"] = {&exchange<false>, {4, 0, 4, 4, 4, 4}, Unit::memory, 1, Kind::together};
  all["vote.sync.ballot.b32"] = {&ballot, {4, 0, 4}, Unit::integer, 1, Kind::together};
  all["bar.warp.sync"] = {&order_warp, {4}, Unit::control, 1, Kind::together};
  all["ldmatrix.sync.aligned.m8n8.x4.shared.b16"] = {
      &load_matrices<false>, {4, 4, 4, 4, 4}, Unit::memory, 1, Kind::together};
  all["ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16"] = {
      &load_matrices<true>, {4, 4, 4, 4, 4}, Unit::memory, 1, Kind::together};
  const std::vector<uint8_t> fragments(14, 4);
  all["mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32"] = {&multiply<of_bfloat16, least_bfloat16>, fragments,
                                                                Unit::tensor, 1, Kind::together};
  all["mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32"] = {&multiply<of_float16, least_float16>, fragments,
                                                              Unit::tensor, 1, Kind::together};
  all["bar.sync"] = {&wait_for_block, {4}, Unit::control, 1, Kind::barrier};
  all["griddepcontrol.launch_dependents"] =
      all["griddepcontrol.wait"] = {&wait_for_kernels_before, {}, Unit::control, 1};
  all["bra"] = {nullptr, {}, Unit::control, 1, Kind::branch};
  all["ret"] = {nullptr, {}, Unit::control, 1, Kind::end};
}

}  // namespace lgd::emulation::ptx
