// Dropout masks as a pure function of (seed, place of the row, column): Philox4x32-10 (Salmon et
// al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), keyed by the seed, counted by places
// and groups of 8 columns. Forward, backward, CPU and torch (philox.py) make the same mask, so none
// is ever stored; with places that a row keeps wherever it stands, batches change nothing either.
//
// One call gives 128 bits, 16 for each element of a group: a probability is taken to the nearest
// 1/65536, and the kept are scaled by what that probability is, so the mean stays exact. With 32
// bits an element Philox alone would take half of the instructions of a LayerNorm pass.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define MEGAXLM_INLINE __host__ __device__ __forceinline__
#else
#define MEGAXLM_INLINE inline
#endif

namespace megaxlm {

struct Dropout {
  uint64_t seed;
  uint32_t threshold;  // an element whose 16 bits are below is dropped; 0: no dropout
  float scale;         // of the kept: 65536 / (65536 - threshold)
  const int64_t* places;  // (rows,); null: rows count from 0
};

inline Dropout make_dropout(double probability, int64_t seed, const void* places) {
  // Below 1 by contract; 65535 keeps the scale finite for what rounds to 1.
  uint32_t threshold = static_cast<uint32_t>(probability * 65536.0 + 0.5);
  if (threshold > 65535u) threshold = 65535u;
  return {static_cast<uint64_t>(seed), threshold,
          static_cast<float>(65536.0 / (65536.0 - threshold)),
          static_cast<const int64_t*>(places)};
}

struct PhiloxWords {
  uint32_t word[4];
};

MEGAXLM_INLINE PhiloxWords philox4x32_10(PhiloxWords counter, uint32_t key0, uint32_t key1) {
#ifdef __CUDACC__
#pragma unroll
#endif
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = static_cast<uint64_t>(0xD2511F53u) * counter.word[0];
    const uint64_t product1 = static_cast<uint64_t>(0xCD9E8D57u) * counter.word[2];
    counter = {{static_cast<uint32_t>(product1 >> 32) ^ counter.word[1] ^ key0,
                static_cast<uint32_t>(product1),
                static_cast<uint32_t>(product0 >> 32) ^ counter.word[3] ^ key1,
                static_cast<uint32_t>(product0)}};
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return counter;
}

MEGAXLM_INLINE int64_t dropout_place(const Dropout& dropout, int64_t row) {
  return dropout.places ? dropout.places[row] : row;
}

// Random bits of the 8 elements that start at column 8 * group; `dropped` reads them.
MEGAXLM_INLINE PhiloxWords dropout_bits(const Dropout& dropout, int64_t place, int32_t group) {
  const uint64_t index = static_cast<uint64_t>(place);
  return philox4x32_10(
      {{static_cast<uint32_t>(group), 0u, static_cast<uint32_t>(index),
        static_cast<uint32_t>(index >> 32)}},
      static_cast<uint32_t>(dropout.seed), static_cast<uint32_t>(dropout.seed >> 32));
}

MEGAXLM_INLINE bool dropped(const Dropout& dropout, const PhiloxWords& bits, int element) {
  const uint32_t word = bits.word[element / 2];
  return (element % 2 ? word >> 16 : word & 0xFFFFu) < dropout.threshold;
}

}  // namespace megaxlm
