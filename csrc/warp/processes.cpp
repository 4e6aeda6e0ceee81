// processes.cpp: fork, exec, spawn, exit and waiting for children.
//
// fork:  the parent reserves the child's slot, the child takes it.
// exec:  the slot goes on; the start of the shim in the new image finds it by its process id. A vfork child
//        shares its parent's memory and names the parent's slot, so it gets one of its own just before exec.
// The shim and the clock stay in the environment even where the program passes one without them.
#include "shim.h"

#include <alloca.h>
#include <fcntl.h>
#include <paths.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

namespace revati::warp {

constexpr size_t kVariable = 1024;

// "LD_PRELOAD=<shim>" and "REVATI_CLOCK=<page>" of this process, kept from its start.
struct Kept {
  char preload[kVariable], clock[kVariable], shim[kVariable];
  Kept() {
    Dl_info info;
    const char* page_path = getenv("REVATI_CLOCK");
    if (!page_path || !dladdr(reinterpret_cast<void*>(&own_slot), &info)) return;
    snprintf(shim, kVariable, "%s", info.dli_fname);
    snprintf(preload, kVariable, "LD_PRELOAD=%s", info.dli_fname);
    snprintf(clock, kVariable, "REVATI_CLOCK=%s", page_path);
  }
};
static Kept kept;

static bool starts_with(const char* s, const char* prefix) { return strncmp(s, prefix, strlen(prefix)) == 0; }

struct Environment {
  bool preload = false, clock = false;
  size_t count = 0, at = 0;  // `at`: where a foreign LD_PRELOAD stands
};
static Environment look_at(char* const e[]) {
  Environment r;
  for (; e && e[r.count]; r.count++) {
    if (starts_with(e[r.count], "REVATI_CLOCK=")) r.clock = true;
    if (!starts_with(e[r.count], "LD_PRELOAD=")) continue;
    r.preload = strstr(e[r.count], kept.shim) != nullptr;
    r.at = r.count + 1;
  }
  return r;
}
// Into arrays on the caller's stack: a vfork child must not allocate.
static void complete(char* const e[], const Environment& have, char** out, char* buffer) {
  size_t n = 0;
  for (size_t i = 0; i < have.count; i++) out[n++] = e[i];
  if (!have.preload && have.at) {
    snprintf(buffer, 2 * kVariable, "%s %s", kept.preload, e[have.at - 1] + strlen("LD_PRELOAD="));
    out[have.at - 1] = buffer;
  } else if (!have.preload) {
    out[n++] = kept.preload;
  }
  if (!have.clock) out[n++] = kept.clock;
  out[n] = nullptr;
}
#define WITH_CLOCK(e)                                                                      \
  if (page) {                                                                              \
    Environment have = look_at(e);                                                         \
    if (!have.preload || !have.clock) {                                                    \
      char** full = static_cast<char**>(alloca((have.count + 3) * sizeof(char*)));         \
      complete(e, have, full, static_cast<char*>(alloca(2 * kVariable)));                  \
      e = full;                                                                            \
    }                                                                                      \
  }

// A child's slot before its exec; null where the process goes on in its own.
struct ExecSlot {
  Slot* slot = nullptr;
  uint64_t word = 0;
  ExecSlot() {
    if (!page) return;
    uint32_t pid = uint32_t(sys(SYS_getpid));
    page->sends++;
    if (self.slot && self.slot->pid == pid) {
      publish();
      self.slot->call = kExec;
      return;
    }
    slot = reserve_slot();
    slot->call = kExec;  // until the new image says otherwise: a program the shim does not cover never does
    word = slot->word.load();
    slot->pid = pid;
    slot->tid = pid;
    self.started_program = true;  // of the parent, whose memory this is
  }
  ~ExecSlot() {  // exec failed
    if (slot) return_slot(slot, word);
  }
};

static bool has_slot(uint32_t pid) {
  for (uint32_t i = 0; i < page->high; i++) {
    Slot& s = page->slot[i];
    if (s.pid == pid && state_of(s.word) != kFree && s.kind != kTimer) return true;
  }
  return false;
}

template <class F>
static int spawn(pid_t* out, F&& real) {
  own_slot();
  publish_send();
  Slot* slot = reserve_slot();
  uint64_t word = slot->word.load();
  pid_t pid = 0;
  int error = real(&pid);
  if (!error && out) *out = pid;
  if (error || has_slot(uint32_t(pid))) {
    return_slot(slot, word);
  } else {
    slot->call = kExec;
    slot->pid = uint32_t(pid);
    slot->tid = uint32_t(pid);
  }
  self.started_program = !error;
  return error;
}

}  // namespace revati::warp

using namespace revati::warp;

// The last of the handlers that run before a fork, for it was registered first: another one may wait for threads
// (OpenBLAS ends its own), and nobody gets a turn while a child that does not exist yet counts as running.
static void reserve_child() {
  if (!self.forks) return;
  self.child = reserve_slot();
  self.child_word = self.child->word.load();
}
__attribute__((constructor(102))) static void register_fork() {
  if (page) pthread_atfork(reserve_child, nullptr, nullptr);
}

EXPORT pid_t fork() {
  if (!page) return NEXT(fork)();
  own_slot();
  publish_send();
  self.forks = true;
  pid_t pid = NEXT(fork)();
  self.forks = false;
  Slot* slot = self.child;
  uint64_t word = self.child_word;
  if (pid < 0) {
    int error = errno;
    return_slot(slot, word);
    errno = error;
  } else if (pid == 0) {
    take_slot(slot, word);
    wait_turn_at_start();
  } else if (slot->word.load() == word) {
    slot->pid = uint32_t(pid);
    slot->tid = uint32_t(pid);
  }
  return pid;
}

EXPORT int execve(const char* file, char* const argv[], char* const env[]) {
  WITH_CLOCK(env);
  ExecSlot own;
  return int(ret(sys(SYS_execve, long(file), long(argv), long(env))));
}
EXPORT int execv(const char* file, char* const argv[]) { return execve(file, argv, environ); }
EXPORT int execvpe(const char* file, char* const argv[], char* const env[]) {
  WITH_CLOCK(env);
  ExecSlot own;
  return NEXT(execvpe)(file, argv, env);
}
EXPORT int execvp(const char* file, char* const argv[]) { return execvpe(file, argv, environ); }
EXPORT int fexecve(int fd, char* const argv[], char* const env[]) {
  WITH_CLOCK(env);
  ExecSlot own;
  return NEXT(fexecve)(fd, argv, env);
}

// The variadic forms, by way of an array.
#define ARGUMENTS(first)                                       \
  va_list list;                                                \
  size_t n = 1;                                                \
  va_start(list, first);                                       \
  while (va_arg(list, char*)) n++;                             \
  va_end(list);                                                \
  char** argv = static_cast<char**>(alloca((n + 1) * sizeof(char*))); \
  argv[0] = const_cast<char*>(first);                          \
  va_start(list, first);                                       \
  for (size_t i = 1; i <= n; i++) argv[i] = va_arg(list, char*);
EXPORT int execl(const char* file, const char* first, ...) {
  ARGUMENTS(first);
  va_end(list);
  return execve(file, argv, environ);
}
EXPORT int execlp(const char* file, const char* first, ...) {
  ARGUMENTS(first);
  va_end(list);
  return execvpe(file, argv, environ);
}
EXPORT int execle(const char* file, const char* first, ...) {
  ARGUMENTS(first);
  char** env = va_arg(list, char**);
  va_end(list);
  return execve(file, argv, env);
}

EXPORT int posix_spawn(pid_t* pid, const char* file, const posix_spawn_file_actions_t* actions,
                       const posix_spawnattr_t* attributes, char* const argv[], char* const env[]) {
  if (!page) return NEXT(posix_spawn)(pid, file, actions, attributes, argv, env);
  WITH_CLOCK(env);
  return spawn(pid, [&](pid_t* p) { return NEXT(posix_spawn)(p, file, actions, attributes, argv, env); });
}
EXPORT int posix_spawnp(pid_t* pid, const char* file, const posix_spawn_file_actions_t* actions,
                        const posix_spawnattr_t* attributes, char* const argv[], char* const env[]) {
  if (!page) return NEXT(posix_spawnp)(pid, file, actions, attributes, argv, env);
  WITH_CLOCK(env);
  return spawn(pid, [&](pid_t* p) { return NEXT(posix_spawnp)(p, file, actions, attributes, argv, env); });
}

EXPORT pid_t wait4(pid_t pid, int* status, int options, rusage* usage) {
  auto call = [&](int o) { return sys(SYS_wait4, pid, long(status), o, long(usage)); };
  if (!page) return pid_t(ret(call(options)));
  before_look();
  long r = call(options | WNOHANG);
  if (r != 0 || options & WNOHANG) {
    if (r == 0) empty_look(kWaitPid);
    return pid_t(ret(r));
  }
  {
    Blocked mark(kWaitPid);
    r = call(options);
  }
  return pid_t(ret(r));
}
EXPORT pid_t waitpid(pid_t pid, int* status, int options) { return wait4(pid, status, options, nullptr); }
EXPORT pid_t wait(int* status) { return wait4(-1, status, 0, nullptr); }
EXPORT pid_t wait3(int* status, int options, rusage* usage) { return wait4(-1, status, options, usage); }
EXPORT int waitid(idtype_t type, id_t id, siginfo_t* info, int options) {
  auto call = [&](int o) { return sys(SYS_waitid, type, id, long(info), o, 0); };
  if (page) before_look();
  if (!page || options & WNOHANG) return int(ret(call(options)));
  long r;
  {
    Blocked mark(kWaitPid);
    r = call(options);
  }
  return int(ret(r));
}

// glibc's own would start the shell behind the shim's back.
EXPORT int system(const char* command) {
  if (!page) return NEXT(system)(command);
  if (!command) return 1;
  const char* argv[] = {"sh", "-c", command, nullptr};
  struct sigaction ignore = {}, old_int, old_quit;
  ignore.sa_handler = SIG_IGN;
  sigaction(SIGINT, &ignore, &old_int);
  sigaction(SIGQUIT, &ignore, &old_quit);
  sigset_t child, old_mask, defaults;
  sigemptyset(&child);
  sigaddset(&child, SIGCHLD);
  sigprocmask(SIG_BLOCK, &child, &old_mask);
  sigemptyset(&defaults);
  if (old_int.sa_handler != SIG_IGN) sigaddset(&defaults, SIGINT);
  if (old_quit.sa_handler != SIG_IGN) sigaddset(&defaults, SIGQUIT);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  posix_spawnattr_setsigmask(&attributes, &old_mask);
  posix_spawnattr_setsigdefault(&attributes, &defaults);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK);
  pid_t pid;
  int status = 127 << 8;
  int error = posix_spawn(&pid, _PATH_BSHELL, nullptr, &attributes, const_cast<char**>(argv), environ);
  if (!error)
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {}
  posix_spawnattr_destroy(&attributes);
  sigaction(SIGINT, &old_int, nullptr);
  sigaction(SIGQUIT, &old_quit, nullptr);
  sigprocmask(SIG_SETMASK, &old_mask, nullptr);
  return status;
}

EXPORT __attribute__((noreturn)) void _exit(int code) {
  if (page) publish_send();
  for (;;) sys(SYS_exit_group, code);
}
EXPORT __attribute__((noreturn)) void _Exit(int code) { _exit(code); }
