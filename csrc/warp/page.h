// page.h: the page that every process of a run maps. It holds the clock and one slot for each thread.
//
// Who writes what: the owner of a slot moves it Run -> Wait -> (Ready ->) Run; the timekeeper alone moves
// Wait or Ready -> Fired. `word` packs (generation << 8 | state), so "left by itself" and "deadline reached"
// race on one compare-and-swap. A sleeping thread waits on the low half of `word`: a late wake-up of an
// earlier generation is then only a spurious one.
#pragma once
#include <atomic>
#include <climits>
#include <cstdint>

namespace revati::warp {

constexpr uint64_t kMagic = 0x31'50'52'41'57'56'45'52;  // "REVWARP1"
constexpr int kMaxSlots = 4096;
constexpr uint32_t kWordGroups = 1024;  // words that threads wait on, by hash
constexpr int64_t kNever = INT64_MAX;  // a wait without deadline
constexpr int kWakeSignal = 61;        // blocked everywhere, unblocked only inside ppoll and epoll_pwait

enum State : uint8_t {
  kFree,
  kRun,    // may do anything
  kWait,   // waits for its deadline, or for something another thread does
  kReady,  // its wait is over; it asks for its turn (deterministic mode only)
  kFired   // told to run, not there yet
};

// How the timekeeper wakes a waiting thread, and whether it may.
enum Kind : uint32_t {
  kNone,
  kSlotOnly,    // sleeps on the slot word alone: only the timekeeper or a signal ends it
  kWord,        // sleeps on the slot word beside a user word
  kDescriptor,  // sleeps in a descriptor wait: woken by kWakeSignal
  kSpin,        // a spinner, parked
  kBlocked,     // in a plain blocking system call: only the kernel ends it
  kTimer,       // no thread: a virtual timer that belongs to process `pid`
  kRemote       // no thread here: a participant that speaks the socket protocol; `tid` is its number
};

enum Mode : uint32_t { kFreeTime, kCharged, kWall };

// The call a thread waits in, for messages and the log.
enum Call : uint32_t {
  kNoCall, kSleep, kYield, kEpoll, kPoll, kSelect, kRead, kRecv, kAccept, kWaitPid, kJoin, kSemaphore,
  kCondition, kGil, kFutex, kMutex, kSigwait, kDevice, kClockLoop, kStart, kExec, kTimerfd, kAlarm, kSocket,
  kCalls
};
constexpr const char* kCallNames[kCalls] = {
    "?",          "sleep",     "sched_yield", "epoll_wait", "poll",    "select",       "read",     "recv",
    "accept",     "waitpid",   "pthread_join", "semaphore", "condition variable", "python lock", "futex",
    "timed lock", "sigwait",   "device wait", "busy wait on the clock", "start", "exec",
    "timerfd", "alarm", "socket protocol"};

struct alignas(128) Slot {
  std::atomic<uint64_t> word;      // generation << 8 | State
  std::atomic<int64_t> deadline;   // virtual ns
  std::atomic<uint32_t> kind;
  std::atomic<uint32_t> call;
  std::atomic<uint32_t> pid, tid;  // tid 0: reserved by a parent, not yet taken by the child
  std::atomic<uint32_t> by;        // thread that reserved it: its death ends the reservation
  std::atomic<uint32_t> exiting;   // the thread's destructors have run; Run until the kernel has reaped it
  std::atomic<uint32_t> let_go;    // charged: of Python's lock; who waits for it has not been told yet
  std::atomic<uint64_t> round;     // spinners: Page::activity when the last empty round began
  std::atomic<int64_t> base, cpu;  // charged: virtual time and thread CPU time at the last wake
  std::atomic<int64_t> lump;       // charged: of `base`, modelled work that took no real time and is not published yet
  std::atomic<double> factor;      // charged: of the host, as it was then
  std::atomic<uint32_t> paused;    // charged: Revati's own work, not to be charged
  std::atomic<int64_t> born;       // virtual time of birth; with `key` the order of turns
  std::atomic<uint64_t> key;       // the same in every run: parent's key and the ordinal of the child
  std::atomic<uint64_t> children;
  std::atomic<int64_t> interval;   // timers: period in ns, 0 for one shot
  std::atomic<uint32_t> group;     // kWord: of the user word
  std::atomic<uint32_t> vouched_sends;  // kWord: Page::word_sends of the group, before
  std::atomic<uint64_t> vouched;   // kWord: `word` of a wait whose thread found the user word as it was, and so will sleep
  std::atomic<int32_t> processor;  // on which the thread began its wait; -1: not known
  std::atomic<int32_t> target;     // timers: descriptor, or minus the signal number
};

// Page::now as it was a short real time ago: what the clock said when a thread was woken that then had to wait for a
// processor.
struct Past {
  std::atomic<uint64_t> ticks;  // of the processor's counter, just after `now` was reached
  std::atomic<int64_t> now;
  std::atomic<uint32_t> number;  // of the entry, from 1, written last: another one says that it is not complete
};
constexpr uint32_t kPasts = 2048;
constexpr int64_t kPastStep = 10'000;  // ns of virtual time between two entries

constexpr size_t kProcessors = 1024;  // further ones share an entry

struct Page {
  std::atomic<uint64_t> magic;
  Mode mode;
  uint32_t serial;                 // one thread at a time, in the order (born, key)
  uint32_t spin_looks;             // empty looks that make a round
  uint32_t timekeeper;             // its pid
  int64_t base_mono, base_boot;    // clocks at virtual time 0
  std::atomic<int64_t> base_real;  // moves when the program sets the clock
  int64_t real_start;              // wall: the real monotonic clock at virtual time 0
  std::atomic<float> cpu_factor[kProcessors];  // virtual over own CPU time; moves with the pace of each processor
  int64_t timer_slack;             // charged: ns by which the kernel lets a thread's timer be late
  int64_t wake_cost;               // charged: ns from the end of a wait to the thread's first instruction
  double ns_per_tick;              // of the processor's counter; 0: it does not run at one rate
  uint64_t watch_ticks;            // so long a thread that waits for the timekeeper looks on before it sleeps
  double cold_share;               // charged: first work after a long wait takes so much longer
  alignas(128) std::atomic<int64_t> now;      // virtual ns, never goes back
  std::atomic<int64_t> skipped;               // wall: ns jumped over so far
  alignas(128) std::atomic<int32_t> running;  // hint: slots in Run or Fired
  std::atomic<int32_t> floor;                 // hint: of these, seen blocked in the kernel
  alignas(128) std::atomic<uint32_t> kick;    // futex word the timekeeper sleeps on
  std::atomic<uint32_t> asleep;               // the timekeeper does
  std::atomic<int32_t> processor;             // on which it runs
  alignas(128) std::atomic<uint64_t> activity;  // grows whenever a wait that is not a spinner's begins or ends, and with deaths
  std::atomic<uint64_t> sends;                  // grows with every operation that may wake somebody
  std::atomic<uint64_t> signals;                // of these, signals: they end waits of every kind
  std::atomic<uint32_t> word_sends[kWordGroups];  // grows before and after every wake-up on a word of the group
  alignas(128) std::atomic<int64_t> past_now;   // of the newest entry
  std::atomic<uint32_t> past_next;
  Past past[kPasts];
  alignas(128) std::atomic<uint32_t> high;      // slots [0, high) were ever used
  alignas(128) Slot slot[kMaxSlots];
};

constexpr uint64_t pack(uint64_t generation, State s) { return generation << 8 | s; }
constexpr State state_of(uint64_t word) { return State(word & 0xff); }
constexpr uint64_t generation_of(uint64_t word) { return word >> 8; }

// Moves the clock to `v`, if it is not there yet.
inline void raise_now(Page* page, int64_t v) {
  int64_t old = page->now.load();
  while (old < v && !page->now.compare_exchange_weak(old, v)) {}
  if (old >= v || page->mode != kCharged) return;
  int64_t last = page->past_now.load(std::memory_order_relaxed);
  if (v < last + kPastStep || !page->past_now.compare_exchange_strong(last, v)) return;
  uint32_t number = page->past_next.fetch_add(1) + 1;
  Past& past = page->past[number % kPasts];
  past.number = 0;
  past.ticks = __builtin_ia32_rdtsc();
  past.now = v;
  past.number = number;
}

// The half of the word that futexes compare (little endian: the low one).
inline uint32_t* futex_of(Slot* s) { return reinterpret_cast<uint32_t*>(&s->word); }
inline uint64_t mix(uint64_t a, uint64_t b) {
  uint64_t x = a * 0x9e3779b97f4a7c15ull + b + 1;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

}  // namespace revati::warp
