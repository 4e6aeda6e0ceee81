#include "timeline/timeline.h"

#include <c10/util/Exception.h>

#include <unordered_map>

#include "timeline/clock.h"

namespace revati {
namespace {
thread_local std::vector<int64_t> current_stream;  // per device
thread_local Sequence* recording_into = nullptr;
thread_local Sequence* noting_into = nullptr;
constexpr int64_t kQueryCost_ns = 1000;            // cudaEventQuery; also what ends a polling loop in `free` mode
constexpr size_t kFewTerms = 4;                    // what a tail may carry of other streams' collectives before they are looked up

/// Whether the capture's own stream has waited for the last work of every other stream.
bool joined(const Graph& g) {
  using Seen = std::vector<int64_t>;  // the last node of each stream that a moment comes after
  std::vector<Seen> seen(size_t(g.streams), Seen(size_t(g.streams), -1));
  std::unordered_map<int, Seen> marks;
  Seen last(size_t(g.streams), -1);
  for (size_t i = 0; i < g.nodes.size() && g.streams > 1; i++) {
    const GraphNode& n = g.nodes[i];
    Seen& mine = seen[size_t(n.stream)];
    if (n.kind != GraphNode::kJoin) {
      mine[size_t(n.stream)] = last[size_t(n.stream)] = int64_t(i);
    } else if (n.other < 0) {
      marks[int(i)] = mine;
    } else {
      const Seen& other = marks[n.other];
      for (size_t k = 0; k < mine.size(); k++) mine[k] = std::max(mine[k], other[k]);
    }
  }
  return seen[0] == last;
}
}  // namespace

Timeline& Timeline::get() {
  static auto* t = new Timeline;  // never destroyed: tensors may outlive static destructors
  return *t;
}

void Timeline::configure(int devices, HostCosts costs) {
  std::lock_guard lock(mutex_);
  costs_ = costs;
  while (int(streams_.size()) < devices) {
    auto s = std::make_unique<Stream>();
    s->device = int(streams_.size());
    streams_.emplace_back();
    streams_.back().push_back(std::move(s));
  }
}

Stream& Timeline::at(int device, int64_t stream) {
  TORCH_CHECK(device >= 0 && device < int(streams_.size()), "revati: device index ", device, " does not exist: this process has ",
              streams_.size(), " virtual GPU(s); ask for more with --gpus");
  auto& of = streams_[device];
  TORCH_CHECK(stream >= 0 && stream < int64_t(of.size()), "revati: stream ", stream, " does not exist on device ", device);
  return *of[stream];
}

int64_t Timeline::new_stream(int device, int priority) {
  std::lock_guard lock(mutex_);
  at(device, 0);
  auto s = std::make_unique<Stream>();
  s->device = device;
  s->priority = priority;
  s->id = int64_t(streams_[device].size());
  streams_[device].push_back(std::move(s));
  return streams_[device].back()->id;
}

int64_t Timeline::current(int device) const {
  return device < int(current_stream.size()) && device >= 0 ? current_stream[device] : 0;
}

int64_t Timeline::exchange_current(int device, int64_t stream) {
  if (device >= int(current_stream.size())) current_stream.resize(device + 1, 0);
  std::swap(current_stream[device], stream);
  return stream;
}

int Timeline::priority(int device, int64_t stream) {
  std::lock_guard lock(mutex_);
  return at(device, stream).priority;
}

void Timeline::note(int device, int64_t stream, int64_t start_ns, int64_t duration_ns, const std::shared_ptr<OpStats>& s) {
  busy_ns_ += duration_ns;
  if (tracing_ && s) rows_.push_back({device, stream, start_ns, duration_ns, s});
}

void Timeline::launch(int device, const std::shared_ptr<OpStats>& stats, int64_t duration_ns,
                      std::function<int64_t()> reprice, bool host_cost) {
  if (recording_into) {
    recording_into->launches.push_back({stats, duration_ns});
    recording_into->repeatable = recording_into->repeatable && !reprice;
    return;
  }
  int64_t stream = current(device);
  std::unique_lock lock(mutex_);
  Stream& s = at(device, stream);
  launches_++;
  if (s.graph) {
    Graph& g = *s.graph;
    GraphNode n;
    n.stream = s.graph_stream;
    n.duration_ns = duration_ns + costs_.graph_gap_ns;
    n.stats = stats;
    n.reprice = std::move(reprice);
    s.graph_ns += n.duration_ns;
    if (n.reprice) g.live_nodes.push_back(int(g.nodes.size()));
    g.nodes.push_back(std::move(n));
    return;
  }
  if (noting_into) noting_into->launches.push_back({.stats = stats, .duration_ns = duration_ns, .reprice = std::move(reprice)});
  if (host_cost) HostClock::charge_ns(costs_.launch_ns);
  s.tail.at_least(HostClock::now_ns());
  int64_t start = s.tail.ns;
  s.tail.delay(duration_ns + costs_.eager_gap_ns);
  stats->count++;
  stats->total_ns += duration_ns;
  note(device, stream, start, duration_ns, stats);
  lock.unlock();
  HostClock::settle();
}

bool Timeline::keeps_values(int device) {
  return (noting_into && noting_into->with_values) || capturing(device, current(device));
}

void Timeline::keep_rerun(int device, std::function<void()> rerun) {
  if (recording_into) recording_into->repeatable = false;
  std::lock_guard lock(mutex_);
  Stream& s = at(device, current(device));
  if (!s.graph) {
    if (noting_into && noting_into->with_values) noting_into->launches.push_back({.rerun = std::move(rerun)});
    return;
  }
  GraphNode n;
  n.stream = s.graph_stream;
  n.rerun = std::move(rerun);
  s.graph->rerun_nodes.push_back(int(s.graph->nodes.size()));
  s.graph->nodes.push_back(std::move(n));
}

void Timeline::collective(int device, int64_t stream, uint32_t group, const std::shared_ptr<OpStats>& stats, int64_t duration_ns) {
  if (recording_into) return recording_into->launches.push_back({stats, duration_ns, group});
  std::unique_lock lock(mutex_);
  Stream& s = at(device, stream);
  launches_++;
  if (s.graph) {
    GraphNode n;
    n.kind = GraphNode::kCollective;
    n.stream = s.graph_stream;
    n.duration_ns = duration_ns + costs_.graph_gap_ns;
    n.group = group;
    n.stats = stats;
    s.graph_ns += n.duration_ns;
    auto& groups = s.graph->groups;
    if (std::find(groups.begin(), groups.end(), group) == groups.end()) groups.push_back(group);
    s.graph->nodes.push_back(std::move(n));
    return;
  }
  if (noting_into) noting_into->launches.push_back({stats, duration_ns, group});
  HostClock::charge_ns(costs_.launch_ns);
  s.tail.at_least(HostClock::now_ns());
  int64_t start = s.tail.ns;
  if (rendezvous_) {
    rendezvous_->resolve(s.tail, false);
    s.tail = rendezvous_->post(group, s.tail, duration_ns);
  } else {
    s.tail.delay(duration_ns);
  }
  stats->count++;
  stats->total_ns += duration_ns;
  note(device, stream, start, duration_ns, stats);
  lock.unlock();
  HostClock::settle();
}

Sequence* Timeline::exchange_recording(Sequence* into) { return std::exchange(recording_into, into); }
bool Timeline::recording() { return recording_into; }
Sequence* Timeline::exchange_noting(Sequence* into) { return std::exchange(noting_into, into); }

void Timeline::perform(const Sequence::Launch& l, int device) {
  if (l.rerun) l.rerun();
  else if (l.graph) replay(l.graph, device);
  else if (l.group >= 0) collective(device, current(device), uint32_t(l.group), l.stats, l.duration_ns);
  else launch(device, l.stats, l.reprice ? l.reprice() : l.duration_ns, l.reprice);
}

void Timeline::play(const Sequence& s, int device) {
  if (!capturing(device, current(device))) HostClock::charge_ns(costs_.compiled_call_ns);
  for (auto& l : s.launches) perform(l, device);
}

void Timeline::repeat(const Sequence& s, int64_t host_ns, int device) {
  OneLump lump;
  int64_t own_ns = 0, launches = 0;  // what the launches charge by themselves
  for (auto& l : s.launches)
    if (!l.rerun) own_ns += l.graph ? costs_.graph_launch_ns : costs_.launch_ns, launches++;
  int64_t left_ns = std::max<int64_t>(0, host_ns - own_ns), share_ns = launches ? left_ns / launches : 0;
  for (auto& l : s.launches) {
    if (!l.rerun) HostClock::charge_ns(share_ns), left_ns -= share_ns;
    perform(l, device);
  }
  HostClock::charge_ns(left_ns);
}

/// Other than launches on one stream, that is events and waits: neither a recording nor a note can repeat it.
void Timeline::not_repeatable() {
  for (Sequence* s : {recording_into, noting_into})
    if (s) s->repeatable = false;
}

void Timeline::record(Event& e, int device, int64_t stream) {
  not_repeatable();
  std::lock_guard lock(mutex_);
  Stream& s = at(device, stream);
  e.recorded = true;
  e.graph = s.graph;
  e.graph_ns = s.graph_ns;
  if (s.graph) {  // a marker node, so that a join at replay knows how far the other stream had come
    GraphNode n;
    n.kind = GraphNode::kJoin;
    n.stream = s.graph_stream;
    n.other = -1;
    e.graph_ns = int64_t(s.graph->nodes.size());
    s.graph->nodes.push_back(std::move(n));
    return;
  }
  s.tail.at_least(HostClock::now_ns());
  e.when = s.tail;
}

void Timeline::block(const Event& e, int device, int64_t stream) {
  if (!e.recorded) return;
  not_repeatable();
  std::lock_guard lock(mutex_);
  Stream& s = at(device, stream);
  if (e.graph && e.graph->capturing) {
    TORCH_CHECK(!s.graph || s.graph == e.graph, "revati: a stream cannot join two captures at once");
    if (!s.graph) {
      s.graph = e.graph;
      s.graph_stream = e.graph->streams++;
      e.graph->stream_ids.push_back(stream);
    }
    GraphNode n;
    n.kind = GraphNode::kJoin;
    n.stream = s.graph_stream;
    n.other = int(e.graph_ns);  // index of the marker node
    s.graph->nodes.push_back(std::move(n));
    return;
  }
  if (s.graph) return;  // work outside the capture is complete by the time a replay can be launched
  s.tail.at_least(e.when);
  // A stream that only waits for others' collectives posts none, which is where terms are resolved otherwise.
  if (rendezvous_ && s.tail.terms.size() > kFewTerms) rendezvous_->resolve(s.tail, false);
}

bool Timeline::query(Event& e) {
  if (!e.recorded) return true;
  not_repeatable();
  HostClock::charge_ns(kQueryCost_ns);
  HostClock::settle();
  if (!e.when.resolved() && rendezvous_) rendezvous_->resolve(e.when, false);
  return e.when.resolved() && e.when.ns <= HostClock::now_ns();
}

void Timeline::wait(When w) {
  not_repeatable();
  if (!w.resolved() && rendezvous_) rendezvous_->resolve(w, true);
  if (w.ns > HostClock::now_ns()) HostClock::wait_until_ns(w.ns);
}

void Timeline::synchronize(Event& e) {
  if (!e.recorded) return;
  if (!e.when.resolved() && rendezvous_) rendezvous_->resolve(e.when, true);
  wait(e.when);
}

double Timeline::elapsed_ms(Event& a, Event& b) {
  TORCH_CHECK(a.recorded && b.recorded, "Both events must be recorded before calculating elapsed time.");
  for (Event* e : {&a, &b})
    if (!e->when.resolved() && rendezvous_) rendezvous_->resolve(e->when, true);
  return double(b.when.ns - a.when.ns) / 1e6;
}

bool Timeline::query_stream(int device, int64_t stream) {
  Event e;
  {
    std::lock_guard lock(mutex_);
    e.when = at(device, stream).tail;
    e.recorded = true;
  }
  return query(e);
}

void Timeline::synchronize_stream(int device, int64_t stream) {
  When w;
  {
    std::lock_guard lock(mutex_);
    Stream& s = at(device, stream);
    TORCH_CHECK(!s.graph, "operation not permitted when stream is capturing (synchronize)");
    w = s.tail;
  }
  wait(w);
}

void Timeline::synchronize_device(int device) {
  When w;
  {
    std::lock_guard lock(mutex_);
    at(device, 0);
    for (auto& s : streams_[device])
      if (!s->graph) w.at_least(s->tail);
  }
  wait(w);
}

void Timeline::capture_begin(const std::shared_ptr<Graph>& g, int device) {
  std::lock_guard lock(mutex_);
  Stream& s = at(device, current(device));
  TORCH_CHECK(!s.graph, "revati: this stream is already capturing a graph");
  *g = Graph{.pool = g->pool};
  g->capturing = true;
  g->device = device;
  g->stream_ids.push_back(s.id);
  s.graph = g;
  s.graph_stream = 0;
  s.graph_ns = 0;
}

void Timeline::capture_end(const std::shared_ptr<Graph>& g, int device) {
  std::lock_guard lock(mutex_);
  TORCH_CHECK(g->capturing, "revati: capture_end without capture_begin");
  g->capturing = false;
  for (auto& of : streams_)
    for (auto& s : of)
      if (s->graph == g) {
        s->graph.reset();
        s->graph_ns = 0;
      }
  TORCH_CHECK(joined(*g), "CUDA error: capturing stream has unjoined work: a stream that joined the capture was not waited for. "
              "Record an event on it and let the capturing stream wait for it before the capture ends");
  g->ready = true;
  g->fixed_ns = 0;
  for (auto& n : g->nodes)
    if (!n.reprice) g->fixed_ns += n.duration_ns;
  g->tally = tally_of(*g);
  tallies_.push_back(g->tally);
  (void)device;
}

bool Timeline::capturing(int device, int64_t stream) {
  std::lock_guard lock(mutex_);
  return bool(at(device, stream).graph);
}

bool Timeline::capturing_any(int device) {
  std::lock_guard lock(mutex_);
  for (auto& s : streams_[device])
    if (s->graph) return true;
  return false;
}

std::shared_ptr<GraphTally> Timeline::tally_of(const Graph& g) const {
  auto tally = std::make_shared<GraphTally>();
  std::unordered_map<const OpStats*, size_t> index;
  for (auto& n : g.nodes) {
    if (!n.stats || n.reprice) continue;
    auto [it, fresh] = index.emplace(n.stats.get(), tally->shares.size());
    if (fresh) tally->shares.push_back({n.stats});
    GraphTally::Share& share = tally->shares[it->second];
    int64_t kernel_ns = n.duration_ns - costs_.graph_gap_ns;
    share.count++;
    share.total_ns += kernel_ns;
    tally->kernel_ns += kernel_ns;
  }
  return tally;
}

// Several streams were captured: walk the nodes with one tail a stream. Markers keep the tail that a join takes over.
int64_t Timeline::evaluate(Graph& g, std::vector<int64_t>* starts) {
  std::vector<int64_t> tail(size_t(g.streams), 0), mark(g.nodes.size(), 0);
  for (size_t i = 0; i < g.nodes.size(); i++) {
    GraphNode& n = g.nodes[i];
    int64_t& t = tail[size_t(n.stream)];
    if (starts) starts->push_back(t);
    if (n.kind == GraphNode::kJoin) {
      if (n.other < 0) mark[i] = t;
      else t = std::max(t, mark[size_t(n.other)]);
    } else {
      t += n.duration_ns;
    }
  }
  return *std::max_element(tail.begin(), tail.end());
}

void Timeline::replay(const std::shared_ptr<Graph>& graph, int device) {
  Graph& g = *graph;
  TORCH_CHECK(g.ready, "revati: replay of a graph that was never captured");
  for (int i : g.rerun_nodes) g.nodes[size_t(i)].rerun();
  int64_t live_ns = 0;
  for (int i : g.live_nodes) {
    GraphNode& n = g.nodes[size_t(i)];
    n.duration_ns = n.reprice() + costs_.graph_gap_ns;
    live_ns += n.duration_ns;
  }
  std::unique_lock lock(mutex_);
  for (int i : g.live_nodes) {
    GraphNode& n = g.nodes[size_t(i)];
    int64_t kernel_ns = n.duration_ns - costs_.graph_gap_ns;
    n.stats->count++;
    n.stats->total_ns += kernel_ns;
    busy_ns_ += kernel_ns;
  }
  int64_t total = g.streams == 1 ? g.fixed_ns + live_ns : evaluate(g);
  if (noting_into) noting_into->launches.push_back({.graph = graph});
  g.tally->replays++;
  busy_ns_ += g.tally->kernel_ns;
  HostClock::charge_ns(costs_.graph_launch_ns);
  int64_t stream = current(device);
  Stream& s = at(device, stream);
  s.tail.at_least(HostClock::now_ns());
  int64_t start = s.tail.ns;
  if (rendezvous_ && !g.groups.empty()) {
    // All ranks of a group replay the same graph, so its collectives are passed together: one arrival in each group.
    rendezvous_->resolve(s.tail, false);
    When end;
    for (uint32_t group : g.groups) end.at_least(rendezvous_->post(group, s.tail, total));
    s.tail = std::move(end);
  } else {
    s.tail.delay(total);
  }
  if (tracing_) trace_replay(g, device, stream, start);
  lock.unlock();
  HostClock::settle();
}

void Timeline::trace_replay(Graph& g, int device, int64_t stream, int64_t start_ns) {
  std::vector<int64_t> starts;
  evaluate(g, &starts);
  for (size_t i = 0; i < g.nodes.size(); i++) {
    const GraphNode& n = g.nodes[i];
    int64_t track = n.stream ? g.stream_ids[size_t(n.stream)] : stream;
    if (n.stats) rows_.push_back({device, track, start_ns + starts[i], n.duration_ns - costs_.graph_gap_ns, n.stats});
  }
}

std::shared_ptr<OpStats> Timeline::stats(const std::string& name, const std::string& family, const std::string& confidence,
                                         const std::string& shapes) {
  auto s = std::make_shared<OpStats>();
  s->name = name;
  s->family = family;
  s->confidence = confidence;
  s->shapes = shapes;
  std::lock_guard lock(mutex_);
  all_stats_.push_back(s);
  return s;
}

std::vector<OpStats> Timeline::collect_stats() {
  std::lock_guard lock(mutex_);
  for (auto& tally : tallies_) {
    for (auto& share : tally->shares) {
      share.stats->count += tally->replays * share.count;
      share.stats->total_ns += tally->replays * share.total_ns;
    }
    tally->replays = 0;
  }
  std::erase_if(tallies_, [](auto& tally) { return tally.use_count() == 1; });  // the graph is gone
  std::vector<OpStats> out;
  for (auto& s : all_stats_)
    if (s->count) out.push_back(*s);
  return out;
}

void Timeline::reset_stats() {
  collect_stats();
  std::lock_guard lock(mutex_);
  for (auto& s : all_stats_) s->count = s->total_ns = 0;
  busy_ns_ = launches_ = 0;
}

void Timeline::trace(bool on) {
  std::lock_guard lock(mutex_);
  tracing_ = on;
}

std::vector<TraceRow> Timeline::take_trace() {
  std::lock_guard lock(mutex_);
  return std::exchange(rows_, {});
}

}  // namespace revati
