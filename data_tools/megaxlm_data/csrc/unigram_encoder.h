// Texts to ids, exactly as sentencepiece's Unigram model gives them.
//
// Where no piece and no rule reaches over a space, a text is taken part by part between spaces, and
// the best segmentation of a part does not depend on the others but for the rounding of sums: see
// MarginViterbi for when it can be told apart, so that a part seen before need not be segmented
// again. All else goes through ExactViterbi, with the sum that sentencepiece would have there.
#pragma once

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "unigram_cache.h"
#include "unigram_normalizer.h"
#include "unigram_text.h"
#include "unigram_viterbi.h"

namespace megaxlm {

// A model, its pieces in the order of their ids.
struct Model {
  enum Type : Byte { kNormal = 1, kUnknown, kControl, kUserDefined, kUnused, kByte };
  std::vector<std::string> pieces;
  std::vector<float> scores;
  std::vector<Byte> types;
  std::string charsmap;
  NormalizerFlags flags;
  std::vector<std::int32_t> byte_ids;  // of the 256 bytes, or none
};

class Encoder {
 public:
  // Returns null for a model that has something of a kind not known here.
  static std::unique_ptr<Encoder> make(const Model& model);

  // Appends the ids of a text to `ids`. kPadding bytes behind the text must be readable.
  void encode(const Byte* p, const Byte* end) {
    start_ = settled_ = ids.size();
    after_unknown_ = false;
    sum_ = 0, bound_ = 0;
    if (by_parts_ && parts(p, end)) return;
    ids.resize(start_);
    after_unknown_ = false;
    normalizer_->text(p, end, chars_);
    segment(0);
  }

  bool by_parts() const { return by_parts_; }

  std::vector<std::uint32_t> ids;

 private:
  static constexpr std::size_t kBatch = 16, kMaxUnsettled = 4096;

  struct Part {
    const Byte* begin;
    std::size_t length;
    Word hash;
  };

  Encoder(std::unique_ptr<CharTable> table, std::unique_ptr<Normalizer> normalizer,
          Vocabulary vocabulary, std::vector<float> scores, std::vector<std::int32_t> byte_ids,
          bool by_parts)
      : table_(std::move(table)),
        normalizer_(std::move(normalizer)),
        vocabulary_(std::move(vocabulary)),
        scores_(std::move(scores)),
        byte_ids_(std::move(byte_ids)),
        by_parts_(by_parts),
        exact_(vocabulary_),
        margin_(vocabulary_),
        short_(by_parts ? 16 : 0),
        long_(by_parts ? 14 : 0) {}

  // Encodes part by part. Returns false if the text has to be taken as a whole.
  bool parts(const Byte* p, const Byte* end) {
    Part batch[kBatch];
    while (p < end) {
      // some parts ahead, so that the cache's lines are there when they are asked for
      std::size_t count = 0;
      while (count < kBatch && p < end) {
        const Byte* const stop = space_from(p, end);
        if (stop > p) batch[count++] = prefetched(p, std::size_t(stop - p));
        p = stop + 1;
      }
      for (std::size_t i = 0; i < count; ++i)
        if (!part(batch[i])) return false;
    }
    return true;
  }

  // Returns the first space in [p, end), or end.
  static const Byte* space_from(const Byte* p, const Byte* end) {
    constexpr Word ones = ~Word(0) / 255;
    for (; p < end; p += 8) {
      Word word;
      std::memcpy(&word, p, 8);
      word ^= ones * ' ';
      if (const Word found = (word - ones) & ~word & (ones * 128)) {
        p += __builtin_ctzll(found) / 8;
        break;
      }
    }
    return p < end ? p : end;
  }

  Part prefetched(const Byte* p, std::size_t length) const {
    Part part{p, length, 0};
    if (length <= ShortEntry::kMaxBytes) {
      short_.prefetch(part.hash = ShortKey(p, length).hash);
    } else if (length <= LongEntry::kMaxBytes) {
      long_.prefetch(part.hash = LongKey(p, length).hash);
    }
    return part;
  }

  bool part(const Part& part) {
    if (part.length <= ShortEntry::kMaxBytes) return cached(short_, part);
    if (part.length <= LongEntry::kMaxBytes) return cached(long_, part);
    if (!normalizer_->part(part.begin, part.begin + part.length, chars_)) return false;
    settle();
    segment(sum_);
    return true;
  }

  template <typename EntryT>
  bool cached(Cache<EntryT>& cache, const Part& part) {
    const Key<EntryT::kKeyWords> key(part.begin, part.length);
    if (const EntryT* const entry = cache.find(key, part.length)) {
      if (bound_ <= entry->limit) {
        append(*entry);
        return true;
      }
    }
    if (!normalizer_->part(part.begin, part.begin + part.length, chars_)) return false;
    if (chars_.size() == 0) return true;
    if (chars_.size() <= MarginViterbi::kMaxChars && margin_.run(chars_) &&
        bound_ <= margin_.limit && margin_.ids.size() <= EntryT::kMaxIds) {
      EntryT& entry = cache.add(key, part.length);
      entry.limit = margin_.limit, entry.magnitude = margin_.magnitude;
      entry.count = std::uint8_t(margin_.ids.size());
      std::copy(margin_.ids.rbegin(), margin_.ids.rend(), entry.ids);
      append(entry);
      return true;
    }
    settle();
    segment(sum_);
    return true;
  }

  template <typename EntryT>
  void append(const EntryT& entry) {
    const std::size_t size = ids.size();
    ids.insert(ids.end(), entry.ids, entry.ids + EntryT::kMaxIds);  // of a fixed size: faster
    ids.resize(size + entry.count);
    bound_ += entry.magnitude;
    after_unknown_ = false;
    if (ids.size() - settled_ > kMaxUnsettled) settle();
  }

  // Adds to the sum what was taken from the cache since it was last known; no unknown is among it.
  void settle() {
    for (; settled_ < ids.size(); ++settled_) sum_ = scores_[ids[settled_]] + sum_;
    bound_ = std::fabs(sum_);
  }

  // Segments chars_, the sum before them being `sum`.
  void segment(float sum) {
    sum_ = exact_.run(chars_, sum, [this](std::int32_t id, std::size_t position) {
      const bool unknown = id == vocabulary_.unknown_id;
      if (unknown && !byte_ids_.empty()) {
        Byte bytes[4];
        const int length = write_char(chars_.point(position), bytes);
        for (int i = 0; i < length; ++i) ids.push_back(std::uint32_t(byte_ids_[bytes[i]]));
      } else if (!unknown || !after_unknown_) {  // unknown ones in a row become one
        ids.push_back(std::uint32_t(id));
      }
      after_unknown_ = unknown;
    });
    settled_ = ids.size();
    bound_ = std::fabs(sum_);
  }

  using ShortKey = Cache<ShortEntry>::KeyT;
  using LongKey = Cache<LongEntry>::KeyT;

  std::unique_ptr<CharTable> table_;
  std::unique_ptr<Normalizer> normalizer_;
  Vocabulary vocabulary_;
  std::vector<float> scores_;  // as they are added, by id
  std::vector<std::int32_t> byte_ids_;
  bool by_parts_;
  ExactViterbi exact_;
  MarginViterbi margin_;
  Cache<ShortEntry> short_;
  Cache<LongEntry> long_;
  Chars chars_;

  std::size_t start_ = 0;    // of the text in ids
  std::size_t settled_ = 0;  // ids of which sum_ is the sum
  float sum_ = 0;            // sentencepiece's best score at this place
  double bound_ = 0;         // of the sum's absolute value at the end of ids
  bool after_unknown_ = false;
};

}  // namespace megaxlm
