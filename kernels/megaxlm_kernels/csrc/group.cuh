// Groups of 8 neighbouring elements: what one thread loads, computes in fp32 and stores at a time.
// In 16-bit dtypes a group is one 16-byte access, in fp32 two. Philox counts the same groups.
#pragma once

#include "launch.cuh"

namespace megaxlm {

template <typename T>
struct Group {
  static constexpr int kVectors = sizeof(T) / 2;
  uint4 vector[kVectors];
};

struct Values {
  float at[8];
};

template <typename T, typename Read>
__device__ __forceinline__ Group<T> load_by(const void* tensor, int64_t group, Read read) {
  const uint4* source = static_cast<const uint4*>(tensor) + group * Group<T>::kVectors;
  Group<T> loaded;
#pragma unroll
  for (int i = 0; i < Group<T>::kVectors; ++i) loaded.vector[i] = read(source + i);
  return loaded;
}

// Read once: not worth a place in L1.
template <typename T>
__device__ __forceinline__ Group<T> load_streaming(const void* tensor, int64_t group) {
  return load_by<T>(tensor, group, [](const uint4* at) { return __ldcs(at); });
}

// Read by every row: gamma, beta, bias.
template <typename T>
__device__ __forceinline__ Group<T> load_cached(const void* tensor, int64_t group) {
  return load_by<T>(tensor, group, [](const uint4* at) { return __ldg(at); });
}

// As written by this thread earlier in the same kernel, so through no read-only path.
template <typename T>
__device__ __forceinline__ Group<T> load_written(const void* tensor, int64_t group) {
  return load_by<T>(tensor, group, [](const uint4* at) { return *at; });
}

template <typename T>
__device__ __forceinline__ void store(void* tensor, int64_t group, const Group<T>& value) {
  uint4* target = static_cast<uint4*>(tensor) + group * Group<T>::kVectors;
#pragma unroll
  for (int i = 0; i < Group<T>::kVectors; ++i) target[i] = value.vector[i];
}

__device__ __forceinline__ float2 unpack_pair(uint32_t word, __nv_bfloat16) {
  return make_float2(__uint_as_float(word << 16), __uint_as_float(word & 0xFFFF0000u));
}

__device__ __forceinline__ float2 unpack_pair(uint32_t word, __half) {
  __half2 pair;
  __builtin_memcpy(&pair, &word, sizeof pair);
  return __half22float2(pair);
}

__device__ __forceinline__ uint32_t pack_pair(float low, float high, __nv_bfloat16) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  uint32_t word;
  __builtin_memcpy(&word, &pair, sizeof word);
  return word;
}

__device__ __forceinline__ uint32_t pack_pair(float low, float high, __half) {
  const __half2 pair = __floats2half2_rn(low, high);
  uint32_t word;
  __builtin_memcpy(&word, &pair, sizeof word);
  return word;
}

template <typename T>
__device__ __forceinline__ Values unpack(const Group<T>& group) {
  const uint4 v = group.vector[0];
  const uint32_t words[4] = {v.x, v.y, v.z, v.w};
  Values values;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 pair = unpack_pair(words[i], T{});
    values.at[2 * i] = pair.x;
    values.at[2 * i + 1] = pair.y;
  }
  return values;
}

template <>
__device__ __forceinline__ Values unpack<float>(const Group<float>& group) {
  const uint4 a = group.vector[0];
  const uint4 b = group.vector[1];
  return {{__uint_as_float(a.x), __uint_as_float(a.y), __uint_as_float(a.z), __uint_as_float(a.w),
           __uint_as_float(b.x), __uint_as_float(b.y), __uint_as_float(b.z), __uint_as_float(b.w)}};
}

template <typename T>
__device__ __forceinline__ Group<T> pack(const Values& values) {
  const float* at = values.at;
  return {{{pack_pair(at[0], at[1], T{}), pack_pair(at[2], at[3], T{}),
            pack_pair(at[4], at[5], T{}), pack_pair(at[6], at[7], T{})}}};
}

template <>
__device__ __forceinline__ Group<float> pack<float>(const Values& values) {
  const float* at = values.at;
  return {{{__float_as_uint(at[0]), __float_as_uint(at[1]), __float_as_uint(at[2]),
            __float_as_uint(at[3])},
           {__float_as_uint(at[4]), __float_as_uint(at[5]), __float_as_uint(at[6]),
            __float_as_uint(at[7])}}};
}

}  // namespace megaxlm
