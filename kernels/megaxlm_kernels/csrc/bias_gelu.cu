// y = gelu(x + bias), or gelu(gate) * linear, and their gradients, in one pass over memory.
//
// A thread owns 8 columns, keeps their bias in registers and walks down the rows, several of them
// in flight; in backward the sums of dbias gather in its registers and leave once, as partial sums
// that column_sums.cuh adds in a fixed order. Blocks are tiles of columns times steps of rows.
#include "bias_gelu.h"
#include "column_sums.cuh"
#include "gelu.cuh"
#include "group.cuh"

namespace megaxlm {
namespace {

constexpr int kThreads = 128;        // 1024 columns a tile: 3072 and 4096 leave none idle
constexpr int kRowsPerPartial = 16;  // fewer would make the partial sums a load of their own
constexpr int kFlying = 2;           // rows; with 5 to 10 blocks an SM, 40 KB or more

template <typename T>
__device__ __forceinline__ Values biased(const Group<T>& x, const Group<T>& bias, bool has_bias) {
  Values value = unpack(x);
  if (has_bias) {
    const Values added = unpack(bias);
#pragma unroll
    for (int i = 0; i < 8; ++i) value.at[i] += added.at[i];
  }
  return value;
}

// The biases of a thread's columns, kept as they are stored: half the registers in 16 bits.
template <typename T>
struct Biases {
  Group<T> gate, linear;
  bool any;
};

template <typename T, bool kGated>
__device__ __forceinline__ Biases<T> load_biases(const void* bias, int row_groups, int column) {
  Biases<T> loaded = {};
  loaded.any = bias != nullptr;
  if (loaded.any) {
    loaded.gate = load_cached<T>(bias, column);
    if (kGated) loaded.linear = load_cached<T>(bias, column + row_groups);
  }
  return loaded;
}

// The groups of one row, and where they lie.
struct Place {
  int64_t x, y;
};

template <bool kGated>
__device__ __forceinline__ Place place_of(int64_t row, int row_groups, int column) {
  const int64_t y = row * row_groups + column;
  return {kGated ? y + row * row_groups : y, y};
}

template <typename T, bool kGated>
__global__ void __launch_bounds__(kThreads) bias_gelu_forward(const BiasGeluForward a) {
  const int row_groups = a.width / 8;
  const int column = blockIdx.x * kThreads + threadIdx.x;
  if (column >= row_groups) return;
  const Biases<T> bias = load_biases<T, kGated>(a.bias, row_groups, column);
  const int64_t step = gridDim.y;
  for (int64_t first = blockIdx.y; first < a.rows; first += kFlying * step) {
    Group<T> gate[kFlying];
    Group<T> linear[kFlying];
#pragma unroll
    for (int i = 0; i < kFlying; ++i) {
      if (first + i * step >= a.rows) break;
      const Place place = place_of<kGated>(first + i * step, row_groups, column);
      gate[i] = load_streaming<T>(a.x, place.x);
      if (kGated) linear[i] = load_streaming<T>(a.x, place.x + row_groups);
    }
#pragma unroll
    for (int i = 0; i < kFlying; ++i) {
      if (first + i * step >= a.rows) break;
      Values value = biased<T>(gate[i], bias.gate, bias.any);
#pragma unroll
      for (int j = 0; j < 8; ++j) value.at[j] *= normal<T>(value.at[j]).cdf;
      if (kGated) {
        const Values factor = biased<T>(linear[i], bias.linear, bias.any);
#pragma unroll
        for (int j = 0; j < 8; ++j) value.at[j] *= factor.at[j];
      }
      store(a.y, place_of<kGated>(first + i * step, row_groups, column).y, pack<T>(value));
    }
  }
}

template <typename T, bool kGated>
__global__ void __launch_bounds__(kThreads) bias_gelu_backward(const BiasGeluBackward a) {
  const int row_groups = a.width / 8;
  const int column = blockIdx.x * kThreads + threadIdx.x;
  if (column >= row_groups) return;
  const Biases<T> bias = load_biases<T, kGated>(a.bias, row_groups, column);
  Values gate_sum = {};
  Values linear_sum = {};
  const int64_t step = gridDim.y;
  for (int64_t first = blockIdx.y; first < a.rows; first += kFlying * step) {
    Group<T> grad[kFlying];
    Group<T> gate[kFlying];
    Group<T> linear[kFlying];
#pragma unroll
    for (int i = 0; i < kFlying; ++i) {
      if (first + i * step >= a.rows) break;
      const Place place = place_of<kGated>(first + i * step, row_groups, column);
      grad[i] = load_streaming<T>(a.grad_y, place.y);
      gate[i] = load_streaming<T>(a.x, place.x);
      if (kGated) linear[i] = load_streaming<T>(a.x, place.x + row_groups);
    }
#pragma unroll
    for (int i = 0; i < kFlying; ++i) {
      if (first + i * step >= a.rows) break;
      const Place place = place_of<kGated>(first + i * step, row_groups, column);
      Values flow = unpack(grad[i]);
      Values value = biased<T>(gate[i], bias.gate, bias.any);
      if (kGated) {
        const Values factor = biased<T>(linear[i], bias.linear, bias.any);
        Values linear_grad;
#pragma unroll
        for (int j = 0; j < 8; ++j) {
          const Normal at = normal<T>(value.at[j]);
          linear_grad.at[j] = flow.at[j] * value.at[j] * at.cdf;
          linear_sum.at[j] += linear_grad.at[j];
          flow.at[j] *= factor.at[j] * (at.cdf + value.at[j] * at.density);
        }
        store(a.dx, place.x + row_groups, pack<T>(linear_grad));
      } else {
#pragma unroll
        for (int j = 0; j < 8; ++j) {
          const Normal at = normal<T>(value.at[j]);
          flow.at[j] *= at.cdf + value.at[j] * at.density;
        }
      }
      store(a.dx, place.x, pack<T>(flow));
#pragma unroll
      for (int j = 0; j < 8; ++j) gate_sum.at[j] += flow.at[j];
    }
  }
  if (a.partials) {
    const Place place = place_of<kGated>(blockIdx.y, row_groups, column);
    store(a.partials, place.x, pack<float>(gate_sum));
    if (kGated) store(a.partials, place.x + row_groups, pack<float>(linear_sum));
  }
}

int tiles(int32_t width) { return (width / 8 + kThreads - 1) / kThreads; }

// What the device holds at once, shared out over the tiles.
template <typename Kernel>
int row_blocks(Kernel kernel, int64_t rows_of_work, int32_t width) {
  const int64_t most = persistent_blocks(kernel, kThreads, INT32_MAX) / tiles(width);
  const int64_t blocks = rows_of_work < most ? rows_of_work : most;
  return static_cast<int>(blocks > 0 ? blocks : 1);
}

template <typename T, bool kGated>
void forward(const BiasGeluForward& a, void* stream) {
  auto* kernel = bias_gelu_forward<T, kGated>;
  const dim3 grid(tiles(a.width), row_blocks(kernel, (a.rows + kFlying - 1) / kFlying, a.width));
  MEGAXLM_LAUNCH(kernel, grid, kThreads, 0, stream, a);
}

template <typename T, bool kGated>
void backward(const BiasGeluBackward& a, void* stream) {
  auto* kernel = bias_gelu_backward<T, kGated>;
  const dim3 grid(tiles(a.width), a.blocks);
  MEGAXLM_LAUNCH(kernel, grid, kThreads, 0, stream, a);
  if (a.dbias) {
    const int32_t columns = kGated ? 2 * a.width : a.width;
    launch_column_sums<T>({a.partials, {a.dbias, nullptr, nullptr}, a.blocks, 1, columns}, stream);
  }
}

template <typename T>
void forward(const BiasGeluForward& a, void* stream) {
  a.gated ? forward<T, true>(a, stream) : forward<T, false>(a, stream);
}

template <typename T>
void backward(const BiasGeluBackward& a, void* stream) {
  a.gated ? backward<T, true>(a, stream) : backward<T, false>(a, stream);
}

template <typename T>
int backward_blocks(int64_t rows, int32_t width, bool gated) {
  const int64_t work = (rows + kRowsPerPartial - 1) / kRowsPerPartial;
  auto* plain = bias_gelu_backward<T, false>;
  auto* both = bias_gelu_backward<T, true>;
  return row_blocks(gated ? both : plain, work, width);
}

}  // namespace
}  // namespace megaxlm

extern "C" int32_t megaxlm_bias_gelu_backward_blocks_cuda(
    const megaxlm::BiasGeluBackward* arguments) {
  using namespace megaxlm;
  const BiasGeluBackward& a = *arguments;
  switch (a.dtype) {
    case Dtype::kFloat: return backward_blocks<float>(a.rows, a.width, a.gated);
    case Dtype::kHalf: return backward_blocks<__half>(a.rows, a.width, a.gated);
    case Dtype::kBfloat16: return backward_blocks<__nv_bfloat16>(a.rows, a.width, a.gated);
  }
  return 1;
}

extern "C" const char* megaxlm_bias_gelu_forward_cuda(const megaxlm::BiasGeluForward* arguments,
                                                      void* stream) {
  using namespace megaxlm;
  if (arguments->rows == 0) return nullptr;
  switch (arguments->dtype) {
    case Dtype::kFloat: forward<float>(*arguments, stream); break;
    case Dtype::kHalf: forward<__half>(*arguments, stream); break;
    case Dtype::kBfloat16: forward<__nv_bfloat16>(*arguments, stream); break;
  }
  return launch_error();
}

extern "C" const char* megaxlm_bias_gelu_backward_cuda(const megaxlm::BiasGeluBackward* arguments,
                                                       void* stream) {
  using namespace megaxlm;
  switch (arguments->dtype) {
    case Dtype::kFloat: backward<float>(*arguments, stream); break;
    case Dtype::kHalf: backward<__half>(*arguments, stream); break;
    case Dtype::kBfloat16: backward<__nv_bfloat16>(*arguments, stream); break;
  }
  return launch_error();
}
