// bias_gelu and geglu in plain C++: the formulas with nothing around them.
#include "bias_gelu.h"

#include <cmath>
#include <vector>

namespace megaxlm::cpu {
namespace {

struct Normal {
  float cdf, density;
};

Normal normal(float x) {
  return {0.5f + 0.5f * std::erf(x * 0.70710678118654752f),
          0.39894228040143268f * std::exp(-0.5f * x * x)};
}

template <typename T>
float biased(const T* x, const T* bias, int64_t column) {
  return to_float(x[column]) + (bias ? to_float(bias[column]) : 0.0f);
}

template <typename T>
void forward(const BiasGeluForward& a) {
  const T* bias = static_cast<const T*>(a.bias);
  const int64_t width = a.width;
  const int64_t columns = a.gated ? 2 * width : width;
  for (int64_t row = 0; row < a.rows; ++row) {
    const T* x = static_cast<const T*>(a.x) + row * columns;
    for (int64_t column = 0; column < width; ++column) {
      const float gate = biased(x, bias, column);
      float value = gate * normal(gate).cdf;
      if (a.gated) value *= biased(x, bias, width + column);
      static_cast<T*>(a.y)[row * width + column] = from_float<T>(value);
    }
  }
}

template <typename T>
void backward(const BiasGeluBackward& a) {
  const T* bias = static_cast<const T*>(a.bias);
  const int64_t width = a.width;
  const int64_t columns = a.gated ? 2 * width : width;
  std::vector<float> dbias(columns);
  for (int64_t row = 0; row < a.rows; ++row) {
    const T* x = static_cast<const T*>(a.x) + row * columns;
    T* dx = static_cast<T*>(a.dx) + row * columns;
    for (int64_t column = 0; column < width; ++column) {
      const float grad = to_float(static_cast<const T*>(a.grad_y)[row * width + column]);
      const float gate = biased(x, bias, column);
      const Normal at = normal(gate);
      float gate_grad = grad * (at.cdf + gate * at.density);
      if (a.gated) {
        gate_grad *= biased(x, bias, width + column);
        const float linear_grad = grad * gate * at.cdf;
        dx[width + column] = from_float<T>(linear_grad);
        dbias[width + column] += linear_grad;
      }
      dx[column] = from_float<T>(gate_grad);
      dbias[column] += gate_grad;
    }
  }
  if (!a.dbias) return;
  for (int64_t column = 0; column < columns; ++column)
    static_cast<T*>(a.dbias)[column] = from_float<T>(dbias[column]);
}

}  // namespace
}  // namespace megaxlm::cpu

extern "C" const char* megaxlm_bias_gelu_forward_cpu(const megaxlm::BiasGeluForward* arguments) {
  using namespace megaxlm;
  switch (arguments->dtype) {
    case Dtype::kFloat: cpu::forward<float>(*arguments); return nullptr;
    case Dtype::kHalf: cpu::forward<cpu::Half>(*arguments); return nullptr;
    case Dtype::kBfloat16: cpu::forward<cpu::Bfloat16>(*arguments); return nullptr;
  }
  return "unknown dtype";
}

extern "C" const char* megaxlm_bias_gelu_backward_cpu(const megaxlm::BiasGeluBackward* arguments) {
  using namespace megaxlm;
  switch (arguments->dtype) {
    case Dtype::kFloat: cpu::backward<float>(*arguments); return nullptr;
    case Dtype::kHalf: cpu::backward<cpu::Half>(*arguments); return nullptr;
    case Dtype::kBfloat16: cpu::backward<cpu::Bfloat16>(*arguments); return nullptr;
  }
  return "unknown dtype";
}
