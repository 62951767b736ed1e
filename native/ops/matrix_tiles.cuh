// The tiles of the matrix core (ops/matrix_core.cuh), and which of them a product takes.
#pragma once
#include <algorithm>
#include <cstdint>

#include "core/cuda_device.cuh"
#include "ops/grids.cuh"

namespace lgd::matrix {

// Block tile BM x BN x BK, WM x WN warps, each BM/WM x BN/WN; `resident` blocks fit an H100 multiprocessor by
// registers. The warps of a warpgroup have all BN columns, and of every 64 rows 16 each.
template <int BM_, int BN_, int WM_, int WN_, int stages_, int resident_, bool warpgroup_ = false>
struct Tile {
  static constexpr bool warpgroup = warpgroup_;
  static constexpr int BM = BM_, BN = BN_, WM = WM_, WN = WN_, stages = stages_, resident = resident_;
  static constexpr int threads = WM * WN * 32;
  static constexpr int TM = BM / WM, TN = BN / WN, MI = TM / 16, NI = TN / 8;
  // rows from warp to warp, and from one strip of a warp to its next
  static constexpr int warp_step = warpgroup ? 16 : TM, strip_step = warpgroup ? 64 : 16;
  // Cycles of shared memory for a k tile of bf16: what copies write and what the warps read, 128 bytes each.
  static constexpr int waves = (BM + BN) / 2 + WM * WN * (TM + TN) / 2;
  static_assert(TM % 16 == 0 && TN % 16 == 0 && (!warpgroup || (WM == 4 && WN == 1)));
};

// What each is worth: docs/kernel-costs.md, What variants are worth.
template <int stages>
struct Tiles {
  using Wide = Tile<128, 128, 2, 2, 3, 2>;
  using Tall = Tile<256, 64, 4, 1, 3, 2>;
  using Flat = Tile<64, 128, 2, 2, stages, 3>;
  using Middle = Tile<128, 64, 2, 2, stages, 3>;
  using Narrow = Tile<128, 32, 4, 1, stages, 4>;
  using Small = Tile<64, 64, 2, 2, stages, 4>;
  using WideGroup = Tile<128, 128, 4, 1, stages, 2, true>;
  using MiddleGroup = Tile<128, 64, 4, 1, stages, 3, true>;
  using FlatGroup = Tile<64, 128, 4, 1, stages, 3, true>;
  // for products of few blocks: one or two on a multiprocessor need more copies on their way
  using SmallGroup = Tile<64, 64, 4, 1, 6, 2, true>;
  using Checked = Tile<64, 64, 2, 2, stages, 2>;
};

// Calls body with the tile that suits an M x N product over K and fits, as far as fits(tile) tells; float32, for
// checking only, has one. Three stages leave room for an operand made of two tensors. taps: the reduction goes over the
// taps of a kernel, too.
constexpr auto every_tile = [](auto) { return true; };
template <class T, int stages, bool taps, class Body, class Fits = decltype(every_tile)>
void with_tile(const Context& ctx, int64_t M, int64_t N, int64_t K, Body&& body, const Fits& fits = every_tile) {
  using All = Tiles<stages>;
  if constexpr (sizeof(T) == 4) {
    body(typename All::Checked{});
  } else {
    const auto blocks = [&](int bm, int bn) { return ((M + bm - 1) / bm) * ((N + bn - 1) / bn); };
    if (N <= 32) return body(typename All::Narrow{});
    const auto either = [&](auto group, auto warps) { ctx.warpgroups ? body(group) : body(warps); };
    const bool small = blocks(128, 64) < ctx.card.multiprocessors || !fits(typename All::Middle{});
    if (small) return either(typename All::SmallGroup{}, typename All::Small{});
    const bool middle =
        !fits(typename All::Wide{}) || N <= 64 || (N > 128 && N <= 192) || blocks(128, 128) < ctx.card.multiprocessors;
    // Over many taps a product is no longer bound by memory, and warps shall read shared memory as seldom as they can.
    if constexpr (taps)
      if (middle && !ctx.warpgroups && K >= 192 && blocks(256, 64) >= ctx.card.multiprocessors &&
          fits(typename All::Tall{}))
        return body(typename All::Tall{});
    if (middle) return either(typename All::MiddleGroup{}, typename All::Middle{});
    either(typename All::WideGroup{}, typename All::Wide{});
  }
}

// The same for a product whose reduction is split over blocks: any tile gives enough of them, so the one that asks
// least of shared memory.
template <class T, int stages, class Body>
void with_split_tile(const Context& ctx, int64_t M, int64_t N, Body&& body) {
  using All = Tiles<stages>;
  if constexpr (sizeof(T) == 4) {
    body(typename All::Checked{});
  } else {
    const auto waves = [&](auto tile) {
      using Tile = decltype(tile);
      return ((M + Tile::BM - 1) / Tile::BM) * ((N + Tile::BN - 1) / Tile::BN) * Tile::waves;
    };
    const int64_t wide = waves(typename All::Wide{}), middle = waves(typename All::Middle{}),
                  flat = waves(typename All::Flat{}), small = waves(typename All::Small{});
    const auto either = [&](auto group, auto warps) { ctx.warpgroups ? body(group) : body(warps); };
    if (small < std::min({wide, middle, flat})) return body(typename All::Small{});
    if (flat < std::min(wide, middle)) return either(typename All::FlatGroup{}, typename All::Flat{});
    if (middle < wide) return either(typename All::MiddleGroup{}, typename All::Middle{});
    either(typename All::WideGroup{}, typename All::Wide{});
  }
}

}  // namespace lgd::matrix
