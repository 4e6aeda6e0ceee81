// remote.h: participants that are not threads under the shim: ranks on other hosts, programs that speak the
// socket protocol. Each owns a slot of kind kRemote; the server thread alone moves it out of Fired.
#pragma once
#include "frames.h"
#include "log.h"
#include "options.h"

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace revati::warp {

class Remote {
 public:
  Remote(Page* page, const Options& options) : page_(page), options_(options) {}
  ~Remote();
  void start();            // opens the sockets; ends the program with one line where that fails
  void run_in_background();
  void fired(int slot);    // called by the timekeeper after Wait -> Fired
  void stop();

 private:
  struct Peer {
    int fd = -1, slot = -1;
    uint32_t id = 0;
    bool tcp = false, welcome = false, closing = false;
    std::string in, out;
    int64_t since = 0;     // real time at which the frame now being read began
  };
  struct Pending {
    uint32_t world = 0;
    int64_t ready = 0, duration = 0;
    std::vector<uint32_t> members;
  };
  using CollectiveKey = std::pair<uint64_t, uint64_t>;  // group, sequence number

  void serve();
  void accept_one(int listener, bool tcp);
  void read_from(Peer& p);
  void handle(Peer& p, const FrameHeader& h, const std::string& payload);
  void hello(Peer& p, Reader& r);
  void wait_until(Peer& p, int64_t deadline);
  void wake(Peer& p, uint32_t id);
  void collective(Peer& p, Reader& r);
  void refuse(Peer& p, ErrorCode code, const std::string& text);
  void send(Peer& p, const std::string& bytes);
  void flush(Peer& p);
  void drop(Peer& p);
  void lose_collectives(uint32_t id);
  void resume(Peer& p, uint8_t why);
  void poke_timekeeper();
  int64_t now() const;
  Peer* by_id(uint32_t id);

  Page* page_;
  const Options& options_;
  std::string token_;
  std::thread thread_;
  int wake_fd_ = -1, unix_fd_ = -1, tcp_fd_ = -1;
  std::atomic<bool> stopping_{false};
  std::mutex mutex_;              // guards fired_
  std::vector<int> fired_;
  std::vector<std::unique_ptr<Peer>> peers_;
  std::map<CollectiveKey, Pending> pending_;
  std::map<uint64_t, std::vector<uint32_t>> groups_;  // who ever took part
  uint32_t next_id_ = 1;
};

}  // namespace revati::warp
