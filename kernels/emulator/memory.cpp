// Judges every load and store of a kernel. g++ -fsanitize=thread puts a call before each of them;
// here is the other end of those calls, in place of the sanitizer's own library.
//
// Global memory: an access must lie inside one tensor that the host has registered, and may write
// only where it was registered so. Shared memory: inside one array, not before it was written, and
// never in a race: each byte knows its last writer and reader, and a second thread may follow only
// if barriers or __syncwarp order the two (vector clocks; one reader a byte is kept, so a race with
// an earlier reader can go unseen). Races in global memory are not looked for.
#include "runtime.h"

#include <link.h>

#include <algorithm>

namespace emulator {
namespace {

struct Region {
  std::string name;
  const char* begin;
  const char* end;
  bool writable;
};

struct SharedArray {
  const void* key;
  std::string name;
  size_t begin, end;
};

struct ByteHistory {
  uint32_t written_at = 0, read_at = 0;  // the threads' own clocks; 0: never
  int16_t writer = 0, reader = 0;
};

std::vector<Region> tensors;
std::vector<SharedArray> arrays;
alignas(1024) char shared[kSharedBytes];
ByteHistory history[kSharedBytes];
size_t shared_used = 0;
size_t dynamic_bytes_of_launch = 0;
const char dynamic_key = 0;
const char* arguments_begin = nullptr;
const char* arguments_end = nullptr;

constexpr size_t kGap = 64;  // between arrays, so that no access past one ends in the next

bool inside(const char* at, size_t bytes, const void* begin, size_t length) {
  const char* first = static_cast<const char*>(begin);
  return at >= first && at + bytes <= first + length;
}

// The module's constants: what it maps and may not write.
bool in_constants(const char* at) {
  struct Search {
    const char* at;
    bool found;
  } search{at, false};
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* data) {
        Search& s = *static_cast<Search*>(data);
        for (int i = 0; i < info->dlpi_phnum; ++i) {
          const auto& part = info->dlpi_phdr[i];
          const char* begin = reinterpret_cast<const char*>(info->dlpi_addr + part.p_vaddr);
          if (part.p_type == PT_LOAD && !(part.p_flags & PF_W) && s.at >= begin &&
              s.at < begin + part.p_memsz)
            s.found = true;
        }
        return s.found ? 1 : 0;
      },
      &search);
  return search.found;
}

std::string amount(size_t bytes, bool write) {
  return std::string(write ? "writes " : "reads ") + std::to_string(bytes) + " bytes ";
}

void judge_shared(const char* at, size_t bytes, bool write, bool atomic, const void* code) {
  const size_t begin = static_cast<size_t>(at - shared);
  const SharedArray* nearest = nullptr;
  for (const SharedArray& array : arrays) {
    if (begin >= array.begin) nearest = &array;
    if (begin >= array.begin && begin + bytes <= array.end) break;
  }
  if (!nearest || begin + bytes > nearest->end)
    fault(amount(bytes, write) + "of shared memory out of bounds, " +
              (nearest ? std::to_string(begin - nearest->begin) + " bytes into '" + nearest->name +
                             "' of " + std::to_string(nearest->end - nearest->begin)
                       : std::string("before any array")),
          code);
  const auto says = [=](const char* before = "") {
    return before + amount(bytes, write) + "of shared memory '" + nearest->name + "' at byte " +
           std::to_string(begin - nearest->begin);
  };
  const Fiber& self = *running;
  for (size_t i = begin; i < begin + bytes; ++i) {
    ByteHistory& byte = history[i];
    if ((!write || atomic) && byte.written_at == 0)
      fault(says() + " that no thread has written", code);
    if (!atomic) {
      if (byte.written_at > self.clock[byte.writer] && byte.writer != self.number)
        fault(says("race: ") + " that thread " + std::to_string(byte.writer) +
                  " wrote with no barrier between",
              code);
      if (write && byte.read_at > self.clock[byte.reader] && byte.reader != self.number)
        fault(says("race: ") + " that thread " + std::to_string(byte.reader) +
                  " read with no barrier between",
              code);
    }
    uint32_t& at_clock = write ? byte.written_at : byte.read_at;
    (write ? byte.writer : byte.reader) = static_cast<int16_t>(self.number);
    at_clock = self.clock[self.number];
    if (write) byte.read_at = 0;
  }
}

void judge(const void* address, size_t bytes, bool write, bool atomic, const void* code) {
  if (!running) return;  // the host's code
  const char* at = static_cast<const char*>(address);
  if (inside(at, bytes, running->stack, kStackBytes)) return;
  if (at >= shared && at < shared + kSharedBytes)
    return judge_shared(at, bytes, write, atomic, code);
  if (!write && (inside(at, bytes, &builtins, sizeof builtins) ||
                 (at >= arguments_begin && at + bytes <= arguments_end)))
    return;
  const Region* nearest = nullptr;
  for (const Region& tensor : tensors) {
    if (at >= tensor.begin && at + bytes <= tensor.end) {
      if (write && !tensor.writable)
        fault(amount(bytes, write) + "of the input '" + tensor.name + "'", code);
      return;
    }
    const auto distance = [at](const Region& r) {
      return at < r.begin ? r.begin - at : at >= r.end ? at - r.end : 0;
    };
    if (!nearest || distance(tensor) < distance(*nearest)) nearest = &tensor;
  }
  if (!write && in_constants(at)) return;
  fault(amount(bytes, write) + "out of bounds" +
            (nearest ? ", " + std::to_string(at - nearest->begin) + " bytes into '" +
                           nearest->name + "' of " + std::to_string(nearest->end - nearest->begin)
                     : std::string(": no tensor is registered")),
        code);
}

size_t add_array(const void* key, const char* name, size_t bytes, size_t alignment) {
  const size_t begin = (shared_used + alignment - 1) / alignment * alignment;
  if (begin + bytes > kSharedBytes)
    fault("shared memory is full: '" + std::string(name) + "' takes " + std::to_string(bytes) +
              " bytes beyond " + std::to_string(begin),
          nullptr);
  arrays.push_back({key, name, begin, begin + bytes});
  shared_used = begin + bytes + kGap;
  return begin;
}

}  // namespace

void forget_shared_memory() {
  std::fill(history, history + std::min(shared_used + kGap, kSharedBytes), ByteHistory{});
  std::memset(shared, 0xFF, std::min(shared_used + kGap, kSharedBytes));  // NaN in any dtype
  arrays.clear();
  shared_used = 0;
  if (dynamic_bytes_of_launch)
    add_array(&dynamic_key, "dynamic", dynamic_bytes_of_launch, 1024);
}

void set_arguments(const void* closure, size_t bytes, size_t dynamic_bytes) {
  arguments_begin = static_cast<const char*>(closure);
  arguments_end = arguments_begin + bytes;
  dynamic_bytes_of_launch = dynamic_bytes;
}

void* shared_array(const void* key, const char* name, size_t bytes, size_t alignment) {
  for (const SharedArray& array : arrays)
    if (array.key == key) return shared + array.begin;
  return shared + add_array(key, name, bytes, std::max<size_t>(alignment, 16));
}

void* dynamic_shared() {
  if (!dynamic_bytes_of_launch)
    fault("asks for dynamic shared memory, launched with none", nullptr);
  return shared;
}

void access(const void* address, size_t bytes, bool write, bool atomic) {
  judge(address, bytes, write, atomic, __builtin_return_address(0));
}

void check_alignment(const void* address, size_t alignment) {
  if (running && reinterpret_cast<uintptr_t>(address) % alignment)
    fault("misaligned access: " + std::to_string(alignment) + " bytes at an address that is no "
              "multiple of them",
          __builtin_return_address(0));
}

void copy_async(void* to, const void* from, size_t bytes) {
  check_alignment(to, bytes);
  if (from) check_alignment(from, bytes);  // null: zeros are written
  running->copies.push_back({to, from, bytes, false, 0});
}

void commit_copies() {
  for (AsyncCopy& copy : running->copies)
    if (!copy.committed) {
      copy.committed = true;
      copy.group = running->copy_group;
    }
  ++running->copy_group;
}

void wait_copies(int groups_left) {
  std::vector<AsyncCopy> later;
  for (const AsyncCopy& copy : running->copies) {
    const bool due =
        copy.committed && copy.group + static_cast<uint64_t>(groups_left) < running->copy_group;
    if (!due) {
      later.push_back(copy);
      continue;
    }
    access(copy.to, copy.bytes, true);
    if (copy.from) {
      access(copy.from, copy.bytes, false);
      std::memcpy(copy.to, copy.from, copy.bytes);
    } else {
      std::memset(copy.to, 0, copy.bytes);
    }
  }
  running->copies.swap(later);
}

}  // namespace emulator

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT void emulator_register(const char* name, const void* data, size_t bytes, int writable) {
  const char* begin = static_cast<const char*>(data);
  emulator::tensors.push_back({name, begin, begin + bytes, writable != 0});
}
EXPORT void emulator_forget_tensors() { emulator::tensors.clear(); }

// What the compiler calls. The sanitizer's other calls have nothing to say here.
#define JUDGE(name, bytes, write) \
  extern "C" void __tsan_##name(void* at) { \
    emulator::judge(at, bytes, write, false, __builtin_return_address(0)); \
  }
#define JUDGE_SIZE(n) \
  JUDGE(read##n, n, false) JUDGE(write##n, n, true) \
  JUDGE(unaligned_read##n, n, false) JUDGE(unaligned_write##n, n, true)
JUDGE_SIZE(1) JUDGE_SIZE(2) JUDGE_SIZE(4) JUDGE_SIZE(8) JUDGE_SIZE(16)
extern "C" void __tsan_read_range(void* at, size_t bytes) {
  emulator::judge(at, bytes, false, false, __builtin_return_address(0));
}
extern "C" void __tsan_write_range(void* at, size_t bytes) {
  emulator::judge(at, bytes, true, false, __builtin_return_address(0));
}
extern "C" void __tsan_init() {}
extern "C" void __tsan_func_entry(void*) {}
extern "C" void __tsan_func_exit(void*) {}
extern "C" void __tsan_vptr_update(void*, void*) {}
extern "C" void __tsan_vptr_read(void*) {}

// -fsanitize=alignment: a 16-byte load of an address that is no multiple of 16 kills a real kernel.
struct AlignmentCheck {
  const char* file;
  uint32_t line, column;
};
extern "C" void __ubsan_handle_type_mismatch_v1(AlignmentCheck* check, void*) {
  if (!emulator::running) return;
  const std::string file = check->file;
  emulator::fault("misaligned access at " + file.substr(file.rfind('/') + 1) + ":" +
                      std::to_string(check->line),
                  nullptr);
}
