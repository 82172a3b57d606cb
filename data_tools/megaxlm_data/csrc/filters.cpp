// The loops of the filters that read every character or word. Each has a NumPy twin with the same
// result in filters/kinds.py, filters/units.py and filters/repetition.py, where they are described.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

// Classes of characters, as filters/units.py numbers them.
constexpr uint8_t kWord = 0, kSpace = 1;

constexpr uint64_t kMultiplier = 0xD6E8FEB86659FD93;

uint64_t mix(uint64_t value) {  // the finaliser of SplitMix64: every bit depends on every bit
    value += 0x9E3779B97F4A7C15;
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9;
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB;
    return value ^ (value >> 31);
}

// How often each hash was seen, in a table that is at most half full.
class Counts {
public:
    explicit Counts(size_t most) {
        size_t size = 16;
        while (size < 2 * most) size *= 2;
        mask_ = size - 1;
        slots_.assign(size, Slot{0, 0});
    }

    uint32_t add(uint64_t hash) {
        for (size_t at = hash & mask_;; at = (at + 1) & mask_) {
            Slot& slot = slots_[at];
            if (slot.count == 0) slot.hash = hash;
            if (slot.hash == hash) return ++slot.count;
        }
    }

private:
    struct Slot {
        uint64_t hash;
        uint32_t count;
    };
    size_t mask_;
    std::vector<Slot> slots_;
};

// Calls visit(first unit, how often this run was seen up to here) for each run of `length` units.
template <class Visit>
void for_each_run(const uint64_t* ids, int64_t units, int64_t length, Visit visit) {
    uint64_t leading = 1;  // the factor of the unit that leaves the window
    for (int64_t i = 1; i < length; ++i) leading *= kMultiplier;
    Counts counts(static_cast<size_t>(units - length + 1));
    uint64_t rolling = 0;
    for (int64_t i = 0; i < units; ++i) {
        if (i >= length) rolling -= leading * ids[i - length];
        rolling = rolling * kMultiplier + ids[i];
        if (i >= length - 1) visit(i - length + 1, counts.add(mix(rolling)));
    }
}

}  // namespace

// counts[k]: how many of the code points have kind k in the table; there are 8 kinds.
EXPORT void megaxlm_count_kinds(const uint32_t* points, int64_t size, const uint8_t* kinds,
                                int64_t* counts) {
    int64_t even[8] = {}, odd[8] = {};  // two rows: neighbours are often of one kind
    int64_t i = 0;
    for (; i + 1 < size; i += 2) {
        ++even[kinds[points[i]] & 7];
        ++odd[kinds[points[i + 1]] & 7];
    }
    if (i < size) ++even[kinds[points[i]] & 7];
    for (int kind = 0; kind < 8; ++kind) counts[kind] = even[kind] + odd[kind];
}

// Writes a hash of each unit and the characters up to its end, spaces left out; returns how many.
EXPORT int64_t megaxlm_units(const uint32_t* points, int64_t size, const uint8_t* classes,
                             uint64_t* ids, int64_t* ends) {
    int64_t units = 0, chars = 0;
    int64_t i = 0;
    while (i < size) {
        const uint8_t type = classes[points[i]];
        if (type == kSpace) {
            ++i;
            continue;
        }
        uint64_t hash = mix(points[i++]);
        ++chars;
        if (type == kWord) {
            for (; i < size && classes[points[i]] == kWord; ++i, ++chars) {
                hash = (hash ^ points[i]) * kMultiplier;
                hash ^= hash >> 32;
            }
        }
        ids[units] = mix(hash);
        ends[units++] = chars;
    }
    return units;
}

// The most characters that one run of `length` units takes, if it comes twice or more; else 0.
EXPORT int64_t megaxlm_top_ngram(const uint64_t* ids, const int64_t* ends, int64_t units,
                                 int64_t length) {
    int64_t most = 0;
    for_each_run(ids, units, length, [&](int64_t first, uint32_t count) {
        if (count > 1) {
            const int64_t start = first ? ends[first - 1] : 0;
            most = std::max(most, count * (ends[first + length - 1] - start));
        }
    });
    return most;
}

// The characters in runs of `length` units that were there before, each counted once.
EXPORT int64_t megaxlm_repeated_ngram(const uint64_t* ids, const int64_t* ends, int64_t units,
                                      int64_t length) {
    int64_t covered = 0, covered_to = 0;
    for_each_run(ids, units, length, [&](int64_t first, uint32_t count) {
        if (count > 1) {
            const int64_t start = std::max(first ? ends[first - 1] : 0, covered_to);
            covered_to = ends[first + length - 1];
            covered += covered_to - start;
        }
    });
    return covered;
}
