// children.cpp: finds and ends descendants by way of /proc.
#include "children.h"

#include "log.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dirent.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>
#include <unordered_map>

namespace revati::warp {

std::vector<pid_t> descendants(pid_t root) {
  std::unordered_map<pid_t, pid_t> parent;
  DIR* dir = opendir("/proc");
  if (!dir) return {};
  while (dirent* e = readdir(dir)) {
    pid_t pid = atoi(e->d_name);
    if (pid <= 0) continue;
    char path[64], text[512];
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    FILE* f = fopen(path, "re");
    if (!f) continue;
    size_t n = fread(text, 1, sizeof text - 1, f);
    fclose(f);
    text[n] = 0;
    char state;
    int ppid;
    const char* end = strrchr(text, ')');
    if (end && sscanf(end + 1, " %c %d", &state, &ppid) == 2 && state != 'Z') parent[pid] = ppid;
  }
  closedir(dir);
  std::vector<pid_t> found;
  for (auto& [pid, p] : parent) {
    pid_t at = p;
    for (int depth = 0; depth < 1000 && at != root && parent.count(at); depth++) at = parent[at];
    if (at == root) found.push_back(pid);
  }
  std::sort(found.begin(), found.end());
  return found;
}

void terminate_descendants(double grace, void (*keep_going)(void*), void* argument) {
  int64_t begin = real_now(), kill_at = begin + int64_t(grace * 1e9);
  for (pid_t p : descendants(getpid())) {
    kill(p, SIGTERM);
    kill(p, SIGCONT);
  }
  for (bool killed = false;;) {
    while (waitpid(-1, nullptr, WNOHANG) > 0) {}
    auto left = descendants(getpid());
    int64_t t = real_now();
    if (left.empty() || t > kill_at + 2'000'000'000) return;
    if (t > kill_at || killed) {
      for (pid_t p : left) kill(p, SIGKILL);
      killed = true;
    }
    for (int i = 0; i < 20; i++) {
      keep_going(argument);
      usleep(500);
    }
  }
}

}  // namespace revati::warp
