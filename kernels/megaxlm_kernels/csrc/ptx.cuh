// The PTX that tensor-core kernels are made of, as functions; the emulator has its own of the same
// names (kernels/emulator/ptx.h). Fragments are laid out as in the PTX manual, "Matrix fragments
// for mma.m16n8k16 with floating point type". All of it exists from sm_80 on.
#pragma once

#include "launch.cuh"

#ifdef MEGAXLM_EMULATOR
#include "ptx.h"
#else

namespace megaxlm {

__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// Copies 16 bytes from global to shared memory; zeros where `valid` is false, without reading.
__device__ __forceinline__ void cp_async_16(void* shared, const void* global, bool valid = true) {
  const int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)),
               "l"(global), "r"(bytes)
               : "memory");
}

__device__ __forceinline__ void cp_async_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

// Returns when at most kLeft of this thread's committed groups are still under way.
template <int kLeft>
__device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kLeft) : "memory");
}

// Loads 8x8 matrices of 16-bit elements; lane i gives the address of row i % 8 of matrix i / 8.
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

__device__ __forceinline__ void ldmatrix_x2(uint32_t (&r)[2], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(row))
               : "memory");
}

__device__ __forceinline__ void ldmatrix_x2_trans(uint32_t (&r)[2], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(row))
               : "memory");
}

// d += a @ b with a (16, k), b (k, 8), d (16, 8); T is __nv_bfloat16 or __half.
template <typename T>
__device__ void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);
template <typename T>
__device__ void mma_m16n8k8(float (&d)[4], const uint32_t (&a)[2], uint32_t b);

#define MEGAXLM_MMA(type, name)                                                                    \
  template <>                                                                                      \
  __device__ __forceinline__ void mma_m16n8k16<type>(float(&d)[4], const uint32_t(&a)[4],          \
                                                     const uint32_t(&b)[2]) {                      \
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." name "." name                            \
                 ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"            \
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                  \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));              \
  }                                                                                                \
  template <>                                                                                      \
  __device__ __forceinline__ void mma_m16n8k8<type>(float(&d)[4], const uint32_t(&a)[2],           \
                                                    uint32_t b) {                                  \
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32." name "." name                             \
                 ".f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"                        \
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                  \
                 : "r"(a[0]), "r"(a[1]), "r"(b));                                                  \
  }
MEGAXLM_MMA(__nv_bfloat16, "bf16")
MEGAXLM_MMA(__half, "f16")
#undef MEGAXLM_MMA

}  // namespace megaxlm

#endif
