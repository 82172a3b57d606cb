// mma.sync and ldmatrix with bare registers in and out: one warp, 32 lanes in a row.
#include "ptx.cuh"

namespace {

template <typename T, int kK>
__global__ void multiply(const uint32_t* a, const uint32_t* b, float* d) {
  const int lane = threadIdx.x;
  float sums[4];
  uint32_t left[kK / 4];
  uint32_t right[kK / 8];
  for (int i = 0; i < 4; ++i) sums[i] = d[lane * 4 + i];
  for (int i = 0; i < kK / 4; ++i) left[i] = a[lane * (kK / 4) + i];
  for (int i = 0; i < kK / 8; ++i) right[i] = b[lane * (kK / 8) + i];
  if constexpr (kK == 16) {
    megaxlm::mma_m16n8k16<T>(sums, left, right);
  } else {
    megaxlm::mma_m16n8k8<T>(sums, left, right[0]);
  }
  for (int i = 0; i < 4; ++i) d[lane * 4 + i] = sums[i];
}

// Four 8x8 matrices of 16-bit numbers, one after the other, as each form of ldmatrix gives them.
__global__ void load(const uint4* matrices, uint32_t* plain4, uint32_t* turned4, uint32_t* plain2,
                     uint32_t* turned2) {
  MEGAXLM_SHARED(uint4, tile, [32]);
  const int lane = threadIdx.x;
  tile[lane] = matrices[lane];
  __syncwarp();
  uint32_t four[4];
  uint32_t two[2];
  megaxlm::ldmatrix_x4(four, tile + lane);
  for (int i = 0; i < 4; ++i) plain4[lane * 4 + i] = four[i];
  megaxlm::ldmatrix_x4_trans(four, tile + lane);
  for (int i = 0; i < 4; ++i) turned4[lane * 4 + i] = four[i];
  megaxlm::ldmatrix_x2(two, tile + lane % 16);
  for (int i = 0; i < 2; ++i) plain2[lane * 2 + i] = two[i];
  megaxlm::ldmatrix_x2_trans(two, tile + lane % 16);
  for (int i = 0; i < 2; ++i) turned2[lane * 2 + i] = two[i];
}

}  // namespace

#define MULTIPLY(name, type, k)                                                       \
  extern "C" const char* name(const uint32_t* a, const uint32_t* b, float* d) { \
    auto* kernel = multiply<type, k>;                                           \
    MEGAXLM_LAUNCH(kernel, 1, 32, 0, nullptr, a, b, d);                         \
    return megaxlm::launch_error();                                             \
  }
MULTIPLY(multiply_bf16_16, __nv_bfloat16, 16)
MULTIPLY(multiply_bf16_8, __nv_bfloat16, 8)
MULTIPLY(multiply_f16_16, __half, 16)
MULTIPLY(multiply_f16_8, __half, 8)

extern "C" const char* load_matrices(const uint4* matrices, uint32_t* plain4, uint32_t* turned4,
                                     uint32_t* plain2, uint32_t* turned2) {
  MEGAXLM_LAUNCH(load, 1, 32, 0, nullptr, matrices, plain4, turned4, plain2, turned2);
  return megaxlm::launch_error();
}
