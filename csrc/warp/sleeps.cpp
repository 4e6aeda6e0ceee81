// sleeps.cpp: the nanosleep family.
#include "shim.h"

using namespace revati::warp;

EXPORT int clock_nanosleep(clockid_t clock, int flags, const timespec* request, timespec* rest) {
  int64_t base;
  if (!page || (base = base_of(clock)) < 0)
    return int(-sys(SYS_clock_nanosleep, clock, flags, long(request), long(rest)));
  if (!valid(*request)) return EINVAL;
  bool absolute = flags & TIMER_ABSTIME;
  int64_t begin = now(), deadline = absolute ? ns(*request) - base : begin + ns(*request);
  if (deadline <= begin) {
    empty_look(kSleep);  // sleep(0) in a loop is a spinner
    return 0;
  }
  productive();
  int error = sleep_until(deadline, kSleep);
  if (error && rest && !absolute) {
    int64_t left = deadline - now();
    *rest = ts(left > 0 ? left : 0);
  }
  return error;
}
EXPORT int nanosleep(const timespec* request, timespec* rest) {
  int error = clock_nanosleep(CLOCK_MONOTONIC, 0, request, rest);
  if (!error) return 0;
  errno = error;
  return -1;
}
EXPORT int usleep(useconds_t us) {
  timespec t = ts(us * 1000LL);
  return nanosleep(&t, nullptr);
}
EXPORT unsigned sleep(unsigned seconds) {
  timespec t = {time_t(seconds), 0}, rest = {};
  return nanosleep(&t, &rest) ? unsigned(rest.tv_sec + (rest.tv_nsec >= 500000000)) : 0;
}
