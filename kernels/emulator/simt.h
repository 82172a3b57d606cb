// CUDA's words for g++: a .cu file compiled with MEGAXLM_EMULATOR includes this instead of the CUDA
// headers and runs on the CPU, one fiber for each CUDA thread.
//
// It is a model for finding mistakes, not for speed: threads run one at a time until they wait,
// each load and store is checked (memory.cpp), and a barrier that cannot open is reported. It knows
// nothing of the memory system between threads of different blocks, of timing or of registers.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "dtype.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __restrict__

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

namespace emulator {

struct Index {
  unsigned x, y, z;
};

struct Builtins {
  Index thread, block, block_extent, grid_extent;
};

struct Site {
  const char* file;
  int line;
};

extern Builtins builtins;

void run(dim3 grid, dim3 block, size_t dynamic_bytes, const char* kernel, void (*body)(const void*),
         const void* closure, size_t closure_bytes);
void* shared_array(const void* key, const char* name, size_t bytes, size_t alignment);
void* dynamic_shared();
void block_barrier(int id, int threads, Site site);
// Every lane of `mask` leaves its `bytes` (64 at most) and gets what all left, as `all`[32].
// Ordering memory is __syncwarp's business alone: a shuffle promises none.
void warp_exchange(uint32_t mask, const void* mine, size_t bytes, void* all, bool orders,
                   Site site);
// Judges an access that the compiler does not show: by ldmatrix, cp.async or an atomic.
void access(const void* address, size_t bytes, bool write, bool atomic = false);
void check_alignment(const void* address, size_t alignment);
void copy_async(void* to, const void* from, size_t bytes);
void commit_copies();
void wait_copies(int groups_left);

template <typename Closure>
void launch(dim3 grid, dim3 block, size_t dynamic_bytes, const char* kernel, const Closure& body) {
  run(grid, block, dynamic_bytes, kernel,
      [](const void* closure) { (*static_cast<const Closure*>(closure))(); }, &body, sizeof body);
}

inline int lane() {
  const Builtins& b = builtins;
  return (b.thread.x + b.block_extent.x * (b.thread.y + b.block_extent.y * b.thread.z)) % 32;
}

template <typename T>
T shuffle(uint32_t mask, T value, int source, int width, Site site) {
  T all[32];
  warp_exchange(mask, &value, sizeof value, all, false, site);
  const int first = lane() / width * width;
  // As PTX has it: what lies outside the segment gives a lane its own value.
  return all[source < first || source >= first + width ? lane() : source];
}

template <typename T, typename Change>
__attribute__((noinline, no_sanitize("thread"))) T atomic(T* address, Change change) {
  check_alignment(address, sizeof(T));
  access(address, sizeof(T), true, true);
  const T old = *address;
  *address = change(old);
  return old;
}

template <typename T>
T load(const T* address) {
  check_alignment(address, alignof(T));
  return *address;
}

}  // namespace emulator

#define threadIdx (::emulator::builtins.thread)
#define blockIdx (::emulator::builtins.block)
#define blockDim (::emulator::builtins.block_extent)
#define gridDim (::emulator::builtins.grid_extent)
constexpr int warpSize = 32;

#define MEGAXLM_LAUNCH(kernel, grid, block, shared_bytes, stream, ...)      \
  (static_cast<void>(stream), ::emulator::launch(grid, block, shared_bytes, \
                                                 __PRETTY_FUNCTION__, [=] { kernel(__VA_ARGS__); }))
#define MEGAXLM_SHARED(type, name, extents)                                                \
  using name##_array = type extents;                                                       \
  static const char name##_key = 0;                                                        \
  name##_array& name = *static_cast<name##_array*>(                                        \
      ::emulator::shared_array(&name##_key, #name, sizeof(name##_array), alignof(name##_array)))
#define MEGAXLM_DYNAMIC_SHARED(name) \
  unsigned char* const name = static_cast<unsigned char*>(::emulator::dynamic_shared())


// Where a call stands: two barriers of one block must be the same line of the source.
#define MEGAXLM_SITE_ARGUMENTS const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(MEGAXLM_SITE_ARGUMENTS) { emulator::block_barrier(0, 0, {file, line}); }
inline void named_barrier(int id, int threads, MEGAXLM_SITE_ARGUMENTS) {
  emulator::block_barrier(id, threads, {file, line});
}
inline void __syncwarp(uint32_t mask = 0xFFFFFFFFu, MEGAXLM_SITE_ARGUMENTS) {
  emulator::warp_exchange(mask, nullptr, 0, nullptr, true, {file, line});
}
inline uint32_t __ballot_sync(uint32_t mask, bool predicate, MEGAXLM_SITE_ARGUMENTS) {
  bool all[32];
  emulator::warp_exchange(mask, &predicate, sizeof predicate, all, false, {file, line});
  uint32_t votes = 0;
  for (int lane = 0; lane < 32; ++lane)
    if ((mask >> lane & 1) && all[lane]) votes |= 1u << lane;
  return votes;
}
inline bool __any_sync(uint32_t mask, bool predicate, MEGAXLM_SITE_ARGUMENTS) {
  return __ballot_sync(mask, predicate, file, line) != 0;
}
inline bool __all_sync(uint32_t mask, bool predicate, MEGAXLM_SITE_ARGUMENTS) {
  return __ballot_sync(mask, !predicate, file, line) == 0;
}
template <typename T>
T __shfl_sync(uint32_t mask, T value, int source, int width = 32, MEGAXLM_SITE_ARGUMENTS) {
  const int first = emulator::lane() / width * width;
  return emulator::shuffle(mask, value, first + (source & (width - 1)), width, {file, line});
}
template <typename T>
T __shfl_xor_sync(uint32_t mask, T value, int bits, int width = 32, MEGAXLM_SITE_ARGUMENTS) {
  return emulator::shuffle(mask, value, emulator::lane() ^ bits, width, {file, line});
}
template <typename T>
T __shfl_up_sync(uint32_t mask, T value, int delta, int width = 32, MEGAXLM_SITE_ARGUMENTS) {
  return emulator::shuffle(mask, value, emulator::lane() - delta, width, {file, line});
}
template <typename T>
T __shfl_down_sync(uint32_t mask, T value, int delta, int width = 32, MEGAXLM_SITE_ARGUMENTS) {
  return emulator::shuffle(mask, value, emulator::lane() + delta, width, {file, line});
}

template <typename T>
T atomicAdd(T* address, T value) {
  return emulator::atomic(address, [=](T old) { return static_cast<T>(old + value); });
}
template <typename T>
T atomicMax(T* address, T value) {
  return emulator::atomic(address, [=](T old) { return old < value ? value : old; });
}
template <typename T>
T atomicMin(T* address, T value) {
  return emulator::atomic(address, [=](T old) { return value < old ? value : old; });
}
template <typename T>
T atomicExch(T* address, T value) {
  return emulator::atomic(address, [=](T) { return value; });
}
template <typename T>
T atomicCAS(T* address, T expected, T value) {
  return emulator::atomic(address, [=](T old) { return old == expected ? value : old; });
}
inline void __threadfence() {}
inline void __threadfence_block() {}

template <typename T>
T __ldg(const T* address) { return emulator::load(address); }
template <typename T>
T __ldcs(const T* address) { return emulator::load(address); }

#include "vocabulary.h"
