// The best segmentation of normalized text: sentencepiece's own, sum by sum, and one that also tells
// how far the second best is behind.
#pragma once

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "unigram_text.h"
#include "unigram_trie.h"

namespace megaxlm {

struct Vocabulary {
  Trie trie;
  float unknown_score;
  std::int32_t unknown_id;
  double largest_score;  // of all absolute scores, the unknown one in
};

// unigram::Model::EncodeOptimized: the same float additions in the same order, the same winner among
// equals, the same re-basing of sums beyond 100,000. Positions are characters instead of bytes.
class ExactViterbi {
 public:
  explicit ExactViterbi(const Vocabulary& vocabulary) : vocabulary_(vocabulary) {}

  // Segments chars, the best score before them being `score`; returns the best score at their end.
  // No piece may span either end. Calls emit(id, position) for each piece in order.
  template <typename Emit>
  float run(const Chars& chars, float score, Emit emit) {
    constexpr float reset_threshold = 100000.0f;
    const Unit* const units = vocabulary_.trie.units();
    const std::uint32_t root = vocabulary_.trie.root();
    const std::size_t size = chars.size(), depth = vocabulary_.trie.depth() + 2;
    const std::uint16_t* const codes = chars.codes();
    std::size_t origin = 0;  // cell 0 stands for this position: all paths pass through it
    reserve(depth);
    cells_[0] = {score, 0, -1};
    std::size_t known = 0, reach = 0;  // cells set, and the farthest with a path
    for (std::size_t i = 0; i < size; ++i) {
      if (i - origin == reach) {
        emit_path(origin, reach, emit);
        cells_[0] = cells_[reach];
        origin = i, known = reach = 0;
      }
      const std::size_t here = i - origin;
      reserve(here + depth);
      Cell* const cells = cells_.data();
      float till_here = cells[here].score;
      if (till_here < -reset_threshold || till_here > reset_threshold) {
        for (std::size_t j = here; j <= reach; ++j) cells[j].score -= till_here;
        till_here = 0.0f;
      }
      bool single = false;
      std::size_t j = i;
      for (std::uint32_t base = root; j < size;) {
        const Unit& unit = units[base ^ codes[j]];
        if (unit.code != codes[j]) break;
        base = unit.base;
        const std::size_t end = ++j - origin;
        if (end > known) cells[known = end].score = kNoPiece;
        const float candidate = unit.score + till_here;
        if (candidate > cells[end].score) cells[end] = {candidate, std::uint32_t(here), unit.id};
        if (unit.score != kNoPiece) {
          reach = std::max(reach, end);
          single = single || end == here + 1;
        }
      }
      if (!single) {
        const std::size_t end = here + 1;
        if (end > known) cells[known = end].score = kNoPiece;
        const float candidate = vocabulary_.unknown_score + till_here;
        if (candidate > cells[end].score)
          cells[end] = {candidate, std::uint32_t(here), vocabulary_.unknown_id};
        reach = std::max(reach, end);
      }
    }
    emit_path(origin, size - origin, emit);
    return cells_[size - origin].score;
  }

 private:
  struct Cell {
    float score;
    std::uint32_t start;
    std::int32_t id;
  };

  void reserve(std::size_t size) {
    if (cells_.size() < size) cells_.resize(2 * size);
  }

  template <typename Emit>
  void emit_path(std::size_t origin, std::size_t end, Emit& emit) {
    path_.clear();
    for (std::size_t at = end; at > 0; at = cells_[at].start) path_.push_back(std::uint32_t(at));
    while (!path_.empty()) {
      const Cell& cell = cells_[path_.back()];
      emit(cell.id, origin + cell.start);
      path_.pop_back();
    }
  }

  const Vocabulary& vocabulary_;
  std::vector<Cell> cells_;
  std::vector<std::uint32_t> path_;
};

// The best segmentation of a short text in double arithmetic, and up to where in a text it is
// certainly the one that ExactViterbi finds there.
//
// Let B bound the absolute value of the float sum S before this text of n characters, s the largest
// absolute score of a piece, W = n s. A path has at most n pieces. As the float sum along any path is
// rounded n times at most, each time by no more than 2^-24 of a value below (B + W) 1.001 (which
// allows for n roundings, and for those of the sum that B was made of), the float sum at its end
// differs from its exact value by at most e = n 2^-24 (B + W) 1.001. Rounding is monotone, so that
// the dynamic programme ends with the largest float sum over all paths, and the path it follows back
// has this sum. If the exact best path leads the exact second best by more than 2 e, its float sum
// is larger than all others, and it is the path. Solved for B, with (B + W) 1.001 below the
// threshold at which sums are re-based: B may be up to `limit`. Rounding in double and to float is
// allowed for by the factors 1e-12 and 1e-6.
class MarginViterbi {
 public:
  static constexpr std::size_t kMaxChars = 72;

  explicit MarginViterbi(const Vocabulary& vocabulary) : vocabulary_(vocabulary) {}

  std::vector<std::int32_t> ids;  // of the best path, last first
  float limit;                    // of the sum's absolute value before, negative if none will do
  float magnitude;                // sum of absolute scores along the best path, rounded up

  // Returns false if an unknown character is on the best path; `ids` is not to be used then.
  bool run(const Chars& chars) {
    const Unit* const units = vocabulary_.trie.units();
    const std::uint32_t root = vocabulary_.trie.root();
    const std::size_t size = chars.size();
    const std::uint16_t* const codes = chars.codes();
    for (std::size_t i = 0; i <= size; ++i) best_[i] = second_[i] = kNoPiece;
    best_[0] = 0;
    for (std::size_t i = 0; i < size; ++i) {
      const double best = best_[i], second = second_[i];
      const Unit* unit = &units[root ^ codes[i]];
      if (unit->code != codes[i] || unit->score == kNoPiece)
        reach(i, i + 1, best, second, vocabulary_.unknown_score, vocabulary_.unknown_id);
      for (std::size_t j = i; unit->code == codes[j];) {
        reach(i, ++j, best, second, unit->score, unit->id);
        if (j == size) break;
        unit = &units[unit->base ^ codes[j]];
      }
    }
    ids.clear();
    const double n = double(size), spread = n * vocabulary_.largest_score;
    double sum = 1e-12 * spread;
    bool unknown = false;
    for (std::size_t at = size; at > 0; at = from_[at].start) {
      ids.push_back(from_[at].id);
      unknown = unknown || from_[at].id == vocabulary_.unknown_id;
      sum += std::fabs(best_[at] - best_[from_[at].start]);
    }
    const double gap = best_[size] - second_[size] - 1e-12 * spread;
    const double by_gap = gap / (2 * n) * (1 << 24) / 1.001 - spread;
    const double by_threshold = 100000.0 / 1.001 - spread;
    const double most = std::min(by_gap, by_threshold);
    limit = float(most > 0 ? most * (1 - 1e-6) : -1.0);
    magnitude = float(sum * (1 + 1e-6));
    return !unknown;
  }

 private:
  struct From {
    std::uint32_t start;
    std::int32_t id;
  };

  // Extends both paths that end at i by a piece; by none if its score is kNoPiece.
  void reach(std::size_t i, std::size_t end, double best, double second, double score,
             std::int32_t id) {
    const double one = best + score, two = second + score, old = best_[end];
    if (one > old) from_[end] = {std::uint32_t(i), id};
    best_[end] = std::max(one, old);
    second_[end] = std::max(std::min(one, old), std::max(two, second_[end]));
  }

  const Vocabulary& vocabulary_;
  double best_[kMaxChars + 1], second_[kMaxChars + 1];  // by position: scores of two paths
  From from_[kMaxChars + 1];                            // the last piece of the better one
};

}  // namespace megaxlm
