// futexes.cpp: programs that make system calls through syscall(): Rust's and Abseil's locks, raw clocks.
// glibc itself and libgomp make theirs inline and cannot be seen here (docs/time.md).
#include "shim.h"

#include <poll.h>
#include <stdarg.h>
#include <sys/epoll.h>

namespace revati::warp {

static long futex_wait(uint32_t* word, int operation, uint32_t value, const timespec* timeout) {
  int64_t deadline = kNever;
  if (timeout) {
    bool absolute = (operation & FUTEX_CMD_MASK) == FUTEX_WAIT_BITSET;
    clockid_t clock = operation & FUTEX_CLOCK_REALTIME ? CLOCK_REALTIME : CLOCK_MONOTONIC;
    deadline = absolute ? ns(*timeout) - base_of(clock) : now() + ns(*timeout);
  }
  if (__atomic_load_n(word, __ATOMIC_ACQUIRE) != value) return -EAGAIN;
  bool is_private = operation & FUTEX_PRIVATE_FLAG;
  switch (wait_on_word(word, value, !is_private, is_private, deadline, kFutex)) {
    case Woken::deadline: return -ETIMEDOUT;
    case Woken::signal: return -EINTR;
    default: return 0;
  }
}

static long futex(long* a) {
  int operation = int(a[1]);
  switch (operation & FUTEX_CMD_MASK) {
    case FUTEX_WAIT_BITSET:
      if (uint32_t(a[5]) != FUTEX_BITSET_MATCH_ANY) break;  // no waitv for partial masks: found by the kernel's word
      [[fallthrough]];
    case FUTEX_WAIT:
      return futex_wait(reinterpret_cast<uint32_t*>(a[0]), operation, uint32_t(a[2]),
                        reinterpret_cast<const timespec*>(a[3]));
    default: {  // wakes at one word or two
      bool is_shared = !(operation & FUTEX_PRIVATE_FLAG);
      for (int i : {0, 4}) publish_word_send(reinterpret_cast<void*>(a[i]), is_shared);
      long r = sys(SYS_futex, a[0], a[1], a[2], a[3], a[4], a[5]);
      for (int i : {0, 4}) count_word_send(reinterpret_cast<void*>(a[i]), is_shared);
      return r;
    }
  }
  return sys(SYS_futex, a[0], a[1], a[2], a[3], a[4], a[5]);
}

}  // namespace revati::warp

using namespace revati::warp;

EXPORT long syscall(long number, ...) {
  va_list list;
  va_start(list, number);
  long a[6];
  for (long& x : a) x = va_arg(list, long);
  va_end(list);
  if (!page) return ret(sys(number, a[0], a[1], a[2], a[3], a[4], a[5]));
  switch (number) {
    case SYS_futex: return ret(futex(a));
    case SYS_clock_gettime: return clock_gettime(clockid_t(a[0]), reinterpret_cast<timespec*>(a[1]));
    case SYS_clock_nanosleep: {
      int e = clock_nanosleep(clockid_t(a[0]), int(a[1]), reinterpret_cast<timespec*>(a[2]),
                              reinterpret_cast<timespec*>(a[3]));
      return ret(-e);
    }
    case SYS_nanosleep:
      return nanosleep(reinterpret_cast<timespec*>(a[0]), reinterpret_cast<timespec*>(a[1]));
    case SYS_epoll_pwait2:
      return epoll_pwait2(int(a[0]), reinterpret_cast<epoll_event*>(a[1]), int(a[2]),
                          reinterpret_cast<timespec*>(a[3]), reinterpret_cast<sigset_t*>(a[4]));
    case SYS_sched_yield: return sched_yield();
    case SYS_io_uring_setup: errno = ENOSYS; return -1;  // its waits are the kernel's; libuv and tokio fall back
    case SYS_write: case SYS_sendto: case SYS_sendmsg: publish_send(); break;
    case SYS_kill: case SYS_tgkill: case SYS_rt_sigqueueinfo: case SYS_rt_tgsigqueueinfo: publish_signal(pid_t(a[0])); break;
    case SYS_tkill: publish_signal(0); break;
  }
  return ret(sys(number, a[0], a[1], a[2], a[3], a[4], a[5]));
}
