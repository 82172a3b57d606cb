// Kernels of one mistake each (and a few without), for the emulator to find. 64 threads a block;
// every kernel gets 64 floats to read and 64 to write.
#include "ptx.cuh"

namespace {

__device__ int flat() { return static_cast<int>(threadIdx.x); }

__global__ void sums_of_the_block(const float* in, float* out) {
  MEGAXLM_SHARED(float, tile, [64]);
  tile[flat()] = in[flat()];
  __syncthreads();
  float total = 0.0f;
  for (int i = 0; i < 64; ++i) total += tile[i];
  out[flat()] = total;
}

__global__ void sums_by_shuffles(const float* in, float* out) {
  float total = in[flat()];
  for (int bits = 16; bits > 0; bits /= 2) total += __shfl_xor_sync(0xFFFFFFFFu, total, bits);
  const float above = __shfl_down_sync(0xFFFFFFFFu, in[flat()], 1);
  const float first = __shfl_sync(0xFFFFFFFFu, in[flat()], 0, 8);
  const uint32_t odd = __ballot_sync(0xFFFFFFFFu, flat() % 2 == 1);
  const bool ok = odd == 0xAAAAAAAAu && __any_sync(0xFFFFFFFFu, flat() % 32 == 3) &&
                  !__all_sync(0xFFFFFFFFu, flat() % 32 == 3) &&
                  above == in[flat() % 32 == 31 ? flat() : flat() + 1] &&
                  first == in[flat() / 8 * 8];
  out[flat()] = ok ? total : -1.0f;
}

__global__ void warps_exchange_through_syncwarp(const float* in, float* out) {
  MEGAXLM_SHARED(float, tile, [64]);
  tile[flat()] = in[flat()];
  __syncwarp();
  out[flat()] = tile[flat() ^ 31];
}

__global__ void halves_of_a_block_have_barriers_of_their_own(const float* in, float* out) {
  MEGAXLM_SHARED(float, tile, [2][32]);
  const int half = flat() / 32;
  for (int i = 0; i <= half; ++i) {
    tile[half][flat() % 32] = in[flat()] + i;
    named_barrier(1 + half, 32);
    out[flat()] = tile[half][31 - flat() % 32];
    named_barrier(1 + half, 32);
  }
}

__global__ void atomics_count(const float* in, float* out) {
  MEGAXLM_SHARED(float, total, [1]);
  if (flat() == 0) total[0] = 0.0f;
  __syncthreads();
  atomicAdd(&total[0], in[flat()]);
  __syncthreads();
  out[flat()] = total[0];
}

__global__ void writes_past_the_end(const float* in, float* out) { out[flat() + 1] = in[flat()]; }

__global__ void reads_before_the_start(const float* in, float* out) {
  out[flat()] = in[flat() - 1];
}

__global__ void writes_the_input(const float* in, float*) { const_cast<float*>(in)[flat()] = 0.0f; }

__global__ void reads_shared_memory_unwritten(const float*, float* out) {
  MEGAXLM_SHARED(float, tile, [64]);
  out[flat()] = tile[flat()];
}

__global__ void reads_past_a_shared_array(const float* in, float* out) {
  MEGAXLM_SHARED(float, tile, [64]);
  MEGAXLM_SHARED(float, other, [64]);
  tile[flat()] = other[flat()] = in[flat()];
  __syncthreads();
  out[flat()] = tile[flat() + 1];
}

// The last thread reads what the others wrote, which the emulator has all run before it.
__global__ void reads_with_no_barrier_after_the_write(const float* in, float* out) {
  MEGAXLM_SHARED(float, tile, [64]);
  tile[flat()] = in[flat()];
  if (flat() == 63) out[0] = tile[5];
}

__global__ void overwrites_with_no_barrier_after_the_read(const float* in, float* out) {
  MEGAXLM_SHARED(float, tile, [64]);
  for (int i = 0; i < 2; ++i) {
    tile[flat()] = in[flat()];
    __syncthreads();
    out[flat()] = tile[63 - flat()];
  }
}

__global__ void takes_a_shuffle_for_a_barrier(const float* in, float* out) {
  MEGAXLM_SHARED(float, tile, [64]);
  tile[flat()] = in[flat()];
  out[flat()] = __shfl_sync(0xFFFFFFFFu, in[flat()], 0) + tile[flat() ^ 1];
}

__global__ void takes_syncwarp_for_a_barrier_of_the_block(const float* in, float* out) {
  MEGAXLM_SHARED(float, tile, [64]);
  tile[flat()] = in[flat()];
  __syncwarp();
  if (flat() == 63) out[flat()] = tile[0];
}

__global__ void half_of_the_block_skips_a_barrier(const float*, float*) {
  if (flat() < 32) __syncthreads();
}

__global__ void two_barriers_in_two_branches(const float*, float*) {
  if (flat() < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}

__global__ void half_of_a_warp_skips_a_shuffle(const float* in, float* out) {
  if (flat() % 32 < 16) out[flat()] = __shfl_xor_sync(0xFFFFFFFFu, in[flat()], 1);
}

__global__ void is_not_in_its_own_mask(const float* in, float* out) {
  out[flat()] = __shfl_xor_sync(0x0000FFFFu, in[flat()], 1);
}

__global__ void loads_a_vector_from_an_odd_address(const float* in, float* out) {
  const float4 four = *reinterpret_cast<const float4*>(in + 1);
  out[flat()] = four.x;
}

__global__ void copies_by_cp_async(const float* in, float* out, bool waits) {
  MEGAXLM_SHARED(float, tile, [64]);
  if (flat() < 16) megaxlm::cp_async_16(tile + 4 * flat(), in + 4 * flat(), flat() < 15);
  megaxlm::cp_async_commit();
  if (waits) megaxlm::cp_async_wait<0>();
  __syncthreads();
  out[flat()] = tile[flat()];
}

__global__ void uses_dynamic_shared_memory(const float* in, float* out) {
  MEGAXLM_DYNAMIC_SHARED(bytes);
  float* tile = reinterpret_cast<float*>(bytes);
  tile[flat()] = in[flat()];
  out[flat()] = tile[flat()];
}

}  // namespace

#define WITH(name, kernel, threads, dynamic, ...)                             \
  extern "C" const char* probe_##name(const float* in, float* out) {           \
    MEGAXLM_LAUNCH(kernel, 1, threads, dynamic, nullptr, in, out __VA_ARGS__); \
    return megaxlm::launch_error();                                            \
  }
#define SIMPLE(name) WITH(name, name, 64, 0, )
SIMPLE(sums_of_the_block)
SIMPLE(sums_by_shuffles)
SIMPLE(warps_exchange_through_syncwarp)
SIMPLE(halves_of_a_block_have_barriers_of_their_own)
SIMPLE(atomics_count)
SIMPLE(writes_past_the_end)
SIMPLE(reads_before_the_start)
SIMPLE(writes_the_input)
SIMPLE(reads_shared_memory_unwritten)
SIMPLE(reads_past_a_shared_array)
SIMPLE(reads_with_no_barrier_after_the_write)
SIMPLE(overwrites_with_no_barrier_after_the_read)
SIMPLE(takes_a_shuffle_for_a_barrier)
SIMPLE(takes_syncwarp_for_a_barrier_of_the_block)
SIMPLE(half_of_the_block_skips_a_barrier)
SIMPLE(two_barriers_in_two_branches)
SIMPLE(half_of_a_warp_skips_a_shuffle)
SIMPLE(is_not_in_its_own_mask)
SIMPLE(loads_a_vector_from_an_odd_address)
WITH(copies_by_cp_async, copies_by_cp_async, 64, 0, , true)
WITH(forgets_to_wait_for_cp_async, copies_by_cp_async, 64, 0, , false)
WITH(dynamic_shared_memory, uses_dynamic_shared_memory, 64, 256, )
WITH(too_little_dynamic_shared_memory, uses_dynamic_shared_memory, 64, 252, )
WITH(no_dynamic_shared_memory, uses_dynamic_shared_memory, 64, 0, )
WITH(too_many_threads, sums_of_the_block, 1056, 0, )
