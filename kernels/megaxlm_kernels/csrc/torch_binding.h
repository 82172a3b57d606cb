// What every binding shares: torch's stable ABI (no symbol of libtorch_cuda is needed to load the
// library), checks that end in a Python exception, and the device's stream.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>

#include "dtype.h"

// A torch without CUDA has no such function, and must load the library all the same.
extern "C" __attribute__((weak)) AOTITorchError aoti_torch_get_current_cuda_stream(
    int32_t device_index, void** stream);

namespace megaxlm {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline Dtype dtype_of(const Tensor& tensor) {
  const ScalarType type = tensor.scalar_type();
  if (type == ScalarType::Float) return Dtype::kFloat;
  if (type == ScalarType::Half) return Dtype::kHalf;
  STD_TORCH_CHECK(type == ScalarType::BFloat16, "the dtype must be float32, float16 or bfloat16");
  return Dtype::kBfloat16;
}

// The last line of defence: the public Python function has already named what is wrong.
inline void check_like(const Tensor& tensor, const char* name, const Tensor& other,
                       int64_t numel) {
  STD_TORCH_CHECK(tensor.scalar_type() == other.scalar_type(), name, " has another dtype");
  STD_TORCH_CHECK(tensor.is_cuda() == other.is_cuda() &&
                      tensor.get_device_index() == other.get_device_index(),
                  name, " is on another device");
  STD_TORCH_CHECK(tensor.is_contiguous(), name, " is not contiguous");
  STD_TORCH_CHECK(tensor.numel() == numel, name, " has ", tensor.numel(), " elements, not ", numel);
}

inline void check_float_rows(const Tensor& tensor, const char* name, const Tensor& other,
                             int64_t rows) {
  STD_TORCH_CHECK(tensor.scalar_type() == ScalarType::Float && tensor.is_contiguous() &&
                      tensor.numel() == rows && tensor.is_cuda() == other.is_cuda(),
                  name, " must be float32 (", rows, ",)");
}

inline const void* data_or_null(const std::optional<Tensor>& tensor) {
  return tensor.has_value() ? tensor->const_data_ptr() : nullptr;
}

inline void* current_stream(const Tensor& tensor) {
  void* stream = nullptr;
  STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream != nullptr, "this torch has no CUDA");
  STABLE_TORCH_ERROR_CODE_CHECK(
      aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
  return stream;
}

inline void raise_if(const char* error, const char* op) {
  STD_TORCH_CHECK(error == nullptr, op, ": ", error);
}

}  // namespace megaxlm
