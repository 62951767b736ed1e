// What PTX computes lane by lane: numbers, comparisons, conversions (PTX ISA, "Instruction Set"). Approximations are
// exact here.
#include <bit>
#include <cfenv>
#include <cmath>
#include <limits>

#include "core/cuda_device.cuh"
#include "warp.h"

#pragma GCC optimize("O3")

namespace lgd::emulation::ptx {

namespace {

template <class T>
constexpr uint8_t width_of = sizeof(T);

template <auto function, class D, class... S>
void run_lanes(Warp& warp, const Instruction& in, uint32_t active) {
  [&]<size_t... i>(std::index_sequence<i...>) {
    D* const to = warp.at<D>(in.operands[0]);
    const std::tuple from{static_cast<const S*>(warp.at<S>(in.operands[i + 1]))...};
    if (active == all_lanes) {
#pragma GCC ivdep
      for (int lane = 0; lane < lanes; ++lane) to[lane] = D(function(std::get<i>(from)[lane]...));
    } else {
      for (; active; active &= active - 1) {
        const int lane = std::countr_zero(active);
        to[lane] = D(function(std::get<i>(from)[lane]...));
      }
    }
  }(std::index_sequence_for<S...>());
}
template <auto function, class S>
void run_compare(Warp& warp, const Instruction& in, uint32_t active) {
  const S *const a = warp.at<S>(in.operands[1]), *const b = warp.at<S>(in.operands[2]);
  uint32_t found = 0;
  for (int lane = 0; lane < lanes; ++lane) found |= uint32_t(bool(function(a[lane], b[lane]))) << lane;
  uint32_t& to = warp.predicate(in.operands[0]);
  to = (to & ~active) | (found & active);
}
template <class T>
void run_select(Warp& warp, const Instruction& in, uint32_t active) {
  T* const to = warp.at<T>(in.operands[0]);
  const T *const a = warp.at<T>(in.operands[1]), *const b = warp.at<T>(in.operands[2]);
  const uint32_t which = warp.predicate(in.operands[3]);
  for (int lane = 0; lane < lanes; ++lane)
    if (active >> lane & 1) to[lane] = which >> lane & 1 ? a[lane] : b[lane];
}
template <auto function, int sources>
void run_predicate(Warp& warp, const Instruction& in, uint32_t active) {
  uint32_t& to = warp.predicate(in.operands[0]);
  uint32_t found;
  if constexpr (sources == 2) found = function(warp.predicate(in.operands[1]), warp.predicate(in.operands[2]));
  else found = function(warp.predicate(in.operands[1]));
  to = (to & ~active) | (found & active);
}
template <class Part, class Whole>
void run_pack(Warp& warp, const Instruction& in, uint32_t active) {
  Whole* const to = warp.at<Whole>(in.operands[0]);
  const Part *const low = warp.at<Part>(in.operands[1]), *const high = warp.at<Part>(in.operands[2]);
  for (int lane = 0; lane < lanes; ++lane)
    if (active >> lane & 1) to[lane] = Whole(low[lane]) | Whole(high[lane]) << 8 * sizeof(Part);
}
template <class Part, class Whole>
void run_unpack(Warp& warp, const Instruction& in, uint32_t active) {
  Part *const low = warp.at<Part>(in.operands[0]), *const high = warp.at<Part>(in.operands[1]);
  const Whole* const from = warp.at<Whole>(in.operands[2]);
  for (int lane = 0; lane < lanes; ++lane) {
    if (!(active >> lane & 1)) continue;
    const Whole value = from[lane];
    low[lane] = Part(value);
    high[lane] = Part(value >> 8 * sizeof(Part));
  }
}

// Rounding of the processor's for a while.
template <int mode, Run run>
__attribute__((noipa)) void run_rounded(Warp& warp, const Instruction& in, uint32_t active) {
  const int before = std::fegetround();
  std::fesetround(mode);
  run(warp, in, active);
  std::fesetround(before);
}

// The smaller or larger; a number rather than a NaN.
template <bool larger, class T>
T extreme(T a, T b) {
  if (a != a) return b;
  if (b != b) return a;
  if (a == b) return std::signbit(a) == larger ? b : a;
  return (a > b) == larger ? a : b;
}
// What an approximation gives: `right`, off by so many units in the last place, to a side that its argument decides; as
// far as the PTX ISA's bounds for these instructions go, about (2^-22 to 2^-23 of the value). Zero, infinities and the
// result of zero (which is exact) stay.
float off_by(int ulps, float right, float argument) {
  const uint32_t bits = std::bit_cast<uint32_t>(right);
  if (argument == 0 || std::fabs(right) < 0x1p-125f || !(std::fabs(right) < 0x1p127f)) return right;
  const bool up = std::popcount(std::bit_cast<uint32_t>(argument)) & 1;
  return std::bit_cast<float>(up ? bits + ulps : bits - ulps);
}
// Zero beyond 2^126, where the true quotient may be a number (PTX ISA, "div": approx).
float approximate_quotient(float a, float b) {
  const float size = std::fabs(b);
  if (size > 0x1p126f && size <= std::numeric_limits<float>::max())
    return std::isinf(a) ? std::numeric_limits<float>::quiet_NaN() : a * b < 0 ? -0.f : 0.f;
  return a / b;
}
template <class I, class F>
I to_integer(F rounded) {
  if (rounded != rounded) return 0;
  if (rounded <= F(std::numeric_limits<I>::min())) return std::numeric_limits<I>::min();
  if (rounded >= F(std::numeric_limits<I>::max())) return std::numeric_limits<I>::max();
  return I(rounded);
}
float flushed(float x) { return std::fabs(x) < 0x1p-126f ? std::copysign(0.f, x) : x; }
uint32_t bfloat16_bits(float x) { return __float2bfloat16_rn(x).bits; }

class Adder {
 public:
  explicit Adder(Operations& all) : all_(all) {}
  Unit unit = Unit::integer;

  template <auto function, class D, class... S>
  void add(const std::string& name, float slots = 1) {
    all_[name] = {&run_lanes<function, D, S...>, {width_of<D>, width_of<S>...}, unit, slots};
  }
  template <class S>
  void add_comparisons(const std::string& type, float slots = 1) {
    const auto one = [&](const char* name, Run run) {
      all_["setp." + std::string(name) + "." + type] = {run, {0, width_of<S>, width_of<S>}, Unit::integer, slots};
    };
    one("eq", &run_compare<[](S a, S b) { return a == b; }, S>);
    one("ne", &run_compare<[](S a, S b) { return a < b || b < a; }, S>);
    one("lt", &run_compare<[](S a, S b) { return a < b; }, S>);
    one("le", &run_compare<[](S a, S b) { return a <= b; }, S>);
    one("gt", &run_compare<[](S a, S b) { return b < a; }, S>);
    one("ge", &run_compare<[](S a, S b) { return a >= b; }, S>);
    if constexpr (std::is_floating_point_v<S>) {  // true also of a NaN
      one("equ", &run_compare<[](S a, S b) { return !(a < b || b < a); }, S>);
      one("neu", &run_compare<[](S a, S b) { return a != b; }, S>);
      one("ltu", &run_compare<[](S a, S b) { return !(a >= b); }, S>);
      one("leu", &run_compare<[](S a, S b) { return !(b < a); }, S>);
      one("gtu", &run_compare<[](S a, S b) { return !(a <= b); }, S>);
      one("geu", &run_compare<[](S a, S b) { return !(a < b); }, S>);
      one("num", &run_compare<[](S a, S b) { return a == a && b == b; }, S>);
      one("nan", &run_compare<[](S a, S b) { return a != a || b != b; }, S>);
    }
  }
  template <class T>
  void add_select(const std::string& type, float slots = 1) {
    all_["selp." + type] = {&run_select<T>, {width_of<T>, width_of<T>, width_of<T>, 0}, Unit::integer, slots};
  }
  template <class Part, class Whole>
  void add_pack(const std::string& name) {
    all_[name + " pack"] = {&run_pack<Part, Whole>,
                            {width_of<Whole>, width_of<Part>, width_of<Part>},
                            sizeof(Whole) == 8 ? Unit::nothing : Unit::integer,
                            sizeof(Whole) == 8 ? 0.f : 1.f};
    all_[name + " unpack"] = {
        &run_unpack<Part, Whole>, {width_of<Part>, width_of<Part>, width_of<Whole>}, Unit::nothing, 0};
  }
  template <int mode, auto function, class D, class... S>
  void add_rounded(const std::string& name) {
    all_[name] = {&run_rounded<mode, &run_lanes<function, D, S...>>, {width_of<D>, width_of<S>...}, unit, 1};
  }

 private:
  Operations& all_;
};

// Wraps around; `slots`: of an operation of this width.
template <class T>
void add_integers(Operations& all, const std::string& type) {
  using U = std::make_unsigned_t<T>;
  constexpr int bits = sizeof(T) * 8;
  constexpr float wide = sizeof(T) == 8 ? 2 : 1;
  Adder to(all);
  to.add<[](U a, U b) { return U(a + b); }, U, U, U>("add." + type, wide);
  to.add<[](U a, U b) { return U(a - b); }, U, U, U>("sub." + type, wide);
  to.add<[](U a, U b) { return U(uint64_t(a) * b); }, U, U, U>("mul.lo." + type, wide == 2 ? 4 : 1);
  to.add<[](U a, U b, U c) { return U(uint64_t(a) * b + c); }, U, U, U, U>("mad.lo." + type, wide == 2 ? 4 : 1);
  to.add<[](T a, T b) -> T { return b == 0                              ? T(-1)
                                    : b == T(-1) && std::is_signed_v<T> ? T(U(0) - U(a))
                                                                        : T(a / b); },
         T, T, T>("div." + type, wide == 2 ? 70 : 20);
  to.add<[](T a, T b) -> T { return b == 0 || (b == T(-1) && std::is_signed_v<T>) ? T(0) : T(a % b); }, T, T, T>(
      "rem." + type, wide == 2 ? 75 : 22);
  to.add<[](T a, T b) { return std::min(a, b); }, T, T, T>("min." + type, wide);
  to.add<[](T a, T b) { return std::max(a, b); }, T, T, T>("max." + type, wide);
  to.add<[](T a, uint32_t by) {
    return T(a >> std::min<uint32_t>(by, bits - 1) >> (by >= bits && !std::is_signed_v<T> ? 1 : 0));
  },
         T, T, uint32_t>("shr." + type, wide);
  to.add<[](T a) { return a; }, T, T>("mov." + type, 0);
  to.add_comparisons<T>(type, wide);
  to.add_select<T>(type, wide);
  if constexpr (std::is_signed_v<T>) {
    to.add<[](T a) { return T(U(0) - U(a)); }, T, T>("neg." + type, wide);
    to.add<[](T a) { return a < 0 ? T(U(0) - U(a)) : a; }, T, T>("abs." + type, wide);
  }
  if constexpr (sizeof(T) == 4) {
    to.add<[](T a, T b) {
      return T((std::is_signed_v<T> ? uint64_t(int64_t(a) * b) : uint64_t(a) * uint64_t(b)) >> 32);
    },
           T, T, T>("mul.hi." + type, 2);
    using Wide = std::conditional_t<std::is_signed_v<T>, int64_t, uint64_t>;
    to.add<[](T a, T b) { return Wide(Wide(a) * Wide(b)); }, Wide, T, T>("mul.wide." + type);
    to.add<[](T a, T b, Wide c) { return Wide(uint64_t(Wide(a) * Wide(b)) + uint64_t(c)); }, Wide, T, T, Wide>(
        "mad.wide." + type);
  } else if constexpr (sizeof(T) == 2) {
    using Wide = std::conditional_t<std::is_signed_v<T>, int32_t, uint32_t>;
    to.add<[](T a, T b) { return Wide(Wide(a) * Wide(b)); }, Wide, T, T>("mul.wide." + type);
  }
}

template <class T>
void add_bits(Operations& all, const std::string& type) {
  constexpr float wide = sizeof(T) == 8 ? 2 : 1;
  Adder to(all);
  to.add<[](T a, T b) { return T(a & b); }, T, T, T>("and." + type, wide);
  to.add<[](T a, T b) { return T(a | b); }, T, T, T>("or." + type, wide);
  to.add<[](T a, T b) { return T(a ^ b); }, T, T, T>("xor." + type, wide);
  to.add<[](T a) { return T(~a); }, T, T>("not." + type, wide);
  to.add<[](T a, uint32_t by) { return by >= sizeof(T) * 8 ? T(0) : T(a << by); }, T, T, uint32_t>("shl." + type, wide);
  to.add<[](T a, uint32_t by) { return by >= sizeof(T) * 8 ? T(0) : T(a >> by); }, T, T, uint32_t>("shr." + type, wide);
  to.add<[](T a) { return a; }, T, T>("mov." + type, 0);
  to.add_comparisons<T>(type, wide);
  to.add_select<T>(type, wide);
}

template <class T>
void add_floats(Operations& all, const std::string& type) {
  Adder to(all);
  const bool twice = sizeof(T) == 8;
  to.unit = twice ? Unit::float64 : Unit::float32;
  for (const char* rounding : {"", "rn."}) {
    to.add<[](T a, T b) { return a + b; }, T, T, T>("add." + (rounding + type));
    to.add<[](T a, T b) { return a - b; }, T, T, T>("sub." + (rounding + type));
    to.add<[](T a, T b) { return a * b; }, T, T, T>("mul." + (rounding + type));
  }
  to.add<[](T a, T b, T c) { return std::fma(a, b, c); }, T, T, T, T>("fma.rn." + type);
  to.add<[](T a, T b) { return a / b; }, T, T, T>("div.rn." + type, twice ? 20 : 10);
  to.add<[](T a) { return T(1) / a; }, T, T>("rcp.rn." + type, twice ? 16 : 8);
  to.add<[](T a) { return std::sqrt(a); }, T, T>("sqrt.rn." + type, twice ? 20 : 10);
  to.unit = twice ? Unit::float64 : Unit::integer;
  to.add<[](T a, T b) { return extreme<false>(a, b); }, T, T, T>("min." + type);
  to.add<[](T a, T b) { return extreme<true>(a, b); }, T, T, T>("max." + type);
  if (!twice) {
    to.add<[](T a, T b) { return a != a || b != b ? std::numeric_limits<T>::quiet_NaN() : extreme<false>(a, b); }, T, T,
           T>("min.NaN." + type);
    to.add<[](T a, T b) { return a != a || b != b ? std::numeric_limits<T>::quiet_NaN() : extreme<true>(a, b); }, T, T,
           T>("max.NaN." + type);
  }
  to.unit = Unit::nothing;  // a modifier of what follows
  to.add<[](T a) { return -a; }, T, T>("neg." + type, 0);
  to.add<[](T a) { return std::fabs(a); }, T, T>("abs." + type, 0);
  to.add<[](T a) { return a; }, T, T>("mov." + type, 0);
  to.add_comparisons<T>(type);
  to.add_select<T>(type, twice ? 2 : 1);
}

template <class D, class S>
void add_conversion(Operations& all, const std::string& to_type, const std::string& from_type) {
  Adder to(all);
  constexpr bool is_wide = sizeof(D) == 8 || sizeof(S) == 8;
  if constexpr (std::is_integral_v<D> && std::is_integral_v<S>) {
    to.add<[](S a) { return D(a); }, D, S>("cvt." + to_type + "." + from_type, sizeof(D) < sizeof(S) ? 0 : 1);
    // Of a wider register.
    if constexpr (sizeof(S) < 4)
      to.add<[](uint32_t a) { return D(S(a)); }, D, uint32_t>("cvt." + to_type + "." + from_type + " of 4");
    if constexpr (sizeof(S) < 8)
      to.add<[](uint64_t a) { return D(S(a)); }, D, uint64_t>("cvt." + to_type + "." + from_type + " of 8");
  } else {
    to.unit = is_wide ? Unit::float64 : Unit::integer;
    if constexpr (std::is_integral_v<S>) to.add<[](S a) { return D(a); }, D, S>("cvt.rn." + to_type + "." + from_type);
    else if constexpr (std::is_integral_v<D>) {
      to.add<[](S a) { return to_integer<D>(std::trunc(a)); }, D, S>("cvt.rzi." + to_type + "." + from_type);
      to.add<[](S a) { return to_integer<D>(std::nearbyint(a)); }, D, S>("cvt.rni." + to_type + "." + from_type);
      to.add<[](S a) { return to_integer<D>(std::floor(a)); }, D, S>("cvt.rmi." + to_type + "." + from_type);
      to.add<[](S a) { return to_integer<D>(std::ceil(a)); }, D, S>("cvt.rpi." + to_type + "." + from_type);
    }
  }
}
template <class D>
void add_conversions_to(Operations& all, const std::string& type) {
  add_conversion<D, int16_t>(all, type, "s16");
  add_conversion<D, uint16_t>(all, type, "u16");
  add_conversion<D, int32_t>(all, type, "s32");
  add_conversion<D, uint32_t>(all, type, "u32");
  add_conversion<D, int64_t>(all, type, "s64");
  add_conversion<D, uint64_t>(all, type, "u64");
  add_conversion<D, float>(all, type, "f32");
  add_conversion<D, double>(all, type, "f64");
}

void add_special(Operations& all) {
  Adder to(all);
  to.unit = Unit::special;
  to.add<[](float x) { return off_by(2, std::exp2(x), x); }, float, float>("ex2.approx.f32", 4);
  to.add<[](float x) { return flushed(off_by(2, std::exp2(flushed(x)), flushed(x))); }, float, float>(
      "ex2.approx.ftz.f32");
  to.add<[](float x) { return std::log2(x); }, float, float>("lg2.approx.f32", 4);
  to.add<[](float x) { return off_by(1, 1.f / std::sqrt(x), x); }, float, float>("rsqrt.approx.f32", 4);
  to.add<[](float x) { return off_by(1, 1.f / x, x); }, float, float>("rcp.approx.f32", 3);
  to.add<[](float x) { return flushed(off_by(1, 1.f / flushed(x), x)); }, float, float>("rcp.approx.ftz.f32");
  to.add<[](float a, float b) { return off_by(2, approximate_quotient(a, b), a * b); }, float, float, float>(
      "div.approx.f32", 5);
  to.add<[](double x) { return std::bit_cast<double>(std::bit_cast<uint64_t>(1 / x) & ~uint64_t(0xffffffff)); }, double,
         double>("rcp.approx.ftz.f64", 2);
  to.add<[](uint32_t x) { return uint32_t(std::popcount(x)); }, uint32_t, uint32_t>("popc.b32");
  to.add<[](uint32_t x) { return x == 0 ? ~0u : uint32_t(std::countl_zero(x)); }, uint32_t, uint32_t>(
      "bfind.shiftamt.u32");
  to.add<[](uint32_t x) {
    uint32_t reversed = 0;
    for (int bit = 0; bit < 32; ++bit) reversed |= (x >> bit & 1) << (31 - bit);
    return reversed;
  },
         uint32_t, uint32_t>("brev.b32");
  to.unit = Unit::float32;
  to.add<[](float x) { return x != x ? 0.f : std::min(std::max(x, 0.f), 1.f); }, float, float>("cvt.sat.f32.f32");
  to.add_rounded<FE_DOWNWARD, [](float a, float b, float c) { return std::fma(a, b, c); }, float, float, float, float>(
      "fma.rm.f32");
  to.add_rounded<FE_TOWARDZERO, [](float a, float b) { return a + b; }, float, float, float>("add.rz.f32");
  to.unit = Unit::integer;
  to.add<[](uint32_t from, uint32_t into, uint32_t at, uint32_t count) {
    const uint32_t first = at & 0xff, bits = std::min(count & 0xff, first >= 32 ? 0 : 32 - first);
    const uint32_t mask = bits == 0 ? 0 : (bits == 32 ? ~0u : (1u << bits) - 1) << first;
    return (into & ~mask) | (bits == 0 ? 0 : from << first & mask);
  },
         uint32_t, uint32_t, uint32_t, uint32_t, uint32_t>("bfi.b32", 2);
  // Byte i of the result is the byte of b:a that digit i of the selector names; its highest bit asks for the sign in
  // all bits.
  to.add<[](uint32_t a, uint32_t b, uint32_t selector) {
    uint32_t result = 0;
    for (int i = 0; i < 4; ++i) {
      const uint32_t digit = (selector >> (4 * i)) & 0xf,
                     bits = uint32_t((uint64_t(b) << 32 | a) >> (8 * (digit & 7))) & 0xff;
      result |= (digit & 8 ? (bits & 0x80 ? 0xffu : 0u) : bits) << (8 * i);
    }
    return result;
  },
         uint32_t, uint32_t, uint32_t, uint32_t>("prmt.b32");
}

void add_small_floats(Operations& all) {
  Adder to(all);
  to.add<[](float high, float low) { return bfloat16_bits(high) << 16 | bfloat16_bits(low); }, uint32_t, float, float>(
      "cvt.rn.bf16x2.f32");
  to.add<[](float x) { return uint16_t(bfloat16_bits(x)); }, uint16_t, float>("cvt.rn.bf16.f32");
  to.add<[](uint16_t x) { return std::bit_cast<float>(uint32_t(x) << 16); }, float, uint16_t>("cvt.f32.bf16");
  to.add<[](float x) { return __float2half_rn(x).bits; }, uint16_t, float>("cvt.rn.f16.f32");
  to.add<[](uint16_t x) { return __half2float({x}); }, float, uint16_t>("cvt.f32.f16");
}

template <auto function, int sources>
void add_predicate(Operations& all, const std::string& name) {
  all[name] = {&run_predicate<function, sources>, std::vector<uint8_t>(sources + 1, 0), Unit::integer, 1};
}

}  // namespace

void add_arithmetic(Operations& all) {
  add_integers<int16_t>(all, "s16");
  add_integers<uint16_t>(all, "u16");
  add_integers<int32_t>(all, "s32");
  add_integers<uint32_t>(all, "u32");
  add_integers<int64_t>(all, "s64");
  add_integers<uint64_t>(all, "u64");
  add_bits<uint16_t>(all, "b16");
  add_bits<uint32_t>(all, "b32");
  add_bits<uint64_t>(all, "b64");
  add_floats<float>(all, "f32");
  add_floats<double>(all, "f64");
  add_conversions_to<int16_t>(all, "s16");
  add_conversions_to<uint16_t>(all, "u16");
  add_conversions_to<int32_t>(all, "s32");
  add_conversions_to<uint32_t>(all, "u32");
  add_conversions_to<int64_t>(all, "s64");
  add_conversions_to<uint64_t>(all, "u64");
  add_conversions_to<float>(all, "f32");
  add_conversions_to<double>(all, "f64");
  Adder to(all);
  to.unit = Unit::float64;
  to.add<[](float x) { return double(x); }, double, float>("cvt.f64.f32");
  to.add<[](double x) { return float(x); }, float, double>("cvt.rn.f32.f64");
  to.unit = Unit::integer;
  to.add_pack<uint16_t, uint32_t>("mov.b32");
  to.add_pack<uint32_t, uint64_t>("mov.b64");
  add_special(all);
  add_small_floats(all);
  add_predicate<[](uint32_t a, uint32_t b) { return a & b; }, 2>(all, "and.pred");
  add_predicate<[](uint32_t a, uint32_t b) { return a | b; }, 2>(all, "or.pred");
  add_predicate<[](uint32_t a, uint32_t b) { return a ^ b; }, 2>(all, "xor.pred");
  add_predicate<[](uint32_t a) { return ~a; }, 1>(all, "not.pred");
  add_predicate<[](uint32_t a) { return a; }, 1>(all, "mov.pred");
}

}  // namespace lgd::emulation::ptx
