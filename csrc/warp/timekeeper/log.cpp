// log.cpp: writes the event log.
#include "log.h"

#include <time.h>

namespace revati::warp {

int64_t real_now() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000LL + t.tv_nsec;
}

std::string quoted(const std::string& s) {
  std::string r = "\"";
  for (unsigned char c : s) {
    if (c == '"' || c == '\\') r += '\\';
    if (c < 32) r += ' ';
    else r += char(c);
  }
  return r + "\"";
}

EventLog::~EventLog() {
  if (file_) fclose(file_);
}
bool EventLog::open(const std::string& path) {
  file_ = fopen(path.c_str(), "we");
  return file_ != nullptr;
}
void EventLog::jump(int64_t from, int64_t to) {
  if (file_) fprintf(file_, "{\"event\": \"jump\", \"from_ns\": %lld, \"to_ns\": %lld}\n", (long long)from, (long long)to);
}
void EventLog::thread(const char* event, int64_t now, const Slot& s) {
  if (!file_) return;
  uint32_t call = s.call;
  int64_t deadline = s.deadline;
  fprintf(file_, "{\"event\": \"%s\", \"now_ns\": %lld, \"pid\": %u, \"tid\": %u, \"key\": %llu, \"call\": \"%s\"", event,
          (long long)now, s.pid.load(), s.tid.load(), (unsigned long long)s.key.load(),
          call < kCalls ? kCallNames[call] : "?");
  if (deadline != kNever) fprintf(file_, ", \"deadline_ns\": %lld", (long long)deadline);
  fputs("}\n", file_);
}
void EventLog::text(const char* event, int64_t now, const std::string& detail) {
  if (file_)
    fprintf(file_, "{\"event\": \"%s\", \"now_ns\": %lld, \"detail\": %s}\n", event, (long long)now, quoted(detail).c_str());
}

}  // namespace revati::warp
