// Gradients of add_layer_norm: one pass over memory for the rows, one small kernel for the columns.
//
// A thread owns 8 columns and walks down the rows, so dgamma, dbeta and dbias gather in its
// registers and leave the block once, as partial sums; a finishing kernel adds those in a fixed
// order. There are no atomics, and two runs give the same bits. A team of hidden / 256 warps holds
// a row; a block has as many teams as its registers allow, one block an SM, so that partial sums
// stay few. Each team loads its next row before it waits for the sums of this one.
#include "add_layer_norm.h"
#include "column_sums.cuh"
#include "group.cuh"
#include "reduce.cuh"

namespace megaxlm {
namespace {

// Sums over rows that one thread keeps of its 8 columns.
struct RowSums {
  Values dgamma, dbeta, dbias;
};

template <typename T>
struct RowGroup {
  Group<T> grad_y, grad_sum, sum;
  float mean, rstd;
  int64_t place;
};

template <typename T>
__device__ __forceinline__ RowGroup<T> load_row(const AddLayerNormBackward& a, int64_t row,
                                                int64_t group) {
  RowGroup<T> loaded;
  loaded.grad_y = load_streaming<T>(a.grad_y, group);
  loaded.sum = load_streaming<T>(a.sum, group);
  if (a.grad_sum) loaded.grad_sum = load_streaming<T>(a.grad_sum, group);
  loaded.mean = a.mean ? a.mean[row] : 0.0f;
  loaded.rstd = a.rstd[row];
  loaded.place = a.dropout.threshold ? dropout_place(a.dropout, row) : 0;
  return loaded;
}

// Turns (g, normal) of 8 elements into their gradients, stores them and adds to dbias.
template <typename T>
__device__ __forceinline__ void write_gradients(const AddLayerNormBackward& a, const Values& g,
                                                const Values& normal, const Group<T>& grad_sum,
                                                float rstd, float2 means, int64_t place,
                                                int64_t group, int column_group,
                                                Values& dbias) {
  Values gradient;
#pragma unroll
  for (int i = 0; i < 8; ++i)
    gradient.at[i] = rstd * (g.at[i] - means.x - normal.at[i] * means.y);
  if (a.grad_sum) {
    const Values added = unpack(grad_sum);
#pragma unroll
    for (int i = 0; i < 8; ++i) gradient.at[i] += added.at[i];
  }
  store(a.dsum, group, pack<T>(gradient));
  if (a.dropout.threshold) {
    const PhiloxWords bits = dropout_bits(a.dropout, place, column_group);
#pragma unroll
    for (int i = 0; i < 8; ++i)
      gradient.at[i] = dropped(a.dropout, bits, i) ? 0.0f : gradient.at[i] * a.dropout.scale;
    store(a.dx, group, pack<T>(gradient));
  }
#pragma unroll
  for (int i = 0; i < 8; ++i) dbias.at[i] += gradient.at[i];
}

// 16-bit dtypes: at most 640 threads leave 96 registers each; fp32 groups take twice as many.
template <typename T, int kWarps>
struct BackwardShape {
  static constexpr int kTeamThreads = kWarps * kWarp;
  static constexpr int kMost = sizeof(T) == 2 ? 640 : 384;
  static constexpr int kTeams = kMost < 2 * kTeamThreads ? 1 : kMost / kTeamThreads;
  static constexpr int kThreads = kTeams * kTeamThreads;
};

template <typename T, int kWarps>
__global__ void __launch_bounds__((BackwardShape<T, kWarps>::kThreads), 1)
    add_layer_norm_backward(const AddLayerNormBackward a) {
  using Shape = BackwardShape<T, kWarps>;
  constexpr int kTeams = Shape::kTeams;
  constexpr int kTeamThreads = Shape::kTeamThreads;
  constexpr int kHidden = kTeamThreads * 8;
  MEGAXLM_SHARED(float2, partial, [kTeams][2][kWarps]);
  const int team = threadIdx.x / kTeamThreads;
  const int thread = threadIdx.x % kTeamThreads;
  const Group<T> gamma = load_cached<T>(a.gamma, thread);
  RowSums sums = {};
  int turn = 0;

  const int64_t step = static_cast<int64_t>(gridDim.x) * kTeams;
  int64_t row = static_cast<int64_t>(blockIdx.x) * kTeams + team;
  RowGroup<T> next;
  if (row < a.rows) next = load_row<T>(a, row, row * kTeamThreads + thread);
  for (; row < a.rows; row += step) {
    const RowGroup<T> now = next;
    if (row + step < a.rows)
      next = load_row<T>(a, row + step, (row + step) * kTeamThreads + thread);
    Values g = unpack(now.grad_y);
    Values normal = unpack(now.sum);
    const Values weight = unpack(gamma);
    float2 means = make_float2(0.0f, 0.0f);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      normal.at[i] = (normal.at[i] - now.mean) * now.rstd;
      sums.dgamma.at[i] += g.at[i] * normal.at[i];
      sums.dbeta.at[i] += g.at[i];
      g.at[i] *= weight.at[i];
      means.x += g.at[i];
      means.y += g.at[i] * normal.at[i];
    }
    means = make_float2(warp_sum(means.x), warp_sum(means.y));
    if (thread % kWarp == 0) partial[team][turn][thread / kWarp] = means;
    named_barrier(1 + team, kTeamThreads);
    means = make_float2(0.0f, 0.0f);
#pragma unroll
    for (int warp = 0; warp < kWarps; ++warp) {
      means.x += partial[team][turn][warp].x;
      means.y += partial[team][turn][warp].y;
    }
    turn ^= 1;  // with one buffer a fast warp would overwrite what a slow one still reads
    means.x *= a.mean ? 1.0f / kHidden : 0.0f;  // no gradient flows through a mean of none
    means.y *= 1.0f / kHidden;
    write_gradients<T>(a, g, normal, now.grad_sum, now.rstd, means, now.place,
                       row * kTeamThreads + thread, thread, sums.dbias);
  }

  // The teams hand their sums on, one after the other; the last one writes the block's.
  Values* const mine[3] = {&sums.dgamma, &sums.dbeta, &sums.dbias};
  if (kTeams > 1) {
    MEGAXLM_SHARED(float, handed, [kTeams > 1 ? 3 : 1][kTeams > 1 ? kHidden : 8]);
#pragma unroll 1
    for (int giver = 0; giver < kTeams; ++giver) {
      if (team == giver) {
#pragma unroll
        for (int kind = 0; kind < 3; ++kind) {
#pragma unroll
          for (int i = 0; i < 8; ++i) {
            // Element i of all threads lies together: no two threads of a warp share a bank.
            float& slot = handed[kind][i * kTeamThreads + thread];
            if (giver > 0) mine[kind]->at[i] += slot;
            if (giver < kTeams - 1) slot = mine[kind]->at[i];
          }
        }
      }
      __syncthreads();
    }
  }
  if (team == kTeams - 1) {
#pragma unroll
    for (int kind = 0; kind < 3; ++kind) {
      const int64_t group = (static_cast<int64_t>(blockIdx.x) * 3 + kind) * kTeamThreads + thread;
      store(a.partials, group, pack<float>(*mine[kind]));
    }
  }
}

// Any hidden that is a multiple of 8: a block walks over a row twice and adds to its partial sums
// in memory, each column always by the same thread.
constexpr int kAnyWarps = 8;

template <typename T>
__global__ void __launch_bounds__(kAnyWarps* kWarp)
    add_layer_norm_backward_any(const AddLayerNormBackward a) {
  MEGAXLM_SHARED(float2, partial, [2][kAnyWarps]);
  const int row_groups = a.hidden / 8;
  int turn = 0;
  for (int64_t row = blockIdx.x; row < a.rows; row += gridDim.x) {
    const int64_t first = row * row_groups;
    const float mean = a.mean ? a.mean[row] : 0.0f;
    const float rstd = a.rstd[row];
    const int64_t place = a.dropout.threshold ? dropout_place(a.dropout, row) : 0;
    float2 means = make_float2(0.0f, 0.0f);
    for (int column = threadIdx.x; column < row_groups; column += kAnyWarps * kWarp) {
      const Values g = unpack(load_cached<T>(a.grad_y, first + column));
      const Values sum = unpack(load_cached<T>(a.sum, first + column));
      const Values weight = unpack(load_cached<T>(a.gamma, column));
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        means.x += g.at[i] * weight.at[i];
        means.y += g.at[i] * weight.at[i] * ((sum.at[i] - mean) * rstd);
      }
    }
    means = block_sum<kAnyWarps>(means, partial, turn);
    means.x = a.mean ? means.x / a.hidden : 0.0f;
    means.y /= a.hidden;
    for (int column = threadIdx.x; column < row_groups; column += kAnyWarps * kWarp) {
      Values g = unpack(load_cached<T>(a.grad_y, first + column));
      Values normal = unpack(load_cached<T>(a.sum, first + column));
      const Values weight = unpack(load_cached<T>(a.gamma, column));
      const int64_t slot = static_cast<int64_t>(blockIdx.x) * 3 * row_groups + column;
      RowSums sums = {};
      if (row >= gridDim.x) {  // not this block's first row
        sums.dgamma = unpack(load_written<float>(a.partials, slot));
        sums.dbeta = unpack(load_written<float>(a.partials, slot + row_groups));
        sums.dbias = unpack(load_written<float>(a.partials, slot + 2 * row_groups));
      }
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        normal.at[i] = (normal.at[i] - mean) * rstd;
        sums.dgamma.at[i] += g.at[i] * normal.at[i];
        sums.dbeta.at[i] += g.at[i];
        g.at[i] *= weight.at[i];
      }
      Group<T> grad_sum = {};
      if (a.grad_sum) grad_sum = load_streaming<T>(a.grad_sum, first + column);
      write_gradients<T>(a, g, normal, grad_sum, rstd, means, place, first + column, column,
                         sums.dbias);
      store(a.partials, slot, pack<float>(sums.dgamma));
      store(a.partials, slot + row_groups, pack<float>(sums.dbeta));
      store(a.partials, slot + 2 * row_groups, pack<float>(sums.dbias));
    }
  }
}

template <typename T, int kWarps>
void launch(const AddLayerNormBackward& a, void* stream) {
  auto* kernel = add_layer_norm_backward<T, kWarps>;
  constexpr int kThreads = BackwardShape<T, kWarps>::kThreads;
  MEGAXLM_LAUNCH(kernel, a.blocks, kThreads, 0, stream, a);
}

template <typename T>
void dispatch(const AddLayerNormBackward& a, void* stream) {
  if (a.blocks > 0) {
    switch (a.hidden) {
      case 768: launch<T, 3>(a, stream); break;
      case 1024: launch<T, 4>(a, stream); break;
      case 1280: launch<T, 5>(a, stream); break;
      case 2304: launch<T, 9>(a, stream); break;
      case 2560: launch<T, 10>(a, stream); break;
      case 4096: launch<T, 16>(a, stream); break;
      default: {
        auto* kernel = add_layer_norm_backward_any<T>;
        MEGAXLM_LAUNCH(kernel, a.blocks, kAnyWarps * kWarp, 0, stream, a);
      }
    }
  }
  launch_column_sums<T>(
      {a.partials, {a.dgamma, a.dbeta, a.dbias}, a.blocks, 3, a.hidden}, stream);
}

}  // namespace
}  // namespace megaxlm

extern "C" int32_t megaxlm_add_layer_norm_backward_blocks_cuda(int64_t rows, int32_t hidden) {
  // One of the large blocks fills an SM. Blocks of the general kernel are small and hold no sums,
  // but each more costs 12 * hidden bytes of partial sums.
  const bool listed = hidden == 768 || hidden == 1024 || hidden == 1280 || hidden == 2304 ||
                      hidden == 2560 || hidden == 4096;
  const int64_t most = static_cast<int64_t>(listed ? 1 : 4) * megaxlm::multiprocessors();
  return static_cast<int32_t>(rows < most ? rows : most);
}

extern "C" const char* megaxlm_add_layer_norm_backward_cuda(
    const megaxlm::AddLayerNormBackward* arguments, void* stream) {
  using namespace megaxlm;
  switch (arguments->dtype) {
    case Dtype::kFloat: dispatch<float>(*arguments, stream); break;
    case Dtype::kHalf: dispatch<__half>(*arguments, stream); break;
    case Dtype::kBfloat16: dispatch<__nv_bfloat16>(*arguments, stream); break;
  }
  return launch_error();
}
