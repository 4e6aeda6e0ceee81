// log.h: the event log (--time-log) and the statistics of a run.
#pragma once
#include "page.h"

#include <cstdio>
#include <string>

namespace revati::warp {

int64_t real_now();  // real CLOCK_MONOTONIC, ns

struct Counters {
  uint64_t jumps, wakes, turns, spins, checks, busy, vetoes, deaths, forced_turns;
};

// One JSON object a line. Every change of the clock and every thread that is told to run is in it, in order.
class EventLog {
 public:
  ~EventLog();
  bool open(const std::string& path);
  void jump(int64_t from, int64_t to);
  void thread(const char* event, int64_t now, const Slot& s);
  void text(const char* event, int64_t now, const std::string& detail);

 private:
  FILE* file_ = nullptr;
};

std::string quoted(const std::string& s);

}  // namespace revati::warp
