// The dtypes that ops take, and their conversions in plain C++ for the CPU implementations.
// g++ before 12 has no _Float16 and no g++ before 13 has bfloat16, so both are done on the bits.
#pragma once

#include <cstdint>
#include <cstring>

namespace megaxlm {

enum class Dtype : int32_t { kFloat = 0, kHalf = 1, kBfloat16 = 2 };

namespace cpu {

inline uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

inline float float_of(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

struct Bfloat16 {
  uint16_t bits;
};

struct Half {
  uint16_t bits;
};

inline float to_float(float value) { return value; }

inline float to_float(Bfloat16 value) { return float_of(static_cast<uint32_t>(value.bits) << 16); }

inline float to_float(Half value) {
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000u) << 16;
  const uint32_t magnitude = value.bits & 0x7FFFu;
  if (magnitude >= 0x7C00u) return float_of(sign | 0x7F800000u | (magnitude & 0x3FFu) << 13);
  if (magnitude >= 0x0400u) return float_of(sign | ((magnitude << 13) + 0x38000000u));
  const float subnormal = static_cast<float>(magnitude) * 5.9604644775390625e-8f;  // 2^-24
  return sign ? -subnormal : subnormal;
}

template <typename T>
inline T from_float(float value);

template <>
inline float from_float<float>(float value) {
  return value;
}

template <>
inline Bfloat16 from_float<Bfloat16>(float value) {
  const uint32_t bits = bits_of(value);
  if (value != value) return {0x7FFFu};
  return {static_cast<uint16_t>((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16)};  // nearest, even
}

template <>
inline Half from_float<Half>(float value) {
  const uint32_t bits = bits_of(value);
  const uint16_t sign = static_cast<uint16_t>(bits >> 16 & 0x8000u);
  const uint32_t magnitude = bits & 0x7FFFFFFFu;
  if (magnitude > 0x7F800000u) return {static_cast<uint16_t>(sign | 0x7FFFu)};
  if (magnitude >= 0x47800000u) return {static_cast<uint16_t>(sign | 0x7C00u)};  // 65536 and up
  if (magnitude < 0x38800000u) {  // below 2^-14 halves are subnormal: let an addition round them
    const float shifted = float_of(magnitude) + 0.5f;  // one unit of 0.5f's last place is 2^-24
    return {static_cast<uint16_t>(sign | (bits_of(shifted) - 0x3F000000u))};
  }
  const uint32_t rounded = magnitude + 0xFFFu + (magnitude >> 13 & 1u);
  return {static_cast<uint16_t>(sign | (rounded - 0x38000000u) >> 13)};
}

}  // namespace cpu
}  // namespace megaxlm
