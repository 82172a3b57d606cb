// sentencepiece's normalizer (src/normalizer.cc of 0.2.3), from the rules compiled into the model.
//
// The rules are a double array (darts-clone's format) from strings to places in a blob of
// replacements; the longest one that matches is applied. Most characters of most text have none, and
// a table over characters says so without a walk: only who starts a longer rule and is followed by
// a character that continues one has to try.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "unigram_text.h"

namespace megaxlm {

// A double array as darts-clone writes it: units of 32 bits.
class Darts {
 public:
  Darts() = default;
  explicit Darts(std::string_view blob) : units_(blob.size() / 4) {
    std::memcpy(units_.data(), blob.data(), units_.size() * 4);
  }
  bool empty() const { return units_.empty(); }

  // As DoubleArrayImpl::validate: no walk leaves the array, every value is below `limit`.
  bool valid(std::size_t limit) const {
    const std::size_t size = units_.size();
    if (label(0) != 0 || has_leaf(0) || offset(0) == 0 || (offset(0) | 0xFF) >= size) return false;
    for (std::size_t i = 1; i < size; ++i) {
      if (label(i) > 0xFF) {
        if (value(i) >= limit) return false;
      } else if (((i ^ offset(i)) | 0xFF) >= size ||
                 (has_leaf(i) && label(i ^ offset(i)) <= 0xFF)) {
        return false;
      }
    }
    return true;
  }

  // Calls found(length, value) for the keys that begin [p, end), shortest first.
  template <typename Found>
  void prefixes(const Byte* p, const Byte* end, Found found) const {
    std::size_t node = offset(0);
    for (const Byte* q = p; q < end;) {
      node ^= *q;
      if (label(node) != *q++) return;
      const bool leaf = has_leaf(node);
      node ^= offset(node);
      if (leaf) found(std::size_t(q - p), value(node));
    }
  }

  // Calls visit(key, value) for every key; false if one is longer than any real rule.
  template <typename Visit>
  bool visit_keys(Visit visit) const {
    std::string key;
    return empty() || descend(offset(0), key, visit);
  }

 private:
  std::uint32_t label(std::size_t i) const { return units_[i] & (1U << 31 | 0xFF); }
  bool has_leaf(std::size_t i) const { return units_[i] >> 8 & 1; }
  std::size_t offset(std::size_t i) const {
    return std::size_t(units_[i] >> 10) << ((units_[i] & 1U << 9) >> 6);
  }
  std::size_t value(std::size_t i) const { return units_[i] & ((1U << 31) - 1); }

  template <typename Visit>
  bool descend(std::size_t children, std::string& key, Visit& visit) const {
    if (key.size() > 256) return false;  // a loop in a crafted file
    for (unsigned c = 0; c < 256; ++c) {
      const std::size_t node = children ^ c;
      if (label(node) != c) continue;
      key.push_back(char(c));
      if (has_leaf(node)) visit(key, value(node ^ offset(node)));
      if (!descend(node ^ offset(node), key, visit)) return false;
      key.pop_back();
    }
    return true;
  }

  std::vector<std::uint32_t> units_;
};

struct NormalizerFlags {
  bool add_dummy_prefix, remove_extra_whitespaces, escape_whitespaces, whitespace_as_suffix;
};

class Normalizer {
 public:
  // `symbols`: the user-defined pieces, which no rule touches. Entries of `table` get their flags.
  // Check `supported()` before anything else is called.
  Normalizer(std::string_view charsmap, NormalizerFlags flags, std::vector<std::string> symbols,
             CharTable& table)
      : flags_(flags), table_(table) {
    std::sort(symbols.begin(), symbols.end(),
              [](const auto& a, const auto& b) { return a.size() < b.size(); });
    space_ = flags.escape_whitespaces ? kSpaceSymbol : ' ';
    supported_ = charsmap.empty() || read(charsmap);
    for (std::string& symbol : symbols) {
      supported_ = supported_ && utf8(symbol);
      if (supported_) symbols_[mark(symbol)].push_back(std::move(symbol));
    }
    table_.at(' ') |= kSpecial;
    table_.at(kSpaceSymbol) |= kSpecial;
  }

  bool supported() const { return supported_; }

  // Whether text may be normalized in parts cut at spaces: each part then starts in the state after
  // a space, and no rule reaches over one.
  bool cuts_at_spaces() const {
    return flags_.add_dummy_prefix && flags_.remove_extra_whitespaces &&
           flags_.escape_whitespaces && !flags_.whitespace_as_suffix && !rule_with_space_;
  }

  // Normalizes a whole text.
  void text(const Byte* p, const Byte* end, Chars& out) const {
    out.clear();
    if (flags_.remove_extra_whitespaces) {
      while (p < end) {
        const auto [result, consumed] = prefix(p, end);
        if (result != " ") break;
        p += consumed;
      }
    }
    if (p == end) return;
    if (flags_.add_dummy_prefix && !flags_.whitespace_as_suffix) push_space(out);
    bool after_space = flags_.remove_extra_whitespaces;
    run(p, end, after_space, out);
    if (flags_.remove_extra_whitespaces)
      while (out.size() > 0 && out.last() == space_) out.pop();
    if (flags_.add_dummy_prefix && flags_.whitespace_as_suffix) push_space(out);
  }

  // Normalizes a part between spaces, with the space before it; nothing if it becomes nothing.
  // Returns false if it must be normalized with the text around it: whether a U+2581 of the text
  // itself stays depends on what follows, and so does a part that becomes two spaces at its end.
  bool part(const Byte* p, const Byte* end, Chars& out) const {
    out.clear();
    push_space(out);
    bool after_space = true;
    run(p, end, after_space, out);
    if (after_space) out.pop();  // the next part brings its own, and the last has none
    return !out.literal_mark && (out.size() == 0 || out.last() != kSpaceSymbol);
  }

 private:
  static constexpr std::size_t kMaxRules = 32, kMaxSymbols = 64;  // sentencepiece sees no more

  bool read(std::string_view charsmap) {
    std::uint32_t size = 0;
    if (charsmap.size() <= 4) return false;
    std::memcpy(&size, charsmap.data(), 4);
    if (size >= charsmap.size() - 4 || size < 1024 || size % 1024 != 0) return false;
    rules_ = Darts(charsmap.substr(4, size));
    blob_ = std::string(charsmap.substr(4 + size));
    if (blob_.empty() || blob_.back() != '\0' || !rules_.valid(blob_.size()) || !utf8(blob_))
      return false;
    bool good = true;
    return rules_.visit_keys([&](const std::string& key, std::size_t value) {
      good = good && utf8(key) && (blob_[value] & 0xC0) != 0x80;
      if (good) mark(key);
    }) && good;
  }

  static bool utf8(const std::string& text) {
    return is_utf8(reinterpret_cast<const Byte*>(text.data()), text.size());
  }

  // Sets the flags of the characters of a key; returns the first.
  std::uint32_t mark(const std::string& key) {
    const Byte* p = reinterpret_cast<const Byte*>(key.data());
    const Byte* const end = p + key.size();
    const std::uint32_t first = next_char(p);
    table_.at(first) |= p == end ? kRule : kStarts;
    while (p < end) table_.at(next_char(p)) |= kContinues;
    rule_with_space_ = rule_with_space_ || key.find(' ') != std::string::npos;
    return first;
  }

  void push_space(Chars& out) const { out.push(space_, table_.get(space_)); }

  // Normalizer::NormalizePrefix: what the text starts with becomes, and how much that was.
  std::pair<std::string_view, std::size_t> prefix(const Byte* p, const Byte* end) const {
    const char* const chars = reinterpret_cast<const char*>(p);
    const std::string_view rest(chars, std::size_t(end - p));
    std::size_t length = 0, value = 0, count = 0;
    const Byte* q = p;
    if (const auto symbols = symbols_.find(next_char(q)); symbols != symbols_.end()) {
      for (const std::string& symbol : symbols->second)
        if (rest.substr(0, symbol.size()) == symbol && ++count <= kMaxSymbols)
          length = symbol.size();
      if (length > 0) return {rest.substr(0, length), length};
      count = 0;
    }
    if (!rules_.empty()) {
      rules_.prefixes(p, end, [&](std::size_t key, std::size_t at) {
        if (++count <= kMaxRules) length = key, value = at;
      });
    }
    if (length > 0) return {std::string_view(blob_.data() + value), length};
    return {rest.substr(0, std::size_t(q - p)), std::size_t(q - p)};
  }

  // The loop of Normalizer::Normalize.
  void run(const Byte* p, const Byte* end, bool& after_space, Chars& out) const {
    while (p < end) {
      const Byte* q = p;
      const std::uint32_t point = next_char(q), entry = table_.get(point);
      if (plain(entry, q, end)) {
        out.push(point, entry);
        after_space = false;
        p = q;
        continue;
      }
      auto [result, consumed] = prefix(p, end);
      while (after_space && !result.empty() && result.front() == ' ') result.remove_prefix(1);
      if (!result.empty()) {
        const Byte* r = reinterpret_cast<const Byte*>(result.data());
        const Byte* const result_end = r + result.size();
        while (r < result_end) {
          const std::uint32_t c = next_char(r);
          if (c == ' ') {
            push_space(out);
          } else {
            out.push(c, table_.get(c));
            out.literal_mark = out.literal_mark || c == kSpaceSymbol;
          }
        }
        after_space = result.back() == ' ';
      }
      p += consumed;
      if (!flags_.remove_extra_whitespaces) after_space = false;
    }
  }

  // Whether a character, with q behind it, stays as it is.
  bool plain(std::uint32_t entry, const Byte* q, const Byte* end) const {
    if (!(entry & (kRule | kStarts | kSpecial))) return true;
    if (entry & (kRule | kSpecial)) return false;
    return q == end || !(table_.get(next_char(q)) & kContinues);
  }

  NormalizerFlags flags_;
  // user-defined pieces by first character, shortest first
  std::unordered_map<std::uint32_t, std::vector<std::string>> symbols_;
  CharTable& table_;
  Darts rules_;
  std::string blob_;  // replacements, each ended by a zero byte
  std::uint32_t space_;
  bool supported_, rule_with_space_ = false;
};

}  // namespace megaxlm
