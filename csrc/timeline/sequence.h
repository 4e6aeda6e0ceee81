// What a compiled piece of a program or a layer of a model launches, in order: recorded once, played again.
#pragma once
#include <cstdint>
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
  };
  std::vector<Launch> launches;
  bool repeatable = true;   // false: a price depends on values, or streams were joined on the way
};

}  // namespace revati
