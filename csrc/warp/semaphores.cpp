// semaphores.cpp: sem_wait and its timed relatives, on glibc's own layout, so that sem_post and
// sem_trywait's work stay glibc's.
//
// CPython's locks are semaphores, and 3.11 to 3.13 read the clock before each (thread_pthread.h; the deadline is used by
// timed ones alone). Such a read must not take its time (clocks.cpp): the program does not see it, and in `free` the
// garbage collector takes locks too, at moments that are chance.
#include "shim.h"

#include <semaphore.h>

namespace revati::warp {

struct GlibcSemaphore {
  uint64_t data;     // low half: value; high half: number of waiters
  int shared, pad;   // 0: private to the process
};
constexpr uint64_t kOneWaiter = 1ull << 32;

static bool take(GlibcSemaphore* s, uint64_t also) {
  uint64_t d = __atomic_load_n(&s->data, __ATOMIC_RELAXED);
  while (uint32_t(d))
    if (__atomic_compare_exchange_n(&s->data, &d, d - 1 - also, true, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED)) return true;
  return false;
}

static int wait(sem_t* semaphore, int64_t deadline) {
  auto* s = reinterpret_cast<GlibcSemaphore*>(semaphore);
  if (take(s, 0)) return 0;
  __atomic_add_fetch(&s->data, kOneWaiter, __ATOMIC_SEQ_CST);
  int error = 0;
  while (!take(s, kOneWaiter)) {
    if (error) {
      __atomic_sub_fetch(&s->data, kOneWaiter, __ATOMIC_SEQ_CST);
      errno = error;
      return -1;
    }
    Woken w = wait_on_word(reinterpret_cast<uint32_t*>(&s->data), 0, s->shared, !s->shared, deadline, kSemaphore);
    error = w == Woken::deadline ? ETIMEDOUT : w == Woken::signal ? EINTR : 0;
  }
  return 0;
}

static void undo_read_of_lock(void* caller) {
  static const bool locks_read = [] {
    auto* version = static_cast<const unsigned long*>(dlsym(RTLD_DEFAULT, "Py_Version"));
    return version && *version >= 0x030b0000 && *version < 0x030e0000;
  }();
  if (page->mode != kWall && locks_read && called_from_python(caller)) undo_read();
}

}  // namespace revati::warp

using namespace revati::warp;

EXPORT int sem_wait(sem_t* s) {
  if (!page) return NEXT(sem_wait)(s);
  undo_read_of_lock(__builtin_return_address(0));
  return wait(s, kNever);
}
EXPORT int sem_trywait(sem_t* s) {
  if (page) undo_read_of_lock(__builtin_return_address(0));
  return NEXT(sem_trywait)(s);
}
EXPORT int sem_clockwait(sem_t* s, clockid_t clock, const timespec* t) {
  if (!page) return NEXT(sem_clockwait)(s, clock, t);
  if (t->tv_nsec < 0 || t->tv_nsec > 999999999) {
    errno = EINVAL;
    return -1;
  }
  return wait(s, ns(*t) - base_of(clock));
}
EXPORT int sem_timedwait(sem_t* s, const timespec* t) {
  return page ? sem_clockwait(s, CLOCK_REALTIME, t) : NEXT(sem_timedwait)(s, t);
}
EXPORT int sem_post(sem_t* s) {
  auto* own = reinterpret_cast<GlibcSemaphore*>(s);
  auto has_waiters = [&] { return page && __atomic_load_n(&own->data, __ATOMIC_SEQ_CST) >= kOneWaiter; };
  if (has_waiters()) publish_word_send(&own->data, own->shared);
  int r = NEXT(sem_post)(s);
  if (has_waiters()) count_word_send(&own->data, own->shared);  // one may have come meanwhile
  return r;
}
