// add_layer_norm (not centred: add_rms_norm) and its backward as torch ops. The Python side (layer_norm.py) adds autograd.
#include "add_layer_norm.h"
#include "torch_binding.h"

#include <tuple>

namespace megaxlm {
namespace {

using torch::stable::accelerator::DeviceGuard;
using torch::stable::new_empty;

struct Shape {
  int64_t rows;
  int64_t hidden;
};

Shape checked_shape(const Tensor& tensor) {
  STD_TORCH_CHECK(tensor.dim() == 2, "the input must be (rows, hidden)");
  const Shape shape{tensor.size(0), tensor.size(1)};
  STD_TORCH_CHECK(shape.hidden > 0 && shape.hidden % 8 == 0 && shape.hidden <= INT32_MAX,
                  "hidden must be a positive multiple of 8, got ", shape.hidden);
  return shape;
}

Dropout checked_dropout(double probability, int64_t seed, const std::optional<Tensor>& places,
                        const Tensor& like, int64_t rows) {
  STD_TORCH_CHECK(probability >= 0.0 && probability < 1.0, "dropout_p must be in [0, 1)");
  if (places)
    STD_TORCH_CHECK(places->scalar_type() == ScalarType::Long && places->is_contiguous() &&
                        places->numel() == rows && places->is_cuda() == like.is_cuda(),
                    "places must be int64 (", rows, ",)");
  return make_dropout(probability, seed, data_or_null(places));
}

// (y, sum, mean, rstd). sum is empty where it would be x itself, mean where there is none.
std::tuple<Tensor, Tensor, Tensor, Tensor> forward(Tensor x, std::optional<Tensor> residual,
                                                   std::optional<Tensor> bias, Tensor gamma,
                                                   std::optional<Tensor> beta, double eps,
                                                   double dropout_p, int64_t seed,
                                                   std::optional<Tensor> places, bool centred) {
  const auto [rows, hidden] = checked_shape(x);
  const Dropout dropout = checked_dropout(dropout_p, seed, places, x, rows);
  check_like(x, "x", x, rows * hidden);
  if (residual) check_like(*residual, "residual", x, rows * hidden);
  if (bias) check_like(*bias, "bias", x, hidden);
  check_like(gamma, "gamma", x, hidden);
  if (beta) check_like(*beta, "beta", x, hidden);

  const bool own_sum = residual || bias || dropout.threshold != 0;
  Tensor y = new_empty(x, {rows, hidden});
  Tensor sum = new_empty(x, {own_sum ? rows : 0, hidden});
  Tensor mean = new_empty(x, {centred ? rows : 0}, ScalarType::Float);
  Tensor rstd = new_empty(x, {rows}, ScalarType::Float);
  AddLayerNormForward arguments{};
  arguments.x = x.const_data_ptr();
  arguments.residual = data_or_null(residual);
  arguments.bias = data_or_null(bias);
  arguments.gamma = gamma.const_data_ptr();
  arguments.beta = data_or_null(beta);
  arguments.y = y.mutable_data_ptr();
  arguments.sum = own_sum ? sum.mutable_data_ptr() : nullptr;
  arguments.mean = centred ? static_cast<float*>(mean.mutable_data_ptr()) : nullptr;
  arguments.rstd = static_cast<float*>(rstd.mutable_data_ptr());
  arguments.rows = rows;
  arguments.hidden = static_cast<int32_t>(hidden);
  arguments.dtype = dtype_of(x);
  arguments.eps = static_cast<float>(eps);
  arguments.dropout = dropout;
#ifndef MEGAXLM_CPU_ONLY
  if (x.is_cuda()) {
    const DeviceGuard guard(x.get_device_index());
    raise_if(megaxlm_add_layer_norm_forward_cuda(&arguments, current_stream(x)), "add_layer_norm");
    return {y, sum, mean, rstd};
  }
#endif
  raise_if(megaxlm_add_layer_norm_forward_cpu(&arguments), "add_layer_norm");
  return {y, sum, mean, rstd};
}

// (dsum, dx, dgamma, dbeta, dbias). dx is empty without dropout, where dsum is dx too; dbeta and
// dbias are empty unless asked for.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> backward(
    Tensor grad_y, std::optional<Tensor> grad_sum, Tensor sum, Tensor gamma,
    std::optional<Tensor> mean, Tensor rstd, double dropout_p, int64_t seed,
    std::optional<Tensor> places, bool wants_beta, bool wants_bias) {
  const auto [rows, hidden] = checked_shape(sum);
  const Dropout dropout = checked_dropout(dropout_p, seed, places, sum, rows);
  check_like(sum, "sum", sum, rows * hidden);
  check_like(grad_y, "grad_y", sum, rows * hidden);
  if (grad_sum) check_like(*grad_sum, "grad_sum", sum, rows * hidden);
  check_like(gamma, "gamma", sum, hidden);
  if (mean) check_float_rows(*mean, "mean", sum, rows);
  check_float_rows(rstd, "rstd", sum, rows);

  const bool own_dx = dropout.threshold != 0;
  Tensor dsum = new_empty(sum, {rows, hidden});
  Tensor dx = new_empty(sum, {own_dx ? rows : 0, hidden});
  Tensor dgamma = new_empty(sum, {hidden});
  Tensor dbeta = new_empty(sum, {wants_beta ? hidden : 0});
  Tensor dbias = new_empty(sum, {wants_bias ? hidden : 0});
  AddLayerNormBackward arguments{};
  arguments.grad_y = grad_y.const_data_ptr();
  arguments.grad_sum = data_or_null(grad_sum);
  arguments.sum = sum.const_data_ptr();
  arguments.gamma = gamma.const_data_ptr();
  arguments.mean = static_cast<const float*>(data_or_null(mean));
  arguments.rstd = static_cast<const float*>(rstd.const_data_ptr());
  arguments.dsum = dsum.mutable_data_ptr();
  arguments.dx = own_dx ? dx.mutable_data_ptr() : nullptr;
  arguments.dgamma = dgamma.mutable_data_ptr();
  arguments.dbeta = wants_beta ? dbeta.mutable_data_ptr() : nullptr;
  arguments.dbias = wants_bias ? dbias.mutable_data_ptr() : nullptr;
  arguments.rows = rows;
  arguments.hidden = static_cast<int32_t>(hidden);
  arguments.dtype = dtype_of(sum);
  arguments.dropout = dropout;
#ifndef MEGAXLM_CPU_ONLY
  if (sum.is_cuda()) {
    const DeviceGuard guard(sum.get_device_index());
    arguments.blocks = megaxlm_add_layer_norm_backward_blocks_cuda(rows, arguments.hidden);
    Tensor partials = new_empty(sum, {arguments.blocks, 3, hidden}, ScalarType::Float);
    arguments.partials = static_cast<float*>(partials.mutable_data_ptr());
    raise_if(megaxlm_add_layer_norm_backward_cuda(&arguments, current_stream(sum)),
             "add_layer_norm_backward");
    return {dsum, dx, dgamma, dbeta, dbias};
  }
#endif
  raise_if(megaxlm_add_layer_norm_backward_cpu(&arguments), "add_layer_norm_backward");
  return {dsum, dx, dgamma, dbeta, dbias};
}

}  // namespace
}  // namespace megaxlm

STABLE_TORCH_LIBRARY_FRAGMENT(megaxlm, library) {
  library.def(
      "add_layer_norm(Tensor x, Tensor? residual, Tensor? bias, Tensor gamma, Tensor? beta, "
      "float eps, float dropout_p, SymInt seed, Tensor? places, bool centred) "
      "-> (Tensor, Tensor, Tensor, Tensor)");
  library.def(
      "add_layer_norm_backward(Tensor grad_y, Tensor? grad_sum, Tensor sum, Tensor gamma, "
      "Tensor? mean, Tensor rstd, float dropout_p, SymInt seed, Tensor? places, bool wants_beta, "
      "bool wants_bias) -> (Tensor, Tensor, Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(megaxlm, CPU, library) {
  library.impl("add_layer_norm", TORCH_BOX(&megaxlm::forward));
  library.impl("add_layer_norm_backward", TORCH_BOX(&megaxlm::backward));
}

#ifndef MEGAXLM_CPU_ONLY
STABLE_TORCH_LIBRARY_IMPL(megaxlm, CUDA, library) {
  library.impl("add_layer_norm", TORCH_BOX(&megaxlm::forward));
  library.impl("add_layer_norm_backward", TORCH_BOX(&megaxlm::backward));
}
#endif
