// clocks.cpp: reading and setting the clock.
//
// free:    a thread is told the clock, and one nanosecond more for each further read: programs that compute
//          "in 100 ms" from two reads must not see both at the same instant (asyncio would round 100 ms up).
// charged: the clock at the thread's last wake plus its own CPU time since, times the host factor
//          as it was at that wake. A thread that is behind what others have published is told that, and a little
//          more for each further read: no program expects time to stand while it works (libuuid gives an id twice).
// wall:    real time plus what was jumped over.
// Published time (Page::now) is the maximum of what anybody was told before a send, a wait or an exit. A sleep until a
// deadline publishes nothing: nobody can learn of it but from the clock.
#include "shim.h"

#include <sys/time.h>

namespace revati::warp {

static int64_t wall() {
  timespec t;
  NEXT(clock_gettime)(CLOCK_MONOTONIC, &t);  // without a system call
  return t.tv_sec * 1000000000LL + t.tv_nsec - page->real_start + page->skipped.load();
}

static int64_t charged() {
  Slot* s = own_slot();
  int64_t cpu = self.pauses ? self.paused_cpu : thread_cpu();
  int64_t own = cpu - s->cpu.load(std::memory_order_relaxed);
  if (own <= 0) return s->base.load(std::memory_order_relaxed);
  int64_t cold = own < self.cold ? own : self.cold;
  double work = (double(own) + double(cold) * page->cold_share) * s->factor.load(std::memory_order_relaxed);
  return s->base.load(std::memory_order_relaxed) + int64_t(work);
}

void start_charging() { start_charging(page->now.load()); }
void start_charging(int64_t base) {
  if (page->mode != kCharged) return;
  int64_t cpu = thread_cpu();
  Slot* s = self.slot;
  s->base = base;
  s->lump = 0;
  s->cpu = cpu;
  s->factor = page->cpu_factor[size_t(own_processor()) % kProcessors].load(std::memory_order_relaxed);
  self.cold = 0;
  if (self.pauses) self.paused_cpu = cpu;
}

// A jump takes no time and leaves caches warm; a real wait of this length is late and does not. Those who wait for the
// device spin in reality, and retries of a timed lock are the shim's own.
void charge_wake(bool by_timer) {
  constexpr int64_t kLongWait = 1'000'000, kColdWork = 400'000;  // ns
  Slot* s = self.slot;
  uint32_t kind = s->kind.load(std::memory_order_relaxed), call = s->call.load(std::memory_order_relaxed);
  if (kind == kSpin || call == kDevice || call == kMutex || call == kClockLoop || call == kGil) return;
  if (page->now.load() - self.wait_began >= kLongWait) self.cold = kColdWork;
  s->base += page->wake_cost + (by_timer ? page->timer_slack : 0);
}

int64_t own_time() { return page->mode == kCharged ? charged() : page->now.load(); }

// The thread slept until `end`, without a wait of the shim's: what it worked before stays counted.
void wait_out(int64_t end) {
  if (page->mode != kCharged || self.pauses || end <= charged()) return;
  int64_t cold = self.cold - (thread_cpu() - self.slot->cpu.load(std::memory_order_relaxed));
  start_charging(end + page->wake_cost);
  self.cold = cold > 0 ? cold : 0;
}

// Modelled host work is a sleep where CPU time does not count.
static void realise_pending() {
  int64_t work = self.pending;
  if (!work) return;
  self.pending = 0;
  int64_t until = page->now.load() + work;
  while (sleep_until(until, kDevice) == EINTR) {}
}

// Modelled work took no real time: were it published at once, all that others do meanwhile would seem to happen at its
// end. So the others get as far first, each by its own work.
static void let_others_catch_up() {
  constexpr int64_t kLeast = 20'000;  // ns, about what it costs to wait for them
  if (own_slot()->lump.load(std::memory_order_relaxed) < kLeast) return;
  int64_t until = charged();
  self.slot->lump = 0;
  while (page->now.load() < until && sleep_alone(until, kDevice) == EINTR) {}
}

void publish() {
  if (__builtin_expect(self.pending != 0, 0)) realise_pending();
  if (page->mode == kFreeTime) {
    raise_now(page, self.last_read);
  } else if (page->mode == kCharged) {
    let_others_catch_up();
    int64_t own = charged();
    raise_now(page, own > self.last_read ? own : self.last_read);
  } else {
    raise_now(page, wall());
  }
}
void publish_send() {
  publish();
  page->sends.fetch_add(1);
}
void publish_word_send(const void* word, bool is_shared) {
  publish_send();
  count_word_send(word, is_shared);
}
void count_word_send(const void* word, bool is_shared) { page->word_sends[group_of(word, is_shared)].fetch_add(1); }

static int64_t charged_read(int64_t published) {
  constexpr int64_t kLeastStep = 150;  // ns; real programs take longer from one read to the next
  int64_t own = charged();
  raise_now(page, own - self.slot->lump.load(std::memory_order_relaxed));
  int64_t told = own;
  if (own < published) {
    int64_t next = self.last_read + kLeastStep;
    told = published < next ? next : published;  // published in its turn before anybody can learn of it
  }
  self.read_before = self.last_read;
  return self.last_read = told > self.last_read ? told : self.last_read;
}

int64_t now() {
  if (__builtin_expect(self.pending != 0, 0)) realise_pending();
  int64_t v = page->now.load();
  if (page->mode == kFreeTime) {
    self.read_before = self.last_read;
    return self.last_read = v > self.last_read ? v : self.last_read + 1;
  }
  if (page->mode == kCharged) return charged_read(v);
  int64_t own = wall();
  raise_now(page, own);
  return own > v ? own : v;
}

// What a launch is stamped with: modelled work counts but is not slept off, so that launching stays cheap.
int64_t device_now() {
  int64_t v = page->now.load();
  int64_t own = page->mode == kFreeTime ? self.last_read : page->mode == kCharged ? charged() : wall();
  return (own > v ? own : v) + self.pending;
}

int64_t base_of(clockid_t clock) {
  switch (clock) {
    case CLOCK_REALTIME: case CLOCK_REALTIME_COARSE: case CLOCK_TAI: case CLOCK_REALTIME_ALARM:
      return page->base_real.load(std::memory_order_relaxed);
    case CLOCK_MONOTONIC: case CLOCK_MONOTONIC_COARSE: case CLOCK_MONOTONIC_RAW: return page->base_mono;
    case CLOCK_BOOTTIME: case CLOCK_BOOTTIME_ALARM: return page->base_boot;
    default: return -1;  // CPU-time clocks stay real
  }
}

constexpr uint32_t kReadWeight = 64;  // of a read in Self::reads; of one for Python's locks: 1

// Where computing costs nothing a busy wait on the clock would never end: many reads are a short sleep.
static int64_t read_clock() {
  constexpr uint32_t kMany = 20000 * kReadWeight, kFurther = 200 * kReadWeight;
  constexpr int64_t kNap = 100000;
  self.reads += kReadWeight;
  if (page->mode == kFreeTime && __builtin_expect(self.reads > kMany, 0)) {
    sleep_until(page->now.load() + kNap, kClockLoop);
    self.reads = kMany - kFurther;
  }
  return now();
}

void undo_read() {
  self.last_read = self.read_before;
  if (self.reads >= kReadWeight) self.reads -= kReadWeight - 1;
}

}  // namespace revati::warp

using namespace revati::warp;

EXPORT int clock_gettime(clockid_t clock, timespec* t) {
  int64_t base;
  if (!page || (base = base_of(clock)) < 0) return int(ret(sys(SYS_clock_gettime, clock, long(t))));
  *t = ts(base + read_clock());
  return 0;
}
EXPORT int gettimeofday(timeval* tv, void*) {
  timespec t;
  clock_gettime(CLOCK_REALTIME, &t);
  *tv = {t.tv_sec, t.tv_nsec / 1000};
  return 0;
}
EXPORT time_t time(time_t* out) {
  timespec t;
  clock_gettime(CLOCK_REALTIME, &t);
  if (out) *out = t.tv_sec;
  return t.tv_sec;
}
EXPORT int timespec_get(timespec* t, int base) {
  if (base != TIME_UTC) return 0;
  clock_gettime(CLOCK_REALTIME, t);
  return base;
}

// Setting the clock moves the run's wall clock only; waits already begun keep their deadlines.
EXPORT int clock_settime(clockid_t clock, const timespec* t) {
  if (!page) return int(ret(sys(SYS_clock_settime, clock, long(t))));
  if (clock != CLOCK_REALTIME || !valid(*t)) {
    errno = EINVAL;
    return -1;
  }
  page->base_real = ns(*t) - now();
  return 0;
}
EXPORT int settimeofday(const timeval* tv, const struct timezone*) {
  timespec t = {tv->tv_sec, tv->tv_usec * 1000};
  return clock_settime(CLOCK_REALTIME, &t);
}
