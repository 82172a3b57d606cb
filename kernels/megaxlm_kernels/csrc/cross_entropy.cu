// The loss of rows of logits and its gradient, in place: what stands between the GEMM that makes
// the logits and the two that take their gradient.
//
// A block of 1024 threads has an SM to itself and a row to work on. It reads the row once for the
// maximum and the sum of exponentials, taken online (Milakov and Gimelshein, "Online normalizer
// calculation for softmax", 2018), and keeps in shared memory as much of it as fits: 116,000 of
// 250,002 words in bf16. The rest it reads again for the gradient, mostly from L2, where the rows of
// all SMs leave it. Sums are taken in an order that shapes alone decide.
#include "cross_entropy.h"
#include "group.cuh"

namespace megaxlm {
namespace {

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / kWarp;
constexpr int kStaticBytes = 2048;  // at most, of the shared memory that a block may have

// Of some logits: the highest, the sum of exp(x - highest), and the plain sum.
struct Statistics {
  float highest, total, sum;
};

__device__ __forceinline__ Statistics merged(const Statistics& a, const Statistics& b) {
  const float highest = fmaxf(a.highest, b.highest);
  const float base = highest == -INFINITY ? 0.0f : highest;  // of no logit as yet
  return {highest, a.total * __expf(a.highest - base) + b.total * __expf(b.highest - base),
          a.sum + b.sum};
}

template <typename T>
__device__ __forceinline__ float element(const void* tensor, int64_t index);
template <>
__device__ __forceinline__ float element<float>(const void* tensor, int64_t index) {
  return static_cast<const float*>(tensor)[index];
}
template <>
__device__ __forceinline__ float element<__half>(const void* tensor, int64_t index) {
  return __half2float(static_cast<const __half*>(tensor)[index]);
}
template <>
__device__ __forceinline__ float element<__nv_bfloat16>(const void* tensor, int64_t index) {
  return __bfloat162float(static_cast<const __nv_bfloat16*>(tensor)[index]);
}

// The 8 logits of a group with their bias; -inf behind the vocabulary.
template <typename T>
__device__ __forceinline__ Values biased(const CrossEntropy& a, const Group<T>& group, int column) {
  Values value = unpack(group);
  const int left = a.vocab - column * 8;
  if (left >= 8) {
    if (a.bias) {
      const Values bias = unpack(load_cached<T>(a.bias, column));
#pragma unroll
      for (int i = 0; i < 8; ++i) value.at[i] += bias.at[i];
    }
  } else {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      if (i >= left)
        value.at[i] = -INFINITY;
      else if (a.bias)
        value.at[i] += element<T>(a.bias, column * 8 + i);
    }
  }
  return value;
}

__device__ __forceinline__ void add(Statistics& all, const Values& value, int left) {
  float highest = value.at[0];
#pragma unroll
  for (int i = 1; i < 8; ++i) highest = fmaxf(highest, value.at[i]);
  if (highest > all.highest) {
    all.total *= __expf(all.highest - highest);
    all.highest = highest;
  }
  const float base = all.highest == -INFINITY ? 0.0f : all.highest;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    all.total += __expf(value.at[i] - base);
    if (i < left) all.sum += value.at[i];
  }
}

__device__ __forceinline__ Statistics over_block(Statistics mine, Statistics (*partial)[kWarps],
                                                 int& turn) {
#pragma unroll
  for (int lane_bit = kWarp / 2; lane_bit > 0; lane_bit /= 2) {
    const Statistics other = {__shfl_xor_sync(0xFFFFFFFFu, mine.highest, lane_bit),
                              __shfl_xor_sync(0xFFFFFFFFu, mine.total, lane_bit),
                              __shfl_xor_sync(0xFFFFFFFFu, mine.sum, lane_bit)};
    mine = merged(mine, other);
  }
  if (threadIdx.x % kWarp == 0) partial[turn][threadIdx.x / kWarp] = mine;
  __syncthreads();
  Statistics all = partial[turn][0];
#pragma unroll 4
  for (int warp = 1; warp < kWarps; ++warp) all = merged(all, partial[turn][warp]);
  turn ^= 1;  // with one buffer a fast warp would overwrite what a slow one still reads
  return all;
}

template <typename T>
__global__ void __launch_bounds__(kThreads, 1) cross_entropy(const CrossEntropy a, int kept) {
  MEGAXLM_SHARED(Statistics, partial, [2][kWarps]);
  MEGAXLM_DYNAMIC_SHARED(memory);
  const int row_groups = (a.vocab + 7) / 8;
  int turn = 0;
  for (int64_t row = blockIdx.x; row < a.rows; row += gridDim.x) {
    const int64_t first = row * (a.stride / 8);
    Statistics mine = {-INFINITY, 0.0f, 0.0f};
#pragma unroll 4
    for (int column = threadIdx.x; column < row_groups; column += kThreads) {
      const Group<T> group = load_written<T>(a.logits, first + column);
      if (column < kept) store(memory, column, group);  // read by this thread alone
      add(mine, biased<T>(a, group, column), a.vocab - column * 8);
    }
    const int64_t target = a.targets[row];
    const bool valid = target >= 0 && target < a.vocab;
    float of_target = 0.0f;
    if (threadIdx.x == 0 && valid) {  // before any thread may write
      of_target = element<T>(a.logits, row * a.stride + target);
      if (a.bias) of_target += element<T>(a.bias, target);
    }
    const Statistics all = over_block(mine, partial, turn);
    const float lse = all.highest + logf(all.total);
    const float smooth = a.label_smoothing;
    if (threadIdx.x == 0) {
      const float nll = valid ? lse - of_target : NAN;
      float loss = (1.0f - smooth) * nll + a.z_loss * lse * lse;
      if (smooth != 0.0f) loss += smooth * (lse - all.sum / a.vocab);
      a.nll[row] = nll;
      a.loss[row] = loss;
    }
    if (!a.wants_gradient) continue;
    const float scale = 1.0f + 2.0f * a.z_loss * lse;
    const float everywhere = smooth / a.vocab;
#pragma unroll 2
    for (int column = threadIdx.x; column < row_groups; column += kThreads) {
      const Group<T> group = column < kept ? load_written<T>(memory, column)
                                           : load_written<T>(a.logits, first + column);
      Values value = biased<T>(a, group, column);
#pragma unroll
      for (int i = 0; i < 8; ++i) value.at[i] = __expf(value.at[i] - lse) * scale - everywhere;
      if (target / 8 == column && valid) {
#pragma unroll
        for (int i = 0; i < 8; ++i) value.at[i] -= target % 8 == i ? 1.0f - smooth : 0.0f;
      }
      store(a.logits, first + column, pack<T>(value));
    }
  }
}

template <typename T>
const char* launch(const CrossEntropy& a, void* stream) {
  auto* kernel = cross_entropy<T>;
  int most = a.kept_bytes;
  if (most < 0) {
    int device = 0;
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    most -= kStaticBytes;
  }
  const int row_groups = (a.vocab + 7) / 8;
  int kept = most / static_cast<int>(sizeof(Group<T>));
  if (kept > row_groups) kept = row_groups;
  if (!a.wants_gradient) kept = 0;
  const int bytes = (kept > 0 ? kept : 1) * static_cast<int>(sizeof(Group<T>));
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  const int64_t most_blocks = multiprocessors();
  const int blocks = static_cast<int>(a.rows < most_blocks ? a.rows : most_blocks);
  MEGAXLM_LAUNCH(kernel, blocks, kThreads, bytes, stream, a, kept);
  return launch_error();
}

}  // namespace
}  // namespace megaxlm

extern "C" const char* megaxlm_cross_entropy_cuda(const megaxlm::CrossEntropy* arguments,
                                                  void* stream) {
  using namespace megaxlm;
  if (arguments->rows == 0) return nullptr;
  switch (arguments->dtype) {
    case Dtype::kFloat: return launch<float>(*arguments, stream);
    case Dtype::kHalf: return launch<__half>(*arguments, stream);
    case Dtype::kBfloat16: return launch<__nv_bfloat16>(*arguments, stream);
  }
  return "unknown dtype";
}
