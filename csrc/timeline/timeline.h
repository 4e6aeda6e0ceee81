// Streams, events and graphs of the virtual GPUs of this process, in virtual nanoseconds.
//
// FIFO per stream: an operation starts at max(stream tail, host time of its launch, events waited for) and moves
// the tail by its duration. Nothing here blocks except wait(), which is what a host that synchronises calls.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "timeline/sequence.h"
#include "timeline/when.h"

namespace revati {

/// What is known of one kind of launch: shared by all launches with the same signature.
struct OpStats {
  std::string name, family, confidence, shapes;
  int64_t count = 0;
  int64_t total_ns = 0;
};

struct Graph;

struct Event {
  When when;
  bool recorded = false;
  std::shared_ptr<Graph> graph;  // set while recorded inside a capture; `graph_ns` is then relative to its start
  int64_t graph_ns = 0;
};

/// One step of a captured graph. Steps with `reprice` ask again at each replay (attention over live lengths).
struct GraphNode {
  enum Kind : uint8_t { kKernel, kCollective, kJoin } kind = kKernel;
  int stream = 0;                 // index among the streams of the capture
  int other = 0;                  // kJoin: stream waited for, at `mark_ns`
  int64_t duration_ns = 0;
  uint32_t group = 0;             // kCollective
  std::shared_ptr<OpStats> stats;
  std::function<int64_t()> reprice;
  std::function<void()> rerun;    // computes live values again
};

/// What each replay of a graph adds to the statistics. The timeline keeps it beyond the graph's life.
struct GraphTally {
  struct Share {
    std::shared_ptr<OpStats> stats;
    int64_t count = 0, total_ns = 0;
  };
  std::vector<Share> shares;      // one for each kind of launch whose price is fixed
  int64_t kernel_ns = 0;          // their sum
  int64_t replays = 0;            // since the last collection
};

struct Graph {
  std::vector<GraphNode> nodes;
  std::vector<int> rerun_nodes, live_nodes;
  std::vector<uint32_t> groups;   // whose collectives it holds, each once
  int streams = 1;
  std::vector<int64_t> stream_ids;  // of the streams captured, the capture's own first: the tracks of a trace
  int64_t fixed_ns = 0;           // sum of the nodes that never change, when one stream was captured
  int64_t device = 0;
  std::shared_ptr<GraphTally> tally;
  bool capturing = false, ready = false;
  std::pair<uint64_t, uint64_t> pool{0, 0};
};

struct Stream {
  int64_t id = 0;
  int device = 0, priority = 0;
  When tail;
  std::shared_ptr<Graph> graph;   // being captured
  int graph_stream = 0;
  int64_t graph_ns = 0;           // relative tail inside the capture
};

struct TraceRow {
  int device;
  int64_t stream, start_ns, duration_ns;
  std::shared_ptr<OpStats> stats;
};

struct HostCosts {
  int64_t launch_ns = 0;       // host cost of an eager launch
  int64_t graph_launch_ns = 0; // host cost of launching a graph
  int64_t graph_gap_ns = 0;    // device gap between kernels of a graph
  int64_t eager_gap_ns = 0;    // device gap between kernels of a stream
  int64_t compiled_call_ns = 0;  // host cost of calling a compiled piece, its launches not counted
};

class Timeline {
 public:
  static Timeline& get();

  void configure(int devices, HostCosts costs);
  int devices() const { return int(streams_.size()); }

  int64_t new_stream(int device, int priority);
  int64_t current(int device) const;
  int64_t exchange_current(int device, int64_t stream);
  int priority(int device, int64_t stream);

  /// Appends an operation to the current stream of `device` and returns its end.
  void launch(int device, const std::shared_ptr<OpStats>& stats, int64_t duration_ns,
              std::function<int64_t()> reprice = {}, bool host_cost = true);
  /// Whether a computation on live values has to be done again later: inside a capture, or a note with values.
  bool keeps_values(int device);
  /// Notes such a computation; ignored where none is kept.
  void keep_rerun(int device, std::function<void()> rerun);
  void collective(int device, int64_t stream, uint32_t group, const std::shared_ptr<OpStats>& stats, int64_t duration_ns);

  /// While `into` is set, what this thread launches goes there and takes no time. Returns what was set before.
  static Sequence* exchange_recording(Sequence* into);
  static bool recording();
  /// While `into` is set, what this thread launches is noted there as well. Returns what was set before.
  static Sequence* exchange_noting(Sequence* into);
  /// Launches a sequence on the current stream, at the host cost of one compiled call.
  void play(const Sequence& s, int device);
  /// Launches a sequence again; all in all the host is busy with it for `host_ns`.
  void repeat(const Sequence& s, int64_t host_ns, int device);

  void record(Event& e, int device, int64_t stream);
  void block(const Event& e, int device, int64_t stream);
  bool query(Event& e);
  void synchronize(Event& e);
  double elapsed_ms(Event& a, Event& b);
  bool query_stream(int device, int64_t stream);
  void synchronize_stream(int device, int64_t stream);
  void synchronize_device(int device);

  void capture_begin(const std::shared_ptr<Graph>& g, int device);
  void capture_end(const std::shared_ptr<Graph>& g, int device);
  bool capturing(int device, int64_t stream);
  bool capturing_any(int device);
  void replay(const std::shared_ptr<Graph>& graph, int device);

  void set_rendezvous(Rendezvous* r) { rendezvous_ = r; }

  std::shared_ptr<OpStats> stats(const std::string& name, const std::string& family, const std::string& confidence,
                                 const std::string& shapes);
  std::vector<OpStats> collect_stats();
  void reset_stats();
  /// Sum of the durations of all kernels so far, without the gaps between them.
  int64_t busy_ns() const { return busy_ns_; }
  int64_t launches() const { return launches_; }

  void trace(bool on);
  std::vector<TraceRow> take_trace();

 private:
  Stream& at(int device, int64_t stream);
  static void not_repeatable();
  void perform(const Sequence::Launch& l, int device);
  void wait(When w);
  void note(int device, int64_t stream, int64_t start_ns, int64_t duration_ns, const std::shared_ptr<OpStats>& s);
  /// Duration of a replay; with `starts`, also when each node starts, from the start of the graph.
  int64_t evaluate(Graph& g, std::vector<int64_t>* starts = nullptr);
  void trace_replay(Graph& g, int device, int64_t stream, int64_t start_ns);
  std::shared_ptr<GraphTally> tally_of(const Graph& g) const;

  mutable std::mutex mutex_;
  std::vector<std::vector<std::unique_ptr<Stream>>> streams_;
  std::vector<std::shared_ptr<GraphTally>> tallies_;
  std::vector<std::shared_ptr<OpStats>> all_stats_;
  std::vector<TraceRow> rows_;
  HostCosts costs_;
  Rendezvous* rendezvous_ = nullptr;
  bool tracing_ = false;
  int64_t busy_ns_ = 0, launches_ = 0;
};

}  // namespace revati
