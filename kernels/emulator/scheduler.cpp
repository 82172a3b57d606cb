// Runs a grid: block after block, one fiber for each thread, round and round until all are done.
// A fiber goes on until it waits: at a barrier of the block, or for the other lanes of its warp.
#include "runtime.h"

#include <sys/mman.h>

#include <algorithm>
#include <map>
#include <memory>

namespace emulator {

Builtins builtins{};
Fiber* running = nullptr;
int block_threads = 0;
int multiprocessors = 2;

namespace {

struct WarpGroup {
  Barrier barrier;
  char payloads[2][32 * 64];  // in turn: one may still be read while the next is written
};

struct Block {
  std::map<int, Barrier> barriers;                             // by id
  std::map<std::pair<int, uint32_t>, std::unique_ptr<WarpGroup>> warps;  // by warp and mask
};

std::vector<Fiber> fibers(kMostThreads);
Block block;
jmp_buf scheduler;
std::string found;  // the first fault; nothing runs after it
const char* kernel_name = "";
void (*kernel_body)(const void*) = nullptr;
const void* kernel_closure = nullptr;

std::string place(const Index& index) {
  return "(" + std::to_string(index.x) + "," + std::to_string(index.y) + "," +
         std::to_string(index.z) + ")";
}

std::string place(const Site& site) {
  const std::string file = site.file;
  return file.substr(file.rfind('/') + 1) + ":" + std::to_string(site.line);
}

// ucontext starts a fiber on its stack; from then on setjmp and longjmp switch, as they make no
// system call. A fiber never returns to a frame that another one has left.
void resume(Fiber& fiber) {
  running = &fiber;
  builtins.thread = fiber.index;
  if (_setjmp(scheduler) == 0) {
    if (fiber.started) _longjmp(fiber.resume_at, 1);
    fiber.started = true;
    setcontext(&fiber.context);
  }
  running = nullptr;
}

void leave() {
  if (_setjmp(running->resume_at) == 0) _longjmp(scheduler, 1);
}

void enter() {
  kernel_body(kernel_closure);
  running->done = true;
  leave();
}

// Every member now knows what any of them did before.
void join_clocks(const std::vector<Fiber*>& members) {
  std::vector<uint32_t> joined(block_threads);
  for (const Fiber* fiber : members)
    for (int i = 0; i < block_threads; ++i) joined[i] = std::max(joined[i], fiber->clock[i]);
  for (Fiber* fiber : members) {
    fiber->clock = joined;
    ++fiber->clock[fiber->number];
  }
}

void wait(Barrier& barrier, int expected, bool orders, Site site) {
  Fiber& self = *running;
  if (barrier.arrived == 0) barrier.site = site;
  if (barrier.site.line != site.line || std::strcmp(barrier.site.file, site.file) != 0)
    fault("divergent: this thread is at " + place(site) + ", others are at " +
              place(barrier.site),
          nullptr);
  self.waits_for = &barrier;
  self.generation = barrier.generation;
  if (++barrier.arrived == expected) {
    if (orders) {
      std::vector<Fiber*> members;
      for (int i = 0; i < block_threads; ++i)
        if (fibers[i].waits_for == &barrier && fibers[i].generation == barrier.generation)
          members.push_back(&fibers[i]);
      join_clocks(members);
    }
    barrier.arrived = 0;
    ++barrier.generation;
  } else {
    leave();
  }
  self.waits_for = nullptr;
}

void report_deadlock() {
  std::map<std::string, int> waiting;
  int returned = 0;
  for (int i = 0; i < block_threads; ++i) {
    if (fibers[i].done) ++returned;
    else ++waiting[place(fibers[i].waits_for->site)];
  }
  std::string text = "deadlock:";
  for (const auto& [where, count] : waiting)
    text += " " + std::to_string(count) + " threads wait at " + where + ",";
  found = std::string(kernel_name) + " block " + place(builtins.block) + ": " + text + " " +
          std::to_string(returned) + " have returned";
}

void start(Fiber& fiber, int number, dim3 extent) {
  if (!fiber.stack)
    fiber.stack = static_cast<char*>(mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE,
                                          MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  const unsigned n = static_cast<unsigned>(number);
  fiber.number = number;
  fiber.index = {n % extent.x, n / extent.x % extent.y, n / extent.x / extent.y};
  fiber.started = fiber.done = false;
  fiber.waits_for = nullptr;
  fiber.clock.assign(block_threads, 0);
  fiber.clock[number] = 1;
  fiber.copies.clear();
  fiber.copy_group = 0;
  getcontext(&fiber.context);
  fiber.context.uc_stack = {fiber.stack, 0, kStackBytes};
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, enter, 0);
}

void run_block(dim3 extent) {
  block = Block{};
  forget_shared_memory();
  for (int i = 0; i < block_threads; ++i) start(fibers[i], i, extent);
  int left = block_threads;
  while (left > 0) {
    bool moved = false;
    for (int i = 0; i < block_threads; ++i) {
      Fiber& fiber = fibers[i];
      if (fiber.done || (fiber.waits_for && fiber.waits_for->generation == fiber.generation))
        continue;
      resume(fiber);
      if (!found.empty()) return;
      moved = true;
      left -= fiber.done;
    }
    if (!moved) return report_deadlock();
  }
}

}  // namespace

void fault(const std::string& what, const void* code) {
  char address[32];
  snprintf(address, sizeof address, "%p", code);
  found = std::string(kernel_name) + " block " + place(builtins.block) + " thread " +
          place(builtins.thread) + ": " + what + (code ? std::string(" @") + address : "");
  leave();  // never to return: the launch is over
  __builtin_unreachable();
}

void run(dim3 grid, dim3 extent, size_t dynamic_bytes, const char* kernel,
         void (*body)(const void*), const void* closure, size_t closure_bytes) {
  kernel_name = kernel;
  kernel_body = body;
  kernel_closure = closure;
  block_threads = static_cast<int>(extent.x * extent.y * extent.z);
  builtins.block_extent = {extent.x, extent.y, extent.z};
  builtins.grid_extent = {grid.x, grid.y, grid.z};
  if (!found.empty()) return;
  if (block_threads < 1 || block_threads > kMostThreads || grid.x * grid.y * grid.z < 1 ||
      dynamic_bytes > kSharedBytes) {
    found = std::string(kernel) + ": a grid of " + place(builtins.grid_extent) + " blocks of " +
            place(builtins.block_extent) + " threads cannot be launched";
    return;
  }
  set_arguments(closure, closure_bytes, dynamic_bytes);
  for (unsigned z = 0; z < grid.z; ++z)
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x && found.empty(); ++x) {
        builtins.block = {x, y, z};
        run_block(extent);
      }
}

const char* take_fault() {
  static std::string taken;
  taken.swap(found);
  found.clear();
  return taken.empty() ? nullptr : taken.c_str();
}

void block_barrier(int id, int threads, Site site) {
  wait(block.barriers[id], threads ? threads : block_threads, true, site);
}

void warp_exchange(uint32_t mask, const void* mine, size_t bytes, void* all, bool orders,
                   Site site) {
  const int warp = running->number / 32;
  const int existing = std::min(32, block_threads - warp * 32);
  if (existing < 32) mask &= (1u << existing) - 1;
  const int own = running->number % 32;
  if (!(mask >> own & 1)) fault("calls " + place(site) + " with a mask without itself", nullptr);
  std::unique_ptr<WarpGroup>& group = block.warps[{warp, mask}];
  if (!group) group = std::make_unique<WarpGroup>();
  char* payloads = group->payloads[group->barrier.generation % 2];
  if (bytes) std::memcpy(payloads + own * bytes, mine, bytes);
  wait(group->barrier, __builtin_popcount(mask), orders, site);
  if (bytes) std::memcpy(all, payloads, 32 * bytes);
}

}  // namespace emulator

extern "C" __attribute__((visibility("default"))) void emulator_set_multiprocessors(int count) {
  emulator::multiprocessors = count;
}
