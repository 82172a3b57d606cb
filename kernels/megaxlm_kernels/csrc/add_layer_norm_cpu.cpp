// add_layer_norm in plain C++: the formulas with nothing around them. It gives the op's autograd,
// compilation and dropout something to run on where there is no GPU.
#include "add_layer_norm.h"

#include <cmath>
#include <vector>

namespace megaxlm::cpu {
namespace {

template <typename T>
void forward(const AddLayerNormForward& a) {
  const T* x = static_cast<const T*>(a.x);
  const T* residual = static_cast<const T*>(a.residual);
  const T* bias = static_cast<const T*>(a.bias);
  const T* gamma = static_cast<const T*>(a.gamma);
  const T* beta = static_cast<const T*>(a.beta);
  const int64_t hidden = a.hidden;
  std::vector<float> values(hidden);
  for (int64_t row = 0; row < a.rows; ++row) {
    const int64_t start = row * hidden;
    float total = 0.0f;
    for (int64_t group = 0; group < hidden / 8; ++group) {
      PhiloxWords bits{};
      if (a.dropout.threshold) bits = dropout_bits(a.dropout, dropout_place(a.dropout, row), group);
      for (int element = 0; element < 8; ++element) {
        const int64_t column = group * 8 + element;
        float value = to_float(x[start + column]);
        if (bias) value += to_float(bias[column]);
        if (a.dropout.threshold)
          value = dropped(a.dropout, bits, element) ? 0.0f : value * a.dropout.scale;
        if (residual) value += to_float(residual[start + column]);
        // y is the norm of the sum as it is stored, so that backward, which reads that, agrees.
        const T stored = from_float<T>(value);
        if (a.sum) static_cast<T*>(a.sum)[start + column] = stored;
        values[column] = to_float(stored);
        total += values[column];
      }
    }
    const float mean = a.mean ? total / hidden : 0.0f;
    float squares = 0.0f;
    for (const float value : values) squares += (value - mean) * (value - mean);
    const float rstd = 1.0f / std::sqrt(squares / hidden + a.eps);
    for (int64_t column = 0; column < hidden; ++column) {
      float value = (values[column] - mean) * rstd * to_float(gamma[column]);
      if (beta) value += to_float(beta[column]);
      static_cast<T*>(a.y)[start + column] = from_float<T>(value);
    }
    if (a.mean) a.mean[row] = mean;
    a.rstd[row] = rstd;
  }
}

template <typename T>
void backward(const AddLayerNormBackward& a) {
  const T* grad_y = static_cast<const T*>(a.grad_y);
  const T* grad_sum = static_cast<const T*>(a.grad_sum);
  const T* sum = static_cast<const T*>(a.sum);
  const T* gamma = static_cast<const T*>(a.gamma);
  const int64_t hidden = a.hidden;
  std::vector<float> dgamma(hidden), dbeta(hidden), dbias(hidden);
  for (int64_t row = 0; row < a.rows; ++row) {
    const int64_t start = row * hidden;
    const float mean = a.mean ? a.mean[row] : 0.0f;
    const float rstd = a.rstd[row];
    float mean_g = 0.0f;
    float mean_gx = 0.0f;
    for (int64_t column = 0; column < hidden; ++column) {
      const float dy = to_float(grad_y[start + column]);
      const float normal = (to_float(sum[start + column]) - mean) * rstd;
      const float g = dy * to_float(gamma[column]);
      dgamma[column] += dy * normal;
      dbeta[column] += dy;
      mean_g += g;
      mean_gx += g * normal;
    }
    mean_g = a.mean ? mean_g / hidden : 0.0f;
    mean_gx /= hidden;
    for (int64_t group = 0; group < hidden / 8; ++group) {
      PhiloxWords bits{};
      if (a.dropout.threshold) bits = dropout_bits(a.dropout, dropout_place(a.dropout, row), group);
      for (int element = 0; element < 8; ++element) {
        const int64_t column = group * 8 + element;
        const float normal = (to_float(sum[start + column]) - mean) * rstd;
        const float g = to_float(grad_y[start + column]) * to_float(gamma[column]);
        float gradient = rstd * (g - mean_g - normal * mean_gx);
        if (grad_sum) gradient += to_float(grad_sum[start + column]);
        static_cast<T*>(a.dsum)[start + column] = from_float<T>(gradient);
        if (a.dropout.threshold)
          gradient = dropped(a.dropout, bits, element) ? 0.0f : gradient * a.dropout.scale;
        if (a.dx) static_cast<T*>(a.dx)[start + column] = from_float<T>(gradient);
        dbias[column] += gradient;
      }
    }
  }
  for (int64_t column = 0; column < hidden; ++column) {
    static_cast<T*>(a.dgamma)[column] = from_float<T>(dgamma[column]);
    if (a.dbeta) static_cast<T*>(a.dbeta)[column] = from_float<T>(dbeta[column]);
    if (a.dbias) static_cast<T*>(a.dbias)[column] = from_float<T>(dbias[column]);
  }
}

}  // namespace
}  // namespace megaxlm::cpu

extern "C" const char* megaxlm_add_layer_norm_forward_cpu(
    const megaxlm::AddLayerNormForward* arguments) {
  using namespace megaxlm;
  switch (arguments->dtype) {
    case Dtype::kFloat: cpu::forward<float>(*arguments); return nullptr;
    case Dtype::kHalf: cpu::forward<cpu::Half>(*arguments); return nullptr;
    case Dtype::kBfloat16: cpu::forward<cpu::Bfloat16>(*arguments); return nullptr;
  }
  return "unknown dtype";
}

extern "C" const char* megaxlm_add_layer_norm_backward_cpu(
    const megaxlm::AddLayerNormBackward* arguments) {
  using namespace megaxlm;
  switch (arguments->dtype) {
    case Dtype::kFloat: cpu::backward<float>(*arguments); return nullptr;
    case Dtype::kHalf: cpu::backward<cpu::Half>(*arguments); return nullptr;
    case Dtype::kBfloat16: cpu::backward<cpu::Bfloat16>(*arguments); return nullptr;
  }
  return "unknown dtype";
}
