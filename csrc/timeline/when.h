// A moment on the virtual GPU's timeline, which may depend on collectives that other ranks have not reached yet.
//
// Streams only ever take maxima and add durations, so every moment is max(ns, done(C1) + a1, done(C2) + a2, ...)
// for collectives C: launching never has to wait for another rank, and anyone can resolve a moment later.
#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

namespace revati {

struct CollectiveId {
  uint32_t group = 0;
  uint64_t sequence = 0;
  bool operator==(const CollectiveId& o) const { return group == o.group && sequence == o.sequence; }
};

struct When {
  struct Term {
    CollectiveId collective;
    int64_t offset_ns;
  };
  int64_t ns = 0;
  std::vector<Term> terms;  // empty for everything that concerns one rank only

  bool resolved() const { return terms.empty(); }

  void at_least(int64_t t_ns) { ns = std::max(ns, t_ns); }

  void at_least(const When& o) {
    ns = std::max(ns, o.ns);
    for (const Term& t : o.terms) add(t);
  }

  void delay(int64_t d_ns) {
    ns += d_ns;
    for (Term& t : terms) t.offset_ns += d_ns;
  }

  void add(const Term& t) {
    for (Term& mine : terms)
      if (mine.collective == t.collective) {
        mine.offset_ns = std::max(mine.offset_ns, t.offset_ns);
        return;
      }
    terms.push_back(t);
  }
};

/// Where collectives meet. Implemented by csrc/comm over memory that the ranks share.
struct Rendezvous {
  virtual ~Rendezvous() = default;
  /// Replaces terms whose collective is complete by their time. With `wait`, blocks until all are.
  virtual void resolve(When& w, bool wait) = 0;
  /// Posts this rank's arrival at `ready`; the collective lasts `duration_ns` once all ranks are there.
  virtual When post(uint32_t group, const When& ready, int64_t duration_ns) = 0;
};

}  // namespace revati
