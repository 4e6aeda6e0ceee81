// python_lock.cpp: waits for Python's global lock, and who gets it.
//
// CPython's wait for it is a timed condition wait of 5 ms. It takes real time and the slot stays Run, for such a thread is
// about to work. The caller's object tells it from other timed waits.
//
// `charged`: the thread works from the time at which the lock was let go, or threads that take turns would count as if
// they worked at once. And it has the lock only if it would have it on a machine with a processor for every thread. There
// a woken thread takes tens of us to come to the lock, and who let go of it for less (an event loop for a look at its
// descriptors) has it back by then: the other waits anew, and asks for the lock only once somebody has held it for 5 ms in
// a piece. Here the woken thread comes when a processor is free; so it looks what the other one does until that is decided.
#include "conditions.h"

#include <dlfcn.h>

namespace revati::warp {

// The lock of this process. Written under CPython's own mutex; only `waiters` and `opened` are not.
static struct {
  std::atomic<void*> let_go, taken;  // CPython's conditions: signalled when the lock is let go, and when it is taken
  std::atomic<uint32_t> waiters;
  std::atomic<uint32_t> turn;        // odd: free
  std::atomic<uint32_t> opened;      // the turn at which a waiter shall have it, whatever it costs
  std::atomic<Slot*> by;             // who took it or let go of it last
  std::atomic<uint64_t> word;        // of that slot, when it let go
  std::atomic<int64_t> at;           // its own time then
  std::atomic<int64_t> cpu, base;    // and what that was made of
  std::atomic<uint32_t> pid;         // of the process: a child of a fork has its parent's
} python;

constexpr int64_t kInterval = 5'000'000;  // ns that somebody may hold it while another waits: CPython's own default

bool called_from_python(void* caller) {
  static const void* interpreter = [] {
    Dl_info info;
    void* f = dlsym(RTLD_DEFAULT, "PyEval_RestoreThread");
    return f && dladdr(f, &info) ? info.dli_fbase : nullptr;
  }();
  if (!interpreter) return false;
  static std::atomic<void*> known[2][16];  // callers seen before: not Python's, Python's
  for (int is_python = 0; is_python < 2; is_python++)
    for (auto& k : known[is_python])
      if (k.load(std::memory_order_relaxed) == caller) return is_python;
  Dl_info info;
  bool is_python = dladdr(caller, &info) && info.dli_fbase == interpreter;
  for (auto& k : known[is_python]) {
    void* none = nullptr;
    if (k.compare_exchange_strong(none, caller)) break;
  }
  return is_python;
}

void python_lock_signalled(void* condition, void* caller) {
  void* let_go = python.let_go.load(std::memory_order_relaxed);
  if (!let_go || page->mode != kCharged) return;
  bool free = condition == let_go;
  if (!free && condition != python.taken.load(std::memory_order_relaxed)) {
    if (python.taken.load() || !called_from_python(caller)) return;
    python.taken = condition;
  }
  Slot* s = own_slot();
  python.by.store(s, std::memory_order_relaxed);
  if (free && python.waiters.load(std::memory_order_relaxed)) {
    python.word = s->word.load(std::memory_order_relaxed);
    python.at = own_time();
    python.cpu = thread_cpu();
    python.base = s->base.load(std::memory_order_relaxed);
  }
  uint32_t turn = python.turn.load(std::memory_order_relaxed);
  python.turn = turn + (turn % 2 == free ? 2 : 1);
}

// CPU time of another thread of this process, ns; -1: it is gone.
static int64_t cpu_of(uint32_t tid) {
  timespec t;
  clockid_t clock = clockid_t(~tid << 3 | 6);  // linux/posix-timers.h: the scheduler's clock of one thread
  return sys(SYS_clock_gettime, clock, long(&t)) == 0 ? ns(t) : -1;
}

static bool is_of_this_process(const Slot* s) { return s && s->pid == self.slot->pid; }

static int64_t real_ns() {
  timespec t;
  sys(SYS_clock_gettime, CLOCK_MONOTONIC, long(&t));
  return ns(t);
}

// The lock was let go. Whether this thread, which was woken by that, comes to it before it is taken again.
static bool comes_in_time() {
  constexpr int64_t kPatience = 5'000'000;  // real ns
  constexpr timespec kPause = {0, 20'000};
  uint32_t turn = python.turn.load();
  if (turn % 2 == 0) return false;
  int64_t at = python.at.load();
  for (int64_t begin = real_ns(), now = begin; now - begin < kPatience; now = real_ns()) {
    Slot* s = python.by.load();
    bool waits = !is_of_this_process(s) || s->word.load() != python.word.load();
    int64_t work = waits || s->paused ? 0 : cpu_of(s->tid) - python.cpu + s->base - python.base;
    if (python.turn.load() != turn) return false;
    if (work >= page->wake_cost || python.opened == turn) return true;
    if (waits) {  // perhaps for less than this thread takes
      sleep_alone(at + page->wake_cost, kGil);
      return python.turn.load() == turn;
    }
    if (now - begin < page->wake_cost) __builtin_ia32_pause();
    else sys(SYS_nanosleep, long(&kPause));
  }
  return true;
}

// Real ns until whoever holds the lock may have worked up to `until`; where that cannot be told, until so much real time
// has gone by. 0 or less: it has.
static int64_t left_until(int64_t until, int64_t real_waited) {
  constexpr int64_t kPatience = 100'000'000;  // real ns: it has no processor
  Slot* s = python.by.load();
  if (!is_of_this_process(s) || state_of(s->word) != kRun || s->paused || real_waited >= kPatience)
    return kInterval - real_waited;
  int64_t used = cpu_of(s->tid) - s->cpu;
  double factor = s->factor;
  return used < 0 || factor <= 0 ? kInterval - real_waited : int64_t(double(until - s->base) / factor) - used;
}

// Until the lock is this thread's to take, or has been held until `until`; it may be let go and taken again meanwhile.
// `sequence`: of the condition, as far as this thread has seen it.
static void await_turn(Condition* c, uint32_t& sequence, int64_t until) {
  constexpr int64_t kShortest = 50'000;  // real ns
  int64_t began = real_ns(), left = until - own_time();
  for (;;) {
    timespec t = ts(left < kShortest ? kShortest : left > kInterval ? kInterval : left);
    sys(SYS_futex, long(&c->sequence), FUTEX_WAIT, sequence, long(&t));
    uint32_t next = __atomic_load_n(&c->sequence, __ATOMIC_ACQUIRE);
    if (next != sequence) {
      if (comes_in_time()) return;
      sequence = next;
      until = __atomic_load_n(&c->signalled_at, __ATOMIC_RELAXED) + page->wake_cost + kInterval;
      began = real_ns();
    }
    left = left_until(until, real_ns() - began);
    if (left <= 0) return;
  }
}

static void await_turn_really(Condition* c, uint32_t sequence, int64_t left) {
  timespec t = ts(left < 0 ? 0 : left > kInterval ? kInterval : left);
  sys(SYS_futex, long(&c->sequence), FUTEX_WAIT, sequence, long(&t));
}

int wait_for_python(pthread_cond_t* condition, pthread_mutex_t* mutex, int64_t deadline) {
  Condition* c = own(condition);
  undo_read();  // it made the deadline; how many there are is chance
  if (uint32_t pid = own_slot()->pid; python.pid != pid) {
    python.pid = pid;
    python.waiters = 0;
  }
  python.let_go.store(condition, std::memory_order_relaxed);
  uint32_t sequence = __atomic_load_n(&c->sequence, __ATOMIC_ACQUIRE);
  __atomic_add_fetch(&c->waiters, 1, __ATOMIC_SEQ_CST);
  python.waiters++;
  pthread_mutex_unlock(mutex);
  if (page->mode == kCharged) await_turn(c, sequence, deadline);
  else await_turn_really(c, sequence, deadline - page->now.load());
  __atomic_sub_fetch(&c->waiters, 1, __ATOMIC_SEQ_CST);
  pthread_mutex_lock(mutex);
  python.waiters--;  // with the mutex: whoever sees it comes to the lock after this thread
  if (__atomic_load_n(&c->sequence, __ATOMIC_ACQUIRE) == sequence) return ETIMEDOUT;
  wait_out(__atomic_load_n(&c->signalled_at, __ATOMIC_RELAXED));
  return 0;
}

}  // namespace revati::warp

using namespace revati::warp;

// Modelled Python work lets go of the lock as the work itself would, but for less real time than a waiter takes to wake.
EXPORT void revati_warp_let_python_waiter_in() {
  constexpr int64_t kLongest = 200'000;  // ns of real time
  uint32_t waiters = python.waiters.load();
  if (!page || !waiters || page->ns_per_tick <= 0 || python.pid != own_slot()->pid) return;
  python.opened = python.turn.load();
  uint64_t begin = __builtin_ia32_rdtsc(), longest = uint64_t(double(kLongest) / page->ns_per_tick);
  while (python.waiters.load() >= waiters && __builtin_ia32_rdtsc() - begin < longest) sys(SYS_sched_yield);
}
