#include "pace.h"

#include <algorithm>
#include <cmath>
#include <csignal>
#include <cstdlib>
#include <poll.h>
#include <pthread.h>
#include <unistd.h>

namespace revati::warp {

void Pace::count(double factor) {
  least = told_ ? std::min(least, factor) : factor;
  most = told_ ? std::max(most, factor) : factor;
  sum_ += factor;
  told_++;
  mean = sum_ / double(told_);
}

void Pace::take(const char* line) {
  char *after, *end;
  unsigned long processor = strtoul(line, &after, 10);
  double factor = strtod(after, &end);
  if (after == line || end == after || !std::isfinite(factor) || factor <= 0) return;
  page_->cpu_factor[processor % kProcessors] = float(factor);
  count(factor);
}

void Pace::run() {
  constexpr int kPatience_ms = 100;
  constexpr size_t kLongestLine = 64;
  while (!over_) {
    pollfd p = {fd_, POLLIN, 0};
    if (poll(&p, 1, kPatience_ms) <= 0) continue;
    char buffer[256];
    ssize_t n = read(fd_, buffer, sizeof buffer);
    if (n <= 0) return;  // the launcher has closed it
    text_.append(buffer, size_t(n));
    for (size_t end; (end = text_.find('\n')) != std::string::npos; text_.erase(0, end + 1)) {
      take(text_.substr(0, end).c_str());
    }
    if (text_.size() > kLongestLine) text_.clear();
  }
}

void Pace::start(Page* page, double factor, int fd) {
  page_ = page;
  fd_ = fd;
  count(factor);
  if (fd < 0) return;
  sigset_t all, old;
  sigfillset(&all);
  pthread_sigmask(SIG_BLOCK, &all, &old);
  thread_ = std::thread([this] { run(); });
  pthread_sigmask(SIG_SETMASK, &old, nullptr);
}

void Pace::stop() {
  over_ = true;
  if (thread_.joinable()) thread_.join();
}

}  // namespace revati::warp
