#include "comm/world.h"

#include <c10/util/Exception.h>
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>
#include <functional>
#include <thread>

#include "timeline/clock.h"
#include "timeline/timeline.h"

namespace revati::comm {
namespace {
constexpr uint64_t kFileBytes = 256ull << 30;  // sparse: pages come with use
constexpr uint32_t kMaxGroups = 4096;
constexpr uint32_t kGone = 1u << 31;
constexpr int kMaxDepth = 20000;

struct Term {
  uint64_t group, sequence;
  int64_t offset_ns;
};
struct Done {
  std::atomic<uint64_t> tag;  // sequence + 1
  std::atomic<int64_t> ns;
};
struct Entry {
  uint64_t name[2];
  uint64_t offset;
};
struct Header {
  std::atomic<uint32_t> groups;
  uint32_t unused;
  uint64_t used_bytes;
  Entry table[kMaxGroups];
};
thread_local Arrival* carried = nullptr;
}  // namespace

struct alignas(128) Member {
  uint32_t word;                 // changes with every post, and holds kGone: what others wait on
  std::atomic<uint32_t> waiters;
  std::atomic<uint64_t> posts;
  std::atomic<int> pid;
  std::atomic<uint64_t> unread;  // sequence + 1 of the oldest values that it reads later; 0: none

  bool has_read(uint64_t before) const {
    uint64_t oldest = unread.load();
    return !oldest || oldest > before;
  }
  void changed() {
    __atomic_fetch_add(&word, 1, __ATOMIC_SEQ_CST);
    if (waiters.load()) wake_word(&word);
  }
};

struct Slot {
  std::atomic<uint64_t> tag;     // sequence + 1
  int64_t ready_ns, duration_ns;
  uint64_t payload, payload_bytes;
  bool live;
  uint32_t n_terms;
  char call[32];
  Term terms[kTerms];
};

struct Region {
  uint32_t size;
  std::atomic<uint64_t> evaluated;  // every earlier collective has its completion time in `done`
  Done done[kDone];

  Member* members() { return reinterpret_cast<Member*>(reinterpret_cast<char*>(this) + align(sizeof(Region))); }
  Slot* slots() { return reinterpret_cast<Slot*>(members() + size); }
  Slot& slot(uint64_t sequence, int rank) { return slots()[(sequence % kSlots) * size + uint64_t(rank)]; }
  char* payload(int rank) { return reinterpret_cast<char*>(slots() + kSlots * size) + kPayloadRing * uint64_t(rank); }
  static uint64_t align(uint64_t n) { return (n + 127) / 128 * 128; }
  static uint64_t bytes(uint64_t size) {
    uint64_t n = align(sizeof(Region)) + size * (sizeof(Member) + kSlots * sizeof(Slot) + kPayloadRing);
    return (n + 4095) / 4096 * 4096;
  }
};

World& World::get() {
  static auto* w = new World;  // never destroyed: the watching thread may outlive static destructors
  return *w;
}

std::string World::path() const {
  std::lock_guard lock(mutex_);
  return path_;
}

void World::open(const std::string& path) {
  std::lock_guard lock(mutex_);
  if (base_) {
    TORCH_CHECK(path == path_, "revati: this process already meets its ranks in ", path_, " and cannot join those in ", path,
                "; start all processes of the job under one `revati run`");
    return;
  }
  int file = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  TORCH_CHECK(file >= 0, "revati: cannot open ", path, " for the collectives of this run: ", strerror(errno));
  TORCH_CHECK(ftruncate(file, off_t(kFileBytes)) == 0, "revati: cannot size ", path, ": ", strerror(errno));
  void* p = mmap(nullptr, kFileBytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, file, 0);
  TORCH_CHECK(p != MAP_FAILED, "revati: cannot map ", path, ": ", strerror(errno));
  base_ = static_cast<char*>(p);
  file_ = file;
  path_ = path;
  Timeline::get().set_rendezvous(this);
}

Region* World::region(uint32_t group) {
  return reinterpret_cast<Region*>(base_ + reinterpret_cast<Header*>(base_)->table[group].offset);
}

World::Local& World::local(uint32_t group) {
  std::lock_guard lock(mutex_);
  return *locals_.at(group);
}

int World::size(uint32_t group) { return int(region(group)->size); }

uint32_t World::join(const std::string& name, int rank, int size) {
  TORCH_CHECK(base_, "revati: the world of this run is not open");
  uint64_t id[2] = {std::hash<std::string>{}(name), std::hash<std::string>{}(name + "/")};
  std::unique_lock lock(mutex_);
  auto* h = reinterpret_cast<Header*>(base_);
  flock(file_, LOCK_EX);
  uint32_t n = h->groups, group = 0;
  while (group < n && (h->table[group].name[0] != id[0] || h->table[group].name[1] != id[1])) group++;
  if (group == n) {
    uint64_t at = h->used_bytes ? h->used_bytes : (sizeof(Header) + 4095) / 4096 * 4096;
    if (n == kMaxGroups || at + Region::bytes(uint64_t(size)) > kFileBytes) {
      flock(file_, LOCK_UN);
      TORCH_CHECK(false, "revati: more process groups than this run can hold (", n, ")");
    }
    h->used_bytes = at + Region::bytes(uint64_t(size));
    h->table[group] = {{id[0], id[1]}, at};
    region(group)->size = uint32_t(size);
    h->groups = n + 1;
  }
  flock(file_, LOCK_UN);
  Region* g = region(group);
  TORCH_CHECK(int(g->size) == size && rank >= 0 && rank < size, "revati: rank ", rank, " of ", size, " cannot join a group of ", g->size,
              " ranks");
  Member& me = g->members()[rank];
  me.pid = getpid();
  me.changed();  // whoever waits for this rank can now watch its process
  auto& l = locals_[group];
  if (!l) {
    l = std::make_unique<Local>();
    l->group = group;
    l->rank = rank;
    l->region = g;
    l->freed = kPayloadRing;
  }
  return group;
}

// ---- posting

void World::carry(Arrival* a) { carried = a; }

// A rank has read what came with n once it has posted n + 1, or later if it said so.
void World::await_readers(Local& l, uint64_t sequence) {
  for (int r = 0; r < int(l.region->size); r++)
    if (r != l.rank) await(l.group, l.region, r, sequence + 2, true, sequence + 1);
}

uint64_t World::store_payload(Local& l, uint64_t sequence, const Arrival& a) {
  uint64_t at = l.head % kPayloadRing;
  if (at + a.bytes > kPayloadRing) l.head += kPayloadRing - at;  // values lie in one piece
  while (l.head + a.bytes + 64 > l.freed && !l.live.empty()) {
    await_readers(l, l.live.front().sequence);
    l.freed = l.live.front().end + kPayloadRing;
    l.live.pop_front();
  }
  at = l.head % kPayloadRing;
  std::memcpy(l.region->payload(l.rank) + at, a.values, a.bytes);
  l.head += (a.bytes + 63) / 64 * 64;
  l.live.push_back({sequence, l.head});
  return at;
}

When World::post(uint32_t group, const When& ready, int64_t duration_ns) {
  Local& l = local(group);
  Arrival nothing;
  Arrival& a = carried ? *carried : nothing;
  std::lock_guard lock(l.mutex);
  Region* g = l.region;
  Member& me = g->members()[l.rank];
  uint64_t sequence = me.posts.load(std::memory_order_relaxed);
  if (sequence >= kSlots) {  // the slot is free once its collective is done and its values are read
    done(group, sequence - kSlots, true, 0);
    await_readers(l, sequence - kSlots);
  }
  When w = ready;
  if (w.terms.size() > kTerms) resolve(w, true);
  Slot& s = g->slot(sequence, l.rank);
  s.live = a.values && a.bytes <= kPayloadMax;
  s.payload_bytes = s.live ? a.bytes : 0;
  s.payload = s.live ? store_payload(l, sequence, a) : 0;
  s.ready_ns = w.ns;
  s.duration_ns = duration_ns;
  s.n_terms = uint32_t(w.terms.size());
  for (size_t k = 0; k < w.terms.size(); k++)
    s.terms[k] = {w.terms[k].collective.group, w.terms[k].collective.sequence, w.terms[k].offset_ns};
  std::strncpy(s.call, a.call, sizeof s.call - 1);
  if (a.reads_later) {
    std::lock_guard reading(l.unread_mutex);
    l.unread.insert(sequence);
    me.unread.store(*l.unread.begin() + 1);
  }
  s.tag.store(sequence + 1, std::memory_order_release);
  me.posts.store(sequence + 1);
  me.changed();
  a.posted = true;
  a.sequence = sequence;
  When end;
  end.ns = ready.ns + duration_ns;
  end.terms.push_back({{group, sequence}, 0});
  return end;
}

// ---- waiting

bool World::await(uint32_t group, Region* g, int rank, uint64_t posts, bool wait, uint64_t read) {
  Member& m = g->members()[rank];
  if (m.posts.load() >= posts && m.has_read(read)) return true;
  struct Waiting {
    Member& m;
    explicit Waiting(Member& x) : m(x) { m.waiters++; }
    ~Waiting() { m.waiters--; }
  } waiting(m);
  for (;;) {
    uint32_t word = __atomic_load_n(&m.word, __ATOMIC_SEQ_CST);
    if (m.posts.load() >= posts && m.has_read(read)) return true;
    if (int pid = m.pid.load()) watch(pid);
    TORCH_CHECK(!(word & kGone), "revati: rank ", rank, " of ", g->size, " (process ", m.pid.load(), ", group ", group,
                ") died before collective #", posts - 1, "; the other ranks cannot go on");
    if (!wait) return false;
    wait_word(&m.word, word);
  }
}

std::optional<int64_t> World::done(uint32_t group, uint64_t sequence, bool wait, int depth) {
  TORCH_CHECK(depth < kMaxDepth, "revati: the ranks launch collectives of several groups in different orders: on real GPUs this hangs");
  Region* g = region(group);
  for (;;) {
    Done& d = g->done[sequence % kDone];
    uint64_t tag = d.tag.load(std::memory_order_acquire);
    int64_t ns = d.ns.load(std::memory_order_acquire);
    if (tag > sequence + 1) return INT64_MIN;  // so long ago that nobody keeps it
    if (tag == sequence + 1 && d.tag.load() == tag) return ns;
    uint64_t e = g->evaluated.load();
    if (e > sequence) continue;
    for (int r = 0; r < int(g->size); r++)
      if (!await(group, g, r, e + 1, wait)) return std::nullopt;
    int64_t ready = e ? g->done[(e - 1) % kDone].ns.load() : 0, duration = 0;
    for (int r = 0; r < int(g->size); r++) {
      Slot& s = g->slot(e, r);
      int64_t mine = s.ready_ns;
      for (uint32_t k = 0; k < s.n_terms && k < kTerms; k++) {
        auto before = done(uint32_t(s.terms[k].group), s.terms[k].sequence, wait, depth + 1);
        if (!before) return std::nullopt;
        if (*before != INT64_MIN) mine = std::max(mine, *before + s.terms[k].offset_ns);
      }
      ready = std::max(ready, mine);
      duration = std::max(duration, s.duration_ns);
      TORCH_CHECK(g->evaluated.load() > e || std::strncmp(s.call, g->slot(e, 0).call, sizeof s.call) == 0, "revati: collective #", e, " of group ",
                  group, " is ", g->slot(e, 0).call, " on rank 0 and ", s.call, " on rank ", r, ": on real GPUs this hangs or corrupts data");
    }
    if (g->evaluated.load() > e) continue;  // another rank was faster, and the slots may be reused by now
    Done& now = g->done[e % kDone];
    now.ns.store(ready + duration, std::memory_order_release);
    now.tag.store(e + 1, std::memory_order_release);
    g->evaluated.compare_exchange_strong(e, e + 1);
  }
}

void World::resolve(When& w, bool wait) {
  size_t kept = 0;
  for (size_t k = 0; k < w.terms.size(); k++) {
    auto t = w.terms[k];
    auto at = done(t.collective.group, t.collective.sequence, wait, 0);
    if (!at) w.terms[kept++] = t;
    else if (*at != INT64_MIN) w.ns = std::max(w.ns, *at + t.offset_ns);
  }
  w.terms.resize(kept);
}

Contribution World::contribution(uint32_t group, uint64_t sequence, int rank) {
  Region* g = region(group);
  await(group, g, rank, sequence + 1, true);
  Slot& s = g->slot(sequence, rank);
  if (!s.live) return {};
  return {g->payload(rank) + s.payload, s.payload_bytes};
}

bool World::has_posted(uint32_t group, uint64_t sequence, int rank) {
  return region(group)->members()[rank].posts.load() > sequence;
}

void World::read(uint32_t group, uint64_t sequence) {
  Local& l = local(group);
  Member& me = l.region->members()[l.rank];
  {
    std::lock_guard reading(l.unread_mutex);
    l.unread.erase(sequence);
    me.unread.store(l.unread.empty() ? 0 : *l.unread.begin() + 1);
  }
  me.changed();
}

// ---- deaths

void World::watch(int pid) {
  if (pid == getpid()) return;
  std::lock_guard lock(mutex_);
  if (watched_.count(pid)) return;
  if (epoll_ < 0) {
    epoll_ = epoll_create1(EPOLL_CLOEXEC);
    std::thread([this] { watcher(); }).detach();
  }
  int fd = int(::syscall(SYS_pidfd_open, pid, 0));
  watched_[pid] = fd;
  if (fd < 0) return announce_death(pid);
  epoll_event e{};
  e.events = EPOLLIN;
  e.data.fd = pid;
  epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &e);
}

void World::watcher() {
  for (;;) {
    epoll_event e{};
    int n = epoll_wait(epoll_, &e, 1, -1);
    if (n < 0 && errno != EINTR) return;
    if (n != 1) continue;
    std::lock_guard lock(mutex_);
    int pid = e.data.fd, fd = watched_[pid];
    epoll_ctl(epoll_, EPOLL_CTL_DEL, fd, nullptr);
    close(fd);
    announce_death(pid);
  }
}

void World::announce_death(int pid) {
  uint32_t n = reinterpret_cast<Header*>(base_)->groups;
  for (uint32_t group = 0; group < n; group++) {
    Region* g = region(group);
    for (uint32_t r = 0; r < g->size; r++) {
      Member& m = g->members()[r];
      if (m.pid.load() != pid) continue;
      __atomic_fetch_or(&m.word, kGone, __ATOMIC_SEQ_CST);
      wake_word(&m.word);
    }
  }
}

}  // namespace revati::comm
