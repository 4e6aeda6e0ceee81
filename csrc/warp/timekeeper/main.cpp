// main.cpp: the timekeeper program is two processes. The outer one only waits: when the inner one, which keeps
// the time, is killed, what it leaves behind falls to the outer one and is ended there. When the launcher is
// killed, the outer one ends the run and removes its directory.
#include "children.h"
#include "run.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

using namespace revati::warp;

static pid_t keeper;
static void forward(int number, siginfo_t* info, void*) {
  if (info->si_code != SI_KERNEL) kill(keeper, number);  // a terminal's signals reach it anyway
}

static bool is_orphan(const Options& options) { return options.launcher && getppid() != options.launcher; }

static int end(const Options& options, int code) {
  if (options.remove_run_dir && is_orphan(options)) {
    std::error_code ignored;
    std::filesystem::remove_all(options.run_dir, ignored);
  }
  return code;
}

int main(int argc, char** argv) {
  Options options = parse_options(argc, argv);
  prctl(PR_SET_CHILD_SUBREAPER, 1);
  if (options.launcher) prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (is_orphan(options)) return end(options, 1);
  sigset_t all, old;
  sigfillset(&all);
  sigprocmask(SIG_BLOCK, &all, &old);
  pid_t outer = getpid();
  keeper = fork();
  if (keeper < 0) fail(std::string("cannot start the timekeeper: ") + strerror(errno));
  if (keeper == 0) {
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    sigprocmask(SIG_SETMASK, &old, nullptr);
    return getppid() == outer ? run(options) : 1;
  }
  struct sigaction action = {};
  action.sa_sigaction = forward;
  action.sa_flags = SA_SIGINFO | SA_RESTART;
  for (int s : {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2}) sigaction(s, &action, nullptr);
  sigprocmask(SIG_SETMASK, &old, nullptr);
  int status;
  for (;;) {
    pid_t p = wait(&status);
    if (p == keeper) break;
    if (p < 0 && errno != EINTR) return 1;
  }
  if (WIFEXITED(status)) return end(options, WEXITSTATUS(status));
  fprintf(stderr, "revati: the timekeeper was killed by signal %d; ending the run\n", WTERMSIG(status));
  unlink((options.run_dir + "/clock").c_str());
  terminate_descendants(0, [](void*) {}, nullptr);
  return end(options, 70);
}
