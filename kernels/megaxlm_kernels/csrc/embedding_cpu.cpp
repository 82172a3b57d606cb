// embedding_sum, embedding_gradient and row_dropout in plain C++.
#include "embedding.h"

#include <limits>
#include <vector>

namespace megaxlm::cpu {
namespace {

template <typename T>
void sum(const EmbeddingSum& a) {
  const int64_t hidden = a.hidden;
  for (int64_t row = 0; row < a.rows; ++row) {
    for (int64_t column = 0; column < hidden; ++column) {
      float total = 0.0f;
      for (int table = 0; table < kMostTables && a.index[table]; ++table) {
        const int64_t index = a.index[table][row];
        const bool valid = index >= 0 && index < a.size[table];
        total += valid ? to_float(static_cast<const T*>(a.table[table])[index * hidden + column])
                       : std::numeric_limits<float>::quiet_NaN();
      }
      static_cast<T*>(a.y)[row * hidden + column] = from_float<T>(total);
    }
  }
}

template <typename T>
void gradient(const EmbeddingGradient& a) {
  const int64_t hidden = a.hidden;
  std::vector<float> total(hidden);
  for (int64_t row = 0; row < a.rows; ++row) {
    const T* grad = static_cast<const T*>(a.grad_y) + a.order[row] * hidden;
    for (int64_t column = 0; column < hidden; ++column) total[column] += to_float(grad[column]);
    const int64_t word = a.sorted[row];
    if (row + 1 < a.rows && a.sorted[row + 1] == word) continue;
    for (int64_t column = 0; column < hidden; ++column) {
      if (word >= 0 && word < a.size)
        static_cast<T*>(a.dtable)[word * hidden + column] = from_float<T>(total[column]);
      total[column] = 0.0f;
    }
  }
}

template <typename T>
void drop(const RowDropout& a) {
  for (int64_t row = 0; row < a.rows; ++row) {
    for (int32_t group = 0; group < a.hidden / 8; ++group) {
      const PhiloxWords bits = dropout_bits(a.dropout, dropout_place(a.dropout, row), group);
      for (int element = 0; element < 8; ++element) {
        const int64_t at = row * a.hidden + group * 8 + element;
        const float value = to_float(static_cast<const T*>(a.x)[at]);
        static_cast<T*>(a.y)[at] =
            from_float<T>(dropped(a.dropout, bits, element) ? 0.0f : value * a.dropout.scale);
      }
    }
  }
}

}  // namespace
}  // namespace megaxlm::cpu

extern "C" const char* megaxlm_embedding_sum_cpu(const megaxlm::EmbeddingSum* arguments) {
  using namespace megaxlm;
  switch (arguments->dtype) {
    case Dtype::kFloat: cpu::sum<float>(*arguments); return nullptr;
    case Dtype::kHalf: cpu::sum<cpu::Half>(*arguments); return nullptr;
    case Dtype::kBfloat16: cpu::sum<cpu::Bfloat16>(*arguments); return nullptr;
  }
  return "unknown dtype";
}

extern "C" const char* megaxlm_embedding_gradient_cpu(
    const megaxlm::EmbeddingGradient* arguments) {
  using namespace megaxlm;
  switch (arguments->dtype) {
    case Dtype::kFloat: cpu::gradient<float>(*arguments); return nullptr;
    case Dtype::kHalf: cpu::gradient<cpu::Half>(*arguments); return nullptr;
    case Dtype::kBfloat16: cpu::gradient<cpu::Bfloat16>(*arguments); return nullptr;
  }
  return "unknown dtype";
}

extern "C" const char* megaxlm_row_dropout_cpu(const megaxlm::RowDropout* arguments) {
  using namespace megaxlm;
  switch (arguments->dtype) {
    case Dtype::kFloat: cpu::drop<float>(*arguments); return nullptr;
    case Dtype::kHalf: cpu::drop<cpu::Half>(*arguments); return nullptr;
    case Dtype::kBfloat16: cpu::drop<cpu::Bfloat16>(*arguments); return nullptr;
  }
  return "unknown dtype";
}
