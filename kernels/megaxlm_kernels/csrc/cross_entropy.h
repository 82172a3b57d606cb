// What the binding hands to the implementations of cross_entropy_, on the GPU and on the CPU: the
// loss of rows of logits, and their gradient in place of them.
//
//     x = logits + bias;  lse = log(sum(exp(x)))
//     nll = lse - x[target]
//     loss = (1 - label_smoothing) * nll + label_smoothing * (lse - mean(x)) + z_loss * lse^2
#pragma once

#include <cstdint>

#include "dtype.h"

namespace megaxlm {

struct CrossEntropy {
  void* logits;            // (rows, stride); the gradient of each row's loss comes in its place
  const void* bias;        // (vocab,) or null
  const int64_t* targets;  // (rows,); outside [0, vocab) gives NaN
  float* nll;              // (rows,)
  float* loss;             // (rows,)
  int64_t rows;
  int64_t stride;  // a multiple of 8, at least vocab; what lies behind vocab is neither used nor kept
  int32_t vocab;
  Dtype dtype;
  float label_smoothing;
  float z_loss;
  int32_t wants_gradient;  // 0 leaves the logits as they are
  int32_t kept_bytes;      // of a row in shared memory, on a GPU; negative: what the device has
};

}  // namespace megaxlm

// Each returns null or what went wrong. `stream` is a cudaStream_t.
extern "C" {
const char* megaxlm_cross_entropy_cpu(const megaxlm::CrossEntropy* arguments);
const char* megaxlm_cross_entropy_cuda(const megaxlm::CrossEntropy* arguments, void* stream);
}
