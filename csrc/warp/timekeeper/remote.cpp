// remote.cpp: the socket server of the timekeeper, in a thread of its own. One poll loop, no blocking writes,
// bounded buffers: a broken or hostile peer can lose its own connection and nothing else.
#include "remote.h"

#include <algorithm>
#include <arpa/inet.h>
#include <cerrno>
#include <cstdlib>
#include <fcntl.h>
#include <linux/futex.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

namespace revati::warp {

constexpr size_t kMostPeers = 1024, kMostOutput = 1 << 18, kMostPending = 65536;
constexpr int64_t kFrameTime = 5'000'000'000;  // real ns a peer has to complete a frame that it began

Remote::~Remote() { stop(); }

void Remote::start() {
  sockaddr_un a = {};
  a.sun_family = AF_UNIX;
  if (options_.socket.size() >= sizeof a.sun_path)
    fail("--socket: the path " + options_.socket + " is too long for a Unix socket; choose a shorter --run-dir");
  options_.socket.copy(a.sun_path, sizeof a.sun_path - 1);
  unlink(a.sun_path);
  unix_fd_ = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  mode_t old = umask(0177);
  bool bound = bind(unix_fd_, reinterpret_cast<sockaddr*>(&a), sizeof a) == 0 && listen(unix_fd_, 128) == 0;
  umask(old);
  if (!bound) fail("--socket: cannot listen at " + options_.socket + ": " + strerror(errno));
  if (!options_.listen.empty()) {
    const char* token = getenv("REVATI_CLOCK_TOKEN");
    if (!token || strlen(token) < 16)
      fail("--listen needs a shared secret of 16 characters or more in REVATI_CLOCK_TOKEN");
    token_ = token;
    size_t colon = options_.listen.rfind(':');
    sockaddr_in t = {};
    t.sin_family = AF_INET;
    int port = colon == std::string::npos ? -1 : atoi(options_.listen.c_str() + colon + 1);
    if (port < 0 || port > 65535 || inet_pton(AF_INET, options_.listen.substr(0, colon).c_str(), &t.sin_addr) != 1)
      fail("--listen: got '" + options_.listen + "', expected an IPv4 address and a port, as 127.0.0.1:5600");
    t.sin_port = htons(uint16_t(port));
    tcp_fd_ = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int on = 1;
    setsockopt(tcp_fd_, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(tcp_fd_, reinterpret_cast<sockaddr*>(&t), sizeof t) || listen(tcp_fd_, 128))
      fail("--listen: cannot listen at " + options_.listen + ": " + strerror(errno));
  }
  wake_fd_ = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
}

void Remote::fired(int slot) {
  {
    std::lock_guard lock(mutex_);
    fired_.push_back(slot);
  }
  eventfd_write(wake_fd_, 1);
}

void Remote::run_in_background() {
  sigset_t all, old;
  sigfillset(&all);
  pthread_sigmask(SIG_BLOCK, &all, &old);  // signals are the main thread's
  thread_ = std::thread([this] { serve(); });
  pthread_sigmask(SIG_SETMASK, &old, nullptr);
}

void Remote::stop() {
  if (thread_.joinable()) {
    stopping_ = true;
    eventfd_write(wake_fd_, 1);
    thread_.join();
  }
  for (int* fd : {&wake_fd_, &unix_fd_, &tcp_fd_})
    if (*fd >= 0) close(*fd), *fd = -1;
  unlink(options_.socket.c_str());
}

int64_t Remote::now() const {
  int64_t v = page_->now;
  return page_->mode == kWall ? std::max(v, real_now() - page_->real_start + page_->skipped) : v;
}

void Remote::poke_timekeeper() {
  page_->kick.fetch_add(1);
  syscall(SYS_futex, &page_->kick, FUTEX_WAKE, 1, nullptr, nullptr, 0);
}

Remote::Peer* Remote::by_id(uint32_t id) {
  for (auto& p : peers_)
    if (p->welcome && p->id == id) return p.get();
  return nullptr;
}

void Remote::send(Peer& p, const std::string& bytes) {
  p.out += bytes;
  flush(p);
}

void Remote::flush(Peer& p) {
  while (!p.out.empty()) {
    ssize_t n = ::send(p.fd, p.out.data(), p.out.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n > 0) {
      p.out.erase(0, size_t(n));
      continue;
    }
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN && p.out.size() < kMostOutput) return;
    p.closing = true;  // gone, or it does not read
    p.out.clear();
  }
}

void Remote::refuse(Peer& p, ErrorCode code, const std::string& text) {
  std::string payload(reinterpret_cast<const char*>(&code), sizeof code);
  payload += text;
  FrameHeader h = {uint32_t(payload.size()), kError, kProtocolVersion, 0};
  send(p, std::string(reinterpret_cast<const char*>(&h), sizeof h) + payload);
  if (code != kCollectiveLost) p.closing = true;
}

void Remote::accept_one(int listener, bool tcp) {
  int fd = accept4(listener, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
  if (fd < 0) return;
  int on = 1;
  if (tcp) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  auto p = std::make_unique<Peer>();
  p->fd = fd;
  p->tcp = tcp;
  p->since = real_now();
  if (peers_.size() >= kMostPeers) refuse(*p, kTooMany, "more than 1024 participants");
  peers_.push_back(std::move(p));
}

void Remote::read_from(Peer& p) {
  char bytes[8192];
  ssize_t n = recv(p.fd, bytes, sizeof bytes, 0);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (n <= 0) {
    p.closing = true;
    return;
  }
  if (p.in.empty()) p.since = real_now();
  p.in.append(bytes, size_t(n));
  while (!p.closing && p.in.size() >= sizeof(FrameHeader)) {
    FrameHeader h;
    memcpy(&h, p.in.data(), sizeof h);
    if (h.version != kProtocolVersion)
      return refuse(p, kBadVersion, "protocol version 1 is spoken here");
    if (h.size > kLargestPayload || h.reserved != 0)
      return refuse(p, kBadFrame, "a frame is at most 4096 bytes long and its reserved field is 0");
    if (p.in.size() < sizeof h + h.size) break;
    std::string payload = p.in.substr(sizeof h, h.size);
    p.in.erase(0, sizeof h + h.size);
    p.since = real_now();
    handle(p, h, payload);
  }
}

void Remote::handle(Peer& p, const FrameHeader& h, const std::string& payload) {
  Reader r(payload);
  if (!p.welcome && h.type != kHello) return refuse(p, kBadState, "the first frame must be HELLO");
  switch (h.type) {
    case kHello: return hello(p, r);
    case kWaitUntil: {
      int64_t deadline = r.take<int64_t>();
      if (!r.complete()) break;
      return wait_until(p, deadline);
    }
    case kAskTime:
      if (!r.complete()) break;
      return send(p, frame(kTime, now()));
    case kWake: {
      uint32_t id = r.take<uint32_t>();
      if (!r.complete()) break;
      return wake(p, id);
    }
    case kCollective: return collective(p, r);
    case kLeave:
      if (!r.complete()) break;
      for (auto& [group, members] : groups_) std::erase(members, p.id);
      p.closing = true;
      return;
    default: return refuse(p, kBadFrame, "unknown frame type " + std::to_string(h.type));
  }
  refuse(p, kBadFrame, "frame type " + std::to_string(h.type) + " has a payload of the wrong length");
}

static bool same_secret(const std::string& a, const std::string& b) {
  if (a.size() != b.size()) return false;
  unsigned char d = 0;
  for (size_t i = 0; i < a.size(); i++) d |= (unsigned char)(a[i] ^ b[i]);
  return d == 0;
}

void Remote::hello(Peer& p, Reader& r) {
  if (p.welcome) return refuse(p, kBadState, "HELLO was said already");
  uint32_t magic = r.take<uint32_t>();
  uint16_t length = r.take<uint16_t>();
  std::string token = r.text(length);
  if (!r.complete() || magic != kHelloMagic) return refuse(p, kBadFrame, "malformed HELLO");
  if (p.tcp && !same_secret(token, token_)) return refuse(p, kBadToken, "wrong token");
  for (int i = 0; i < kMaxSlots && p.slot < 0; i++) {
    Slot& s = page_->slot[i];
    uint64_t w = s.word;
    if (state_of(w) != kFree || !s.word.compare_exchange_strong(w, pack(generation_of(w) + 1, kRun))) continue;
    p.slot = i;
  }
  if (p.slot < 0) return refuse(p, kTooMany, "all slots are taken");
  p.id = next_id_++;
  p.welcome = true;
  Slot& s = page_->slot[p.slot];
  s.kind = kRemote;
  s.call = kSocket;
  s.tid = p.id;
  s.deadline = kNever;
  s.born = page_->now.load();
  s.key = mix(~0ull, p.id);
  s.cpu = 0;
  s.interval = 0;
  page_->running++;
  uint32_t high = page_->high;
  while (high < uint32_t(p.slot + 1) && !page_->high.compare_exchange_weak(high, uint32_t(p.slot + 1))) {}
  send(p, frame(kWelcome, p.id, uint8_t(page_->mode), now(), page_->base_mono));
}

void Remote::wait_until(Peer& p, int64_t deadline) {
  Slot& s = page_->slot[p.slot];
  uint64_t w = s.word;
  if (state_of(w) != kRun) return refuse(p, kBadState, "WAIT while waiting");
  s.deadline = deadline;
  page_->activity++;
  s.word = pack(generation_of(w) + 1, kWait);
  page_->running--;
  poke_timekeeper();
}

// The participant's wait is over; its slot is Fired, and counted as running.
void Remote::resume(Peer& p, uint8_t why) {
  Slot& s = page_->slot[p.slot];
  s.word = pack(generation_of(s.word) + 1, kRun);
  page_->activity++;
  send(p, frame(kWoken, now(), why));
}

void Remote::wake(Peer& p, uint32_t id) {
  Peer* other = by_id(id);
  if (!other) return refuse(p, kBadState, "WAKE: no participant " + std::to_string(id));
  Slot& s = page_->slot[other->slot];
  uint64_t w = s.word;
  if (state_of(w) != kWait) return;  // it runs anyway
  page_->running++;
  if (s.word.compare_exchange_strong(w, pack(generation_of(w), kFired))) resume(*other, 1);
  else page_->running--;
}

void Remote::collective(Peer& p, Reader& r) {
  uint64_t group = r.take<uint64_t>(), sequence = r.take<uint64_t>();
  uint32_t world = r.take<uint32_t>();
  int64_t ready = r.take<int64_t>(), duration = r.take<int64_t>();
  if (!r.complete() || world == 0 || world > kMostPeers || duration < 0 || ready < 0 || ready > kNever / 2 ||
      duration > kNever / 4)
    return refuse(p, kBadFrame, "malformed COLLECTIVE");
  if (pending_.size() >= kMostPending) return refuse(p, kTooMany, "more than 65536 unfinished collectives");
  auto& members = groups_[group];
  if (std::find(members.begin(), members.end(), p.id) == members.end()) members.push_back(p.id);
  Pending& c = pending_[{group, sequence}];
  if (c.members.empty()) c.world = world;
  if (c.world != world || std::find(c.members.begin(), c.members.end(), p.id) != c.members.end())
    return refuse(p, kBadState, "COLLECTIVE: another world size than before, or posted twice");
  c.ready = std::max(c.ready, ready);
  c.duration = std::max(c.duration, duration);
  c.members.push_back(p.id);
  if (c.members.size() < world) return;
  int64_t finish = c.ready + c.duration;
  std::vector<uint32_t> arrived = c.members;
  pending_.erase({group, sequence});
  for (uint32_t id : arrived)
    if (Peer* member = by_id(id)) send(*member, frame(kDone, group, sequence, finish));
}

// A member went without LEAVE: what it has not posted will never complete.
void Remote::lose_collectives(uint32_t id) {
  for (auto& [group, members] : groups_) {
    if (std::erase(members, id) == 0) continue;
    for (auto it = pending_.lower_bound({group, 0}); it != pending_.end() && it->first.first == group;) {
      for (uint32_t member : it->second.members)
        if (Peer* p = member == id ? nullptr : by_id(member))
          refuse(*p, kCollectiveLost, "group " + std::to_string(group) + " has lost participant " + std::to_string(id));
      it = pending_.erase(it);
    }
  }
}

void Remote::drop(Peer& p) {
  close(p.fd);
  p.fd = -1;
  if (!p.welcome) return;
  p.welcome = false;
  lose_collectives(p.id);
  Slot& s = page_->slot[p.slot];
  s.tid = 0;
  uint64_t w = s.word;
  while (!s.word.compare_exchange_weak(w, pack(generation_of(w) + 1, kFree))) {}
  if (state_of(w) == kRun || state_of(w) == kFired) page_->running--;
  poke_timekeeper();
}

void Remote::serve() {
  std::vector<pollfd> fds;
  while (!stopping_) {
    fds = {{wake_fd_, POLLIN, 0}, {unix_fd_, POLLIN, 0}, {tcp_fd_, POLLIN, 0}};
    for (auto& p : peers_) fds.push_back({p->fd, short(p->out.empty() ? POLLIN : POLLIN | POLLOUT), 0});
    poll(fds.data(), fds.size(), peers_.empty() ? -1 : 500);
    eventfd_t ignored;
    if (fds[0].revents) eventfd_read(wake_fd_, &ignored);
    std::vector<int> fired;
    {
      std::lock_guard lock(mutex_);
      fired.swap(fired_);
    }
    for (int slot : fired)
      for (auto& p : peers_)
        if (p->welcome && p->slot == slot && state_of(page_->slot[slot].word) == kFired) resume(*p, 0);
    int64_t t = real_now();
    for (size_t i = 0; i + 3 < fds.size(); i++) {
      Peer& p = *peers_[i];
      if (fds[i + 3].revents & POLLOUT) flush(p);
      if (fds[i + 3].revents & (POLLIN | POLLHUP | POLLERR)) read_from(p);
      if (!p.closing && (!p.in.empty() || !p.welcome) && t - p.since > kFrameTime)
        refuse(p, kTooSlow, "a frame must be complete within 5 s");
    }
    for (auto& p : peers_)
      if (p->closing) drop(*p);
    std::erase_if(peers_, [](auto& p) { return p->fd < 0; });
    if (fds[1].revents) accept_one(unix_fd_, false);
    if (tcp_fd_ >= 0 && fds[2].revents) accept_one(tcp_fd_, true);
  }
  for (auto& p : peers_) drop(*p);
  peers_.clear();
}

}  // namespace revati::warp
