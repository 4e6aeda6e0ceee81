// timers.cpp: timerfd and the alarm clock. A timer is a slot without a thread; when virtual time reaches it the
// timekeeper makes the descriptor ready, or sends the signal. timer_create() stays real (docs/time.md).
#include "shim.h"

#include <signal.h>
#include <sys/time.h>
#include <sys/timerfd.h>

namespace revati::warp {

constexpr int kMaxDescriptors = 65536;
static uint8_t clock_of[kMaxDescriptors];   // of timerfds: clock id + 1
static std::atomic<int> armed_descriptors;  // close() looks only when there are any

static Slot* find(int32_t target) {
  uint32_t pid = uint32_t(sys(SYS_getpid));
  for (uint32_t i = 0; i < page->high; i++) {
    Slot& s = page->slot[i];
    if (s.pid == pid && s.target == target && s.kind == kTimer && state_of(s.word) == kWait) return &s;
  }
  return nullptr;
}

static itimerspec disarm(int32_t target) {
  itimerspec left = {};
  Slot* s = find(target);
  if (!s) return left;
  uint64_t w = s->word.load();
  int64_t rest = s->deadline - now(), interval = s->interval;
  if (state_of(w) != kWait || !s->word.compare_exchange_strong(w, pack(generation_of(w) + 1, kFree))) return left;
  left.it_interval = ts(interval);
  left.it_value = ts(rest > 0 ? rest : 1);
  return left;
}

static void arm(int32_t target, int64_t deadline, int64_t interval, Call call) {
  own_slot();
  publish();
  Slot* s = reserve_slot();
  s->kind = kTimer;
  s->call = call;
  s->target = target;
  s->deadline = deadline;
  s->interval = interval;
  s->pid = uint32_t(sys(SYS_getpid));
  s->word = pack(generation_of(s->word.load()) + 1, kWait);
  page->running--;
}

void forget_timerfd(int fd) {
  if (fd < 0 || fd >= kMaxDescriptors || !clock_of[fd]) return;
  clock_of[fd] = 0;
  if (armed_descriptors.load() > 0) disarm(fd);
}

}  // namespace revati::warp

using namespace revati::warp;

EXPORT int timerfd_create(int clock, int flags) {
  int fd = int(ret(sys(SYS_timerfd_create, clock, flags)));
  if (page && fd >= 0 && fd < kMaxDescriptors) clock_of[fd] = uint8_t(clock + 1);
  return fd;
}
EXPORT int timerfd_settime(int fd, int flags, const itimerspec* value, itimerspec* old) {
  if (!page || fd < 0 || fd >= kMaxDescriptors || !clock_of[fd])
    return int(ret(sys(SYS_timerfd_settime, fd, flags, long(value), long(old))));
  itimerspec none = {};
  if (long r = sys(SYS_timerfd_settime, fd, 0, long(&none), 0); r < 0) return int(ret(r));
  itimerspec left = disarm(fd);
  if (old) *old = left;
  int64_t first = ns(value->it_value);
  if (!first) return 0;
  int64_t deadline = flags & TFD_TIMER_ABSTIME ? first - base_of(clock_of[fd] - 1) : now() + first;
  arm(fd, deadline, ns(value->it_interval), kTimerfd);
  armed_descriptors++;
  return 0;
}
EXPORT int timerfd_gettime(int fd, itimerspec* value) {
  if (!page || fd < 0 || fd >= kMaxDescriptors || !clock_of[fd])
    return int(ret(sys(SYS_timerfd_gettime, fd, long(value))));
  *value = {};
  if (Slot* s = find(fd)) {
    int64_t left = s->deadline - now();
    value->it_interval = ts(s->interval);
    value->it_value = ts(left > 0 ? left : 1);
  }
  return 0;
}

EXPORT int setitimer(__itimer_which_t which, const itimerval* value, itimerval* old) {
  if (!page || which != ITIMER_REAL) return int(ret(sys(SYS_setitimer, which, long(value), long(old))));
  itimerspec left = disarm(-SIGALRM);
  auto us = [](const timespec& t) { return timeval{t.tv_sec, t.tv_nsec / 1000}; };
  if (old) *old = {us(left.it_interval), us(left.it_value)};
  auto in_ns = [](const timeval& t) { return t.tv_sec * 1000000000LL + t.tv_usec * 1000LL; };
  if (value && in_ns(value->it_value))
    arm(-SIGALRM, now() + in_ns(value->it_value), in_ns(value->it_interval), kAlarm);
  return 0;
}
EXPORT int getitimer(__itimer_which_t which, itimerval* value) {
  if (!page || which != ITIMER_REAL) return int(ret(sys(SYS_getitimer, which, long(value))));
  *value = {};
  if (Slot* s = find(-SIGALRM)) {
    int64_t left = s->deadline - now(), interval = s->interval;
    value->it_interval = {interval / 1000000000, interval % 1000000000 / 1000};
    value->it_value = {left / 1000000000, left % 1000000000 / 1000};
  }
  return 0;
}
EXPORT unsigned alarm(unsigned seconds) {
  itimerval value = {{0, 0}, {time_t(seconds), 0}}, old = {};
  setitimer(ITIMER_REAL, &value, &old);
  return unsigned(old.it_value.tv_sec + (old.it_value.tv_usec > 0));
}
