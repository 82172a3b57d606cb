// The pieces as a double array over characters, not bytes: one step where a byte trie takes two or
// three in most scripts. A unit holds its piece, so that a step is one load.
#pragma once

#include <algorithm>
#include <limits>
#include <memory>
#include <tuple>
#include <vector>

#include "unigram_text.h"

namespace megaxlm {

constexpr float kNoPiece = -std::numeric_limits<float>::infinity();

// A unit is the child by `code` of the node whose base is its own place XOR code, and of no other:
// no two nodes share a base.
struct Unit {
  std::uint32_t base;
  std::uint32_t code;  // kFree if no node is here
  float score;         // kNoPiece if no piece ends here
  std::int32_t id;
};

constexpr std::uint32_t kFree = ~0U;

// A piece as codes of characters; code 0 is no character.
struct Piece {
  std::vector<std::uint16_t> codes;
  float score;
  std::int32_t id;
};

class Trie {
 public:
  // `pieces`: without two the same; `max_code`: the largest code.
  Trie(std::vector<Piece> pieces, std::uint32_t max_code) {
    while (block_ <= max_code) block_ *= 2;
    std::sort(pieces.begin(), pieces.end(),
              [](const Piece& a, const Piece& b) { return a.codes < b.codes; });
    for (const Piece& piece : pieces) depth_ = std::max(depth_, piece.codes.size());
    std::vector<Node> nodes = tree(pieces);
    place(nodes);
    packed_ = std::make_unique<HugeArray<Unit>>(units_.size());
    std::copy(units_.begin(), units_.end(), &(*packed_)[0]);
    units_ = {}, taken_ = {}, next_ = {}, previous_ = {};
  }

  std::uint32_t root() const { return root_; }
  const Unit* units() const { return &(*packed_)[0]; }
  std::size_t depth() const { return depth_; }  // characters of the longest piece

 private:
  struct Node {
    std::size_t first, last;  // its pieces, sorted
    std::size_t depth;
    std::size_t children, count;  // its children stand together
    std::uint32_t code;
    float score, heat;  // heat: the best score below
    std::int32_t id;
    std::uint32_t base;
  };

  static std::vector<Node> tree(const std::vector<Piece>& pieces) {
    std::vector<Node> nodes{{0, pieces.size(), 0, 0, 0, 0, kNoPiece, 0, -1, 0}};
    for (std::size_t n = 0; n < nodes.size(); ++n) {
      Node node = nodes[n];
      node.heat = kNoPiece;
      for (std::size_t i = node.first; i < node.last; ++i)
        node.heat = std::max(node.heat, pieces[i].score);
      std::size_t i = node.first;
      if (i < node.last && pieces[i].codes.size() == node.depth) {
        node.score = pieces[i].score, node.id = pieces[i].id;
        ++i;
      }
      node.children = nodes.size();
      while (i < node.last) {
        const std::uint16_t code = pieces[i].codes[node.depth];
        const std::size_t first = i;
        while (i < node.last && pieces[i].codes[node.depth] == code) ++i;
        nodes.push_back({first, i, node.depth + 1, 0, 0, code, kNoPiece, 0, -1, 0});
        ++node.count;
      }
      nodes[n] = node;
    }
    return nodes;
  }

  // Gives every node a base. Those with many children come first, while there is room; the others
  // fill the gaps, likely ones first, so that what is used often lies together.
  void place(std::vector<Node>& nodes) {
    std::vector<std::tuple<int, float, std::size_t>> order;  // by size, then heat
    for (std::size_t n = 0; n < nodes.size(); ++n) {
      int bits = 0;
      for (std::size_t count = nodes[n].count; count > 0; count /= 2) ++bits;
      if (bits > 0) order.emplace_back(-bits, -nodes[n].heat, n);
    }
    std::sort(order.begin(), order.end());
    grow();
    std::size_t cursor = 0;
    int before = 0;
    for (const auto& [bits, heat, n] : order) {
      if (bits != before) cursor = head_, before = bits;
      nodes[n].base = base_for(nodes, nodes[n], cursor);
    }
    // who has no children gets a base that is no one's: no unit fits it
    std::uint32_t nobody = 0;
    while (nobody < taken_.size() && taken_[nobody]) ++nobody;
    if (nobody == taken_.size()) grow();
    for (Node& node : nodes)
      if (node.count == 0) node.base = nobody;
    root_ = nodes[0].base;
    for (const Node& node : nodes) {
      for (std::size_t c = node.children; c < node.children + node.count; ++c) {
        const Node& child = nodes[c];
        units_[node.base ^ child.code] = {child.base, child.code, child.score, child.id};
      }
    }
  }

  // Finds a base from the free place `cursor` on, and takes its places.
  std::uint32_t base_for(const std::vector<Node>& nodes, const Node& node, std::size_t& cursor) {
    const auto code = [&](std::size_t k) { return nodes[node.children + k].code; };
    for (std::size_t place = cursor;; place = next_[place]) {
      if (place == kEnd || next_[place] == kEnd) {  // keep one free place: the list never ends
        grow();
        place = place == kEnd ? head_ : place;
      }
      const std::uint32_t base = std::uint32_t(place) ^ code(0);
      if (taken_[base]) continue;
      std::size_t k = 1;
      while (k < node.count && units_[base ^ code(k)].code == kFree) ++k;
      if (k < node.count) continue;
      taken_[base] = true;
      cursor = next_[place];
      for (k = 0; k < node.count; ++k) {
        const std::size_t at = base ^ code(k);
        if (at == cursor) cursor = next_[at];
        units_[at].code = code(k);
        next_[previous_[at]] = next_[at];
        if (next_[at] != kEnd) previous_[next_[at]] = previous_[at];
        if (at == head_) head_ = next_[at];
      }
      return base;
    }
  }

  // Appends free units. Places are numbers below the size, so that base XOR code stays inside.
  void grow() {
    const std::size_t old = units_.size();
    units_.resize(old + block_, {0, kFree, kNoPiece, -1});
    taken_.resize(old + block_, false);
    next_.resize(old + block_), previous_.resize(old + block_);
    for (std::size_t i = old; i < old + block_; ++i) next_[i] = i + 1, previous_[i] = i - 1;
    next_.back() = kEnd;
    std::size_t last = old;
    while (last > 0 && units_[last - 1].code != kFree) --last;
    if (last == 0) {
      head_ = previous_[old] = old;
    } else {
      next_[last - 1] = old, previous_[old] = last - 1;
    }
  }

  static constexpr std::size_t kEnd = ~std::size_t(0);
  std::size_t block_ = 256, depth_ = 0;
  std::uint32_t root_ = 0;
  std::unique_ptr<HugeArray<Unit>> packed_;
  std::vector<Unit> units_;                   // while it is built
  std::vector<bool> taken_;                   // which numbers are a base
  std::vector<std::size_t> next_, previous_;  // the list of free places, ascending
  std::size_t head_ = 0;
};

}  // namespace megaxlm
