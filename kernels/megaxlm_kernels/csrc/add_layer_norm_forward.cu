// sum = residual + dropout(x + bias); y = norm(sum) * gamma + beta, in one pass over memory, with
// LayerNorm or, without a mean, RMSNorm.
//
// For the listed hidden sizes a row lives in registers: one warp a row up to 1280, several warps
// above, whose means and squares meet in shared memory (Chan's formula, one barrier a row). The
// variance is always taken about the mean: sums of squares lose all of it where the mean is large.
// Grids are persistent; with 16-byte loads of 8 to 16 rows in flight an SM keeps its memory busy.
#include "add_layer_norm.h"
#include "group.cuh"
#include "reduce.cuh"

namespace megaxlm {
namespace {

// The 8 elements of `sum` at one group, rounded to the dtype that they are stored in.
template <typename T>
__device__ __forceinline__ Group<T> add_group(const AddLayerNormForward& a, const Group<T>& x,
                                              const Group<T>& residual, int64_t place,
                                              int column_group) {
  Values value = unpack(x);
  if (a.bias) {
    const Values bias = unpack(load_cached<T>(a.bias, column_group));
#pragma unroll
    for (int i = 0; i < 8; ++i) value.at[i] += bias.at[i];
  }
  if (a.dropout.threshold) {
    const PhiloxWords bits = dropout_bits(a.dropout, place, column_group);
#pragma unroll
    for (int i = 0; i < 8; ++i)
      value.at[i] = dropped(a.dropout, bits, i) ? 0.0f : value.at[i] * a.dropout.scale;
  }
  if (a.residual) {
    const Values added = unpack(residual);
#pragma unroll
    for (int i = 0; i < 8; ++i) value.at[i] += added.at[i];
  }
  return pack<T>(value);
}

template <typename T>
__device__ __forceinline__ void write_normal(const AddLayerNormForward& a, Values value, float mean,
                                             float rstd, int64_t group, int column_group) {
  const Values gamma = unpack(load_cached<T>(a.gamma, column_group));
#pragma unroll
  for (int i = 0; i < 8; ++i) value.at[i] = (value.at[i] - mean) * rstd * gamma.at[i];
  if (a.beta) {
    const Values beta = unpack(load_cached<T>(a.beta, column_group));
#pragma unroll
    for (int i = 0; i < 8; ++i) value.at[i] += beta.at[i];
  }
  store(a.y, group, pack<T>(value));
}

// kWarps warps hold a row, kGroups groups a thread: hidden is kWarps * 32 * kGroups * 8.
template <typename T, int kGroups, int kWarps>
struct ForwardShape {
  static constexpr int kRowsPerBlock = kWarps == 1 ? 4 : 1;
  static constexpr int kThreads = kRowsPerBlock * kWarps * kWarp;
  // Said outright: by its own measure ptxas would rather spill a few values of a row.
  static constexpr int kRegisters =
      sizeof(T) == 2 ? (kGroups < 5 ? 96 : 128) : (kGroups < 5 ? 128 : 168);
  static constexpr int kBlocksPerSm = 65536 / (kRegisters * kThreads);
};

template <typename T, int kGroups, int kWarps>
__global__ void __launch_bounds__((ForwardShape<T, kGroups, kWarps>::kThreads),
                                  (ForwardShape<T, kGroups, kWarps>::kBlocksPerSm))
    add_layer_norm_forward(const AddLayerNormForward a) {
  constexpr int kRowsPerBlock = ForwardShape<T, kGroups, kWarps>::kRowsPerBlock;
  constexpr int kRowThreads = kWarps * kWarp;
  constexpr int kRowGroups = kRowThreads * kGroups;
  constexpr float kWarpElements = kGroups * kWarp * 8;
  MEGAXLM_SHARED(float2, partial, [2][kWarps]);
  const int thread = threadIdx.x % kRowThreads;
  int turn = 0;

  int64_t row = static_cast<int64_t>(blockIdx.x) * kRowsPerBlock + threadIdx.x / kRowThreads;
  for (; row < a.rows; row += static_cast<int64_t>(gridDim.x) * kRowsPerBlock) {
    const int64_t first = row * kRowGroups + thread;
    const int64_t place = a.dropout.threshold ? dropout_place(a.dropout, row) : 0;
    Group<T> x[kGroups];
    Group<T> residual[kGroups];
#pragma unroll
    for (int i = 0; i < kGroups; ++i) {
      x[i] = load_streaming<T>(a.x, first + i * kRowThreads);
      if (a.residual) residual[i] = load_streaming<T>(a.residual, first + i * kRowThreads);
    }
    Values value[kGroups];
    float total = 0.0f;
#pragma unroll
    for (int i = 0; i < kGroups; ++i) {
      const int64_t group = first + i * kRowThreads;
      const Group<T> sum = add_group<T>(a, x[i], residual[i], place, thread + i * kRowThreads);
      if (a.sum) store(a.sum, group, sum);
      value[i] = unpack(sum);
#pragma unroll
      for (int j = 0; j < 8; ++j) total += value[i].at[j];
    }
    // Without a branch: where sums overflow to infinity, squares do too.
    float mean = warp_sum(total) * (a.mean ? 1.0f / kWarpElements : 0.0f);
    float squares = 0.0f;
#pragma unroll
    for (int i = 0; i < kGroups; ++i) {
#pragma unroll
      for (int j = 0; j < 8; ++j) squares += (value[i].at[j] - mean) * (value[i].at[j] - mean);
    }
    squares = warp_sum(squares);
    if (kWarps > 1) {
      if (thread % kWarp == 0) partial[turn][thread / kWarp] = make_float2(mean, squares);
      __syncthreads();
      mean = 0.0f;
#pragma unroll
      for (int warp = 0; warp < kWarps; ++warp) mean += partial[turn][warp].x;
      mean /= kWarps;
      squares = 0.0f;
#pragma unroll
      for (int warp = 0; warp < kWarps; ++warp) {
        const float apart = partial[turn][warp].x - mean;
        squares += partial[turn][warp].y + kWarpElements * apart * apart;
      }
      turn ^= 1;  // with one buffer a fast warp would overwrite what a slow one still reads
    }
    const float rstd = rsqrtf(squares / (kWarps * kWarpElements) + a.eps);
#pragma unroll
    for (int i = 0; i < kGroups; ++i)
      write_normal<T>(a, value[i], mean, rstd, first + i * kRowThreads, thread + i * kRowThreads);
    if (thread == 0) {
      if (a.mean) a.mean[row] = mean;
      a.rstd[row] = rstd;
    }
  }
}

// Any hidden that is a multiple of 8: a block walks over a row three times, two of them in cache.
constexpr int kAnyWarps = 8;

template <typename T>
__global__ void __launch_bounds__(kAnyWarps* kWarp)
    add_layer_norm_forward_any(const AddLayerNormForward a) {
  MEGAXLM_SHARED(float2, partial, [2][kAnyWarps]);
  const int row_groups = a.hidden / 8;
  const void* stored = a.sum ? a.sum : a.x;
  int turn = 0;
  for (int64_t row = blockIdx.x; row < a.rows; row += gridDim.x) {
    const int64_t first = row * row_groups;
    const int64_t place = a.dropout.threshold ? dropout_place(a.dropout, row) : 0;
    float2 total = make_float2(0.0f, 0.0f);
    for (int column = threadIdx.x; column < row_groups; column += kAnyWarps * kWarp) {
      const int64_t group = first + column;
      Group<T> sum = load_streaming<T>(a.x, group);
      if (a.sum) {
        Group<T> residual = sum;
        if (a.residual) residual = load_streaming<T>(a.residual, group);
        sum = add_group<T>(a, sum, residual, place, column);
        store(a.sum, group, sum);
      }
      const Values value = unpack(sum);
#pragma unroll
      for (int j = 0; j < 8; ++j) total.x += value.at[j];
    }
    const float mean =
        a.mean ? block_sum<kAnyWarps>(total, partial, turn).x / a.hidden : 0.0f;
    float2 squares = make_float2(0.0f, 0.0f);
    for (int column = threadIdx.x; column < row_groups; column += kAnyWarps * kWarp) {
      const Values value = unpack(load_written<T>(stored, first + column));
#pragma unroll
      for (int j = 0; j < 8; ++j) squares.x += (value.at[j] - mean) * (value.at[j] - mean);
    }
    const float rstd =
        rsqrtf(block_sum<kAnyWarps>(squares, partial, turn).x / a.hidden + a.eps);
    for (int column = threadIdx.x; column < row_groups; column += kAnyWarps * kWarp)
      write_normal<T>(a, unpack(load_written<T>(stored, first + column)), mean, rstd,
                      first + column, column);
    if (threadIdx.x == 0) {
      if (a.mean) a.mean[row] = mean;
      a.rstd[row] = rstd;
    }
  }
}

template <typename T, int kGroups, int kWarps>
void launch(const AddLayerNormForward& a, void* stream) {
  using Shape = ForwardShape<T, kGroups, kWarps>;
  auto* kernel = add_layer_norm_forward<T, kGroups, kWarps>;
  const int64_t items = (a.rows + Shape::kRowsPerBlock - 1) / Shape::kRowsPerBlock;
  const int blocks = persistent_blocks(kernel, Shape::kThreads, items);
  MEGAXLM_LAUNCH(kernel, blocks, Shape::kThreads, 0, stream, a);
}

template <typename T>
void launch_any(const AddLayerNormForward& a, void* stream) {
  auto* kernel = add_layer_norm_forward_any<T>;
  const int blocks = persistent_blocks(kernel, kAnyWarps * kWarp, a.rows);
  MEGAXLM_LAUNCH(kernel, blocks, kAnyWarps * kWarp, 0, stream, a);
}

template <typename T>
void dispatch(const AddLayerNormForward& a, void* stream) {
  switch (a.hidden) {
    case 768: return launch<T, 3, 1>(a, stream);
    case 1024: return launch<T, 4, 1>(a, stream);
    case 1280: return launch<T, 5, 1>(a, stream);
    case 2304: return launch<T, 3, 3>(a, stream);
    case 2560: return launch<T, 5, 2>(a, stream);
    case 4096: return launch<T, 4, 4>(a, stream);
    default: return launch_any<T>(a, stream);
  }
}

}  // namespace
}  // namespace megaxlm

extern "C" const char* megaxlm_add_layer_norm_forward_cuda(
    const megaxlm::AddLayerNormForward* arguments, void* stream) {
  using namespace megaxlm;
  if (arguments->rows == 0) return nullptr;
  switch (arguments->dtype) {
    case Dtype::kFloat: dispatch<float>(*arguments, stream); break;
    case Dtype::kHalf: dispatch<__half>(*arguments, stream); break;
    case Dtype::kBfloat16: dispatch<__nv_bfloat16>(*arguments, stream); break;
  }
  return launch_error();
}
