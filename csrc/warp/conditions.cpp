// conditions.cpp: condition variables as one complete family with a layout of their own (conditions.h).
#include "conditions.h"

#include <string.h>

namespace revati::warp {

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

static int timed_wait(pthread_cond_t* c, pthread_mutex_t* m, clockid_t clock, const timespec* t, void* caller) {
  if (t->tv_nsec < 0 || t->tv_nsec > 999999999) return EINVAL;
  int64_t deadline = ns(*t) - base_of(clock);
  return called_from_python(caller) ? wait_for_python(own(c), m, deadline) : wait(c, m, deadline);
}

static int wake(pthread_cond_t* condition, int how_many, void* caller) {
  Condition* c = own(condition);
  if (is_python_lock(c, caller) || !__atomic_load_n(&c->waiters, __ATOMIC_SEQ_CST)) return 0;
  publish_word_send(&c->sequence, c->shared);
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
  return page ? wake(c, 1, __builtin_return_address(0)) : NEXT_CONDITION(pthread_cond_signal)(c);
}
EXPORT int pthread_cond_broadcast(pthread_cond_t* c) {
  return page ? wake(c, INT_MAX, __builtin_return_address(0)) : NEXT_CONDITION(pthread_cond_broadcast)(c);
}
