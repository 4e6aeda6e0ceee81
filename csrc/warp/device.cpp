// device.cpp: the C interface that the virtual device looks up with dlsym() (docs/architecture.md).
#include "shim.h"

#include <algorithm>

using namespace revati::warp;

EXPORT int revati_warp_active() { return page != nullptr; }

EXPORT int64_t revati_warp_now_ns() {
  if (page) return page->base_mono + device_now();
  timespec t;
  sys(SYS_clock_gettime, CLOCK_MONOTONIC, long(&t));
  return ns(t);
}

EXPORT int64_t revati_warp_own_ns() {
  if (!page) return revati_warp_now_ns();
  return page->base_mono + (page->mode == kCharged ? own_time() + self.pending : device_now());
}

EXPORT void revati_warp_wait_until_ns(int64_t t) {
  if (!page) {
    timespec at = ts(t);
    while (sys(SYS_clock_nanosleep, CLOCK_MONOTONIC, TIMER_ABSTIME, long(&at), 0) == -EINTR) {}
    return;
  }
  productive();
  int64_t until = std::max(t - page->base_mono, device_now());  // modelled work is slept off along with the wait
  self.pending = 0;
  while (sleep_until(until, kDevice) == EINTR) {}
}

EXPORT void revati_warp_charge_ns(int64_t ns) {
  if (!page || ns <= 0) return;
  if (page->mode == kCharged) {
    Slot* s = own_slot();
    s->lump += ns;  // first: the timekeeper reads them the other way round
    s->base += ns;
  } else {
    self.pending += ns;
  }
}

EXPORT int revati_warp_sleeps_off_charges() { return page && page->mode != kCharged; }

EXPORT void revati_warp_pause() {
  if (!page || self.pauses++ || page->mode != kCharged) return;
  own_slot();
  self.slot->paused = 1;
  self.paused_cpu = thread_cpu();
}

EXPORT void revati_warp_resume() {
  if (!page || !self.pauses || --self.pauses || page->mode != kCharged) return;
  own_slot()->cpu += thread_cpu() - self.paused_cpu;
  self.slot->paused = 0;
}

EXPORT int revati_warp_wait_word(uint32_t* word, uint32_t value) {
  while (__atomic_load_n(word, __ATOMIC_ACQUIRE) == value) {
    if (page) wait_on_word(word, value, true, false, kNever, kDevice);
    else sys(SYS_futex, long(word), FUTEX_WAIT, value);
  }
  return 0;
}

EXPORT void revati_warp_wake_word(uint32_t* word) {
  if (page) publish_word_send(word, true);
  futex_wake(word, INT_MAX);
  if (page) count_word_send(word, true);
}

EXPORT int revati_warp_await_word(uint32_t* word, uint32_t value, int64_t timeout_ns) {
  if (__atomic_load_n(word, __ATOMIC_ACQUIRE) != value) return 0;
  if (!page) {
    timespec timeout = ts(timeout_ns);
    long r = sys(SYS_futex, long(word), FUTEX_WAIT, value, timeout_ns < 0 ? 0 : long(&timeout));
    return r == -ETIMEDOUT || r == -EINTR ? int(-r) : 0;
  }
  int64_t deadline = timeout_ns < 0 ? kNever : now() + timeout_ns;
  switch (wait_on_word(word, value, true, false, deadline, kDevice)) {
    case Woken::deadline: return ETIMEDOUT;
    case Woken::signal: return EINTR;
    default: return 0;
  }
}

EXPORT void revati_warp_bump_word(uint32_t* word) {
  if (page) publish_word_send(word, true);
  __atomic_fetch_add(word, 1, __ATOMIC_RELEASE);
  futex_wake(word, INT_MAX);
  if (page) count_word_send(word, true);
}
