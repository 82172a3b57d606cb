// Searches a text for the spans of an index: decontamination/spans.py and search.py, in one pass.
//
// What a token, a sentence and a hash are is said there; the results are the same to the bit. NumPy
// needs some forty calls for a text, 0.3 ms for a sentence of 80 characters; this, a few
// microseconds.

#include <algorithm>
#include <cstdint>
#include <vector>

namespace {

enum Kind : uint8_t { kSpace, kLetter, kUnspaced, kSentenceEnd, kIgnored };

constexpr uint64_t kCharacterBase = 0x9E3779B97F4A7C15ull;
constexpr uint64_t kTokenBase = 0xD6E8FEB86659FD93ull;
constexpr uint64_t kMix = 0xBF58476D1CE4E5B9ull;
constexpr uint64_t kLengthSalt = 0x94D049BB133111EBull;

uint64_t mixed(uint64_t hash) {
    hash ^= hash >> 31;
    hash *= kMix;
    return hash ^ (hash >> 29);
}

// The inverse of an odd number modulo 2^64, by Newton's method.
constexpr uint64_t inverse(uint64_t odd) {
    uint64_t result = odd;
    for (int i = 0; i < 6; ++i) result *= 2 - odd * result;
    return result;
}

struct Tokens {
    std::vector<uint64_t> hashes;
    std::vector<uint8_t> begins, ends;
    std::vector<int64_t> first, last;

    void clear() {
        hashes.clear();
        begins.clear();
        ends.clear();
        first.clear();
        last.clear();
    }

    void add(uint64_t hash, bool new_sentence, int64_t from, int64_t to) {
        if (!ends.empty()) ends.back() = new_sentence;
        begins.push_back(new_sentence || hashes.empty());
        ends.push_back(1);
        hashes.push_back(mixed(hash));
        first.push_back(from);
        last.push_back(to);
    }
};

void read_words(const uint32_t* points, int64_t count, const uint8_t* kinds, Tokens& tokens) {
    bool inside = false, stopped = false;
    uint64_t hash = 0, power = 1;
    int64_t from = 0, to = 0;
    for (int64_t i = 0; i < count; ++i) {
        const uint8_t kind = kinds[points[i]];
        if (kind == kIgnored) continue;
        if (kind == kLetter || kind == kUnspaced) {
            if (!inside) {
                inside = true;
                hash = 0;
                power = 1;
                from = i;
            }
            hash += points[i] * power;
            power *= kCharacterBase;
            to = i + 1;
            continue;
        }
        if (inside) {
            tokens.add(hash, stopped, from, to);
            inside = stopped = false;
        }
        stopped |= kind == kSentenceEnd;
    }
    if (inside) tokens.add(hash, stopped, from, to);
}

void read_characters(const uint32_t* points, int64_t count, const uint8_t* kinds, Tokens& tokens) {
    const auto unspaced = [&](uint32_t point) { return kinds[point] == kUnspaced; };
    if (std::none_of(points, points + count, unspaced)) return;
    bool gap = false;
    for (int64_t i = 0; i < count; ++i) {
        const uint8_t kind = kinds[points[i]];
        if (kind == kLetter || kind == kUnspaced) {
            tokens.add(points[i], gap, i, i + 1);
            gap = false;
        } else if (kind != kIgnored) {
            gap = true;
        }
    }
}

}  // namespace

extern "C" {

struct Index {
    const uint64_t* keys;  // sorted
    int64_t num_keys;
    const uint8_t* bits;  // one for each value that `key >> shift` may have
    int32_t shift;
};

// One way of reading: its salt, the length of n-grams and the shorter lengths that whole items have.
struct Way {
    int32_t characters;
    uint64_t salt;
    int64_t ngram;
    const int64_t* lengths;
    int64_t num_lengths;
};

// Writes up to `room` spans (first character, last exclusive, place of the key) and returns how many
// there are. They come by length as given, n-grams first, then by place.
__attribute__((visibility("default"))) int64_t megaxlm_find_overlaps(
    const uint32_t* points, int64_t count, const uint8_t* kinds, const Index* index, const Way* way,
    int64_t* spans, int64_t room) {
    static thread_local Tokens tokens;
    static thread_local std::vector<uint64_t> sums, inverses;
    tokens.clear();
    if (way->characters)
        read_characters(points, count, kinds, tokens);
    else
        read_words(points, count, kinds, tokens);
    const int64_t size = static_cast<int64_t>(tokens.hashes.size());
    sums.assign(1, 0);
    constexpr uint64_t kInverse = inverse(kTokenBase);
    if (inverses.empty()) inverses.push_back(1);
    while (static_cast<int64_t>(inverses.size()) <= size) inverses.push_back(inverses.back() * kInverse);
    uint64_t power = 1;
    for (uint64_t hash : tokens.hashes) {
        sums.push_back(sums.back() + hash * power);
        power *= kTokenBase;
    }
    int64_t found = 0;
    const uint64_t* const keys_end = index->keys + index->num_keys;
    const auto look = [&](int64_t start, int64_t length, uint64_t salt) {
        const uint64_t raw = (sums[start + length] - sums[start]) * inverses[start];
        const uint64_t hash = mixed(raw ^ salt);
        const uint64_t bit = hash >> index->shift;
        if (!(index->bits[bit >> 3] >> (bit & 7) & 1)) return;
        const uint64_t* key = std::lower_bound(index->keys, keys_end, hash);
        if (key == keys_end || *key != hash) return;
        if (found < room) {
            spans[3 * found] = tokens.first[start];
            spans[3 * found + 1] = tokens.last[start + length - 1];
            spans[3 * found + 2] = key - index->keys;
        }
        ++found;
    };
    const uint64_t ngram_salt = way->salt + way->ngram * kLengthSalt;
    for (int64_t start = 0; start + way->ngram <= size; ++start) look(start, way->ngram, ngram_salt);
    for (int64_t k = 0; k < way->num_lengths; ++k) {
        const int64_t length = way->lengths[k];
        const uint64_t salt = way->salt + length * kLengthSalt;
        for (int64_t start = 0; start + length <= size; ++start)
            if (tokens.begins[start] && tokens.ends[start + length - 1]) look(start, length, salt);
    }
    return found;
}
}
