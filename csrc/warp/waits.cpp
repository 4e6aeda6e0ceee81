// waits.cpp: the one way to wait. Every wait of the shim is enter_wait(), a system call, leave_wait().
//
// In deterministic mode (Page::serial) a thread whose wait ends by itself does not run on: it becomes Ready
// and the timekeeper gives it its turn once nobody else runs, in an order that is the same in every run.
#include "shim.h"

#include <algorithm>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

namespace revati::warp {

static void tell_timekeeper() {
  page->kick.fetch_add(1);
  if (page->asleep.load()) futex_wake(&page->kick, 1);
}

// The caller's slot is no longer Run. The timekeeper need only look when that was the last one.
static void stopped_running() {
  if (page->running.fetch_sub(1) - 1 <= page->floor.load()) tell_timekeeper();
}

// A thread on its way to sleep is still on its processor, and the timekeeper, which it tells that it waits, may come
// too early to see it asleep. So the thread vouches for it: the word is as it was, and whoever changes it from now on
// counts a wake-up before anybody can take the waker itself for asleep.
static void vouch(Slot* s, UserWord on) {
  uint32_t sends = page->word_sends[s->group.load(std::memory_order_relaxed) % kWordGroups].load();
  if (__atomic_load_n(on.at, __ATOMIC_SEQ_CST) != on.value) return;
  s->vouched_sends = sends;
  s->vouched = s->word.load(std::memory_order_relaxed);
}

void enter_wait(int64_t deadline, Kind kind, Call call, UserWord on) {
  Slot* s = own_slot();
  if (__builtin_expect(self.let_go, 0)) offer_python_lock(kind);
  if (page->mode == kCharged && kind == kSlotOnly) {
    self.wait_began = own_time();
  } else {
    publish();
    self.wait_began = page->now.load();
  }
  s->deadline = deadline;
  s->kind = kind;
  s->call = call;
  s->processor = own_processor();
  if (kind == kSpin) s->round = self.spin.round;
  else page->activity++;  // its plain stores are for spinners to see
  s->word.store(pack(generation_of(s->word.load(std::memory_order_relaxed)) + 1, kWait));
  if (on.at) vouch(s, on);
  stopped_running();
  // Last: what the thread waits for a processor before it sleeps must not count.
  self.delay = page->mode == kCharged && kind != kSlotOnly && kind != kSpin ? thread_delay() : Delay{};
}

// A process whose timekeeper was killed would sleep for ever.
void die_if_abandoned() {
  if (sys(SYS_kill, page->timekeeper, 0) != -ESRCH) return;
  static const char text[] = "revati: the timekeeper of this run is gone; the process ends\n";
  sys(SYS_write, 2, long(text), sizeof text - 1);
  for (;;) sys(SYS_exit_group, 70);
}

// Real seconds between two looks at the timekeeper's life.
static const timespec kPatience = {5, 0};

// The timekeeper decides within microseconds, and often this thread is the next to run: to sleep and to be woken would
// cost more than to look on. Not while anybody else runs, and not in the timekeeper's way. True: fired.
static bool watch_slot(Slot* s, uint64_t w) {
  if (!page->watch_ticks || page->asleep.load() || page->processor.load() == s->processor.load()) return false;
  for (uint64_t begin = __builtin_ia32_rdtsc(); __builtin_ia32_rdtsc() - begin < page->watch_ticks;) {
    if (s->word.load() != w) return fired();
    if (page->running.load() > page->floor.load()) return false;
    __builtin_ia32_pause();
  }
  return false;
}

void sleep_on_slot() {
  Slot* s = self.slot;
  uint64_t w = s->word.load();
  if (state_of(w) == kFired || watch_slot(s, w)) return;
  timespec t = kPatience;
  if (sys(SYS_futex, long(futex_of(s)), FUTEX_WAIT, long(uint32_t(w)), long(&t)) == -ETIMEDOUT) die_if_abandoned();
}

// The slot is Ready, and not counted as running.
static void wait_turn() {
  if (page->running.load() <= page->floor.load()) tell_timekeeper();
  while (!fired()) sleep_on_slot();
}

// The clock when the wait ended. The thread may have waited for a processor since, and others worked on meanwhile.
static int64_t ended_at(bool by_itself) {
  int64_t now = page->now.load();
  if (page->mode != kCharged || self.slot->kind.load(std::memory_order_relaxed) == kSpin) return now;
  int64_t end = now;
  if (!by_itself) {
    end = self.slot->deadline.load(std::memory_order_relaxed);
  } else if (self.delay.turns) {
    Delay delay = thread_delay();
    if (delay.turns > self.delay.turns) end = now_before(delay.ns - self.delay.ns);
  }
  return std::max(self.wait_began, std::min(end, now));
}

bool leave_wait() {
  Slot* s = self.slot;
  uint64_t w = s->word.load();
  bool by_itself = state_of(w) == kWait &&
                   s->word.compare_exchange_strong(w, pack(generation_of(w) + 1, page->serial ? kReady : kRun));
  if (by_itself && page->serial) wait_turn();
  else if (by_itself) page->running++;
  uint64_t last = s->word.load();
  if (state_of(last) == kFired) s->word.store(pack(generation_of(last) + 1, kRun));
  if (s->kind.load(std::memory_order_relaxed) != kSpin) page->activity++;
  start_charging(ended_at(by_itself));
  if (page->mode == kCharged) charge_wake(!by_itself);
  self.reads = 0;
  return !by_itself;
}

static void ask_for_turn(Call call) {
  Slot* s = self.slot;
  s->call = call;
  s->word.store(pack(generation_of(s->word.load()) + 1, kReady));
  stopped_running();
  wait_turn();
  s->word.store(pack(generation_of(s->word.load()) + 1, kRun));
  start_charging();
}

void wait_turn_at_start() {
  if (page->serial) ask_for_turn(kStart);
}

// A program without the shim runs beside its parent: whether its output is there at a look would be chance. The
// timekeeper gives no turn while such a program computes.
void give_way_to_program() {
  self.started_program = false;
  if (!page->serial) return;
  own_slot();
  publish();
  ask_for_turn(kStart);
}

int sleep_until(int64_t deadline, Call call) {
  int64_t told = page->mode == kCharged ? device_now() : now();
  return deadline <= told ? 0 : sleep_alone(deadline, call);
}

int sleep_alone(int64_t deadline, Call call) {
  enter_wait(deadline, kSlotOnly, call);
  for (;;) {
    Slot* s = self.slot;
    uint64_t w = s->word.load();
    if (state_of(w) == kFired || watch_slot(s, w)) break;
    timespec t = kPatience;
    long r = sys(SYS_futex, long(futex_of(s)), FUTEX_WAIT, long(uint32_t(w)), long(&t));
    if (r == -EINTR && !fired()) {
      return leave_wait() ? 0 : EINTR;
    }
    if (r == -ETIMEDOUT) die_if_abandoned();
  }
  leave_wait();
  return 0;
}

static bool changed(uint32_t* word, uint32_t value) { return __atomic_load_n(word, __ATOMIC_ACQUIRE) != value; }

Woken wait_on_word(uint32_t* word, uint32_t value, bool is_shared, bool private_futex, int64_t deadline, Call call) {
  productive();
  own_slot()->group = group_of(word, is_shared);
  enter_wait(deadline, kWord, call, {word, value});
  Woken why = Woken::deadline;
  for (;;) {
    Slot* s = self.slot;
    uint64_t w = s->word.load();
    if (state_of(w) == kFired) break;
    futex_waitv on[2] = {{value, uint64_t(word), uint32_t(FUTEX_32 | (private_futex ? FUTEX_PRIVATE_FLAG : 0)), 0},
                         {uint32_t(w), uint64_t(futex_of(s)), FUTEX_32, 0}};
    timespec until;
    sys(SYS_clock_gettime, CLOCK_MONOTONIC, long(&until));
    until.tv_sec += kPatience.tv_sec;
    long r = sys(SYS_futex_waitv, long(on), 2, 0, long(&until), CLOCK_MONOTONIC);
    if (r == 0 || changed(word, value)) {
      why = Woken::changed;
      break;
    }
    if (r == -EINTR && !fired()) {
      why = Woken::signal;
      break;
    }
    if (r == -ETIMEDOUT) die_if_abandoned();
  }
  leave_wait();
  return why == Woken::deadline && changed(word, value) ? Woken::changed : why;
}

Blocked::Blocked(Call call) {
  productive();
  enter_wait(kNever, kBlocked, call);
}
Blocked::~Blocked() { leave_wait(); }

}  // namespace revati::warp
