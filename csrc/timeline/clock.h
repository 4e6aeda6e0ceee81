// Host time as the device sees it: the shim's virtual clock in a run, a process-local clock outside one.
//
// This file must never know about sockets, pages or modes: it binds to the C symbols of docs/architecture.md.
#pragma once
#include <cstdint>

namespace revati {

struct HostClock {
  /// Virtual CLOCK_MONOTONIC of this thread in ns.
  static int64_t now_ns();
  /// The same, whatever other threads have made known meanwhile: differences are this thread's own work.
  static int64_t own_ns();
  /// Blocks until `t_ns`; outside a run the process-local clock simply moves there.
  static void wait_until_ns(int64_t t_ns);
  /// Adds `ns` of modelled host work (a kernel launch, say) to this thread. Never blocks.
  static void charge_ns(int64_t ns);
  /// Takes `ns` off what will be charged to this thread from now on, until its next wait for the device.
  static void refund_ns(int64_t ns);
  /// Where modelled work takes time only by sleeping (`free`, `wall`): sleeps off what charge_ns() has gathered, once it is
  /// worth a jump of the clock. Call it after charge_ns(), without any lock.
  static void settle();
  /// Calls `wait`, which may take long, without Python's lock.
  static void without_python(void (*wait)());
  /// How that is done: `around(wait)` must call `wait`. Python's room sets it.
  static void set_without_python(void (*around)(void (*wait)()));
  /// True when the process lives in the virtual time of `revati run`.
  static bool shared();
  /// True where the host's own CPU time moves that clock (`charged`).
  static bool counts_cpu_time();
};

/// Called without Python's lock, for as long as modelled work stands for Python's: if a thread of this process waits for
/// that lock, it has it soon.
void let_python_waiter_in();

/// While alive, settle() leaves what has been charged for later; at the end it is slept off at once.
class OneLump {
 public:
  OneLump();
  ~OneLump();
  OneLump(const OneLump&) = delete;
  OneLump& operator=(const OneLump&) = delete;
};

/// While alive, this thread's CPU time is Revati's own and is not charged to the program.
class OwnWork {
 public:
  OwnWork();
  ~OwnWork();
  OwnWork(const OwnWork&) = delete;
  OwnWork& operator=(const OwnWork&) = delete;
};

/// Shared-memory words that ranks wait on and wake each other with.
bool wait_word(uint32_t* word, uint32_t value);
void wake_word(uint32_t* word);

}  // namespace revati
