// options.cpp: reads the command line of the timekeeper.
#include "options.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>

namespace revati::warp {

void fail(const std::string& message) {
  fprintf(stderr, "revati: %s\n", message.c_str());
  exit(2);
}

static double number(const std::string& name, const std::string& text, double least) {
  char* end;
  double v = strtod(text.c_str(), &end);
  if (text.empty() || *end || !std::isfinite(v) || v < least) {
    char bound[32];
    snprintf(bound, sizeof bound, "%g", least);
    fail(name + ": got '" + text + "', expected a number not below " + bound);
  }
  return v;
}

Options parse_options(int argc, char** argv) {
  Options o;
  static const std::map<std::string, Mode> modes = {{"free", kFreeTime}, {"charged", kCharged}, {"wall", kWall}};
  int i = 1;
  for (; i < argc && strcmp(argv[i], "--") != 0; i++) {
    std::string name = argv[i];
    auto value = [&]() -> std::string {
      if (i + 1 >= argc) fail(name + " needs a value");
      return argv[++i];
    };
    if (name == "--cpu-time") {
      auto m = modes.find(value());
      if (m == modes.end()) fail("--cpu-time: got '" + std::string(argv[i]) + "', expected charged, free or wall");
      o.mode = m->second;
    } else if (name == "--cpu-factor") {
      o.cpu_factor = number(name, value(), 1e-6);
    } else if (name == "--pace-fd") {
      o.pace_fd = int(number(name, value(), 0));
    } else if (name == "--epoch") {
      o.epoch = number(name, value(), 0);
      if (o.epoch > 4e9) fail("--epoch: got '" + std::string(argv[i]) + "', expected seconds since 1970 below 4e9");
      o.has_epoch = true;
    } else if (name == "--grace") {
      o.grace = number(name, value(), 0);
    } else if (name == "--spin-looks") {
      o.spin_looks = unsigned(number(name, value(), 1));
    } else if (name == "--wake-cost-us") {
      o.wake_cost_us = number(name, value(), 0);
    } else if (name == "--timer-slack-us") {
      o.timer_slack_us = number(name, value(), 0);
    } else if (name == "--cold-share") {
      o.cold_share = number(name, value(), 0);
    } else if (name == "--time-log") {
      o.time_log = value();
    } else if (name == "--stats") {
      o.stats = value();
    } else if (name == "--shim") {
      o.shim = value();
    } else if (name == "--run-dir") {
      o.run_dir = value();
    } else if (name == "--socket") {
      o.socket = value();
    } else if (name == "--listen") {
      o.listen = value();
    } else if (name == "--launcher") {
      o.launcher = int(number(name, value(), 1));
    } else if (name == "--remove-run-dir") {
      o.remove_run_dir = true;
    } else if (name == "--exit-when-stuck") {
      o.exit_when_stuck = true;
    } else if (name == "--parallel") {
      o.parallel = true;
    } else if (name == "--allow-real-time") {
      o.allow_real_time = true;
    } else if (name == "--naive") {
      o.naive = true;
    } else if (name == "--quiet") {
      o.quiet = true;
    } else {
      fail("unknown option " + name + "; usage: revati-timekeeper [options] --shim FILE --run-dir DIR -- COMMAND...");
    }
  }
  for (i++; i < argc; i++) o.command.push_back(argv[i]);
  if (o.command.empty()) fail("no command given; write it after --");
  if (o.shim.empty()) fail("--shim is missing: the path of librevati_warp.so");
  if (o.run_dir.empty()) fail("--run-dir is missing: a private directory for the clock page");
  if (o.socket.empty()) o.socket = o.run_dir + "/clock.sock";
  o.command.push_back(nullptr);
  return o;
}

}  // namespace revati::warp
