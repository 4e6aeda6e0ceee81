// slots.cpp: the life of a slot, and the start of the shim in a process.
//
// A child is counted before it exists: its parent reserves the slot, or a jump would slip into its start.
// The slot of a thread that ends stays Run until the kernel has reaped it: only then is a joiner awake.
#include "shim.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

namespace revati::warp {

Page* page;
__thread Self self __attribute__((tls_model("initial-exec")));
static pthread_key_t exit_key;
static bool have_exit_key;

static void refuse(const char* text) {
  sys(SYS_write, 2, long(text), long(strlen(text)));
}

Slot* reserve_slot() {
  for (int i = 0; i < kMaxSlots; i++) {
    Slot* s = &page->slot[i];
    uint64_t w = s->word.load();
    if (state_of(w) != kFree || !s->word.compare_exchange_strong(w, pack(generation_of(w) + 1, kRun))) continue;
    page->running++;
    s->by = uint32_t(sys(SYS_gettid));
    s->deadline = kNever;
    s->kind = kNone;
    s->call = kStart;
    s->exiting = 0;
    s->let_go = 0;
    s->round = 0;
    s->interval = 0;
    s->paused = 0;
    s->children = 0;
    s->base = s->born = page->now.load();
    s->cpu = 0;
    s->lump = 0;
    s->key = self.slot ? mix(self.slot->key, ++self.slot->children) : 1;
    uint32_t high = page->high;
    while (high < uint32_t(i + 1) && !page->high.compare_exchange_weak(high, i + 1)) {}
    page->activity++;
    return s;
  }
  refuse("revati: more than 4096 threads in one run; lower the engine's worker counts\n");
  abort();
}

// Whoever frees a slot clears its names first: a new owner has none until it writes them.
static void clear_names(Slot* s) { s->tid = s->by = s->pid = 0; }

void return_slot(Slot* s, uint64_t word) {
  clear_names(s);
  if (!s->word.compare_exchange_strong(word, pack(generation_of(word) + 1, kFree))) return;
  page->running--;
  page->kick++;
  futex_wake(&page->kick, 1);
}

static void become(Slot* s) {
  self = Self{};
  self.slot = s;
  s->paused = 0;
  s->let_go = 0;
  s->call = kStart;
  s->pid = uint32_t(sys(SYS_getpid));
  s->tid = uint32_t(sys(SYS_gettid));
  start_charging();
  if (have_exit_key) pthread_setspecific(exit_key, s);
}

void take_slot(Slot* s, uint64_t word) {
  // The parent may have died, and its reservation with it.
  if (s->word.load() != word) {
    self.slot = nullptr;
    s = reserve_slot();
  }
  become(s);
}
void take_new_slot() { become(reserve_slot()); }

static void on_thread_exit(void* s) {
  if (self.let_go) offer_python_lock(kBlocked);
  publish_send();
  static_cast<Slot*>(s)->exiting = 1;
}

// After exec the threads of the old image are gone and one slot goes on: this process's own, or the one that
// its parent reserved. An old wait of it is over.
static Slot* inherited_slot(uint32_t pid, uint64_t* key) {
  Slot* mine = nullptr;
  for (uint32_t i = 0; i < page->high; i++) {
    Slot* s = &page->slot[i];
    uint64_t w = s->word.load();
    if (s->pid != pid || state_of(w) == kFree || s->kind == kTimer) continue;
    bool runs = state_of(w) == kRun || state_of(w) == kFired;
    if (!mine && s->tid == pid && runs && !s->exiting) {
      mine = s;
    } else {
      if (s->call == kExec) *key = s->key;  // the thread that called exec, under another thread id
      clear_names(s);
      if (s->word.compare_exchange_strong(w, pack(generation_of(w) + 1, kFree)) && runs) page->running--;
    }
  }
  return mine;
}

static void on_wake(int) { self.woken = 1; }

static bool map_page(const char* path) {
  int fd = int(sys(SYS_openat, AT_FDCWD, long(path), O_RDWR | O_CLOEXEC));
  if (fd < 0) return false;
  void* p = mmap(nullptr, sizeof(Page), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  sys(SYS_close, fd);
  if (p == MAP_FAILED || static_cast<Page*>(p)->magic.load() != kMagic) return false;
  page = static_cast<Page*>(p);
  return true;
}

__attribute__((constructor(101))) static void start() {
  const char* path = getenv("REVATI_CLOCK");
  if (!path || !*path) return;
  if (!map_page(path)) {
    refuse("revati: REVATI_CLOCK does not name the clock of a live run; unset it, or start with `revati run`\n");
    _exit(2);
  }
  struct sigaction action = {};
  action.sa_handler = on_wake;
  sigaction(kWakeSignal, &action, nullptr);
  uint64_t mask = 1ull << (kWakeSignal - 1);
  sys(SYS_rt_sigprocmask, SIG_BLOCK, long(&mask), 0, 8);
  have_exit_key = pthread_key_create(&exit_key, on_thread_exit) == 0;
  uint64_t key = 0;
  Slot* s = inherited_slot(uint32_t(sys(SYS_getpid)), &key);
  if (s) become(s);
  else take_new_slot();
  if (key) self.slot->key = key;
  wait_turn_at_start();
}

// The CPU time of the last stretch must be public before anybody can see that the process is gone.
__attribute__((destructor)) static void end() {
  if (page) publish_send();
}

}  // namespace revati::warp
