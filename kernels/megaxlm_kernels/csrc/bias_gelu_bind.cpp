// bias_gelu (and geglu, which is the same op gated) and its backward as torch ops. The Python side
// (gelu.py) adds autograd.
#include "bias_gelu.h"
#include "torch_binding.h"

#include <tuple>

namespace megaxlm {
namespace {

using torch::stable::accelerator::DeviceGuard;
using torch::stable::new_empty;

struct Shape {
  int64_t rows, columns, width;
};

Shape checked_shape(const Tensor& x, bool gated) {
  STD_TORCH_CHECK(x.dim() == 2, "x must be (rows, columns)");
  const int64_t unit = gated ? 16 : 8;
  const Shape shape{x.size(0), x.size(1), x.size(1) / (gated ? 2 : 1)};
  STD_TORCH_CHECK(shape.columns > 0 && shape.columns % unit == 0 && shape.columns <= INT32_MAX,
                  "columns must be a positive multiple of ", unit, ", got ", shape.columns);
  return shape;
}

Tensor forward(Tensor x, std::optional<Tensor> bias, bool gated) {
  const auto [rows, columns, width] = checked_shape(x, gated);
  check_like(x, "x", x, rows * columns);
  if (bias) check_like(*bias, "bias", x, columns);
  Tensor y = new_empty(x, {rows, width});
  BiasGeluForward arguments{};
  arguments.x = x.const_data_ptr();
  arguments.bias = data_or_null(bias);
  arguments.y = y.mutable_data_ptr();
  arguments.rows = rows;
  arguments.width = static_cast<int32_t>(width);
  arguments.gated = gated;
  arguments.dtype = dtype_of(x);
#ifndef MEGAXLM_CPU_ONLY
  if (x.is_cuda()) {
    const DeviceGuard guard(x.get_device_index());
    raise_if(megaxlm_bias_gelu_forward_cuda(&arguments, current_stream(x)), "bias_gelu");
    return y;
  }
#endif
  raise_if(megaxlm_bias_gelu_forward_cpu(&arguments), "bias_gelu");
  return y;
}

// (dx, dbias). dbias is empty without a bias.
std::tuple<Tensor, Tensor> backward(Tensor grad_y, Tensor x, std::optional<Tensor> bias,
                                    bool gated) {
  const auto [rows, columns, width] = checked_shape(x, gated);
  check_like(x, "x", x, rows * columns);
  check_like(grad_y, "grad_y", x, rows * width);
  if (bias) check_like(*bias, "bias", x, columns);
  Tensor dx = new_empty(x, {rows, columns});
  Tensor dbias = new_empty(x, {bias ? columns : 0});
  BiasGeluBackward arguments{};
  arguments.grad_y = grad_y.const_data_ptr();
  arguments.x = x.const_data_ptr();
  arguments.bias = data_or_null(bias);
  arguments.dx = dx.mutable_data_ptr();
  arguments.dbias = bias ? dbias.mutable_data_ptr() : nullptr;
  arguments.rows = rows;
  arguments.width = static_cast<int32_t>(width);
  arguments.gated = gated;
  arguments.dtype = dtype_of(x);
#ifndef MEGAXLM_CPU_ONLY
  if (x.is_cuda()) {
    const DeviceGuard guard(x.get_device_index());
    arguments.blocks = megaxlm_bias_gelu_backward_blocks_cuda(&arguments);
    Tensor partials = new_empty(x, {bias ? arguments.blocks : 0, columns}, ScalarType::Float);
    arguments.partials = bias ? static_cast<float*>(partials.mutable_data_ptr()) : nullptr;
    raise_if(megaxlm_bias_gelu_backward_cuda(&arguments, current_stream(x)),
             "bias_gelu_backward");
    return {dx, dbias};
  }
#endif
  raise_if(megaxlm_bias_gelu_backward_cpu(&arguments), "bias_gelu_backward");
  return {dx, dbias};
}

}  // namespace
}  // namespace megaxlm

STABLE_TORCH_LIBRARY_FRAGMENT(megaxlm, library) {
  library.def("bias_gelu(Tensor x, Tensor? bias, bool gated) -> Tensor");
  library.def(
      "bias_gelu_backward(Tensor grad_y, Tensor x, Tensor? bias, bool gated) -> (Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(megaxlm, CPU, library) {
  library.impl("bias_gelu", TORCH_BOX(&megaxlm::forward));
  library.impl("bias_gelu_backward", TORCH_BOX(&megaxlm::backward));
}

#ifndef MEGAXLM_CPU_ONLY
STABLE_TORCH_LIBRARY_IMPL(megaxlm, CUDA, library) {
  library.impl("bias_gelu", TORCH_BOX(&megaxlm::forward));
  library.impl("bias_gelu_backward", TORCH_BOX(&megaxlm::backward));
}
#endif
