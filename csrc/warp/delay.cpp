// delay.cpp: the clock at the moment a thread was woken.
//
// On a crowded machine a woken thread waits for a processor while others, its waker among them, work on. It works from
// the time at which it was woken, or their work would count as if it had waited for it.
#include "shim.h"

namespace revati::warp {

Delay thread_delay() {
  char text[96];
  if (!read_proc("/proc/thread-self/schedstat", text)) return {};
  uint64_t field[3] = {};
  int at = 0;
  for (long i = 0; text[i] && at < 3; i++) {
    if (text[i] >= '0' && text[i] <= '9') field[at] = 10 * field[at] + uint64_t(text[i] - '0');
    else at++;
  }
  return {int64_t(field[1]), field[2]};
}

int64_t now_before(int64_t delay_ns) {
  int64_t now = page->now.load();
  if (delay_ns <= 0 || page->ns_per_tick <= 0) return now;
  uint64_t woken = __builtin_ia32_rdtsc() - uint64_t(double(delay_ns) / page->ns_per_tick);
  uint32_t newest = page->past_next.load();
  for (uint32_t i = 0; i < kPasts && i < newest; i++) {
    const Past& past = page->past[(newest - i) % kPasts];
    if (past.number.load() != newest - i || past.ticks.load() > woken) continue;
    return i == 0 ? now : past.now.load() + kPastStep;
  }
  return now;
}

}  // namespace revati::warp
