// The second half of a deterministic sum over rows: blocks have left partial sums of columns, and
// this adds them in an order that shapes and device decide alone. No atomics.
#pragma once

#include "launch.cuh"

namespace megaxlm {
namespace {  // each file its own kernel: one symbol in two modules would be registered twice

// (blocks, kinds, columns) fp32 in, one (columns,) tensor out for each kind; null ones are skipped.
struct ColumnSums {
  const float* partials;
  void* output[3];
  int32_t blocks, kinds, columns;
};

template <typename T>
__device__ __forceinline__ T rounded(float value);
template <>
__device__ __forceinline__ float rounded<float>(float value) { return value; }
template <>
__device__ __forceinline__ __half rounded<__half>(float value) { return __float2half_rn(value); }
template <>
__device__ __forceinline__ __nv_bfloat16 rounded<__nv_bfloat16>(float value) {
  return __float2bfloat16_rn(value);
}

// 32 columns a block, kSlices threads a column, then those in order.
constexpr int kSlices = 16;

template <typename T>
__global__ void __launch_bounds__(kWarp* kSlices) finish_column_sums(const ColumnSums a) {
  MEGAXLM_SHARED(float, slices, [kSlices][kWarp]);
  const int kind = blockIdx.y;
  T* const output = static_cast<T*>(kind == 0   ? a.output[0]
                                    : kind == 1 ? a.output[1]
                                                : a.output[2]);
  if (output == nullptr) return;
  const int column = blockIdx.x * kWarp + threadIdx.x % kWarp;
  const int slice = threadIdx.x / kWarp;
  float total = 0.0f;
  if (column < a.columns) {
#pragma unroll 4
    for (int block = slice; block < a.blocks; block += kSlices)
      total += a.partials[(static_cast<int64_t>(block) * a.kinds + kind) * a.columns + column];
  }
  slices[slice][threadIdx.x % kWarp] = total;
  __syncthreads();
  if (slice == 0 && column < a.columns) {
    total = 0.0f;
#pragma unroll
    for (int i = 0; i < kSlices; ++i) total += slices[i][threadIdx.x];
    output[column] = rounded<T>(total);
  }
}

template <typename T>
void launch_column_sums(const ColumnSums& a, void* stream) {
  auto* kernel = finish_column_sums<T>;
  const dim3 grid((a.columns + kWarp - 1) / kWarp, a.kinds);
  MEGAXLM_LAUNCH(kernel, grid, kWarp * kSlices, 0, stream, a);
}

}  // namespace
}  // namespace megaxlm
