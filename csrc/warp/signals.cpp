// signals.cpp: the wake signal stays blocked whatever the program does to its mask; waits for signals; what precedes a
// signal that a thread sends.
#include "shim.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

namespace revati::warp {
constexpr uint64_t kWakeBit = 1ull << (kWakeSignal - 1);

// True also of a thread that is gone.
static bool is_asleep(uint32_t pid, uint32_t tid) {
  char path[64], text[128];
  snprintf(path, sizeof path, "/proc/%u/task/%u/stat", pid, tid);
  if (!read_proc(path, text)) return true;
  const char* end = strrchr(text, ')');
  return !end || !strchr("RD", end[2]);
}

// The clock may have jumped while a thread that waits on its slot or on a word is still on its way to sleep. A signal
// would come before its system call, and not end its wait. A handler that runs inside a wait keeps its thread awake:
// then not for ever.
static void let_fall_asleep(pid_t process) {
  constexpr int kLooks = 10000;
  int looks = 0;
  for (uint32_t i = 0; i < page->high; i++) {
    Slot& s = page->slot[i];
    uint64_t w = s.word.load();
    if (&s == self.slot || state_of(w) != kWait || (s.kind != kSlotOnly && s.kind != kWord)) continue;
    if (process > 0 && s.pid != uint32_t(process)) continue;
    while (s.word.load() == w && looks++ < kLooks && !is_asleep(s.pid, s.tid)) sys(SYS_sched_yield);
  }
}

void publish_signal(pid_t process) {
  publish_send();
  let_fall_asleep(process);
  page->signals.fetch_add(1);
}
}  // namespace revati::warp
using namespace revati::warp;

EXPORT int pthread_sigmask(int how, const sigset_t* set, sigset_t* old) {
  uint64_t bits;
  if (set) {
    memcpy(&bits, set, sizeof bits);
    if (page) bits = how == SIG_UNBLOCK ? bits & ~kWakeBit : bits | kWakeBit;
  }
  uint64_t before;
  long r = sys(SYS_rt_sigprocmask, how, set ? long(&bits) : 0, long(&before), 8);
  if (r == 0 && old) {
    sigemptyset(old);
    memcpy(old, &before, sizeof before);
  }
  return int(-r);
}
EXPORT int sigprocmask(int how, const sigset_t* set, sigset_t* old) {
  int error = pthread_sigmask(how, set, old);
  if (!error) return 0;
  errno = error;
  return -1;
}

EXPORT int sigtimedwait(const sigset_t* set, siginfo_t* info, const timespec* timeout) {
  uint64_t bits;
  memcpy(&bits, set, sizeof bits);
  siginfo_t own;
  timespec look = {0, 0}, patience = {5, 0};
  if (!page) return int(ret(sys(SYS_rt_sigtimedwait, long(&bits), long(info), long(timeout), 8)));
  bits &= ~kWakeBit;
  long r = sys(SYS_rt_sigtimedwait, long(&bits), long(&own), long(&look), 8);
  if (r == -EAGAIN && !(timeout && ns(*timeout) == 0)) {
    productive();
    uint64_t with_wake = bits | kWakeBit;
    enter_wait(timeout ? now() + ns(*timeout) : kNever, kDescriptor, kSigwait);
    while (!fired()) {
      r = sys(SYS_rt_sigtimedwait, long(&with_wake), long(&own), long(&patience), 8);
      if (r == -EAGAIN) die_if_abandoned();
      if (r != -EAGAIN && r != kWakeSignal) break;
    }
    if (leave_wait()) r = sys(SYS_rt_sigtimedwait, long(&bits), long(&own), long(&look), 8);
  }
  if (r > 0 && info) *info = own;
  return int(ret(r));
}
EXPORT int sigwaitinfo(const sigset_t* set, siginfo_t* info) { return sigtimedwait(set, info, nullptr); }
EXPORT int sigwait(const sigset_t* set, int* signal) {
  int r;
  do r = sigtimedwait(set, nullptr, nullptr);
  while (r < 0 && errno == EINTR);
  if (r < 0) return errno;
  *signal = r;
  return 0;
}
