// run.cpp: the timekeeper's loop.
//
// It sleeps on Page::kick, which the last thread that begins to wait touches, and looks from time to time
// because threads can also fall asleep in calls the shim does not know.
#include "run.h"

#include "children.h"
#include "log.h"
#include "pace.h"
#include "program.h"
#include "waves.h"

#include <algorithm>
#include <cerrno>
#include <cpuid.h>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

namespace revati::warp {

constexpr int kStuck = 3;  // exit code of --exit-when-stuck
constexpr int64_t kMillisecond = 1'000'000, kSecond = 1'000'000'000;

static Page* the_page;
static volatile sig_atomic_t signal_seen, signal_from_terminal;

static void on_signal(int number, siginfo_t* info, void*) {
  if (number != SIGCHLD) {
    signal_from_terminal = info->si_code == SI_KERNEL;
    signal_seen = number;
  }
  the_page->kick.fetch_add(1);  // or the loop could go to sleep on it
}

static int64_t clock_ns(clockid_t c) {
  timespec t;
  clock_gettime(c, &t);
  return t.tv_sec * 1000000000LL + t.tv_nsec;
}

// Of the processor's time stamp counter; 0 where it may change its rate or stop.
static double ns_per_tick() {
  unsigned a, b, c, d;
  constexpr unsigned kInvariant = 1u << 8;  // leaf 0x80000007, edx
  if (!__get_cpuid(0x80000007, &a, &b, &c, &d) || !(d & kInvariant)) return 0;
  constexpr int64_t kLong = 2 * kMillisecond;
  int64_t begin_ns = clock_ns(CLOCK_MONOTONIC_RAW), end_ns;
  uint64_t begin = __rdtsc(), end;
  do {
    end_ns = clock_ns(CLOCK_MONOTONIC_RAW);
    end = __rdtsc();
  } while (end_ns - begin_ns < kLong);
  return double(end_ns - begin_ns) / double(end - begin);
}

static Page* make_page(const Options& o, const std::string& path) {
  int fd = open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (fd < 0) fail("cannot create the clock page " + path + ": " + strerror(errno) + "; give an empty --run-dir");
  if (posix_fallocate(fd, 0, sizeof(Page)) != 0)
    fail("no room for the clock page " + path + " (" + std::to_string(sizeof(Page) >> 10) + " KiB); free some space");
  void* p = mmap(nullptr, sizeof(Page), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  close(fd);
  if (p == MAP_FAILED) fail(std::string("cannot map the clock page: ") + strerror(errno));
  Page* page = static_cast<Page*>(p);
  page->mode = o.mode;
  page->serial = o.mode == kFreeTime && !o.parallel && !o.naive;
  page->spin_looks = o.spin_looks;
  page->timekeeper = uint32_t(getpid());
  for (auto& factor : page->cpu_factor) factor = float(o.cpu_factor);
  page->timer_slack = int64_t(o.timer_slack_us * 1000);
  page->wake_cost = int64_t(o.wake_cost_us * 1000);
  page->cold_share = o.cold_share;
  page->ns_per_tick = ns_per_tick();
  constexpr double kWatch_ns = 15'000;
  bool may_watch = sysconf(_SC_NPROCESSORS_ONLN) > 1 && page->ns_per_tick > 0;
  page->watch_ticks = may_watch ? uint64_t(kWatch_ns / page->ns_per_tick) : 0;
  page->real_start = real_now();
  page->base_real = o.has_epoch ? int64_t(o.epoch * 1e9) : clock_ns(CLOCK_REALTIME);
  // In `free` also the absolute monotonic times are the same in every run, to the last bit of a float.
  constexpr int64_t kFixedBase = 1'000'000 * kSecond;
  page->base_mono = o.mode == kFreeTime ? kFixedBase : page->real_start;
  page->base_boot = o.mode == kFreeTime ? kFixedBase : clock_ns(CLOCK_BOOTTIME);
  page->magic = kMagic;
  return page;
}

static void check_host() {
  if (access("/proc/self/schedstat", R_OK) != 0)
    fail("/proc/self/schedstat is missing: the clock asks it who runs; mount /proc (kernel with CONFIG_SCHED_INFO)");
  if (syscall(SYS_futex_waitv, nullptr, 0, 0, nullptr, 0) == -1 && errno == ENOSYS)
    fail("this kernel has no futex_waitv: Linux 5.16 or newer is needed");
}

struct Run {
  const Options& options;
  Page* page;
  EventLog log;
  Remote remote;
  Waves waves;
  Pace pace;
  pid_t command = 0;
  int status = 0;
  bool ended = false;
  int nice = 0;
  long processors = sysconf(_SC_NPROCESSORS_ONLN);
  int64_t end_ns = 0, nap = 20'000;
  int64_t quiet_since = 0, moved_at = 0, last_now = -1, last_reap = 0, enforce_at = 0;
  bool told_stuck = false, told_frozen = false, stuck_exit = false;

  Run(const Options& o, Page* p) : options(o), page(p), remote(p, o), waves(p, o, &log, &remote) {}

  void start_command();
  void reap();
  void pass_signals();
  void when_stuck();
  void when_busy();
  void linger(uint32_t kick);
  void sleep(uint32_t kick);
  void step();
  int finish();
};

void Run::start_command() {
  rlimit limit, wanted;
  getrlimit(RLIMIT_NOFILE, &limit);
  wanted = {limit.rlim_max, limit.rlim_max};
  setrlimit(RLIMIT_NOFILE, &wanted);  // four descriptors a thread
  command = fork();
  if (command < 0) fail(std::string("cannot start the command: ") + strerror(errno));
  if (command > 0) return;
  setrlimit(RLIMIT_NOFILE, &limit);
  for (int s : {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGCHLD}) signal(s, SIG_DFL);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  prctl(PR_SET_TIMERSLACK, 0);
  if (options.pace_fd >= 0) close(options.pace_fd);
  setpriority(PRIO_PROCESS, 0, nice);
  std::string page_path = options.run_dir + "/clock";
  const char* other = getenv("LD_PRELOAD");
  setenv("REVATI_CLOCK", page_path.c_str(), 1);
  setenv("REVATI_RUN_DIR", options.run_dir.c_str(), 0);
  setenv("LD_PRELOAD", (options.shim + (other && *other ? std::string(" ") + other : "")).c_str(), 1);
  execvp(options.command[0], options.command.data());
  fprintf(stderr, "revati: cannot run %s: %s\n", options.command[0], strerror(errno));
  _exit(errno == ENOENT ? 127 : 126);
}

void Run::reap() {
  int64_t t = real_now();
  if (t - last_reap < 2 * kMillisecond) return;
  last_reap = t;
  int st;
  for (pid_t p; (p = waitpid(-1, &st, WNOHANG)) > 0;) {
    waves.free_process(uint32_t(p));
    if (p != command) continue;
    status = st;
    ended = true;
    end_ns = waves.now();
  }
}

// A terminal has sent its signals to the command already.
void Run::pass_signals() {
  int s = signal_seen;
  if (s) {
    signal_seen = 0;
    if (!signal_from_terminal) kill(command, s);
    if (s != SIGUSR1 && s != SIGUSR2 && !enforce_at) enforce_at = real_now() + int64_t(options.grace * 1e9);
  }
  if (enforce_at && real_now() > enforce_at && !ended) {
    fprintf(stderr, "revati: the command did not end within %g s of the signal: killed\n", options.grace);
    kill(command, SIGKILL);
    enforce_at = real_now() + kSecond;
  }
}

// Everybody waits and nobody has a deadline: an idle server, or a deadlock. The clock stands.
void Run::when_stuck() {
  int64_t t = real_now();
  if (!quiet_since) quiet_since = t;
  nap = std::min(nap * 2, 20 * kMillisecond);
  if (told_stuck || t - quiet_since < 5 * kSecond) return;
  told_stuck = true;
  auto lines = waves.who_waits();
  fprintf(stderr, "revati: virtual time stands at %.6f s: all %zu threads wait and none has a deadline%s\n",
          double(waves.now()) / 1e9, lines.size(), options.exit_when_stuck ? "; ending with code 3" : "");
  for (size_t i = 0; i < lines.size() && i < 40; i++) fprintf(stderr, "revati:   %s\n", lines[i].c_str());
  if (lines.size() > 40) fprintf(stderr, "revati:   and %zu more\n", lines.size() - 40);
  for (auto& l : lines) log.text("stuck", waves.now(), l);
  stuck_exit = options.exit_when_stuck;
}

void Run::when_busy() {
  quiet_since = 0;
  waves.counters.busy++;
  waves.tick();
  waves.relieve();
  nap = std::min<int64_t>(nap * 2, 500'000);
  if (page->mode == kWall) nap = std::clamp<int64_t>(waves.next_deadline() - waves.now(), 1000, nap);
  int64_t t = real_now(), v = waves.now();
  if (v != last_now || !moved_at) {
    last_now = v;
    moved_at = t;
  } else if (!told_frozen && page->mode == kFreeTime && t - moved_at > 120 * kSecond) {
    std::string who = waves.who_runs();
    if (who.empty()) return;
    told_frozen = true;
    fprintf(stderr, "revati: virtual time has stood at %.6f s for two minutes because %s computes without waiting; "
                    "with --cpu-time charged its work would move the clock\n", double(v) / 1e9, who.c_str());
  }
}

// A turn is often short, and to wake from a halted processor costs more than the turn.
void Run::linger(uint32_t kick) {
  page->processor = sched_getcpu();
  if (processors < 2 || !waves.next_runs_elsewhere()) return;
  for (int64_t until = real_now() + 40'000; page->kick == kick && real_now() < until;) __builtin_ia32_pause();
}

void Run::sleep(uint32_t kick) {
  page->asleep = 1;
  if (page->kick == kick) {
    timespec t = {nap / kSecond, nap % kSecond};
    syscall(SYS_futex, &page->kick, FUTEX_WAIT, kick, &t, nullptr, 0);
  }
  page->asleep = 0;
  if (page->kick != kick) nap = 20'000;
}

void Run::step() {
  uint32_t kick = page->kick;
  switch (waves.check()) {
    case Verdict::again: return;
    case Verdict::quiet:
      if (waves.advance()) {
        nap = 20'000;
        quiet_since = 0;
        linger(kick);
      } else {
        when_stuck();
      }
      break;
    case Verdict::busy: when_busy(); break;
    case Verdict::empty: nap = std::min(nap * 2, 2 * kMillisecond); break;
  }
  sleep(kick);
}

int Run::finish() {
  auto keep_going = [](void* self) {
    auto* run = static_cast<Run*>(self);
    if (run->waves.check() == Verdict::quiet) run->waves.advance();
    else run->waves.tick();
  };
  terminate_descendants(ended ? std::min(options.grace, 5.0) : options.grace, keep_going, this);
  double wall = double(real_now() - page->real_start) / 1e9, virtual_s = double(end_ns ? end_ns : waves.now()) / 1e9;
  int code = stuck_exit ? kStuck : WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  const Counters& c = waves.counters;
  pace.stop();
  if (FILE* f = options.stats.empty() ? nullptr : fopen(options.stats.c_str(), "we")) {
    fprintf(f,
            "{\"cpu_time\": \"%s\", \"virtual_s\": %.9f, \"wall_s\": %.6f, \"exit_code\": %d, \"stuck\": %s, "
            "\"jumps\": %llu, \"wakes\": %llu, \"turns\": %llu, \"forced_turns\": %llu, \"spin_looks\": %llu, "
            "\"checks\": %llu, \"busy\": %llu, \"vetoes\": %llu, \"deaths\": %llu, \"proc_reads\": %llu, "
            "\"slots\": %u, \"timekeeper_cpu_s\": %.6f, \"cpu_factor\": %.6f, \"cpu_factor_least\": %.6f, "
            "\"cpu_factor_most\": %.6f}\n",
            options.mode == kFreeTime ? "free" : options.mode == kCharged ? "charged" : "wall", virtual_s, wall, code,
            told_stuck ? "true" : "false", (unsigned long long)c.jumps, (unsigned long long)c.wakes,
            (unsigned long long)c.turns, (unsigned long long)c.forced_turns, (unsigned long long)c.spins,
            (unsigned long long)c.checks, (unsigned long long)c.busy, (unsigned long long)c.vetoes,
            (unsigned long long)c.deaths, (unsigned long long)waves.oracle_reads(), page->high.load(),
            double(clock_ns(CLOCK_PROCESS_CPUTIME_ID)) / 1e9, pace.mean, pace.least, pace.most);
    fclose(f);
  }
  if (!options.quiet)
    fprintf(stderr, "revati: %.6f s of virtual time in %.3f s of wall time (%.1fx), %llu jumps\n", virtual_s, wall,
            wall > 0 ? virtual_s / wall : 0, (unsigned long long)c.jumps);
  return code;
}

int run(const Options& options) {
  check_host();
  if (std::string why = why_uncovered(options.command[0]); !why.empty() && !options.allow_real_time)
    fail(why + "; virtual time cannot cover it. Use a dynamically linked build, or --allow-real-time");
  std::string path = options.run_dir + "/clock";
  the_page = make_page(options, path);
  prctl(PR_SET_CHILD_SUBREAPER, 1);
  prctl(PR_SET_TIMERSLACK, 1000);
  struct sigaction action = {};
  action.sa_sigaction = on_signal;
  action.sa_flags = SA_SIGINFO;
  for (int s : {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGCHLD}) sigaction(s, &action, nullptr);
  Run r(options, the_page);
  if (!options.time_log.empty() && !r.log.open(options.time_log)) {
    unlink(path.c_str());
    fail("cannot write the time log " + options.time_log + ": " + strerror(errno));
  }
  r.remote.start();
  r.nice = getpriority(PRIO_PROCESS, 0);
  setpriority(PRIO_PROCESS, 0, r.nice - 10);  // helps where it is allowed
  r.start_command();
  r.pace.start(the_page, options.cpu_factor, options.pace_fd);  // no second thread before the fork
  r.remote.run_in_background();
  while (!r.ended && !r.stuck_exit) {
    r.step();
    r.reap();
    r.pass_signals();
  }
  int code = r.finish();
  r.remote.stop();
  unlink(path.c_str());
  return code;
}

}  // namespace revati::warp
