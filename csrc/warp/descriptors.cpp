// descriptors.cpp: waits for descriptors, and calls that block on one.
//
// The wake signal is blocked everywhere except inside the kernel's atomic switch of masks, so a wake-up
// cannot be lost and no helper descriptor is needed. Blocking reads stay the kernel's, the slot is only marked.
// A call that is not listed here is still found by the timekeeper, which asks the kernel: slower, not wrong.
#include "shim.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/uio.h>

namespace revati::warp {

constexpr uint64_t kWakeBit = 1ull << (kWakeSignal - 1);

struct Mask { uint64_t bits; };
static Mask without_wake_signal(const sigset_t* given) {
  Mask m;
  if (given) memcpy(&m.bits, given, sizeof m.bits);
  else sys(SYS_rt_sigprocmask, 0, 0, long(&m.bits), 8);
  m.bits &= ~kWakeBit;
  return m;
}

static const timespec kLook = {0, 0}, kPatience = {5, 0};

// wait(timeout, mask) is the real wait; `timeout` is a look (0) or kPatience. look_again(r) looks once more after a wait that
// ended with r.
//
// In deterministic mode a thread that was woken waits for its turn, and by then more may have come than what woke it. How
// much the kernel saw at the wake-up is a matter of real time; what is there when the turn comes is not.
template <class F, class G>
static long wait_for_descriptors(int64_t timeout, Call call, const sigset_t* given, F&& wait, G&& look_again) {
  before_look();
  long r = wait(&kLook, nullptr);
  if (r != 0) {
    productive();
    return ret(r);
  }
  if (timeout == 0) {
    empty_look(call);
    return 0;
  }
  productive();
  own_slot();
  int64_t deadline = timeout < 0 ? kNever : now() + timeout;
  Mask mask = without_wake_signal(given);
  for (;;) {
    enter_wait(deadline, kDescriptor, call);
    while (!fired()) {
      self.woken = 0;
      r = wait(&kPatience, &mask);
      if (r == 0) die_if_abandoned();
      if (r == 0 || (r == -EINTR && self.woken)) continue;
      break;
    }
    if (leave_wait()) return ret(wait(&kLook, nullptr));  // the deadline: look once more, as the kernel would
    if (r <= 0 || !page->serial || (r = look_again(r)) != 0) return ret(r);
  }
}
template <class F>
static long wait_for_descriptors(int64_t timeout, Call call, const sigset_t* given, F&& wait) {
  return wait_for_descriptors(timeout, call, given, wait, [&](long) { return wait(&kLook, nullptr); });
}

// Level-triggered events show again at a second look, edge-triggered ones do not: keep those of the first look too.
static long look_again_at(int ep, epoll_event* events, int max, long seen) {
  constexpr int kMost = 512;
  epoll_event there[kMost];
  int room = max < kMost ? max : kMost;
  if (seen > room) return seen;
  long n = sys(SYS_epoll_pwait, ep, long(there), room, 0, 0, 8);
  if (n < 0) return seen;
  for (long i = 0; i < seen && n < room; i++) {
    bool shown = false;
    for (long k = 0; k < n && !shown; k++) shown = there[k].data.u64 == events[i].data.u64;
    if (!shown) there[n++] = events[i];
  }
  memcpy(events, there, size_t(n) * sizeof *there);
  return n;
}

static bool is_idle(int fd, short events) {
  pollfd p = {fd, events, 0};
  timespec look = kLook;
  return sys(SYS_ppoll, long(&p), 1, long(&look), 0, 8) == 0;
}
static bool is_blocking(int fd) {
  long flags = sys(SYS_fcntl, fd, F_GETFL);
  return flags >= 0 && !(flags & O_NONBLOCK);
}

// ns; 0: none. The kernel's own timeout is real time.
static int64_t receive_timeout(int fd) {
  timeval t;
  socklen_t size = sizeof t;
  if (sys(SYS_getsockopt, fd, SOL_SOCKET, SO_RCVTIMEO, long(&t), long(&size)) != 0) return 0;
  return t.tv_sec * 1000000000LL + t.tv_usec * 1000LL;
}

template <class F>
static long read_like(int fd, bool dont_wait, Call call, F&& read) {
  if (!page) return ret(read());
  before_look();
  if (!is_idle(fd, POLLIN)) {
    long r = read();
    if (r > 0) productive();
    return ret(r);
  }
  if (dont_wait || !is_blocking(fd)) {
    long r = read();
    if (r == -EAGAIN) empty_look(call);
    else productive();
    return ret(r);
  }
  if (int64_t timeout = receive_timeout(fd)) {
    pollfd p = {fd, POLLIN, 0};
    long ready = wait_for_descriptors(timeout, call, nullptr, [&](const timespec* t, const void* mask) {
      timespec copy = *t;
      return sys(SYS_ppoll, long(&p), 1, long(&copy), long(mask), 8);
    });
    if (ready == 0) errno = EAGAIN;
    return ready > 0 ? ret(read()) : -1;
  }
  long r;
  {
    Blocked mark(call);
    r = read();
  }
  return ret(r);
}

}  // namespace revati::warp

using namespace revati::warp;

EXPORT int epoll_pwait2(int ep, epoll_event* events, int max, const timespec* timeout, const sigset_t* mask) {
  if (!page) return int(ret(sys(SYS_epoll_pwait2, ep, long(events), max, long(timeout), long(mask), 8)));
  auto wait = [&](const timespec* t, Mask* m) {
    return sys(SYS_epoll_pwait, ep, long(events), max, t == &kLook ? 0 : 5000, long(m), 8);
  };
  auto again = [&](long seen) { return look_again_at(ep, events, max, seen); };
  return int(wait_for_descriptors(timeout ? ns(*timeout) : -1, kEpoll, mask, wait, again));
}
EXPORT int epoll_pwait(int ep, epoll_event* events, int max, int ms, const sigset_t* mask) {
  if (!page) return int(ret(sys(SYS_epoll_pwait, ep, long(events), max, ms, long(mask), 8)));
  timespec t = ts(ms < 0 ? 0 : ms * 1000000LL);
  return epoll_pwait2(ep, events, max, ms < 0 ? nullptr : &t, mask);
}
// Gloo's event loops look every 10 ms whether they were told to stop; a process of an engine has a dozen of them, and
// each look is a jump of the clock. They are told by a descriptor too in all other cases: look twice a second instead.
static bool is_gloo_loop(void* caller, int ms) {
  constexpr int kGlooPoll_ms = 10;
  if (ms != kGlooPoll_ms) return false;
  static std::atomic<void*> known{nullptr};
  if (known.load(std::memory_order_relaxed) == caller) return true;
  Dl_info info;
  if (!dladdr(caller, &info) || !info.dli_fname || !strstr(info.dli_fname, "libtorch_cpu.so")) return false;
  known = caller;
  return true;
}
EXPORT int epoll_wait(int ep, epoll_event* events, int max, int ms) {
  constexpr int kRarely_ms = 500;
  if (page && is_gloo_loop(__builtin_return_address(0), ms)) ms = kRarely_ms;
  return epoll_pwait(ep, events, max, ms, nullptr);
}
EXPORT int ppoll(pollfd* fds, nfds_t n, const timespec* timeout, const sigset_t* mask) {
  auto wait = [&](const timespec* t, const void* m) {
    timespec copy;  // the kernel writes the rest into it
    if (t) copy = *t;
    return sys(SYS_ppoll, long(fds), n, t ? long(&copy) : 0, long(m), 8);
  };
  if (!page) return int(ret(wait(timeout, mask)));
  return int(wait_for_descriptors(timeout ? ns(*timeout) : -1, kPoll, mask, wait));
}
EXPORT int poll(pollfd* fds, nfds_t n, int ms) {
  timespec t = ts(ms < 0 ? 0 : ms * 1000000LL);
  return ppoll(fds, n, ms < 0 ? nullptr : &t, nullptr);
}
// Fortified builds call these.
EXPORT int __poll_chk(pollfd* fds, nfds_t n, int ms, size_t) { return poll(fds, n, ms); }
EXPORT int __ppoll_chk(pollfd* fds, nfds_t n, const timespec* t, const sigset_t* mask, size_t) {
  return ppoll(fds, n, t, mask);
}
EXPORT int pselect(int n, fd_set* in, fd_set* out, fd_set* err, const timespec* timeout, const sigset_t* mask) {
  struct Sets { char bits[3][4096 / 8]; } saved;  // programs may pass more than FD_SETSIZE: keep what n needs
  fd_set* sets[3] = {in, out, err};
  size_t bytes = size_t(n < 0 ? 0 : n + 63) / 64 * 8;
  bool small = bytes <= sizeof saved.bits[0];
  auto wait = [&](const timespec* t, const void* m) {
    if (small)
      for (int i = 0; i < 3; i++)
        if (sets[i]) memcpy(sets[i], saved.bits[i], bytes);
    timespec copy;
    if (t) copy = *t;
    struct { const void* mask; size_t size; } packed = {m, 8};
    return sys(SYS_pselect6, n, long(in), long(out), long(err), t ? long(&copy) : 0, long(&packed));
  };
  if (small)
    for (int i = 0; i < 3; i++)
      if (sets[i]) memcpy(saved.bits[i], sets[i], bytes);
  if (!page || !small) return int(ret(wait(timeout, mask)));
  return int(wait_for_descriptors(timeout ? ns(*timeout) : -1, kSelect, mask, wait));
}
EXPORT int select(int n, fd_set* in, fd_set* out, fd_set* err, timeval* tv) {
  timespec t;
  if (tv) {
    if (tv->tv_sec < 0 || tv->tv_usec < 0) {
      errno = EINVAL;
      return -1;
    }
    t = {tv->tv_sec + tv->tv_usec / 1000000, tv->tv_usec % 1000000 * 1000};
  }
  return pselect(n, in, out, err, tv ? &t : nullptr, nullptr);
}

EXPORT ssize_t recvfrom(int fd, void* b, size_t n, int flags, sockaddr* from, socklen_t* length) {
  return read_like(fd, flags & MSG_DONTWAIT, kRecv,
                   [&] { return sys(SYS_recvfrom, fd, long(b), n, flags, long(from), long(length)); });
}
EXPORT ssize_t recv(int fd, void* b, size_t n, int flags) { return recvfrom(fd, b, n, flags, nullptr, nullptr); }
EXPORT ssize_t __recv_chk(int fd, void* b, size_t n, size_t, int flags) { return recv(fd, b, n, flags); }
EXPORT ssize_t recvmsg(int fd, msghdr* m, int flags) {
  return read_like(fd, flags & MSG_DONTWAIT, kRecv, [&] { return sys(SYS_recvmsg, fd, long(m), flags); });
}
EXPORT ssize_t read(int fd, void* b, size_t n) {
  return read_like(fd, false, kRead, [&] { return sys(SYS_read, fd, long(b), n); });
}
EXPORT ssize_t __read_chk(int fd, void* b, size_t n, size_t) { return read(fd, b, n); }
EXPORT ssize_t readv(int fd, const iovec* v, int n) {
  return read_like(fd, false, kRead, [&] { return sys(SYS_readv, fd, long(v), n); });
}
EXPORT int accept4(int fd, sockaddr* a, socklen_t* length, int flags) {
  return int(read_like(fd, false, kAccept, [&] { return sys(SYS_accept4, fd, long(a), long(length), flags); }));
}
EXPORT int accept(int fd, sockaddr* a, socklen_t* length) { return accept4(fd, a, length, 0); }
