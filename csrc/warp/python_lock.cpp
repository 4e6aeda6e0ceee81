// python_lock.cpp: waits for Python's global lock, and who gets it.
//
// CPython's wait for it is a timed condition wait of 5 ms. It takes real time and the slot stays Run, for such a thread is
// about to work. The caller's object tells it from other timed waits.
//
// `charged`: the thread works from the time at which the lock was let go, or threads that take turns would count as if
// they worked at once. And it has the lock only if it would have it on a machine with a processor for every thread. There
// a woken thread takes tens of us to come to the lock, and who let go of it for less (an event loop for a look at its
// descriptors, an operator of torch) has it back by then: the other waits anew, and asks for the lock only once somebody
// has held it for 5 ms in a piece. So here nobody is woken when the lock is let go, but when who let go of it waits; a
// waiter looks now and then whether somebody works on without it.
#include "conditions.h"

#include <algorithm>
#include <dlfcn.h>

namespace revati::warp {

// The lock of this process. Written under CPython's own mutex; only `opened` and `wait` are not.
static struct {
  std::atomic<Condition*> let_go, taken;  // CPython's: signalled when the lock is let go, and when it is taken
  std::atomic<pthread_mutex_t*> mutex;
  std::atomic<uint32_t> waiters;
  std::atomic<uint32_t> turn;        // odd: free
  std::atomic<uint32_t> opened;      // the turn at which who let go of it offers it,
  std::atomic<Kind> wait;            // because it waits so; kNone: it wants it back
  std::atomic<Slot*> by;             // who took it or let go of it last
  std::atomic<int64_t> at;           // when it let go: its own time,
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

static bool is_of_this_process(const Slot* s) { return s && s->pid == self.slot->pid; }

// In a child of a fork: those who waited are its parent's threads.
static void forget_parent() {
  uint32_t pid = self.slot->pid.load(std::memory_order_relaxed);
  if (python.pid.load(std::memory_order_relaxed) == pid) return;
  python.pid = pid;
  python.waiters = 0;
}

bool is_python_lock(Condition* condition, void* caller) {
  Condition* let_go = python.let_go.load(std::memory_order_relaxed);
  if (!let_go || page->mode != kCharged) return false;
  bool free = condition == let_go;
  if (!free && condition != python.taken.load(std::memory_order_relaxed)) {
    if (python.taken.load() || !called_from_python(caller)) return false;
    python.taken = condition;
  }
  Slot *s = own_slot(), *before = python.by.exchange(s);
  forget_parent();
  self.let_go = free && python.waiters.load(std::memory_order_relaxed);
  if (is_of_this_process(before)) before->let_go = 0;
  s->let_go = self.let_go;
  if (self.let_go) {
    python.at = own_time();
    python.cpu = thread_cpu();
    python.base = s->base.load(std::memory_order_relaxed);
  }
  uint32_t turn = python.turn.load(std::memory_order_relaxed);
  python.turn = turn + (turn % 2 == free ? 2 : 1);
  return free;
}

void offer_python_lock(Kind wait) {
  self.let_go = false;
  Condition* c = python.let_go.load();
  uint32_t turn = python.turn.load();
  if (turn % 2 && python.by.load() == self.slot && python.waiters.load()) {
    publish_word_send(&c->sequence, c->shared);
    python.wait = wait;
    python.opened = turn;
    __atomic_add_fetch(&c->sequence, 1, __ATOMIC_RELEASE);
    futex_wake(&c->sequence, 1);
    count_word_send(&c->sequence, c->shared);
  }
  self.slot->let_go = 0;
}

// CPU time of another thread of this process, ns; -1: it is gone.
static int64_t cpu_of(uint32_t tid) {
  timespec t;
  clockid_t clock = clockid_t(~tid << 3 | 6);  // linux/posix-timers.h: the scheduler's clock of one thread
  return sys(SYS_clock_gettime, clock, long(&t)) == 0 ? ns(t) : -1;
}

static int64_t real_ns() {
  timespec t;
  sys(SYS_clock_gettime, CLOCK_MONOTONIC, long(&t));
  return ns(t);
}

// Whether the lock is free, and would be this thread's before it is taken again.
static bool comes_in_time(int64_t real_free) {
  constexpr int64_t kPatience = 1'000'000;  // real ns: who let go of it sleeps, in a call that the shim does not know
  uint32_t turn = python.turn.load();
  if (turn % 2 == 0) return false;
  Slot* s = python.by.load();
  int64_t at = python.at.load();
  if (python.opened == turn) {  // perhaps its wait is shorter than what this thread takes
    if (page->now.load() < at + page->wake_cost && python.wait == kDescriptor)
      sleep_alone(at + page->wake_cost, kGil);
  } else if (is_of_this_process(s)) {
    int64_t work = s->paused ? 0 : cpu_of(s->tid) - python.cpu + s->base - python.base;
    if (work < page->wake_cost && real_free < kPatience) return false;
  }
  return python.turn.load() == turn;
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
// True: the former.
static bool await_turn(Condition* c, uint32_t sequence, int64_t until) {
  constexpr int64_t kFirstLook = 1'000'000, kShortest = 50'000;  // real ns
  int64_t began = real_ns(), left = until - own_time(), look = kFirstLook;
  for (uint32_t turn = python.turn;;) {
    timespec t = ts(std::max(kShortest, std::min(left, look)));
    sys(SYS_futex, long(&c->sequence), FUTEX_WAIT, sequence, long(&t));
    sequence = __atomic_load_n(&c->sequence, __ATOMIC_ACQUIRE);
    look *= 4;
    int64_t now = real_ns();
    if (uint32_t next = python.turn; next != turn) {
      turn = next;
      began = now;
      until = python.at + page->wake_cost + kInterval;  // it would have woken, and waits anew
    }
    if (comes_in_time(now - began)) return true;
    left = left_until(until, now - began);
    if (left <= 0) return false;
  }
}

// Returns once a waiter, if it comes soon, is there.
static void let_waiter_in() {
  constexpr int64_t kLongest = 200'000;  // ns of real time
  uint32_t waiters = python.waiters.load();
  offer_python_lock(kNone);
  for (int64_t begin = real_ns(); python.waiters.load() >= waiters && real_ns() - begin < kLongest;) sys(SYS_sched_yield);
}

// This thread wants the lock back. Who waits for it had it meanwhile, if there was time to come to it: a wake-up takes
// between nothing and twice what it takes on average, evenly drawn.
static void before_python_lock() {
  if (python.by.load() != self.slot) return;
  auto drawn = int64_t(mix(python.turn.load(), python.at.load()) >> 32);  // in 2^32
  if (own_time() - python.at >= (drawn * 2 * page->wake_cost) >> 32) let_waiter_in();
}

int wait_for_python(Condition* c, pthread_mutex_t* mutex, int64_t deadline) {
  undo_read();  // it made the deadline; how many there are is chance
  own_slot();
  forget_parent();
  python.let_go.store(c, std::memory_order_relaxed);
  python.mutex.store(mutex, std::memory_order_relaxed);
  uint32_t sequence = __atomic_load_n(&c->sequence, __ATOMIC_ACQUIRE);
  __atomic_add_fetch(&c->waiters, 1, __ATOMIC_SEQ_CST);
  python.waiters++;
  pthread_mutex_unlock(mutex);
  bool woken = true;
  if (page->mode == kCharged) {
    woken = await_turn(c, sequence, deadline);
  } else {
    int64_t left = deadline - page->now.load();
    timespec t = ts(left < 0 ? 0 : left > kInterval ? kInterval : left);
    sys(SYS_futex, long(&c->sequence), FUTEX_WAIT, sequence, long(&t));
    woken = __atomic_load_n(&c->sequence, __ATOMIC_ACQUIRE) != sequence;
  }
  __atomic_sub_fetch(&c->waiters, 1, __ATOMIC_SEQ_CST);
  pthread_mutex_lock(mutex);
  python.waiters--;  // with the mutex: whoever sees it comes to the lock after this thread
  if (woken || python.turn % 2) wait_out(python.at);
  return woken ? 0 : ETIMEDOUT;
}

}  // namespace revati::warp

using namespace revati::warp;

EXPORT void revati_warp_let_python_waiter_in() {
  if (page && python.waiters.load() && python.pid == own_slot()->pid) let_waiter_in();  // at once, whatever it costs
}

EXPORT int pthread_mutex_lock(pthread_mutex_t* mutex) {
  if (__builtin_expect(self.let_go, 0) && mutex == python.mutex.load()) before_python_lock();
  return NEXT(pthread_mutex_lock)(mutex);
}
