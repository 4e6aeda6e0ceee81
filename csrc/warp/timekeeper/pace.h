// pace.h: the host factor as it follows this machine's pace, told by the launcher.
#pragma once
#include "page.h"

#include <atomic>
#include <string>
#include <thread>

namespace revati::warp {

// Reads lines `PROCESSOR FACTOR` from a pipe and sets Page::cpu_factor. Others are skipped.
class Pace {
 public:
  void start(Page* page, double factor, int fd);  // fd below 0: the factor stays as it is
  void stop();
  double mean = 0, least = 0, most = 0;  // over the factors told so far, the first one included

 private:
  void run();
  void count(double factor);
  void take(const char* line);
  Page* page_ = nullptr;
  int fd_ = -1;
  double sum_ = 0;
  int64_t told_ = 0;
  std::string text_;
  std::atomic<bool> over_{false};
  std::thread thread_;
};

}  // namespace revati::warp
