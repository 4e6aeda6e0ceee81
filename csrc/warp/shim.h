// shim.h: what the files of the preload shim share.
//
// Rules every one of them obeys:
//  - no torch, no Python, no libstdc++ at run time, no malloc on a wait path;
//  - own waits are raw system calls, so that errno and interposed symbols are never touched by accident;
//  - a thread that may run has state Run *before* it can do anything that another thread can see;
//  - without REVATI_CLOCK in the environment every call passes through.
#pragma once
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "page.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define EXPORT extern "C" __attribute__((visibility("default")))
// The next definition of `name`, looked up once.
#define NEXT(name)                                                            \
  ([] {                                                                       \
    static auto next = reinterpret_cast<decltype(&::name)>(dlsym(RTLD_NEXT, #name)); \
    return next;                                                              \
  }())

namespace revati::warp {

inline long sys(long n, long a = 0, long b = 0, long c = 0, long d = 0, long e = 0, long f = 0) {
  long r;
  register long r10 asm("r10") = d;
  register long r8 asm("r8") = e;
  register long r9 asm("r9") = f;
  asm volatile("syscall" : "=a"(r) : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
               : "rcx", "r11", "memory");
  return r;
}
// A raw result in the manner of libc.
inline long ret(long r) {
  if (r < 0 && r > -4096) {
    errno = int(-r);
    return -1;
  }
  return r;
}
inline bool valid(const timespec& t) { return t.tv_sec >= 0 && t.tv_nsec >= 0 && t.tv_nsec < 1000000000; }
// Saturates: programs say "for ever" with the largest number that fits.
inline int64_t ns(const timespec& t) {
  return t.tv_sec > 4000000000 ? kNever / 2 : t.tv_sec * 1000000000LL + t.tv_nsec;
}
inline timespec ts(int64_t n) { return {time_t(n / 1000000000), long(n % 1000000000)}; }
inline void futex_wake(void* word, int n, int flag = 0) { sys(SYS_futex, long(word), FUTEX_WAKE | flag, n); }
// What a file of /proc says, as a string; false: nothing.
template <size_t N>
inline bool read_proc(const char* path, char (&text)[N]) {
  long fd = sys(SYS_openat, AT_FDCWD, long(path), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  long n = sys(SYS_read, fd, long(text), N - 1);
  sys(SYS_close, fd);
  text[n > 0 ? n : 0] = 0;
  return n > 0;
}
int64_t thread_cpu();     // cputime.cpp: ns
int32_t own_processor();  // -1: not known

// delay.cpp: how long this thread was runnable and waited for a processor
struct Delay {
  int64_t ns;      // in its whole life
  uint64_t turns;  // that it was given
};
Delay thread_delay();               // turns 0: not known
int64_t now_before(int64_t delay_ns);  // what the clock said so long ago in real time; not less than was true

// What one thread knows about itself.
struct Self {
  Slot* slot;
  int64_t last_read;   // free, charged: the newest time this thread was told
  int64_t read_before; // the one before it
  int64_t pending;     // modelled host work that has not been realised yet
  int64_t paused_cpu;  // thread CPU time when Revati's own work began
  int64_t wait_began;  // charged
  Delay delay;         // charged: at the beginning of the wait
  int64_t cold;        // charged: this much CPU time from the last wake runs on cold caches
  uint32_t pauses;
  uint32_t reads;      // clock reads since the last wait, weighted (clocks.cpp)
  bool let_go;         // charged: of Python's lock, for which somebody waits, and has not taken it again
  volatile int woken;  // set by the handler of kWakeSignal
  bool forks;            // in fork(): `child` and `child_word` are its child's slot, once that is reserved
  Slot* child;
  uint64_t child_word;
  bool started_program;  // serial: gives its turn away before it looks what came of that
  struct Stretch {
    uint64_t begin_ticks;  // 0: none
    int64_t cpu_ns;        // thread CPU time at its beginning
  } stretch;
  struct Spin {
    uint32_t looks, reads_before;
    bool parked;       // parked at least once since the last success
    uint64_t round, last, shortest, quantum;
  } spin;
};
extern Page* page;  // null: not in a run
extern __thread Self self __attribute__((tls_model("initial-exec")));

// slots.cpp: life of a slot
Slot* reserve_slot();                                 // for a child that does not exist yet
void return_slot(Slot* s, uint64_t word);             // the child never came to be
void take_slot(Slot* s, uint64_t word);               // by the child; `word` as after reserve_slot()
void take_new_slot();
inline Slot* own_slot() {
  if (__builtin_expect(!self.slot, 0)) take_new_slot();
  return self.slot;
}

// The group of a word (Page::word_sends). Several processes see a shared one at different addresses, but at the same
// place of a page of memory.
inline uint32_t group_of(const void* word, bool is_shared) {
  uint64_t address = reinterpret_cast<uint64_t>(word);
  if (is_shared) return uint32_t(mix(0, address % 4096) % kWordGroups);
  return uint32_t(mix(own_slot()->pid.load(std::memory_order_relaxed), address) % kWordGroups);
}

// waits.cpp: the one way to wait
struct UserWord {
  uint32_t* at;
  uint32_t value;  // for as long as which the wait lasts
};
void enter_wait(int64_t deadline, Kind kind, Call call, UserWord on = {});
bool leave_wait();                                    // true: the timekeeper fired it
inline bool fired() { return state_of(self.slot->word.load()) == kFired; }
void sleep_on_slot();                                 // until fired, a signal handler ran, or spuriously
int sleep_until(int64_t deadline, Call call);         // 0, or EINTR when a signal handler ran
int sleep_alone(int64_t deadline, Call call);         // the same, whatever this thread's own time is
enum class Woken { changed, deadline, timeout, signal };
// `is_shared`: as its wakers say to publish_word_send(); `private_futex`: as they say to the kernel.
Woken wait_on_word(uint32_t* word, uint32_t value, bool is_shared, bool private_futex, int64_t deadline, Call call);
void wait_turn_at_start();                            // deterministic mode: a new thread asks for its turn
void give_way_to_program();
inline void before_look() {                           // before every look at what others have sent
  if (__builtin_expect(self.started_program, 0)) give_way_to_program();
}
void die_if_abandoned();                              // ends the process when the timekeeper is gone
struct Blocked {                                      // marks a plain blocking call
  explicit Blocked(Call call);
  ~Blocked();
};

// clocks.cpp
int64_t now();                                        // virtual ns, this thread's own work included
int64_t device_now();                                 // the same; modelled work stays unrealised and unpublished
void undo_read();                                     // the program was not told the last one: its lock was
int64_t base_of(clockid_t clock);                     // its value at virtual time 0; -1: stays real
void publish();                                       // before anything another thread can see
void publish_send();
void publish_word_send(const void* word, bool is_shared);
void count_word_send(const void* word, bool is_shared);  // after the wake-up, as publish_word_send() does before
void start_charging(int64_t base);
void start_charging();                                // this thread begins a stretch of work at the clock's time
int64_t own_time();                                   // what publish() would make known
void wait_out(int64_t end);                           // charged: this thread has slept until then
void charge_wake(bool by_timer);                      // what it costs a thread to be woken; after start_charging()

// python_lock.cpp
bool called_from_python(void* caller);                // whether the interpreter's own code is at this address
void offer_python_lock(Kind wait);                    // this thread has let go of it, and waits

// spin.cpp
void empty_look(Call call);                           // a non-blocking look found nothing
void found_something();
inline void productive() {
  self.reads = 0;
  if (self.spin.looks | self.spin.parked) found_something();
}

void publish_signal(pid_t process);                    // signals.cpp: 0 or less: to one that is not known

void forget_timerfd(int fd);                          // timers.cpp: the descriptor is being closed
}  // namespace revati::warp
