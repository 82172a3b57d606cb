// What the binding hands to the implementations of add_layer_norm, on the GPU and on the CPU.
// RMSNorm is the same without a mean: the scale is that about zero.
// All tensors are contiguous, of one dtype where not float, and 16-byte aligned.
#pragma once

#include <cstdint>

#include "dtype.h"
#include "philox.h"

namespace megaxlm {

struct AddLayerNormForward {
  const void* x;         // (rows, hidden)
  const void* residual;  // (rows, hidden) or null
  const void* bias;      // (hidden,) or null
  const void* gamma;     // (hidden,)
  const void* beta;      // (hidden,) or null
  void* y;               // (rows, hidden)
  void* sum;             // (rows, hidden); null where x itself is the sum
  float* mean;           // (rows,); null for RMSNorm
  float* rstd;           // (rows,)
  int64_t rows;
  int32_t hidden;  // a multiple of 8
  Dtype dtype;
  float eps;
  Dropout dropout;
};

struct AddLayerNormBackward {
  const void* grad_y;    // (rows, hidden)
  const void* grad_sum;  // (rows, hidden) or null
  const void* sum;       // (rows, hidden), as forward stored it
  const void* gamma;     // (hidden,)
  const float* mean;     // (rows,); null for RMSNorm
  const float* rstd;     // (rows,)
  void* dsum;            // (rows, hidden): the gradient of the residual
  void* dx;              // (rows, hidden); null without dropout, where dsum is dx too
  void* dgamma;          // (hidden,)
  void* dbeta;           // (hidden,) or null
  void* dbias;           // (hidden,) or null
  float* partials;       // (blocks, 3, hidden): sums of dgamma, dbeta and dbias; GPU alone
  int64_t rows;
  int32_t hidden;
  int32_t blocks;  // as add_layer_norm_backward_blocks_cuda gave it
  Dtype dtype;
  Dropout dropout;
};

}  // namespace megaxlm

// Each returns null or what went wrong. `stream` is a cudaStream_t.
extern "C" {
const char* megaxlm_add_layer_norm_forward_cpu(const megaxlm::AddLayerNormForward* arguments);
const char* megaxlm_add_layer_norm_backward_cpu(const megaxlm::AddLayerNormBackward* arguments);
const char* megaxlm_add_layer_norm_forward_cuda(const megaxlm::AddLayerNormForward* arguments,
                                                void* stream);
const char* megaxlm_add_layer_norm_backward_cuda(const megaxlm::AddLayerNormBackward* arguments,
                                                 void* stream);
// How many blocks backward runs on the current device, so how many partial sums it leaves.
int32_t megaxlm_add_layer_norm_backward_blocks_cuda(int64_t rows, int32_t hidden);
}
