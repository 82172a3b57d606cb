// Small types and functions of CUDA's headers that kernels use, and the host's runtime calls.
#pragma once

#include "simt.h"

#define MEGAXLM_VECTOR2(type, name)          \
  struct alignas(2 * sizeof(type)) name {    \
    type x, y;                               \
  };                                         \
  inline name make_##name(type x, type y) { return {x, y}; }
#define MEGAXLM_VECTOR4(type, name)          \
  struct alignas(4 * sizeof(type)) name {    \
    type x, y, z, w;                         \
  };                                         \
  inline name make_##name(type x, type y, type z, type w) { return {x, y, z, w}; }

MEGAXLM_VECTOR2(float, float2)
MEGAXLM_VECTOR4(float, float4)
MEGAXLM_VECTOR2(int, int2)
MEGAXLM_VECTOR4(int, int4)
MEGAXLM_VECTOR2(unsigned, uint2)
MEGAXLM_VECTOR4(unsigned, uint4)

using __half = megaxlm::cpu::Half;
using __nv_bfloat16 = megaxlm::cpu::Bfloat16;
struct alignas(4) __half2 {
  __half x, y;
};
struct alignas(4) __nv_bfloat162 {
  __nv_bfloat16 x, y;
};

inline __half __float2half_rn(float value) { return megaxlm::cpu::from_float<__half>(value); }
inline float __half2float(__half value) { return megaxlm::cpu::to_float(value); }
inline __half2 __floats2half2_rn(float x, float y) {
  return {__float2half_rn(x), __float2half_rn(y)};
}
inline float2 __half22float2(__half2 pair) { return {__half2float(pair.x), __half2float(pair.y)}; }

inline __nv_bfloat16 __float2bfloat16_rn(float value) {
  return megaxlm::cpu::from_float<__nv_bfloat16>(value);
}
inline float __bfloat162float(__nv_bfloat16 value) { return megaxlm::cpu::to_float(value); }
inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) {
  return {__float2bfloat16_rn(x), __float2bfloat16_rn(y)};
}
inline float2 __bfloat1622float2(__nv_bfloat162 pair) {
  return {__bfloat162float(pair.x), __bfloat162float(pair.y)};
}

inline float __uint_as_float(uint32_t bits) { return megaxlm::cpu::float_of(bits); }
inline uint32_t __float_as_uint(float value) { return megaxlm::cpu::bits_of(value); }
inline float rsqrtf(float value) { return 1.0f / std::sqrt(value); }
inline float __expf(float value) { return std::exp(value); }
inline float __logf(float value) { return std::log(value); }
inline float __fdividef(float a, float b) { return a / b; }
inline int __popc(uint32_t bits) { return __builtin_popcount(bits); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }
inline int __clz(int bits) { return bits ? __builtin_clz(static_cast<unsigned>(bits)) : 32; }
inline uint32_t __umulhi(uint32_t a, uint32_t b) { return static_cast<uint64_t>(a) * b >> 32; }

using cudaError_t = int;
using cudaStream_t = void*;
constexpr cudaError_t cudaSuccess = 0;
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount, cudaDevAttrMaxSharedMemoryPerBlockOptin };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };

namespace emulator {
extern int multiprocessors;
const char* take_fault();  // of the launches since the last call; null when there was none
inline const char*& last_fault() {
  static const char* text = nullptr;
  return text;
}
}  // namespace emulator

// A launcher asks for the error after its launch: it then reports what the emulator found.
inline cudaError_t cudaGetLastError() {
  emulator::last_fault() = emulator::take_fault();
  return emulator::last_fault() ? 1 : cudaSuccess;
}
inline const char* cudaGetErrorString(cudaError_t) { return emulator::last_fault(); }
inline cudaError_t cudaGetDevice(int* device) { return *device = 0; }
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  // Shared memory as an H100 has it.
  *value = attribute == cudaDevAttrMultiProcessorCount ? emulator::multiprocessors : 227 << 10;
  return cudaSuccess;
}
template <typename Kernel>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, Kernel, int, size_t) {
  *blocks = 1;
  return cudaSuccess;
}
template <typename Kernel>
cudaError_t cudaFuncSetAttribute(Kernel, cudaFuncAttribute, int) {
  return cudaSuccess;
}
