// options.h: what the timekeeper was asked to do.
#pragma once
#include "page.h"

#include <string>
#include <vector>

namespace revati::warp {

struct Options {
  Mode mode = kCharged;
  double cpu_factor = 1;
  int pace_fd = -1;           // a pipe that tells further factors, one a line
  bool has_epoch = false;
  double epoch = 0;           // seconds since 1970 at virtual time 0
  std::string time_log, stats, shim, run_dir;
  std::string socket;         // path of the Unix socket; default: in the run directory
  std::string listen;         // HOST:PORT, with the token in REVATI_CLOCK_TOKEN
  bool exit_when_stuck = false;
  bool parallel = false;      // free: threads side by side; times may then differ between runs
  bool allow_real_time = false;
  bool naive = false;         // trust the slots alone: the negative control of the causality test
  bool quiet = false;
  int launcher = 0;           // the run ends with this process; 0: with nobody
  bool remove_run_dir = false;  // when the launcher is gone
  double grace = 10;          // real seconds between a termination signal and its enforcement
  unsigned spin_looks = 64;
  double timer_slack_us = 50;  // Linux's own default for ordinary threads
  double wake_cost_us = 30;
  double cold_share = 0.35;
  std::vector<char*> command; // ends with a null pointer
};

// Ends the process with code 2 and one line when the arguments make no sense.
Options parse_options(int argc, char** argv);
[[noreturn]] void fail(const std::string& message);

}  // namespace revati::warp
