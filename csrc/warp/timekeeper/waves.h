// waves.h: may the clock jump? And: whose turn is it?
#pragma once
#include "log.h"
#include "options.h"
#include "oracle.h"
#include "remote.h"

#include <set>
#include <string>
#include <vector>

namespace revati::warp {

enum class Verdict {
  busy,    // somebody runs
  again,   // something changed while we looked
  quiet,   // nobody can run: proved
  empty    // no thread lives
};

class Waves {
 public:
  Waves(Page* page, const Options& options, EventLog* log, Remote* remote);

  // Two waves. Wave 1: every slot waits (its generation is noted), or the kernel says that its thread sleeps in
  // a call the shim does not know (its run count is noted). Wave 2: the kernel says of every thread that it
  // sleeps, and nothing noted has changed.
  Verdict check();
  // After `quiet`: the next turn, or a look for every spinner, or a jump. False: nobody has a deadline.
  bool advance();
  // While somebody runs: wakes those whose deadline the moving clock has passed (charged, wall).
  void tick();
  // While somebody seems to spin on memory (it computes for long, touches nothing new, reads and writes nothing) and
  // others are ready: give the next turn all the same. What it spins for may be theirs to do.
  void relieve();
  // Earliest deadline of all, or kNever.
  int64_t next_deadline() const;
  int64_t now() const;
  // Who waits where; one line each.
  std::vector<std::string> who_waits() const;
  std::string who_runs();
  // Whether the thread that runs next will most likely do so on another processor than this one.
  bool next_runs_elsewhere() const;
  void free_process(uint32_t pid);  // slots of timers whose process is gone

  Counters counters{};
  uint64_t oracle_reads() const { return oracle_.reads(); }

 private:
  static constexpr uint64_t kNotAsked = ~0ull;
  struct Seen {
    int index;
    uint64_t word, runs = kNotAsked;
    uint32_t group_sends = 0;
  };
  void bury(int index);
  bool fire(int index, uint64_t word, const char* event);
  bool fire_timer(int index, uint64_t word);
  bool give_turn();
  bool look_around();
  void jump_to(int64_t deadline);
  bool before(int a, int b) const;  // the order of turns

  Page* page_;
  bool naive_;
  EventLog* log_;
  Remote* remote_;
  Oracle oracle_;
  std::vector<Seen> seen_;
  // What was known of a slot when the run was last proved quiet. While nobody sends a signal, a sleep on the slot alone
  // is ended by the timekeeper only and needs no proof; a wait on a word that was proved or vouched for holds until somebody
  // wakes a word of its group. Descriptors and unknown calls are asked for every time, here where `wchan` does not answer.
  struct Proof {
    uint64_t word = 0;         // of the slot
    uint64_t runs = kNotAsked;  // descriptors: its run count
    uint32_t group_sends = 0;  // words: Page::word_sends of its group
  };
  std::vector<Proof> proofs_ = std::vector<Proof>(kMaxSlots);
  uint64_t proved_signals_ = ~0ull;
  int64_t proved_at_ = 0;
  bool trusted(const Seen& e);
  bool sleeps_as_proved(const Seen& e);
  std::vector<Seen> turns_;  // ready threads that still have a turn in this round, last first
  void tell_uncovered(const Slot& s);
  std::set<std::string> told_;
  int last_busy_ = -1;
  int64_t last_grant_ = 0;   // real time
  int64_t runner_cpu_ = -1;  // CPU time of last_busy_ when it was last seen to make progress
  uint64_t runner_progress_ = 0;
};

}  // namespace revati::warp
