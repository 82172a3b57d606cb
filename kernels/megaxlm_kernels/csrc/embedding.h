// What the binding hands to the implementations of embedding_sum, embedding_gradient and
// row_dropout, on the GPU and on the CPU. Tensors of a dtype are contiguous and 16-byte aligned.
#pragma once

#include <cstdint>

#include "dtype.h"
#include "philox.h"

namespace megaxlm {

constexpr int kMostTables = 3;

// y = sum of table[index] over tables. An index outside its table makes the row NaN.
struct EmbeddingSum {
  const int64_t* index[kMostTables];  // (rows,) each; null behind the last
  const void* table[kMostTables];     // (size, hidden) each
  int64_t size[kMostTables];
  void* y;  // (rows, hidden)
  int64_t rows;
  int32_t hidden;  // a multiple of 8
  Dtype dtype;
};

// The gradient of one table. Equal indices lie together, so each of its rows is added up in the
// order of `order`, which a stable sort makes that of the tokens.
struct EmbeddingGradient {
  const void* grad_y;       // (rows, hidden)
  const int64_t* sorted;    // (rows,), the indices in rising order
  const int64_t* order;     // (rows,), where each was
  void* dtable;             // (size, hidden), zeros
  float* partials;          // (chunks, 2, hidden); GPU alone
  int64_t rows, size;
  int32_t hidden;
  Dtype dtype;
};

struct RowDropout {
  const void* x;  // (rows, hidden)
  void* y;        // (rows, hidden)
  int64_t rows;
  int32_t hidden;
  Dtype dtype;
  Dropout dropout;
};

// Sorted rows that one block adds up.
constexpr int kChunkRows = 64;

}  // namespace megaxlm

// Each returns null or what went wrong. `stream` is a cudaStream_t.
extern "C" {
const char* megaxlm_embedding_sum_cpu(const megaxlm::EmbeddingSum* arguments);
const char* megaxlm_embedding_gradient_cpu(const megaxlm::EmbeddingGradient* arguments);
const char* megaxlm_row_dropout_cpu(const megaxlm::RowDropout* arguments);
const char* megaxlm_embedding_sum_cuda(const megaxlm::EmbeddingSum* arguments, void* stream);
const char* megaxlm_embedding_gradient_cuda(const megaxlm::EmbeddingGradient* arguments,
                                            void* stream);
const char* megaxlm_row_dropout_cuda(const megaxlm::RowDropout* arguments, void* stream);
}
