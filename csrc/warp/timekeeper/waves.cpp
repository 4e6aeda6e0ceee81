// waves.cpp: the two waves, and the order in which threads run.
#include "waves.h"

#include <algorithm>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

namespace revati::warp {

static bool runs(State s) { return s == kRun || s == kFired; }

Waves::Waves(Page* page, const Options& options, EventLog* log, Remote* remote)
    : page_(page), naive_(options.naive), log_(log), remote_(remote), oracle_(kMaxSlots) {}

int64_t Waves::now() const {
  if (page_->mode != kWall) return page_->now;
  return std::max<int64_t>(page_->now, real_now() - page_->real_start + page_->skipped);
}

void Waves::bury(int i) {
  Slot& s = page_->slot[i];
  uint64_t w = s.word;
  if (state_of(w) == kFree) return;
  if (log_) log_->thread("gone", page_->now, s);
  s.tid = s.by = s.pid = 0;
  if (s.word.compare_exchange_strong(w, pack(generation_of(w) + 1, kFree)) && runs(state_of(w))) page_->running--;
  page_->activity++;
  oracle_.forget(i);
  proved_signals_ = ~0ull;  // its parent gets a signal
  counters.deaths++;
}

// Waits for the timekeeper and for nothing else.
static bool waits_for_us(const Slot& s, uint64_t word) {
  State st = state_of(word);
  return st == kReady || (st == kWait && (s.kind == kSlotOnly || s.kind == kSpin));
}

static bool in_kernel(const Slot& s) { return s.kind == kDescriptor || s.kind == kBlocked; }

bool Waves::trusted(const Seen& e) {
  const Slot& s = page_->slot[e.index];
  if (waits_for_us(s, e.word)) return true;
  if (state_of(e.word) != kWait || s.kind != kWord) return false;
  if (s.vouched == e.word && s.vouched_sends == e.group_sends) return true;
  const Proof& p = proofs_[size_t(e.index)];
  return p.word == e.word && p.group_sends == e.group_sends;
}

bool Waves::sleeps_as_proved(const Seen& e) {
  const Slot& s = page_->slot[e.index];
  const Proof& p = proofs_[size_t(e.index)];
  return state_of(e.word) == kWait && in_kernel(s) && p.word == e.word &&
         oracle_.still_sleeps(e.index, s.pid, s.tid, p.runs);
}

// A thread shows as dead a moment before its parent is woken. Both happen under the kernel's lock of the task
// list, which a look for children takes too: when it returns, the parent shows as runnable.
static void settle_deaths() {
  siginfo_t info;
  waitid(P_ALL, 0, &info, WNOHANG | WNOWAIT | WEXITED);
}

// Has been through exec, and the shim never started in the new image.
static bool uncovered(const Slot& s) { return s.call == kExec && state_of(s.word) == kRun; }

void Waves::tell_uncovered(const Slot& s) {
  char path[64], name[256];
  snprintf(path, sizeof path, "/proc/%u/exe", s.pid.load());
  ssize_t n = readlink(path, name, sizeof name - 1);
  if (n <= 0 || !told_.insert(std::string(name, size_t(n))).second) return;
  name[n] = 0;
  fprintf(stderr, "revati: %s (pid %u) is statically linked, privileged or without the shim: its waits take real time, "
                  "and virtual time does not wait for them\n", name, s.pid.load());
}

Verdict Waves::check() {
  counters.checks++;
  auto state = [&](int i) {
    const Slot& s = page_->slot[i];
    if (uncovered(s)) return process_state(s.pid);
    State st = state_of(s.word);
    bool in_futex = st == kReady || (st == kWait && (s.kind == kWord || s.kind == kSlotOnly || s.kind == kSpin));
    return oracle_.state(i, s.pid, s.tid, in_futex);
  };
  auto run_count = [&](int i) { return oracle_.run_count(i, page_->slot[i].pid, page_->slot[i].tid); };
  auto busy = [&](int i) {
    if (i != last_busy_) runner_cpu_ = -1;
    last_busy_ = i;
    return Verdict::busy;
  };
  if (last_busy_ >= 0) {  // most often the same thread still runs
    Slot& s = page_->slot[last_busy_];
    if (runs(state_of(s.word)) && s.tid && state(last_busy_) == 'R') return Verdict::busy;
  }
  uint64_t sends = page_->sends;
  uint32_t high = page_->high;
  int outside = 0, threads = 0;
  bool remote_runs = false, died = false, alarm = false;
  seen_.clear();
  for (int i = 0; i < int(high); i++) {  // wave 1
    Slot& s = page_->slot[i];
    uint64_t w = s.word;
    State st = state_of(w);
    if (st == kFree) continue;
    if (s.kind == kTimer && st == kWait) {
      alarm |= s.target < 0;  // a signal would not end the wait of a thread that is not asleep yet
      seen_.push_back({i, w});
      continue;
    }
    threads++;
    if (s.kind == kRemote) {  // it says itself when it waits; its connection ends it
      if (st == kWait) seen_.push_back({i, w});
      else remote_runs = true;
      continue;
    }
    if (st == kWait || st == kReady) {
      seen_.push_back({i, w});
      continue;
    }
    if (!s.tid) {  // a child on its way, unless its parent died before it could make it
      if (s.by && kill(pid_t(s.by.load()), 0) != 0) bury(i);
      return busy(-1);
    }
    uint64_t runs_before = run_count(i);  // first: a thread that wakes between the two looks has another one
    char c = state(i);
    if (c == 'X') {
      bury(i);
      died = true;
      continue;
    }
    if (c != 'S' || st == kFired) return busy(i);
    if (s.exiting || s.let_go) return busy(-1);  // a joiner, or who waits for Python's lock, is about to wake
    if (uncovered(s)) tell_uncovered(s);
    seen_.push_back({i, w, runs_before});
    outside++;
  }
  if (died) {
    settle_deaths();
    return Verdict::again;
  }
  if (!threads) return Verdict::empty;
  if (naive_ && !outside) return Verdict::quiet;
  page_->floor = outside;
  constexpr int64_t kTrust = 100'000'000;  // a killed process says nothing
  uint64_t signals = page_->signals;
  int64_t real = real_now();
  bool trust = !alarm && signals == proved_signals_ && real - proved_at_ < kTrust;
  for (auto& e : seen_) {  // wave 2
    Slot& s = page_->slot[e.index];
    if (s.kind == kTimer || s.kind == kRemote) continue;
    bool waits = state_of(e.word) == kWait;
    if (waits && s.kind == kWord) e.group_sends = page_->word_sends[s.group % kWordGroups];
    if (trust && trusted(e)) continue;
    if (state_of(e.word) != kRun && oracle_.surely_sleeps(e.index, s.pid, s.tid)) continue;
    if (trust && sleeps_as_proved(e)) continue;
    if (waits && in_kernel(s)) e.runs = run_count(e.index);
    char c = state(e.index);
    bool in_our_way = s.processor == sched_getcpu();
    for (int i = 0; c == 'R' && !in_our_way && i < 20 && s.word == e.word && state_of(e.word) != kRun; i++) c = state(e.index);
    if (c == 'X') {
      bury(e.index);
      settle_deaths();
      return Verdict::again;
    }
    if (c != 'S' || s.word != e.word) {
      counters.vetoes++;
      return busy(e.index);
    }
    if (state_of(e.word) == kRun && run_count(e.index) != e.runs) {
      counters.vetoes++;
      return Verdict::again;
    }
  }
  for (auto& e : seen_)
    if (page_->slot[e.index].word != e.word) {
      counters.vetoes++;
      return Verdict::again;
    }
  // A signal handler may send from inside a wait without leaving it.
  if (page_->high != high || page_->sends != sends) return Verdict::again;
  if (!remote_runs && page_->running != outside) page_->running = outside;  // a thread killed between two steps left it wrong
  for (auto& e : seen_) {
    Proof& p = proofs_[size_t(e.index)];
    bool known = p.word == e.word && e.runs == kNotAsked;
    p = {e.word, known ? p.runs : e.runs, e.group_sends};
  }
  proved_signals_ = signals;
  if (!trust) proved_at_ = real;
  last_busy_ = -1;
  if (remote_runs) {  // the clock must stand, but threads here may have their turns
    if (page_->serial) give_turn();
    return Verdict::busy;
  }
  return Verdict::quiet;
}

bool Waves::before(int a, int b) const {
  const Slot &x = page_->slot[a], &y = page_->slot[b];
  if (x.born != y.born) return x.born < y.born;
  return x.key < y.key;
}

// Makes a virtual timer go off in its process.
bool Waves::fire_timer(int i, uint64_t word) {
  Slot& s = page_->slot[i];
  int32_t target = s.target;
  uint32_t pid = s.pid;
  int64_t interval = s.interval, deadline = s.deadline;
  if (interval > 0) s.deadline = deadline + interval;
  else if (!s.word.compare_exchange_strong(word, pack(generation_of(word) + 1, kFree))) return false;
  counters.wakes++;
  proved_signals_ = ~0ull;
  if (target < 0) {
    if (kill(pid_t(pid), -target) != 0) bury(i);
    return true;
  }
  int process = int(syscall(SYS_pidfd_open, pid, 0));
  int fd = process < 0 ? -1 : int(syscall(SYS_pidfd_getfd, process, target, 0));
  itimerspec at_once = {{0, 0}, {0, 1}};
  bool armed = fd >= 0 && timerfd_settime(fd, 0, &at_once, nullptr) == 0;
  if (armed) {  // the reader must be runnable before anybody looks
    pollfd p = {fd, POLLIN, 0};
    poll(&p, 1, 100);
  } else {
    bury(i);
  }
  if (fd >= 0) close(fd);
  if (process >= 0) close(process);
  return true;
}

bool Waves::fire(int i, uint64_t w, const char* event) {
  Slot& s = page_->slot[i];
  if (log_) log_->thread(event, page_->now, s);
  if (s.kind == kTimer) return fire_timer(i, w);
  bool descriptor = state_of(w) == kWait && s.kind == kDescriptor;
  page_->running++;
  if (!s.word.compare_exchange_strong(w, pack(generation_of(w), kFired))) {
    page_->running--;
    return false;
  }
  if (s.kind == kRemote) {
    remote_->fired(i);
    return true;
  }
  if (descriptor) syscall(SYS_tgkill, s.pid.load(), s.tid.load(), kWakeSignal);
  else syscall(SYS_futex, futex_of(&s), FUTEX_WAKE, 1, nullptr, nullptr, 0);
  last_busy_ = i;
  runner_cpu_ = -1;
  last_grant_ = real_now();
  return true;
}

// Ready threads run in rounds: all of a round have had their turn before a thread has its second.
bool Waves::give_turn() {
  while (!turns_.empty()) {
    Seen e = turns_.back();
    turns_.pop_back();
    if (page_->slot[e.index].word == e.word && fire(e.index, e.word, "turn")) {
      counters.turns++;
      return true;
    }
  }
  for (int i = 0; i < int(page_->high); i++) {
    uint64_t w = page_->slot[i].word;
    if (state_of(w) == kReady) turns_.push_back({i, w});
  }
  if (turns_.empty()) return false;
  std::sort(turns_.begin(), turns_.end(), [&](auto& a, auto& b) { return before(b.index, a.index); });
  return give_turn();
}

// Before every jump each spinner may look once more, if anybody has run since its last round.
bool Waves::look_around() {
  uint64_t activity = page_->activity;
  bool any = false;
  int first = -1;
  uint64_t first_word = 0;
  for (auto& e : seen_) {
    Slot& s = page_->slot[e.index];
    if (state_of(e.word) != kWait || s.kind != kSpin || s.round == activity) continue;
    if (page_->serial) {
      if (first >= 0 && before(first, e.index)) continue;
      first = e.index;
      first_word = e.word;
    } else if (fire(e.index, e.word, "look")) {
      any = true;
      counters.spins++;
    }
  }
  if (first >= 0 && fire(first, first_word, "look")) {
    any = true;
    counters.spins++;
  }
  return any;
}

void Waves::jump_to(int64_t deadline) {
  int64_t from = now();
  if (deadline <= from) {
    raise_now(page_, from);
    return;
  }
  if (page_->mode == kWall) page_->skipped += deadline - from;
  raise_now(page_, deadline);
  counters.jumps++;
  if (log_) log_->jump(from, deadline);
}

bool Waves::advance() {
  if (page_->serial && give_turn()) return true;
  if (look_around()) return true;
  int best = -1;
  uint64_t best_word = 0;
  for (auto& e : seen_) {
    const Slot& s = page_->slot[e.index];
    if (state_of(e.word) != kWait || s.deadline == kNever || s.kind == kBlocked) continue;
    if (best >= 0 && page_->slot[best].deadline < s.deadline) continue;
    if (best >= 0 && page_->slot[best].deadline == s.deadline && before(best, e.index)) continue;
    best = e.index;
    best_word = e.word;
  }
  if (best < 0) return false;
  jump_to(page_->slot[best].deadline);
  if (page_->serial) {
    fire(best, best_word, "wake");
    counters.wakes++;
    return true;
  }
  for (auto& e : seen_) {
    const Slot& s = page_->slot[e.index];
    if (state_of(e.word) != kWait || s.kind == kBlocked || s.deadline > page_->now) continue;
    if (fire(e.index, e.word, "wake")) counters.wakes++;
  }
  return true;
}

void Waves::tick() {
  if (page_->mode == kFreeTime) return;
  if (page_->mode == kCharged) {
    for (int i = 0; i < int(page_->high); i++) {  // those who compute, as fresh as the kernel's last look
      Slot& s = page_->slot[i];
      uint64_t w = s.word;
      if (state_of(w) != kRun || !s.tid || !s.cpu || s.paused) continue;
      int64_t base = s.base, lump = s.lump, cpu = s.cpu, used = oracle_.cpu_ns(i, s.pid, s.tid);
      if (used < cpu || s.word != w || s.paused || s.base != base || s.cpu != cpu) continue;  // not a pair any more
      raise_now(page_, base - lump + int64_t(double(used - cpu) * s.factor));
    }
  }
  int64_t v = now();
  for (int i = 0; i < int(page_->high); i++) {
    Slot& s = page_->slot[i];
    uint64_t w = s.word;
    if (state_of(w) != kWait || s.kind == kBlocked || s.deadline > v) continue;
    raise_now(page_, v);
    if (fire(i, w, "wake")) counters.wakes++;
  }
}

void Waves::relieve() {
  constexpr int64_t kPatience = 2'000'000'000;  // ns of CPU time
  if (!page_->serial || last_busy_ < 0 || real_now() - last_grant_ < kPatience) return;
  last_grant_ = real_now() - kPatience + kPatience / 10;  // look again soon
  const Slot& s = page_->slot[last_busy_];
  int64_t cpu = oracle_.cpu_ns(last_busy_, s.pid, s.tid);
  uint64_t progress = oracle_.progress(last_busy_, s.pid, s.tid);
  if (runner_cpu_ < 0 || cpu < runner_cpu_ || progress != runner_progress_) {
    runner_cpu_ = cpu;
    runner_progress_ = progress;
  }
  if (cpu - runner_cpu_ < kPatience) return;
  int runner = last_busy_;
  if (give_turn()) counters.forced_turns++;
  last_busy_ = runner;
  runner_cpu_ = cpu;
  last_grant_ = real_now();
}

int64_t Waves::next_deadline() const {
  int64_t best = kNever;
  for (int i = 0; i < int(page_->high); i++) {
    const Slot& s = page_->slot[i];
    if (state_of(s.word) == kWait && s.kind != kBlocked) best = std::min<int64_t>(best, s.deadline);
  }
  return best;
}

std::vector<std::string> Waves::who_waits() const {
  std::vector<std::string> lines;
  for (int i = 0; i < int(page_->high); i++) {
    const Slot& s = page_->slot[i];
    State st = state_of(s.word);
    if (st == kFree || s.kind == kTimer || !s.tid) continue;
    uint32_t call = s.call;
    if (s.kind == kRemote) {
      lines.push_back("remote participant " + std::to_string(s.tid) + ": socket protocol");
      continue;
    }
    std::string where = st == kRun ? "a call the shim does not know (a lock, a file, a raw wait)"
                                   : call < kCalls ? kCallNames[call] : "?";
    lines.push_back(describe_thread(s.pid, s.tid) + ": " + where);
  }
  return lines;
}

std::string Waves::who_runs() {
  if (last_busy_ < 0) return "";
  const Slot& s = page_->slot[last_busy_];
  return s.tid ? describe_thread(s.pid, s.tid) : "";
}

bool Waves::next_runs_elsewhere() const {
  return last_busy_ < 0 || page_->slot[last_busy_].processor != page_->processor;
}

void Waves::free_process(uint32_t pid) {
  for (int i = 0; i < int(page_->high); i++)
    if (page_->slot[i].pid == pid && page_->slot[i].kind == kTimer) bury(i);
}

}  // namespace revati::warp
