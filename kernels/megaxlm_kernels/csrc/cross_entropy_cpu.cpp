// cross_entropy_ in plain C++: the formulas with nothing around them.
#include "cross_entropy.h"

#include <cmath>
#include <limits>

namespace megaxlm::cpu {
namespace {

template <typename T>
void rows(const CrossEntropy& a) {
  const T* bias = static_cast<const T*>(a.bias);
  const auto value = [&](const T* row, int32_t column) {
    return to_float(row[column]) + (bias ? to_float(bias[column]) : 0.0f);
  };
  for (int64_t index = 0; index < a.rows; ++index) {
    T* row = static_cast<T*>(a.logits) + index * a.stride;
    float highest = -std::numeric_limits<float>::infinity();
    for (int32_t column = 0; column < a.vocab; ++column)
      highest = std::fmax(highest, value(row, column));
    double total = 0.0;
    double sum = 0.0;
    for (int32_t column = 0; column < a.vocab; ++column) {
      total += std::exp(value(row, column) - highest);
      sum += value(row, column);
    }
    const float lse = highest + static_cast<float>(std::log(total));
    const int64_t target = a.targets[index];
    const bool valid = target >= 0 && target < a.vocab;
    const float nll = valid ? lse - value(row, static_cast<int32_t>(target))
                            : std::numeric_limits<float>::quiet_NaN();
    const float smooth = a.label_smoothing;
    a.nll[index] = nll;
    a.loss[index] = (1 - smooth) * nll + a.z_loss * lse * lse +
                    (smooth ? smooth * (lse - static_cast<float>(sum / a.vocab)) : 0.0f);
    if (!a.wants_gradient) continue;
    for (int32_t column = 0; column < a.vocab; ++column) {
      float gradient = std::exp(value(row, column) - lse) * (1 + 2 * a.z_loss * lse);
      gradient -= smooth / a.vocab;
      if (column == target) gradient -= 1 - smooth;
      row[column] = from_float<T>(gradient);
    }
  }
}

}  // namespace
}  // namespace megaxlm::cpu

extern "C" const char* megaxlm_cross_entropy_cpu(const megaxlm::CrossEntropy* arguments) {
  using namespace megaxlm;
  switch (arguments->dtype) {
    case Dtype::kFloat: cpu::rows<float>(*arguments); return nullptr;
    case Dtype::kHalf: cpu::rows<cpu::Half>(*arguments); return nullptr;
    case Dtype::kBfloat16: cpu::rows<cpu::Bfloat16>(*arguments); return nullptr;
  }
  return "unknown dtype";
}
