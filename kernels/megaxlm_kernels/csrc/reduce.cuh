// Sums over a warp and over a block, in an order that never changes: results are the same bits in
// every run, and the same in every thread.
#pragma once

#include "launch.cuh"

namespace megaxlm {

__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
  for (int lane_bit = kWarp / 2; lane_bit > 0; lane_bit /= 2)
    value += __shfl_xor_sync(0xFFFFFFFFu, value, lane_bit);
  return value;
}

// Sums two values over a block of kWarps warps. `partial` is shared memory of two such rows, taken
// in turn by `turn`: with one row a fast warp would overwrite what a slow one still reads.
template <int kWarps>
__device__ __forceinline__ float2 block_sum(float2 value, float2 (*partial)[kWarps], int& turn) {
  const float2 mine = make_float2(warp_sum(value.x), warp_sum(value.y));
  if (threadIdx.x % kWarp == 0) partial[turn][threadIdx.x / kWarp] = mine;
  __syncthreads();
  float2 total = make_float2(0.0f, 0.0f);
#pragma unroll
  for (int warp = 0; warp < kWarps; ++warp) {
    total.x += partial[turn][warp].x;
    total.y += partial[turn][warp].y;
  }
  turn ^= 1;
  return total;
}

}  // namespace megaxlm
