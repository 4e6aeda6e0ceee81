// locks.cpp: timed waits for mutexes, read-write locks and threads. glibc's lock words cannot be waited on
// beside the slot, so these try again every virtual millisecond.
#include "shim.h"

#include <pthread.h>

namespace revati::warp {
template <class F>
static int retry_until(int64_t deadline, F&& attempt) {
  constexpr int64_t kPause = 1'000'000;
  for (;;) {
    int r = attempt();
    if (r != EBUSY) return r;
    int64_t v = now();
    if (v >= deadline) return ETIMEDOUT;
    sleep_until(v + kPause < deadline ? v + kPause : deadline, kMutex);
  }
}
}  // namespace revati::warp

using namespace revati::warp;

EXPORT int pthread_mutex_clocklock(pthread_mutex_t* m, clockid_t clock, const timespec* t) {
  if (!page) return NEXT(pthread_mutex_clocklock)(m, clock, t);
  return retry_until(ns(*t) - base_of(clock), [&] { return pthread_mutex_trylock(m); });
}
EXPORT int pthread_mutex_timedlock(pthread_mutex_t* m, const timespec* t) {
  return page ? pthread_mutex_clocklock(m, CLOCK_REALTIME, t) : NEXT(pthread_mutex_timedlock)(m, t);
}
EXPORT int pthread_rwlock_timedrdlock(pthread_rwlock_t* l, const timespec* t) {
  if (!page) return NEXT(pthread_rwlock_timedrdlock)(l, t);
  return retry_until(ns(*t) - base_of(CLOCK_REALTIME), [&] { return pthread_rwlock_tryrdlock(l); });
}
EXPORT int pthread_rwlock_timedwrlock(pthread_rwlock_t* l, const timespec* t) {
  if (!page) return NEXT(pthread_rwlock_timedwrlock)(l, t);
  return retry_until(ns(*t) - base_of(CLOCK_REALTIME), [&] { return pthread_rwlock_trywrlock(l); });
}
EXPORT int pthread_join(pthread_t thread, void** value) {
  if (!page) return NEXT(pthread_join)(thread, value);
  if (int r = pthread_tryjoin_np(thread, value); r != EBUSY) return r;
  Blocked mark(kJoin);
  return NEXT(pthread_join)(thread, value);
}
EXPORT int pthread_timedjoin_np(pthread_t thread, void** value, const timespec* t) {
  if (!page) return NEXT(pthread_timedjoin_np)(thread, value, t);
  return retry_until(ns(*t) - base_of(CLOCK_REALTIME), [&] { return pthread_tryjoin_np(thread, value); });
}
