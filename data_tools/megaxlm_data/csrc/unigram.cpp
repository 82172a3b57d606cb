// What `megaxlm_data.tokenizer.encoder` calls: a Unigram model is made, texts go in, ids come out.

#include <algorithm>
#include <array>
#include <cfloat>
#include <new>
#include <unordered_map>

#include "unigram_encoder.h"

namespace megaxlm {
namespace {

constexpr float kUnknownPenalty = 10.0f;

// Gives every character of the pieces a code, frequent ones the small ones; 0 if there are too many.
std::uint32_t number_characters(const Model& model, CharTable& table) {
  std::unordered_map<std::uint32_t, std::size_t> counts;
  for (const std::string& piece : model.pieces) {
    const Byte* p = reinterpret_cast<const Byte*>(piece.data());
    for (const Byte* const end = p + piece.size(); p < end;) ++counts[next_char(p)];
  }
  std::vector<std::pair<std::size_t, std::uint32_t>> order;
  for (const auto& [point, count] : counts) order.emplace_back(count, point);
  std::sort(order.rbegin(), order.rend());
  if (order.size() >= kCode) return 0;
  for (std::size_t i = 0; i < order.size(); ++i) table.at(order[i].second) |= std::uint32_t(i + 1);
  return std::uint32_t(order.size());
}

bool is_utf8(const std::string& text) {
  return megaxlm::is_utf8(reinterpret_cast<const Byte*>(text.data()), text.size());
}

}  // namespace

std::unique_ptr<Encoder> Encoder::make(const Model& model) {
  auto table = std::make_unique<CharTable>();
  std::vector<std::string> symbols;
  std::vector<float> scores(model.scores);
  std::int32_t unknown = -1;
  float lowest = FLT_MAX;
  bool spans_space = false;
  for (std::size_t id = 0; id < model.pieces.size(); ++id) {
    const std::string& piece = model.pieces[id];
    if (!is_utf8(piece)) return nullptr;
    switch (model.types[id]) {
      case Model::kNormal:
        lowest = std::min(lowest, scores[id]);
        break;
      case Model::kUserDefined:
        // unigram::GetUserDefinedScore, which computes in double
        scores[id] = float(0.1 * (int(piece.size()) - 1));
        symbols.push_back(piece);
        break;
      case Model::kUnknown:
        unknown = std::int32_t(id);
        break;
      default:
        break;
    }
  }
  if (unknown < 0 || lowest == FLT_MAX) return nullptr;
  const std::uint32_t max_code = number_characters(model, *table);
  if (max_code == 0) return nullptr;
  auto normalizer = std::make_unique<Normalizer>(model.charsmap, model.flags, symbols, *table);
  if (!normalizer->supported()) return nullptr;

  const float unknown_score = lowest - kUnknownPenalty;
  double largest = std::fabs(unknown_score);
  std::vector<Piece> pieces;
  for (std::size_t id = 0; id < model.pieces.size(); ++id) {
    if (model.types[id] != Model::kNormal && model.types[id] != Model::kUserDefined) continue;
    const std::string& text = model.pieces[id];
    if (text.find("\xE2\x96\x81", 1) != std::string::npos) spans_space = true;
    Piece piece{{}, scores[id], std::int32_t(id)};
    const Byte* p = reinterpret_cast<const Byte*>(text.data());
    for (const Byte* const end = p + text.size(); p < end;)
      piece.codes.push_back(std::uint16_t(table->get(next_char(p)) & kCode));
    pieces.push_back(std::move(piece));
    largest = std::max(largest, double(std::fabs(scores[id])));
  }
  if (!(largest < 50000)) return nullptr;  // sums near the re-basing threshold at every step
  const bool by_parts = !spans_space && normalizer->cuts_at_spaces();
  Vocabulary vocabulary{Trie(std::move(pieces), max_code), unknown_score, unknown, largest};
  return std::unique_ptr<Encoder>(new Encoder(std::move(table), std::move(normalizer),
                                              std::move(vocabulary), std::move(scores),
                                              model.byte_ids, by_parts));
}

}  // namespace megaxlm

#define EXPORTED extern "C" __attribute__((visibility("default")))

// Makes an encoder; null if the model is not one for it, or memory is short.
//   pieces, lengths, scores, types: of the `size` pieces in order of id, one after the other
//   charsmap: the compiled normalization rules, may be empty
//   flags: bits for dummy prefix, extra whitespace removed, whitespace escaped, whitespace as suffix
//   byte_ids: the ids of the 256 byte pieces, or null without byte fallback
EXPORTED void* megaxlm_unigram_new(const char* pieces, const std::int64_t* lengths,
                                   const float* scores, const std::uint8_t* types,
                                   std::int64_t size, const char* charsmap,
                                   std::int64_t charsmap_size, std::uint32_t flags,
                                   const std::int32_t* byte_ids) {
  try {
    megaxlm::Model model;
    for (std::int64_t i = 0; i < size; ++i) {
      model.pieces.emplace_back(pieces, std::size_t(lengths[i]));
      pieces += lengths[i];
    }
    model.scores.assign(scores, scores + size);
    model.types.assign(types, types + size);
    model.charsmap.assign(charsmap, std::size_t(charsmap_size));
    model.flags = {bool(flags & 1), bool(flags & 2), bool(flags & 4), bool(flags & 8)};
    if (byte_ids != nullptr) model.byte_ids.assign(byte_ids, byte_ids + 256);
    return megaxlm::Encoder::make(model).release();
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}

EXPORTED void megaxlm_unigram_free(void* encoder) { delete static_cast<megaxlm::Encoder*>(encoder); }

// Whether text is taken word by word.
EXPORTED int megaxlm_unigram_by_parts(const void* encoder) {
  return static_cast<const megaxlm::Encoder*>(encoder)->by_parts();
}

// Encodes `rows` texts of valid UTF-8 that follow one another, text i ending before byte ends[i], with
// 80 bytes behind the last that may be read. Fills offsets[0 .. rows]; returns how many ids there
// are, to be fetched with megaxlm_unigram_take, or -1 if memory is short.
EXPORTED std::int64_t megaxlm_unigram_encode(void* encoder, const std::uint8_t* text,
                                             const std::int64_t* ends, std::int64_t rows,
                                             std::int64_t* offsets) {
  megaxlm::Encoder& self = *static_cast<megaxlm::Encoder*>(encoder);
  try {
    self.ids.clear();
    offsets[0] = 0;
    std::int64_t begin = 0;
    for (std::int64_t i = 0; i < rows; ++i) {
      self.encode(text + begin, text + ends[i]);
      begin = ends[i];
      offsets[i + 1] = std::int64_t(self.ids.size());
    }
    return std::int64_t(self.ids.size());
  } catch (const std::bad_alloc&) {
    return -1;
  }
}

// Copies the ids of the last call of megaxlm_unigram_encode.
EXPORTED void megaxlm_unigram_take(void* encoder, std::uint32_t* ids) {
  megaxlm::Encoder& self = *static_cast<megaxlm::Encoder*>(encoder);
  std::copy(self.ids.begin(), self.ids.end(), ids);
  self.ids.clear();
  if (self.ids.capacity() > std::size_t(1) << 24) self.ids.shrink_to_fit();
}
