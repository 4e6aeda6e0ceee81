#include "timeline/clock.h"

#include <dlfcn.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <climits>
#include <ctime>
#include <utility>

namespace revati {
namespace {

struct Shim {
  int (*active)() = nullptr;
  int64_t (*now)() = nullptr;
  int64_t (*own)() = nullptr;
  void (*wait_until)(int64_t) = nullptr;
  void (*charge)(int64_t) = nullptr;
  int (*sleeps_off_charges)() = nullptr;
  void (*pause)() = nullptr;
  void (*resume)() = nullptr;
  int (*wait_word)(uint32_t*, uint32_t) = nullptr;
  void (*wake_word)(uint32_t*) = nullptr;
  void (*let_python_waiter_in)() = nullptr;
  bool on = false;

  Shim() {
    bind(active, "revati_warp_active");
    bind(now, "revati_warp_now_ns");
    bind(own, "revati_warp_own_ns");
    bind(wait_until, "revati_warp_wait_until_ns");
    bind(charge, "revati_warp_charge_ns");
    bind(sleeps_off_charges, "revati_warp_sleeps_off_charges");
    bind(pause, "revati_warp_pause");
    bind(resume, "revati_warp_resume");
    bind(wait_word, "revati_warp_wait_word");
    bind(wake_word, "revati_warp_wake_word");
    bind(let_python_waiter_in, "revati_warp_let_python_waiter_in");
    on = active && now && own && wait_until && charge && sleeps_off_charges && pause && resume && wait_word && wake_word &&
         let_python_waiter_in && active();
  }
  template <class F>
  static void bind(F& f, const char* name) {
    f = reinterpret_cast<F>(dlsym(RTLD_DEFAULT, name));
  }
};

const Shim& shim() {
  static const Shim s;
  return s;
}

std::atomic<int64_t>& local_now() {
  static std::atomic<int64_t> t{[] {
    timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return int64_t(ts.tv_sec) * 1000000000 + ts.tv_nsec;
  }()};
  return t;
}

// Launch costs take effect in lumps: realising each of them would be a jump of the clock each.
constexpr int64_t kLump_ns = 100000;
thread_local int64_t lead_ns = 0;
thread_local int lumps = 0;  // alive

void (*around_wait)(void (*)()) = [](void (*wait)()) { wait(); };

}  // namespace

bool HostClock::shared() { return shim().on; }

bool HostClock::counts_cpu_time() { return shim().on && !shim().sleeps_off_charges(); }

int64_t HostClock::now_ns() { return shim().on ? shim().now() + lead_ns : local_now().load(std::memory_order_relaxed); }

int64_t HostClock::own_ns() { return shim().on ? shim().own() + lead_ns : now_ns(); }

void HostClock::wait_until_ns(int64_t t_ns) {
  if (shim().on) {
    int64_t due = std::max(t_ns, shim().now() + lead_ns);
    lead_ns = 0;
    return shim().wait_until(due);
  }
  int64_t old = local_now().load();
  while (old < t_ns && !local_now().compare_exchange_weak(old, t_ns)) {
  }
}

void HostClock::charge_ns(int64_t ns) {
  if (shim().on) {
    if ((lead_ns += ns) >= kLump_ns && !shim().sleeps_off_charges()) shim().charge(std::exchange(lead_ns, 0));
    return;
  }
  local_now().fetch_add(ns, std::memory_order_relaxed);
}

void HostClock::refund_ns(int64_t ns) {
  if (counts_cpu_time()) lead_ns -= ns;
}

// The shim could sleep by itself at the next clock read or send, but then often with Python's lock held: other threads
// of the process would miss their turns, and how many of them would be a matter of real time.
void HostClock::settle() {
  if (lead_ns >= kLump_ns && !lumps && shim().on && shim().sleeps_off_charges()) without_python([] { wait_until_ns(0); });
}

void HostClock::without_python(void (*wait)()) { around_wait(wait); }

void HostClock::set_without_python(void (*around)(void (*wait)())) { around_wait = around; }

void let_python_waiter_in() {
  if (HostClock::counts_cpu_time()) shim().let_python_waiter_in();
}

OneLump::OneLump() { lumps++; }
OneLump::~OneLump() {
  lumps--;
  HostClock::settle();
}

OwnWork::OwnWork() {
  if (shim().on) shim().pause();
}
OwnWork::~OwnWork() {
  if (shim().on) shim().resume();
}

bool wait_word(uint32_t* word, uint32_t value) {
  if (shim().on) return shim().wait_word(word, value) == 0;
  timespec slice{0, 100000000};
  syscall(SYS_futex, word, FUTEX_WAIT, value, &slice, nullptr, 0);
  return __atomic_load_n(word, __ATOMIC_ACQUIRE) != value;
}

void wake_word(uint32_t* word) {
  if (shim().on) return shim().wake_word(word);
  syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

}  // namespace revati
