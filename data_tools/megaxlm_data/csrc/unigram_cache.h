// Segmentations of the parts of text between spaces, kept by their bytes.
#pragma once

#include <utility>

#include "unigram_text.h"

namespace megaxlm {

using Word = std::uint64_t;
constexpr std::size_t kPadding = 80;  // bytes after a text that may be read, not used

// A part as zero-padded words of eight bytes, and their hash.
template <std::size_t kWords>
struct Key {
  Word words[kWords];
  Word hash;

  // Reads up to 8 kWords bytes at p, of which `length` count.
  Key(const Byte* p, std::size_t length) : hash(length * 0x9E3779B97F4A7C15) {
    std::memcpy(words, p, sizeof words);
    for (std::size_t i = 0; i < kWords; ++i) {
      const std::size_t used = length > 8 * i ? length - 8 * i : 0;
      if (used < 8) words[i] = used == 0 ? 0 : words[i] & (~Word(0) >> (64 - 8 * used));
      if (used > 0 || i == 0) hash = mixed(hash ^ words[i], 0xE7037ED1A0B428DB);
    }
  }

 private:
  static Word mixed(Word a, Word b) {
    const unsigned __int128 product = static_cast<unsigned __int128>(a) * b;
    return Word(product) ^ Word(product >> 64);
  }
};

template <std::size_t kWords, std::size_t kIds>
struct alignas(64) Entry {
  static constexpr std::size_t kKeyWords = kWords, kMaxIds = kIds, kMaxBytes = 8 * kWords;
  Word words[kWords];
  float limit, magnitude;  // of MarginViterbi
  std::uint8_t length;     // of the key; 0 if the entry is empty
  std::uint8_t count;
  std::uint32_t ids[kIds];
};

using ShortEntry = Entry<3, 6>;
using LongEntry = Entry<9, 10>;
static_assert(sizeof(ShortEntry) == 64 && sizeof(LongEntry) == 128);

// A table of pairs of entries; the one used last stands first and stays longer.
template <typename EntryT>
class Cache {
 public:
  using KeyT = Key<EntryT::kKeyWords>;

  explicit Cache(int bits) : mask_((std::size_t(1) << bits) - 1), entries_(std::size_t(2) << bits) {}

  void prefetch(Word hash) const {
    const char* const at = reinterpret_cast<const char*>(&entries_[2 * (hash & mask_)]);
    __builtin_prefetch(at);
    __builtin_prefetch(at + 64);
  }

  const EntryT* find(const KeyT& key, std::size_t length) {
    EntryT* const pair = &entries_[2 * (key.hash & mask_)];
    if (is(pair[0], key, length)) return &pair[0];
    if (!is(pair[1], key, length)) return nullptr;
    std::swap(pair[0], pair[1]);
    return &pair[0];
  }

  // Returns an entry for a new key, to be filled.
  EntryT& add(const KeyT& key, std::size_t length) {
    EntryT* const pair = &entries_[2 * (key.hash & mask_)];
    pair[1] = pair[0];
    std::memcpy(pair[0].words, key.words, sizeof key.words);
    pair[0].length = std::uint8_t(length);
    return pair[0];
  }

 private:
  static bool is(const EntryT& entry, const KeyT& key, std::size_t length) {
    Word different = entry.length ^ length;
    for (std::size_t i = 0; i < EntryT::kKeyWords; ++i) different |= entry.words[i] ^ key.words[i];
    return different == 0;
  }

  std::size_t mask_;
  HugeArray<EntryT> entries_;
};

}  // namespace megaxlm
