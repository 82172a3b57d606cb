// What the binding hands to the implementations of bias_gelu and geglu, on the GPU and on the CPU.
// All tensors are contiguous, of one dtype where not float, and 16-byte aligned.
//
//     plain:  y = gelu(x + bias)                 x (rows, width), bias (width,)
//     gated:  y = gelu(gate) * linear            x + bias = [gate, linear], both (rows, width)
#pragma once

#include <cstdint>

#include "dtype.h"

namespace megaxlm {

struct BiasGeluForward {
  const void* x;     // (rows, columns); columns = width, or 2 * width if gated
  const void* bias;  // (columns,) or null
  void* y;           // (rows, width)
  int64_t rows;
  int32_t width;  // a multiple of 8
  int32_t gated;
  Dtype dtype;
};

struct BiasGeluBackward {
  const void* grad_y;  // (rows, width)
  const void* x;       // (rows, columns)
  const void* bias;    // (columns,) or null
  void* dx;            // (rows, columns)
  void* dbias;         // (columns,) or null
  float* partials;     // (blocks, columns): sums of dbias; GPU alone, null without dbias
  int64_t rows;
  int32_t width;
  int32_t gated;
  int32_t blocks;  // as bias_gelu_backward_blocks_cuda gave it
  Dtype dtype;
};

}  // namespace megaxlm

// Each returns null or what went wrong. `stream` is a cudaStream_t.
extern "C" {
const char* megaxlm_bias_gelu_forward_cpu(const megaxlm::BiasGeluForward* arguments);
const char* megaxlm_bias_gelu_backward_cpu(const megaxlm::BiasGeluBackward* arguments);
const char* megaxlm_bias_gelu_forward_cuda(const megaxlm::BiasGeluForward* arguments,
                                           void* stream);
const char* megaxlm_bias_gelu_backward_cuda(const megaxlm::BiasGeluBackward* arguments,
                                            void* stream);
// How many blocks share a column on the current device, so how many partial sums they leave; of the
// arguments it reads rows, width, gated and dtype.
int32_t megaxlm_bias_gelu_backward_blocks_cuda(const megaxlm::BiasGeluBackward* arguments);
}
