// What a compiled piece of a program, a layer of a model or a step of an engine launches, in order: recorded once,
// played again.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

namespace revati {

struct Graph;
struct OpStats;

struct Sequence {
  struct Launch {
    std::shared_ptr<OpStats> stats;
    int64_t duration_ns = 0;
    int64_t group = -1;     // of a collective; -1: a kernel
    std::shared_ptr<Graph> graph;  // a replay; all else is then empty
    std::function<int64_t()> reprice;  // what it takes over the values of the moment
    std::function<void()> rerun;   // no launch: computes live values again
  };
  std::vector<Launch> launches;
  bool with_values = false; // prices that depend on values, and the values themselves, are found anew each time
  bool repeatable = true;   // false: without that a price depends on values, or streams were joined on the way
};

}  // namespace revati
