// cp.async, ldmatrix and mma.sync on the CPU, under the names of csrc/ptx.cuh.
//
// A warp's fragments are put together into whole matrices by the layouts of the PTX manual and
// multiplied in the plain way. Products of 16-bit numbers are exact in fp32; the order of the sums
// is not the hardware's, which nobody documents.
#pragma once

#include "simt.h"

namespace megaxlm {

inline void cp_async_16(void* shared, const void* global, bool valid = true) {
  emulator::copy_async(shared, valid ? global : nullptr, 16);
}
inline void cp_async_commit() { emulator::commit_copies(); }
template <int kLeft>
void cp_async_wait() {
  emulator::wait_copies(kLeft);
}

// Lane i's address is row i % 8 of matrix i / 8. Of each matrix a lane gets two elements: of row
// lane / 4 the columns 2 * (lane % 4) and the next, or, transposed, of that column those rows.
template <int kMatrices, bool kTransposed>
void ldmatrix(uint32_t* r, const void* row, emulator::Site site) {
  emulator::check_alignment(row, 16);
  const char* rows[32];
  emulator::warp_exchange(0xFFFFFFFFu, &row, sizeof row, rows, false, site);
  const int lane = emulator::lane();
  for (int matrix = 0; matrix < kMatrices; ++matrix) {
    const auto element = [&](int i, int j) {
      const char* at = rows[matrix * 8 + i] + 2 * j;
      emulator::access(at, 2, false);
      return static_cast<uint32_t>(*reinterpret_cast<const uint16_t*>(at));
    };
    const int major = lane / 4;
    const int minor = 2 * (lane % 4);
    r[matrix] = kTransposed ? element(minor, major) | element(minor + 1, major) << 16
                            : element(major, minor) | element(major, minor + 1) << 16;
  }
}

inline void ldmatrix_x4(uint32_t (&r)[4], const void* row, MEGAXLM_SITE_ARGUMENTS) {
  ldmatrix<4, false>(r, row, {file, line});
}
inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row, MEGAXLM_SITE_ARGUMENTS) {
  ldmatrix<4, true>(r, row, {file, line});
}
inline void ldmatrix_x2(uint32_t (&r)[2], const void* row, MEGAXLM_SITE_ARGUMENTS) {
  ldmatrix<2, false>(r, row, {file, line});
}
inline void ldmatrix_x2_trans(uint32_t (&r)[2], const void* row, MEGAXLM_SITE_ARGUMENTS) {
  ldmatrix<2, true>(r, row, {file, line});
}

template <typename T>
float element_of(uint32_t word, int half) {
  return cpu::to_float(T{static_cast<uint16_t>(word >> 16 * half)});
}

// kK is 8 or 16. Register i of A holds row lane / 4 + 8 * (i % 2) and columns 2 * (lane % 4) +
// 8 * (i / 2) and the next; register i of B holds rows 2 * (lane % 4) + 8 * i and the next of
// column lane / 4; element i of D is row lane / 4 + 8 * (i / 2), column 2 * (lane % 4) + i % 2.
template <typename T, int kK>
void mma(float (&d)[4], const uint32_t* a, const uint32_t* b, emulator::Site site) {
  struct Fragments {
    uint32_t a[kK / 4], b[kK / 8];
  } mine;
  std::memcpy(mine.a, a, sizeof mine.a);
  std::memcpy(mine.b, b, sizeof mine.b);
  Fragments of_lane[32];
  emulator::warp_exchange(0xFFFFFFFFu, &mine, sizeof mine, of_lane, false, site);
  for (int i = 0; i < 4; ++i) {
    const int row = emulator::lane() / 4 + 8 * (i / 2);
    const int column = 2 * (emulator::lane() % 4) + i % 2;
    float total = 0.0f;
    for (int k = 0; k < kK; ++k) {
      const Fragments& left = of_lane[row % 8 * 4 + k % 8 / 2];
      const Fragments& right = of_lane[column * 4 + k % 8 / 2];
      total += element_of<T>(left.a[row / 8 + 2 * (k / 8)], k % 2) *
               element_of<T>(right.b[k / 8], k % 2);
    }
    d[i] += total;
  }
}

template <typename T>
void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                  MEGAXLM_SITE_ARGUMENTS) {
  mma<T, 16>(d, a, b, {file, line});
}
template <typename T>
void mma_m16n8k8(float (&d)[4], const uint32_t (&a)[2], uint32_t b, MEGAXLM_SITE_ARGUMENTS) {
  mma<T, 8>(d, a, &b, {file, line});
}

}  // namespace megaxlm
