// spin.cpp: threads that look again and again instead of waiting (sched_yield loops, zero timeouts, EAGAIN).
//
// Page::spin_looks empty looks in a row make a round. After a round the thread parks until somebody else has
// run; the timekeeper lets it look once more before every jump. A look that comes much later than the ones
// before it was not empty: the thread found something and worked on it. A spinner that also reads the clock
// may be waiting for time itself, so it parks with a short deadline that doubles.
// Two sides that spin at each other on shared memory are not covered: see docs/time.md.
#include "shim.h"

namespace revati::warp {

static uint64_t ticks() { return __builtin_ia32_rdtsc(); }

void found_something() {
  if (self.spin.parked) page->activity++;
  self.spin.looks = 0;
  self.spin.parked = false;
  self.spin.quantum = 0;
  self.spin.round = page->activity.load();
}

static void begin_round() {
  self.spin.shortest = ~0ull >> 4;
  self.spin.reads_before = self.reads;
  self.spin.round = page->activity.load();
  self.spin.quantum = 0;
}

static void park(Call call) {
  constexpr uint64_t kFirst = 50'000, kLast = 1'000'000;
  Self::Spin& spin = self.spin;
  bool reads_clock = self.reads != spin.reads_before;
  spin.quantum = !spin.quantum ? kFirst : spin.quantum < kLast ? spin.quantum * 2 : spin.quantum;
  enter_wait(reads_clock ? page->now.load() + int64_t(spin.quantum) : kNever, kSpin, call);
  while (!fired()) sleep_on_slot();
  leave_wait();
  spin.round = page->activity.load();
  spin.looks = 0;
  spin.parked = true;
  spin.reads_before = self.reads;
  spin.last = ticks();
}

void empty_look(Call call) {
  own_slot();
  Self::Spin& spin = self.spin;
  uint64_t t = ticks(), gap = t - spin.last;
  spin.last = t;
  if (spin.looks || spin.parked) {
    if (gap > 3 * spin.shortest + 600) found_something();
    spin.shortest = gap < spin.shortest ? gap : spin.shortest + (spin.shortest >> 6) + 1;
  } else {
    begin_round();
  }
  if (++spin.looks >= page->spin_looks) park(call);
}

}  // namespace revati::warp

using namespace revati::warp;

// No real yield: beside CPU hogs it costs a time slice.
EXPORT int sched_yield() {
  if (!page) return int(ret(sys(SYS_sched_yield)));
  empty_look(kYield);
  return 0;
}
