// UTF-8, what a text's characters mean to a model, and huge-page memory. Text is always valid UTF-8:
// Python encoded it.
#pragma once

#include <algorithm>
#include <cfloat>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <vector>
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace megaxlm {

static_assert(FLT_EVAL_METHOD == 0, "float sums must be rounded as sentencepiece's are");
#if !defined(__BYTE_ORDER__) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "words are loaded as little-endian numbers"
#endif

using Byte = std::uint8_t;
constexpr std::uint32_t kSpaceSymbol = 0x2581;

// Reads the character at p and moves p behind it.
inline std::uint32_t next_char(const Byte*& p) {
  const std::uint32_t a = *p++;
  if (a < 0x80) return a;
  const std::uint32_t b = *p++ & 0x3F;
  if (a < 0xE0) return (a & 0x1F) << 6 | b;
  const std::uint32_t c = *p++ & 0x3F;
  if (a < 0xF0) return (a & 0x0F) << 12 | b << 6 | c;
  return (a & 0x07) << 18 | b << 12 | c << 6 | (*p++ & 0x3F);
}

// Writes a character as UTF-8; returns its length, 1 to 4.
inline int write_char(std::uint32_t c, Byte out[4]) {
  if (c < 0x80) return out[0] = Byte(c), 1;
  if (c < 0x800) return out[0] = Byte(0xC0 | c >> 6), out[1] = Byte(0x80 | (c & 0x3F)), 2;
  if (c < 0x10000) {
    out[0] = Byte(0xE0 | c >> 12), out[1] = Byte(0x80 | (c >> 6 & 0x3F));
    return out[2] = Byte(0x80 | (c & 0x3F)), 3;
  }
  out[0] = Byte(0xF0 | c >> 18), out[1] = Byte(0x80 | (c >> 12 & 0x3F));
  return out[2] = Byte(0x80 | (c >> 6 & 0x3F)), out[3] = Byte(0x80 | (c & 0x3F)), 4;
}

// Whether `size` bytes are UTF-8 without surrogates or overlong forms.
inline bool is_utf8(const Byte* p, std::size_t size) {
  const Byte* const end = p + size;
  while (p < end) {
    const int length = *p < 0x80 ? 1 : *p < 0xC2 ? 0 : *p < 0xE0 ? 2 : *p < 0xF0 ? 3 : 4;
    if (length == 0 || *p > 0xF4 || end - p < length) return false;
    for (int i = 1; i < length; ++i)
      if ((p[i] & 0xC0) != 0x80) return false;
    const std::uint32_t c = next_char(p);
    if ((length == 3 && c < 0x800) || (length == 4 && (c < 0x10000 || c > 0x10FFFF))) return false;
    if (c >= 0xD800 && c < 0xE000) return false;
  }
  return true;
}

// What is known of a character: its number among the characters of the pieces (low 16 bits, 0 if no
// piece has it), and how the normalization rules see it.
enum : std::uint32_t {
  kCode = 0xFFFF,
  kRule = 1 << 16,       // a rule or a user-defined piece consists of it alone
  kStarts = 1 << 17,     // longer ones start with it
  kContinues = 1 << 18,  // it stands elsewhere than first in one
  kSpecial = 1 << 19,    // a space, or U+2581 itself
};

// A table over all characters in pages of 256, of which most are the same empty one.
class CharTable {
 public:
  CharTable() : pages_(256, 0) { std::memset(top_, 0, sizeof top_); }
  std::uint32_t get(std::uint32_t c) const { return pages_[top_[c >> 8] + (c & 255)]; }
  std::uint32_t& at(std::uint32_t c) {
    if (top_[c >> 8] == 0) {
      top_[c >> 8] = std::uint32_t(pages_.size());
      pages_.resize(pages_.size() + 256, 0);
    }
    return pages_[top_[c >> 8] + (c & 255)];
  }

 private:
  std::uint32_t top_[0x1100];
  std::vector<std::uint32_t> pages_;
};

// Normalized text: characters and their codes.
class Chars {
 public:
  bool literal_mark = false;  // a U+2581 that no space stands behind

  std::size_t size() const { return size_; }
  std::uint32_t point(std::size_t i) const { return points_[i]; }
  std::uint32_t last() const { return points_[size_ - 1]; }
  const std::uint16_t* codes() const { return codes_.data(); }
  void clear() { size_ = 0, literal_mark = false; }
  void pop() { --size_; }
  void push(std::uint32_t point, std::uint32_t entry) {
    if (size_ == points_.size()) grow();
    points_[size_] = point, codes_[size_++] = std::uint16_t(entry & kCode);
  }

 private:
  void grow() {
    const std::size_t size = std::max<std::size_t>(256, 2 * points_.size());
    points_.resize(size), codes_.resize(size);
  }

  std::size_t size_ = 0;
  std::vector<std::uint32_t> points_;
  std::vector<std::uint16_t> codes_;
};

// A zeroed array for random access: aligned to, and if the system can, made of huge pages.
template <typename T>
class HugeArray {
 public:
  explicit HugeArray(std::size_t size) : size_(size) {
    constexpr std::size_t page = std::size_t(1) << 21;
    const std::size_t bytes = (size * sizeof(T) + page - 1) / page * page;
    data_ = static_cast<T*>(std::aligned_alloc(page, bytes));
    if (data_ == nullptr) throw std::bad_alloc();
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    madvise(data_, bytes, MADV_HUGEPAGE);
#endif
    std::memset(static_cast<void*>(data_), 0, bytes);
  }
  ~HugeArray() { std::free(data_); }
  HugeArray(const HugeArray&) = delete;
  HugeArray& operator=(const HugeArray&) = delete;
  T& operator[](std::size_t i) { return data_[i]; }
  const T& operator[](std::size_t i) const { return data_[i]; }
  std::size_t size() const { return size_; }

 private:
  T* data_;
  std::size_t size_;
};

}  // namespace megaxlm
