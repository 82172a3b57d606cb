// cross_entropy_ as a torch op. linear_cross_entropy.py puts the GEMMs around it.
#include "cross_entropy.h"
#include "torch_binding.h"

#include <tuple>

namespace megaxlm {
namespace {

using torch::stable::accelerator::DeviceGuard;
using torch::stable::new_empty;

// (nll, loss), (rows,) fp32 each; the gradient of each row's loss takes the place of the logits.
std::tuple<Tensor, Tensor> cross_entropy(Tensor logits, std::optional<Tensor> bias, Tensor targets,
                                         int64_t vocab, double label_smoothing, double z_loss,
                                         bool wants_gradient) {
  STD_TORCH_CHECK(logits.dim() == 2, "logits must be (rows, stride)");
  const int64_t rows = logits.size(0);
  const int64_t stride = logits.size(1);
  STD_TORCH_CHECK(vocab > 0 && vocab <= stride && stride % 8 == 0 && stride <= INT32_MAX - 8,
                  "logits must have a multiple of 8 columns, vocab (", vocab, ") or more, got ",
                  stride);
  check_like(logits, "logits", logits, rows * stride);
  if (bias) check_like(*bias, "bias", logits, vocab);
  STD_TORCH_CHECK(targets.scalar_type() == ScalarType::Long && targets.is_contiguous() &&
                      targets.numel() == rows && targets.is_cuda() == logits.is_cuda(),
                  "targets must be int64 (", rows, ",)");
  Tensor nll = new_empty(logits, {rows}, ScalarType::Float);
  Tensor loss = new_empty(logits, {rows}, ScalarType::Float);
  CrossEntropy arguments{};
  arguments.logits = logits.mutable_data_ptr();
  arguments.bias = data_or_null(bias);
  arguments.targets = static_cast<const int64_t*>(targets.const_data_ptr());
  arguments.nll = static_cast<float*>(nll.mutable_data_ptr());
  arguments.loss = static_cast<float*>(loss.mutable_data_ptr());
  arguments.rows = rows;
  arguments.stride = stride;
  arguments.vocab = static_cast<int32_t>(vocab);
  arguments.dtype = dtype_of(logits);
  arguments.label_smoothing = static_cast<float>(label_smoothing);
  arguments.z_loss = static_cast<float>(z_loss);
  arguments.wants_gradient = wants_gradient;
  arguments.kept_bytes = -1;
#ifndef MEGAXLM_CPU_ONLY
  if (logits.is_cuda()) {
    const DeviceGuard guard(logits.get_device_index());
    raise_if(megaxlm_cross_entropy_cuda(&arguments, current_stream(logits)), "cross_entropy_");
    return {nll, loss};
  }
#endif
  raise_if(megaxlm_cross_entropy_cpu(&arguments), "cross_entropy_");
  return {nll, loss};
}

}  // namespace
}  // namespace megaxlm

STABLE_TORCH_LIBRARY_FRAGMENT(megaxlm, library) {
  library.def(
      "cross_entropy_(Tensor(a!) logits, Tensor? bias, Tensor targets, int vocab, "
      "float label_smoothing, float z_loss, bool wants_gradient) -> (Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(megaxlm, CPU, library) {
  library.impl("cross_entropy_", TORCH_BOX(&megaxlm::cross_entropy));
}

#ifndef MEGAXLM_CPU_ONLY
STABLE_TORCH_LIBRARY_IMPL(megaxlm, CUDA, library) {
  library.impl("cross_entropy_", TORCH_BOX(&megaxlm::cross_entropy));
}
#endif
