// What the emulator's two halves owe each other: scheduler.cpp runs the threads, memory.cpp judges
// every load and store. Kernels never include this; they include simt.h.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "simt.h"

namespace emulator {

constexpr int kMostThreads = 1024;
constexpr size_t kStackBytes = 128 << 10;
constexpr size_t kSharedBytes = 228 << 10;  // what an SM of Hopper has

// Some threads that wait for one another. When all have come, the generation goes up.
struct Barrier {
  int arrived = 0;
  uint64_t generation = 0;
  Site site{};  // of the first to come
};

// A cp.async that has been issued and not waited for. It is carried out by the wait: a kernel that
// forgets to wait reads what was there before, or nothing.
struct AsyncCopy {
  void* to;
  const void* from;
  size_t bytes;
  bool committed;
  uint64_t group;
};

struct Fiber {
  ucontext_t context;  // where it starts
  jmp_buf resume_at;
  char* stack = nullptr;
  int number = 0;
  Index index{};
  bool started = false, done = false;
  Barrier* waits_for = nullptr;
  uint64_t generation = 0;  // of that barrier, when it came
  // What of every other thread's work is known to have happened: a vector clock.
  std::vector<uint32_t> clock;
  std::vector<AsyncCopy> copies;
  uint64_t copy_group = 0;
};

extern Fiber* running;     // null while host code runs
extern int block_threads;  // of the block that runs

[[noreturn]] void fault(const std::string& what, const void* code);

// memory.cpp
void forget_shared_memory();  // a new block starts
void set_arguments(const void* closure, size_t bytes, size_t dynamic_bytes);

}  // namespace emulator
