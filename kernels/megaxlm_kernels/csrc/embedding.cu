// Rows of tables looked up and added, their gradient, and dropout by rows.
//
// The gradient of a table is a sum over the tokens that hold each word, as uneven as language is:
// thousands of tokens are <mask>. Sorted tokens are cut into chunks of 64. A block adds up the words
// of its chunk; a word that reaches over the chunk's end leaves a partial sum, and a second kernel
// adds those from left to right. No atomics, and chunks do not depend on the device, so two runs
// give the same bits anywhere.
#include "embedding.h"
#include "group.cuh"

namespace megaxlm {
namespace {

constexpr int kThreads = 128;  // 1024 columns

// Threads of blockIdx.x own 8 columns each.
__device__ __forceinline__ int own_column() { return blockIdx.x * kThreads + threadIdx.x; }

template <typename T>
__global__ void __launch_bounds__(kThreads) embedding_sum(const EmbeddingSum a) {
  const int row_groups = a.hidden / 8;
  const int column = own_column();
  if (column >= row_groups) return;
  for (int64_t row = blockIdx.y; row < a.rows; row += gridDim.y) {
    Values total = {};
#pragma unroll
    for (int table = 0; table < kMostTables; ++table) {
      if (a.index[table] == nullptr) break;
      const int64_t index = a.index[table][row];
      const bool valid = index >= 0 && index < a.size[table];
      Values value;
      if (valid) {
        value = unpack(load_cached<T>(a.table[table], index * row_groups + column));
      } else {
#pragma unroll
        for (int i = 0; i < 8; ++i) value.at[i] = NAN;
      }
#pragma unroll
      for (int i = 0; i < 8; ++i) total.at[i] += value.at[i];
    }
    store(a.y, row * row_groups + column, pack<T>(total));
  }
}

__device__ __forceinline__ int64_t chunk_end(const EmbeddingGradient& a, int64_t chunk) {
  const int64_t end = (chunk + 1) * kChunkRows;
  return end < a.rows ? end : a.rows;
}

// Whether the word of sorted row `row` began in an earlier chunk.
__device__ __forceinline__ bool goes_on_from_before(const EmbeddingGradient& a, int64_t chunk) {
  const int64_t first = chunk * kChunkRows;
  return chunk > 0 && a.sorted[first - 1] == a.sorted[first];
}

__device__ __forceinline__ bool goes_on_behind(const EmbeddingGradient& a, int64_t chunk) {
  const int64_t end = chunk_end(a, chunk);
  return end < a.rows && a.sorted[end - 1] == a.sorted[end];
}

template <typename T>
__global__ void __launch_bounds__(kThreads) embedding_gradient(const EmbeddingGradient a) {
  constexpr int kFlying = 4;  // rows
  const int row_groups = a.hidden / 8;
  const int column = own_column();
  if (column >= row_groups) return;
  const int64_t chunk = blockIdx.y + static_cast<int64_t>(gridDim.y) * blockIdx.z;
  if (chunk * kChunkRows >= a.rows) return;
  const int64_t end = chunk_end(a, chunk);
  const bool from_before = goes_on_from_before(a, chunk);
  const bool behind = goes_on_behind(a, chunk);
  const int64_t slot = chunk * 2 * row_groups + column;
  bool first_word = true;
  Values total = {};
  for (int64_t start = chunk * kChunkRows; start < end; start += kFlying) {
    Group<T> grad[kFlying];
#pragma unroll
    for (int i = 0; i < kFlying; ++i) {
      if (start + i >= end) break;
      grad[i] = load_streaming<T>(a.grad_y, a.order[start + i] * row_groups + column);
    }
#pragma unroll
    for (int i = 0; i < kFlying; ++i) {
      const int64_t row = start + i;
      if (row >= end) break;
      const Values value = unpack(grad[i]);
#pragma unroll
      for (int j = 0; j < 8; ++j) total.at[j] += value.at[j];
      const bool last = row + 1 == end;
      const int64_t word = a.sorted[row];
      if (!last && a.sorted[row + 1] == word) continue;
      // The word is done, as far as this chunk goes. One that fills all of it counts as its first.
      if (first_word && from_before) {
        store(a.partials, slot, pack<float>(total));
      } else if (last && behind) {
        store(a.partials, slot + row_groups, pack<float>(total));
      } else if (word >= 0 && word < a.size) {
        store(a.dtable, word * row_groups + column, pack<T>(total));
      }
      first_word = false;
      total = {};
    }
  }
}

// The chunk in which a word begins that reaches over its end adds up the rest of that word.
template <typename T>
__global__ void __launch_bounds__(kThreads) embedding_gradient_finish(const EmbeddingGradient a) {
  const int row_groups = a.hidden / 8;
  const int column = own_column();
  if (column >= row_groups) return;
  const int64_t chunk = blockIdx.y + static_cast<int64_t>(gridDim.y) * blockIdx.z;
  if (chunk * kChunkRows >= a.rows || !goes_on_behind(a, chunk)) return;
  const int64_t word = a.sorted[chunk_end(a, chunk) - 1];
  if (a.sorted[chunk * kChunkRows] == word && goes_on_from_before(a, chunk)) return;
  const int64_t slot = chunk * 2 * row_groups + column;
  Values total = unpack(load_cached<float>(a.partials, slot + row_groups));
  int64_t next = chunk;
  do {
    ++next;
    const Values value = unpack(load_cached<float>(a.partials, next * 2 * row_groups + column));
#pragma unroll
    for (int i = 0; i < 8; ++i) total.at[i] += value.at[i];
  } while (goes_on_behind(a, next) && a.sorted[chunk_end(a, next) - 1] == word);
  if (word >= 0 && word < a.size) store(a.dtable, word * row_groups + column, pack<T>(total));
}

template <typename T>
__global__ void __launch_bounds__(kThreads) row_dropout(const RowDropout a) {
  const int row_groups = a.hidden / 8;
  const int column = own_column();
  if (column >= row_groups) return;
  for (int64_t row = blockIdx.y; row < a.rows; row += gridDim.y) {
    const int64_t group = row * row_groups + column;
    Values value = unpack(load_streaming<T>(a.x, group));
    const PhiloxWords bits = dropout_bits(a.dropout, dropout_place(a.dropout, row), column);
#pragma unroll
    for (int i = 0; i < 8; ++i)
      value.at[i] = dropped(a.dropout, bits, i) ? 0.0f : value.at[i] * a.dropout.scale;
    store(a.y, group, pack<T>(value));
  }
}

int tiles(int32_t hidden) { return (hidden / 8 + kThreads - 1) / kThreads; }

template <typename Kernel>
dim3 persistent_grid(Kernel kernel, int64_t rows, int32_t hidden) {
  const int64_t most = persistent_blocks(kernel, kThreads, INT32_MAX) / tiles(hidden);
  const int64_t blocks = rows < most ? rows : most;
  return dim3(tiles(hidden), static_cast<unsigned>(blocks > 0 ? blocks : 1));
}

template <typename T>
void sum(const EmbeddingSum& a, void* stream) {
  auto* kernel = embedding_sum<T>;
  MEGAXLM_LAUNCH(kernel, persistent_grid(kernel, a.rows, a.hidden), kThreads, 0, stream, a);
}

template <typename T>
void gradient(const EmbeddingGradient& a, void* stream) {
  constexpr int64_t kMost = 65535;  // blocks along y
  const int64_t chunks = (a.rows + kChunkRows - 1) / kChunkRows;
  const int64_t along_y = chunks < kMost ? chunks : kMost;
  const dim3 grid(tiles(a.hidden), static_cast<unsigned>(along_y),
                  static_cast<unsigned>((chunks + along_y - 1) / along_y));
  auto* kernel = embedding_gradient<T>;
  MEGAXLM_LAUNCH(kernel, grid, kThreads, 0, stream, a);
  auto* finish = embedding_gradient_finish<T>;
  MEGAXLM_LAUNCH(finish, grid, kThreads, 0, stream, a);
}

template <typename T>
void drop(const RowDropout& a, void* stream) {
  auto* kernel = row_dropout<T>;
  MEGAXLM_LAUNCH(kernel, persistent_grid(kernel, a.rows, a.hidden), kThreads, 0, stream, a);
}

}  // namespace
}  // namespace megaxlm

extern "C" const char* megaxlm_embedding_sum_cuda(const megaxlm::EmbeddingSum* arguments,
                                                  void* stream) {
  using namespace megaxlm;
  if (arguments->rows == 0) return nullptr;
  switch (arguments->dtype) {
    case Dtype::kFloat: sum<float>(*arguments, stream); break;
    case Dtype::kHalf: sum<__half>(*arguments, stream); break;
    case Dtype::kBfloat16: sum<__nv_bfloat16>(*arguments, stream); break;
  }
  return launch_error();
}

extern "C" const char* megaxlm_embedding_gradient_cuda(const megaxlm::EmbeddingGradient* arguments,
                                                       void* stream) {
  using namespace megaxlm;
  if (arguments->rows == 0) return nullptr;
  switch (arguments->dtype) {
    case Dtype::kFloat: gradient<float>(*arguments, stream); break;
    case Dtype::kHalf: gradient<__half>(*arguments, stream); break;
    case Dtype::kBfloat16: gradient<__nv_bfloat16>(*arguments, stream); break;
  }
  return launch_error();
}

extern "C" const char* megaxlm_row_dropout_cuda(const megaxlm::RowDropout* arguments,
                                                void* stream) {
  using namespace megaxlm;
  if (arguments->rows == 0) return nullptr;
  switch (arguments->dtype) {
    case Dtype::kFloat: drop<float>(*arguments, stream); break;
    case Dtype::kHalf: drop<__half>(*arguments, stream); break;
    case Dtype::kBfloat16: drop<__nv_bfloat16>(*arguments, stream); break;
  }
  return launch_error();
}
