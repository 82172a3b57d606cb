// embedding_sum, embedding_gradient and row_dropout as torch ops. The Python side (embedding.py)
// makes embedding_layer_norm of them.
#include "embedding.h"
#include "torch_binding.h"

namespace megaxlm {
namespace {

using torch::stable::accelerator::DeviceGuard;
using torch::stable::new_empty;
using torch::stable::new_zeros;

int32_t checked_hidden(const Tensor& tensor, const char* name) {
  STD_TORCH_CHECK(tensor.dim() == 2, name, " must have 2 dimensions");
  const int64_t hidden = tensor.size(1);
  STD_TORCH_CHECK(hidden > 0 && hidden % 8 == 0 && hidden <= INT32_MAX,
                  "hidden must be a positive multiple of 8, got ", hidden);
  return static_cast<int32_t>(hidden);
}

const int64_t* checked_index(const Tensor& tensor, const char* name, const Tensor& like,
                             int64_t rows) {
  STD_TORCH_CHECK(tensor.scalar_type() == ScalarType::Long && tensor.is_contiguous() &&
                      tensor.numel() == rows && tensor.is_cuda() == like.is_cuda(),
                  name, " must be int64 (", rows, ",)");
  return static_cast<const int64_t*>(tensor.const_data_ptr());
}

Tensor sum(Tensor index, Tensor table, std::optional<Tensor> index2, std::optional<Tensor> table2,
           std::optional<Tensor> index3, std::optional<Tensor> table3) {
  const int32_t hidden = checked_hidden(table, "table");
  const int64_t rows = index.numel();
  STD_TORCH_CHECK(index2.has_value() == table2.has_value() &&
                      index3.has_value() == table3.has_value() && (index2 || !index3),
                  "each table needs its index");
  EmbeddingSum arguments{};
  const auto add = [&](int place, const Tensor& ids, const Tensor& rows_of) {
    STD_TORCH_CHECK(rows_of.dim() == 2 && rows_of.size(1) == hidden, "tables differ in width");
    check_like(rows_of, "table", table, rows_of.size(0) * hidden);
    arguments.index[place] = checked_index(ids, "index", table, rows);
    arguments.table[place] = rows_of.const_data_ptr();
    arguments.size[place] = rows_of.size(0);
  };
  add(0, index, table);
  if (index2) add(1, *index2, *table2);
  if (index3) add(2, *index3, *table3);
  Tensor y = new_empty(table, {rows, hidden});
  arguments.y = y.mutable_data_ptr();
  arguments.rows = rows;
  arguments.hidden = hidden;
  arguments.dtype = dtype_of(table);
#ifndef MEGAXLM_CPU_ONLY
  if (table.is_cuda()) {
    const DeviceGuard guard(table.get_device_index());
    raise_if(megaxlm_embedding_sum_cuda(&arguments, current_stream(table)), "embedding_sum");
    return y;
  }
#endif
  raise_if(megaxlm_embedding_sum_cpu(&arguments), "embedding_sum");
  return y;
}

Tensor gradient(Tensor grad_y, Tensor sorted, Tensor order, int64_t size) {
  const int32_t hidden = checked_hidden(grad_y, "grad_y");
  const int64_t rows = grad_y.size(0);
  check_like(grad_y, "grad_y", grad_y, rows * hidden);
  STD_TORCH_CHECK(size >= 0, "size must not be negative");
  Tensor dtable = new_zeros(grad_y, {size, hidden});
  EmbeddingGradient arguments{};
  arguments.grad_y = grad_y.const_data_ptr();
  arguments.sorted = checked_index(sorted, "sorted", grad_y, rows);
  arguments.order = checked_index(order, "order", grad_y, rows);
  arguments.dtable = dtable.mutable_data_ptr();
  arguments.rows = rows;
  arguments.size = size;
  arguments.hidden = hidden;
  arguments.dtype = dtype_of(grad_y);
#ifndef MEGAXLM_CPU_ONLY
  if (grad_y.is_cuda()) {
    const DeviceGuard guard(grad_y.get_device_index());
    const int64_t chunks = (rows + kChunkRows - 1) / kChunkRows;
    Tensor partials = new_empty(grad_y, {chunks, 2, hidden}, ScalarType::Float);
    arguments.partials = static_cast<float*>(partials.mutable_data_ptr());
    raise_if(megaxlm_embedding_gradient_cuda(&arguments, current_stream(grad_y)),
             "embedding_gradient");
    return dtable;
  }
#endif
  raise_if(megaxlm_embedding_gradient_cpu(&arguments), "embedding_gradient");
  return dtable;
}

Tensor drop(Tensor x, double dropout_p, int64_t seed, std::optional<Tensor> places) {
  const int32_t hidden = checked_hidden(x, "x");
  const int64_t rows = x.size(0);
  check_like(x, "x", x, rows * hidden);
  STD_TORCH_CHECK(dropout_p >= 0.0 && dropout_p < 1.0, "dropout_p must be in [0, 1)");
  if (places) checked_index(*places, "places", x, rows);
  Tensor y = new_empty(x, {rows, hidden});
  RowDropout arguments{};
  arguments.x = x.const_data_ptr();
  arguments.y = y.mutable_data_ptr();
  arguments.rows = rows;
  arguments.hidden = hidden;
  arguments.dtype = dtype_of(x);
  arguments.dropout = make_dropout(dropout_p, seed, data_or_null(places));
#ifndef MEGAXLM_CPU_ONLY
  if (x.is_cuda()) {
    const DeviceGuard guard(x.get_device_index());
    raise_if(megaxlm_row_dropout_cuda(&arguments, current_stream(x)), "row_dropout");
    return y;
  }
#endif
  raise_if(megaxlm_row_dropout_cpu(&arguments), "row_dropout");
  return y;
}

}  // namespace
}  // namespace megaxlm

STABLE_TORCH_LIBRARY_FRAGMENT(megaxlm, library) {
  library.def(
      "embedding_sum(Tensor index, Tensor table, Tensor? index2, Tensor? table2, Tensor? index3, "
      "Tensor? table3) -> Tensor");
  library.def("embedding_gradient(Tensor grad_y, Tensor sorted, Tensor order, int size) -> Tensor");
  library.def("row_dropout(Tensor x, float dropout_p, SymInt seed, Tensor? places) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(megaxlm, CPU, library) {
  library.impl("embedding_sum", TORCH_BOX(&megaxlm::sum));
  library.impl("embedding_gradient", TORCH_BOX(&megaxlm::gradient));
  library.impl("row_dropout", TORCH_BOX(&megaxlm::drop));
}

#ifndef MEGAXLM_CPU_ONLY
STABLE_TORCH_LIBRARY_IMPL(megaxlm, CUDA, library) {
  library.impl("embedding_sum", TORCH_BOX(&megaxlm::sum));
  library.impl("embedding_gradient", TORCH_BOX(&megaxlm::gradient));
  library.impl("row_dropout", TORCH_BOX(&megaxlm::drop));
}
#endif
