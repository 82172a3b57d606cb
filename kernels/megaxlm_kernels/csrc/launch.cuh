// What a .cu file includes first. Under nvcc these are CUDA's own words; under the emulator
// (kernels/emulator, g++ with MEGAXLM_EMULATOR) the same words run on the CPU. Kernels declare
// shared memory and launch through macros: only so can the emulator know where an array ends.
#pragma once

#ifdef MEGAXLM_EMULATOR
#include "simt.h"
#else

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#define MEGAXLM_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  kernel<<<grid, block, shared_bytes, static_cast<cudaStream_t>(stream)>>>(__VA_ARGS__)
// MEGAXLM_SHARED(float, tile, [16][32]); the extents are known at compile time.
#define MEGAXLM_SHARED(type, name, extents) __shared__ type name extents
#define MEGAXLM_DYNAMIC_SHARED(name) extern __shared__ __align__(1024) unsigned char name[]

// A barrier of `threads` threads of the block, whole warps; id 0 is __syncthreads'.
__device__ __forceinline__ void named_barrier(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

#endif

#include <cstdint>

namespace megaxlm {

constexpr int kWarp = 32;

inline int multiprocessors() {
  int device = 0;
  int count = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device);
  return count > 0 ? count : 1;
}

// Blocks of a grid that walks over `items`: all that the device holds at once, none without work.
template <typename Kernel>
int persistent_blocks(Kernel kernel, int threads, int64_t items) {
  int resident = 1;
  cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, kernel, threads, 0);
  const int64_t most = static_cast<int64_t>(resident > 0 ? resident : 1) * multiprocessors();
  return static_cast<int>(items < most ? items : most);
}

inline const char* launch_error() {
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace megaxlm
