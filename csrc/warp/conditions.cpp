// conditions.cpp: condition variables as one complete family with a layout of their own (a sequence word,
// the clock, the number of waiters, who may use it), because glibc's internal futex words cannot be waited on beside the slot.
//
// CPython's wait for its global lock is a timed condition wait of 5 ms: it stays real and the slot stays Run,
// for such a thread is about to work. The caller's object tells it from other timed waits. `charged`: the thread
// works from the time at which the lock was let go, or threads that take turns would count as if they worked at once.
#include "shim.h"

#include <pthread.h>
#include <string.h>

namespace revati::warp {

struct Condition {
  uint32_t sequence, clock, waiters, shared;
  int64_t signalled_at;  // charged: the time of whoever signalled last
};
static_assert(sizeof(Condition) <= sizeof(pthread_cond_t));
static Condition* own(pthread_cond_t* c) { return reinterpret_cast<Condition*>(c); }

static int wait(pthread_cond_t* condition, pthread_mutex_t* mutex, int64_t deadline) {
  Condition* c = own(condition);
  own_slot();
  uint32_t sequence = __atomic_load_n(&c->sequence, __ATOMIC_ACQUIRE);
  __atomic_add_fetch(&c->waiters, 1, __ATOMIC_SEQ_CST);
  int error = pthread_mutex_unlock(mutex);
  if (error) {
    __atomic_sub_fetch(&c->waiters, 1, __ATOMIC_SEQ_CST);
    return error;
  }
  Woken why = wait_on_word(&c->sequence, sequence, c->shared, false, deadline, kCondition);
  __atomic_sub_fetch(&c->waiters, 1, __ATOMIC_SEQ_CST);
  pthread_mutex_lock(mutex);
  return why == Woken::deadline ? ETIMEDOUT : 0;
}

static std::atomic<uint32_t> wait_for_python_now;  // threads of this process

// Real time, at most 5 ms: the wait for Python's global lock.
static int wait_for_python(pthread_cond_t* condition, pthread_mutex_t* mutex, int64_t left) {
  constexpr int64_t kLongest = 5'000'000;
  Condition* c = own(condition);
  undo_read();  // it made the deadline; how many there are is chance
  timespec t = ts(left < 0 ? 0 : left > kLongest ? kLongest : left);
  uint32_t sequence = __atomic_load_n(&c->sequence, __ATOMIC_ACQUIRE);
  __atomic_add_fetch(&c->waiters, 1, __ATOMIC_SEQ_CST);
  wait_for_python_now++;
  pthread_mutex_unlock(mutex);
  sys(SYS_futex, long(&c->sequence), FUTEX_WAIT, sequence, long(&t));
  __atomic_sub_fetch(&c->waiters, 1, __ATOMIC_SEQ_CST);
  pthread_mutex_lock(mutex);
  wait_for_python_now--;  // with the mutex: whoever sees it comes to the lock after this thread
  if (__atomic_load_n(&c->sequence, __ATOMIC_ACQUIRE) == sequence) return ETIMEDOUT;
  wait_out(__atomic_load_n(&c->signalled_at, __ATOMIC_RELAXED));
  return 0;
}

bool called_from_python(void* caller) {
  static const void* interpreter = [] {
    Dl_info info;
    void* f = dlsym(RTLD_DEFAULT, "PyEval_RestoreThread");
    return f && dladdr(f, &info) ? info.dli_fbase : nullptr;
  }();
  if (!interpreter) return false;
  static std::atomic<void*> known[2][16];  // callers seen before: not Python's, Python's
  for (int python = 0; python < 2; python++)
    for (auto& k : known[python])
      if (k.load(std::memory_order_relaxed) == caller) return python;
  Dl_info info;
  bool python = dladdr(caller, &info) && info.dli_fbase == interpreter;
  for (auto& k : known[python]) {
    void* none = nullptr;
    if (k.compare_exchange_strong(none, caller)) break;
  }
  return python;
}

static int timed_wait(pthread_cond_t* c, pthread_mutex_t* m, clockid_t clock, const timespec* t, void* caller) {
  if (t->tv_nsec < 0 || t->tv_nsec > 999999999) return EINVAL;
  int64_t deadline = ns(*t) - base_of(clock);
  return called_from_python(caller) ? wait_for_python(c, m, deadline - page->now.load()) : wait(c, m, deadline);
}

static int wake(pthread_cond_t* condition, int how_many) {
  Condition* c = own(condition);
  if (!__atomic_load_n(&c->waiters, __ATOMIC_SEQ_CST)) return 0;
  publish_word_send(&c->sequence, c->shared);
  __atomic_store_n(&c->signalled_at, own_time(), __ATOMIC_RELAXED);
  __atomic_add_fetch(&c->sequence, 1, __ATOMIC_RELEASE);
  futex_wake(&c->sequence, how_many);
  count_word_send(&c->sequence, c->shared);
  return 0;
}

}  // namespace revati::warp

// dlsym() may return the oldest of several versions of a symbol: ask for glibc's current one by name.
#define NEXT_CONDITION(name)                                                                       \
  ([] {                                                                                            \
    static auto next = [] {                                                                        \
      void* f = dlvsym(RTLD_NEXT, #name, "GLIBC_2.3.2");                                           \
      return reinterpret_cast<decltype(&::name)>(f ? f : dlsym(RTLD_NEXT, #name));                 \
    }();                                                                                           \
    return next;                                                                                   \
  }())

using namespace revati::warp;

EXPORT int pthread_cond_init(pthread_cond_t* c, const pthread_condattr_t* attributes) {
  if (!page) return NEXT_CONDITION(pthread_cond_init)(c, attributes);
  memset(c, 0, sizeof *c);
  clockid_t clock = CLOCK_REALTIME;
  int shared = PTHREAD_PROCESS_PRIVATE;
  if (attributes) {
    pthread_condattr_getclock(attributes, &clock);
    pthread_condattr_getpshared(attributes, &shared);
  }
  own(c)->clock = uint32_t(clock);
  own(c)->shared = shared == PTHREAD_PROCESS_SHARED;
  return 0;
}
EXPORT int pthread_cond_destroy(pthread_cond_t* c) { return page ? 0 : NEXT_CONDITION(pthread_cond_destroy)(c); }
EXPORT int pthread_cond_wait(pthread_cond_t* c, pthread_mutex_t* m) {
  return page ? wait(c, m, kNever) : NEXT_CONDITION(pthread_cond_wait)(c, m);
}
EXPORT int pthread_cond_clockwait(pthread_cond_t* c, pthread_mutex_t* m, clockid_t clock, const timespec* t) {
  if (!page) return NEXT_CONDITION(pthread_cond_clockwait)(c, m, clock, t);
  return timed_wait(c, m, clock, t, __builtin_return_address(0));
}
EXPORT int pthread_cond_timedwait(pthread_cond_t* c, pthread_mutex_t* m, const timespec* t) {
  if (!page) return NEXT_CONDITION(pthread_cond_timedwait)(c, m, t);
  return timed_wait(c, m, clockid_t(own(c)->clock), t, __builtin_return_address(0));
}
EXPORT int pthread_cond_signal(pthread_cond_t* c) {
  return page ? wake(c, 1) : NEXT_CONDITION(pthread_cond_signal)(c);
}
EXPORT int pthread_cond_broadcast(pthread_cond_t* c) {
  return page ? wake(c, INT_MAX) : NEXT_CONDITION(pthread_cond_broadcast)(c);
}

// Modelled Python work lets go of the lock as the work itself would, but for less real time than a waiter takes to wake.
EXPORT void revati_warp_let_python_waiter_in() {
  constexpr int64_t kLongest = 200'000;  // ns of real time
  uint32_t waiters = wait_for_python_now.load();
  if (!page || !waiters || page->ns_per_tick <= 0) return;
  uint64_t begin = __builtin_ia32_rdtsc(), longest = uint64_t(double(kLongest) / page->ns_per_tick);
  while (wait_for_python_now.load() >= waiters && __builtin_ia32_rdtsc() - begin < longest) sys(SYS_sched_yield);
}
