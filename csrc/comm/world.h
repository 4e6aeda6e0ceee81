// Where the ranks of a run meet: a file that all of them map, with a ring of arrivals for each group.
//
// A rank posts when it will be ready, as a moment that may itself depend on earlier collectives, and goes on. Anybody
// who maps the file can compute when a collective is done, once all its ranks have posted: nothing runs in the
// background but one thread that sleeps until a rank of this run dies. Nothing here knows tensors or torch.distributed.
#pragma once
#include <atomic>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "timeline/when.h"

namespace revati::comm {

constexpr uint64_t kSlots = 1024;              // how far a rank may run ahead, as with a full launch queue of CUDA
constexpr uint64_t kDone = 16384;              // completion times kept for those who ask late
constexpr uint64_t kPayloadRing = 8 << 20;     // bytes of live values in flight, per rank and group
constexpr uint64_t kPayloadMax = kPayloadRing / 2;
constexpr uint32_t kTerms = 6;

struct Member;
struct Slot;
struct Region;

/// What goes with the next post of this thread: which call it is, and the live values that this rank contributes.
struct Arrival {
  const char* call = "graph replay";
  const void* values = nullptr;  // null: phantom
  uint64_t bytes = 0;
  bool reads_later = false;      // this rank will call read() for what the others contribute
  bool posted = false;           // set by post(), with the sequence number that it got
  uint64_t sequence = 0;
};

/// Values that a rank contributed; `data` is null where they are phantom.
struct Contribution {
  const char* data = nullptr;
  uint64_t bytes = 0;
};

class World : public Rendezvous {
 public:
  static World& get();

  /// Maps the file at `path`, made if it is not there. A process has one world: another path is an error.
  void open(const std::string& path);
  std::string path() const;

  /// Joins the group `name` as `rank` of `size` and returns its number, the same for all ranks. Never blocks.
  uint32_t join(const std::string& name, int rank, int size);
  int size(uint32_t group);

  void resolve(When& w, bool wait) override;
  When post(uint32_t group, const When& ready, int64_t duration_ns) override;

  /// Sets what the next post of this thread carries; null: nothing.
  static void carry(Arrival* a);
  /// Waits until `rank` has posted `sequence` and returns what it carried. Valid until this rank's next post in `group`,
  /// and after that until read() where it said that it reads later.
  Contribution contribution(uint32_t group, uint64_t sequence, int rank);
  bool has_posted(uint32_t group, uint64_t sequence, int rank);
  void read(uint32_t group, uint64_t sequence);

 private:
  struct Local {
    uint32_t group = 0;
    int rank = 0;
    Region* region = nullptr;
    std::mutex mutex;
    struct Live {
      uint64_t sequence, end;
    };
    std::deque<Live> live;      // payloads that another rank may still read
    uint64_t head = 0, freed = 0;
    std::mutex unread_mutex;
    std::set<uint64_t> unread;  // sequence numbers whose values this rank reads later
  };

  Region* region(uint32_t group);
  Local& local(uint32_t group);
  std::optional<int64_t> done(uint32_t group, uint64_t sequence, bool wait, int depth);
  bool await(uint32_t group, Region* g, int rank, uint64_t posts, bool wait, uint64_t read = 0);
  void await_readers(Local& l, uint64_t sequence);
  uint64_t store_payload(Local& l, uint64_t sequence, const Arrival& a);
  void watch(int pid);
  void watcher();
  void announce_death(int pid);

  mutable std::mutex mutex_;
  std::string path_;
  char* base_ = nullptr;
  int file_ = -1, epoll_ = -1;
  std::map<uint32_t, std::unique_ptr<Local>> locals_;
  std::map<int, int> watched_;  // pid -> pidfd
};

}  // namespace revati::comm
