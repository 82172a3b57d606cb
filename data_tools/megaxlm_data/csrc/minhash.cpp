// MinHash signatures of documents; dedup/shingles.py and dedup/minhash.py say what they are and
// compute the same bits in NumPy.
#include <algorithm>
#include <cstdint>
#include <vector>

namespace {

constexpr uint64_t kBase = 0x9E3779B97F4A7C15ull;  // of the polynomials, odd
constexpr uint32_t kDropped = 0, kSeparator = 1, kDigit = '0';
constexpr uint32_t kUnspaced = 1u << 31;  // flag of a table entry
constexpr int kLanes = 8, kVectors = 4;   // permutations that stay in registers together

typedef uint32_t Lanes __attribute__((vector_size(4 * kLanes)));

// The finalizer of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
inline uint64_t mixed(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
  return x ^ (x >> 31);
}

// Reads one character of valid UTF-8.
inline uint32_t next_point(const uint8_t*& at) {
  const uint32_t first = *at++;
  if (first < 0x80) return first;
  int more = first < 0xE0 ? 1 : first < 0xF0 ? 2 : 3;
  uint32_t point = first & (0x3Fu >> more);
  while (more--) point = point << 6 | (*at++ & 0x3F);
  return point;
}

struct Work {
  std::vector<uint32_t> letters;
  std::vector<uint64_t> tokens;
  std::vector<uint32_t> shingles;
};

// Folds characters and keeps what counts; returns whether characters are the tokens.
bool fold(const uint8_t* at, const uint8_t* end, const uint32_t* table, uint32_t table_size,
          double unspaced_above, std::vector<uint32_t>& letters) {
  letters.clear();
  int64_t unspaced = 0, spaced = 0;
  uint32_t last = kDropped;
  while (at < end) {
    const uint32_t point = next_point(at);
    const uint32_t entry = point < table_size ? table[point] : kDropped;
    if (entry == kDropped || (entry == kDigit && last == kDigit)) continue;
    last = entry & ~kUnspaced;
    letters.push_back(last);
    unspaced += entry >> 31;
    spaced += entry != kSeparator;
  }
  return unspaced > unspaced_above * spaced;
}

void split(const std::vector<uint32_t>& letters, bool by_character,
           std::vector<uint64_t>& tokens) {
  tokens.clear();
  if (by_character) {
    for (uint32_t letter : letters)
      if (letter != kSeparator) tokens.push_back(mixed(letter));
    return;
  }
  uint64_t word = 0;
  bool inside = false;
  for (uint32_t letter : letters) {
    if (letter != kSeparator) {
      word = word * kBase + letter;
      inside = true;
    } else if (inside) {
      tokens.push_back(mixed(word));
      word = 0;
      inside = false;
    }
  }
  if (inside) tokens.push_back(mixed(word));
}

void shingle(const std::vector<uint64_t>& tokens, size_t size, std::vector<uint32_t>& shingles) {
  shingles.clear();
  if (tokens.empty()) return;
  size = std::min(size, tokens.size());
  uint64_t hash = 0, leaving = 1;  // kBase^size: the weight of the token that leaves
  for (size_t i = 0; i < size; ++i) {
    hash = hash * kBase + tokens[i];
    leaving *= kBase;
  }
  shingles.push_back(mixed(hash) >> 32);
  for (size_t i = size; i < tokens.size(); ++i) {
    hash = hash * kBase + tokens[i] - leaving * tokens[i - size];
    shingles.push_back(mixed(hash) >> 32);
  }
}

void permute(const std::vector<uint32_t>& shingles, const uint32_t* multipliers,
             const uint32_t* masks, int permutations, uint32_t* signature) {
  for (int first = 0; first < permutations; first += kLanes * kVectors) {
    const int count = std::min(permutations - first, kLanes * kVectors);
    Lanes multiplier[kVectors] = {}, mask[kVectors] = {}, least[kVectors];
    for (int i = 0; i < count; ++i) {
      multiplier[i / kLanes][i % kLanes] = multipliers[first + i];
      mask[i / kLanes][i % kLanes] = masks[first + i];
    }
    for (int v = 0; v < kVectors; ++v) least[v] = ~Lanes{};
    for (uint32_t x : shingles) {
      for (int v = 0; v < kVectors; ++v) {
        Lanes y = (mask[v] ^ x) * multiplier[v];
        y ^= y >> 15;
        least[v] = y < least[v] ? y : least[v];
      }
    }
    for (int i = 0; i < count; ++i) signature[first + i] = least[i / kLanes][i % kLanes];
  }
}

}  // namespace

// Writes the signatures of documents, (documents, permutations), all ones where a document has no
// shingle. Document i is text[offsets[i]:offsets[i + 1]], valid UTF-8.
extern "C" __attribute__((visibility("default"))) void megaxlm_minhash(
    const uint8_t* text, const int64_t* offsets, int64_t documents, const uint32_t* table,
    uint32_t table_size, double unspaced_above, int32_t shingle_words, int32_t shingle_characters,
    const uint32_t* multipliers, const uint32_t* masks, int32_t permutations,
    uint32_t* signatures) {
  Work work;
  for (int64_t i = 0; i < documents; ++i) {
    const bool by_character = fold(text + offsets[i], text + offsets[i + 1], table, table_size,
                                   unspaced_above, work.letters);
    split(work.letters, by_character, work.tokens);
    shingle(work.tokens, by_character ? shingle_characters : shingle_words, work.shingles);
    permute(work.shingles, multipliers, masks, permutations, signatures + i * permutations);
  }
}
