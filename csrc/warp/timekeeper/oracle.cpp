// oracle.cpp: the files stat, schedstat, syscall and wchan of /proc/<pid>/task/<tid>, kept open.
#include "oracle.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

namespace revati::warp {

void Oracle::forget(int slot) {
  Files& f = files_[size_t(slot)];
  if (f.stat >= 0) close(f.stat);
  if (f.schedstat >= 0) close(f.schedstat);
  if (f.syscall >= 0) close(f.syscall);
  if (f.wchan >= 0) close(f.wchan);
  f = {};
}

bool Oracle::open_files(int slot, uint32_t pid, uint32_t tid) {
  Files& f = files_[size_t(slot)];
  if (f.stat >= 0 && f.pid == pid && f.tid == tid) return true;
  forget(slot);
  char path[64];
  snprintf(path, sizeof path, "/proc/%u/task/%u/stat", pid, tid);
  f.stat = open(path, O_RDONLY | O_CLOEXEC);
  snprintf(path, sizeof path, "/proc/%u/task/%u/schedstat", pid, tid);
  f.schedstat = open(path, O_RDONLY | O_CLOEXEC);
  snprintf(path, sizeof path, "/proc/%u/task/%u/syscall", pid, tid);
  f.syscall = open(path, O_RDONLY | O_CLOEXEC);
  snprintf(path, sizeof path, "/proc/%u/task/%u/wchan", pid, tid);
  f.wchan = open(path, O_RDONLY | O_CLOEXEC);
  f.pid = pid;
  f.tid = tid;
  return f.stat >= 0;
}

bool Oracle::is_off_processor(Files& f) {
  char text[16];
  ssize_t n = f.syscall < 0 ? -1 : pread(f.syscall, text, sizeof text, 0);
  reads_++;
  if (n > 0) return text[0] != 'r';  // "running"
  // Not permitted here: a thread that has not moved for this long sleeps.
  char before[96], after[96];
  ssize_t a = pread(f.schedstat, before, sizeof before, 0);
  usleep(100);
  ssize_t b = pread(f.schedstat, after, sizeof after, 0);
  return a > 0 && a == b && memcmp(before, after, size_t(a)) == 0;
}

char Oracle::stat_state(int slot, uint32_t pid, uint32_t tid) {
  if (!open_files(slot, pid, tid)) return 'X';
  char text[128];
  ssize_t n = pread(files_[size_t(slot)].stat, text, sizeof text - 1, 0);
  reads_++;
  if (n <= 0) return 'X';
  text[n] = 0;
  const char* end = strrchr(text, ')');
  char c = end && end[1] ? end[2] : 'R';
  return c == 'Z' ? 'X' : c;
}

char Oracle::state(int slot, uint32_t pid, uint32_t tid, bool in_futex) {
  char c = stat_state(slot, pid, tid);
  return c == 'S' && !in_futex && !is_off_processor(files_[size_t(slot)]) ? 'R' : c;
}

// Elsewhere a woken thread may sleep too (a page that is not there): that is no wait.
static bool is_a_wait(const char* function) {
  for (const char* name : {"do_epoll_wait", "ep_poll", "do_sys_poll", "do_poll", "poll_schedule_timeout", "futex_", "do_wait",
                           "pipe_read", "anon_pipe_read"})
    if (!strncmp(function, name, strlen(name))) return true;
  return false;
}

bool Oracle::surely_sleeps(int slot, uint32_t pid, uint32_t tid) {
  if (!open_files(slot, pid, tid)) return false;
  Files& f = files_[size_t(slot)];
  if (f.wchan < 0) return false;
  char text[64];
  ssize_t n = pread(f.wchan, text, sizeof text - 1, 0);
  reads_++;
  if (n <= 0) return false;
  text[n] = 0;
  return is_a_wait(text);
}

bool Oracle::still_sleeps(int slot, uint32_t pid, uint32_t tid, uint64_t runs) {
  return runs != ~0ull && stat_state(slot, pid, tid) == 'S' && run_count(slot, pid, tid) == runs;
}

bool Oracle::read_schedstat(int slot, uint32_t pid, uint32_t tid, unsigned long long (&out)[3]) {
  if (!open_files(slot, pid, tid)) return false;
  char text[96];
  ssize_t n = pread(files_[size_t(slot)].schedstat, text, sizeof text - 1, 0);
  reads_++;
  if (n <= 0) return false;
  text[n] = 0;
  return sscanf(text, "%llu %llu %llu", &out[0], &out[1], &out[2]) == 3;
}

uint64_t Oracle::run_count(int slot, uint32_t pid, uint32_t tid) {
  unsigned long long v[3];
  return read_schedstat(slot, pid, tid, v) ? v[2] : ~0ull;
}

int64_t Oracle::cpu_ns(int slot, uint32_t pid, uint32_t tid) {
  unsigned long long v[3];
  return read_schedstat(slot, pid, tid, v) ? int64_t(v[0]) : -1;
}

uint64_t Oracle::progress(int slot, uint32_t pid, uint32_t tid) {
  if (!open_files(slot, pid, tid)) return 0;
  char text[512], path[64];
  unsigned long long small_faults = 0, large_faults = 0, reads = 0, writes = 0;
  ssize_t n = pread(files_[size_t(slot)].stat, text, sizeof text - 1, 0);
  if (n <= 0) return 0;
  text[n] = 0;
  if (const char* end = strrchr(text, ')'))
    sscanf(end + 2, "%*c %*d %*d %*d %*d %*d %*u %llu %*u %llu", &small_faults, &large_faults);
  snprintf(path, sizeof path, "/proc/%u/task/%u/io", pid, tid);
  if (FILE* f = fopen(path, "re")) {  // not in every kernel
    if (fscanf(f, "rchar: %*u wchar: %*u syscr: %llu syscw: %llu", &reads, &writes) != 2) reads = writes = 0;
    fclose(f);
  }
  reads_ += 2;
  return small_faults + large_faults + reads + writes;
}

char process_state(uint32_t pid) {
  char path[64];
  snprintf(path, sizeof path, "/proc/%u/task", pid);
  DIR* dir = opendir(path);
  if (!dir) return 'X';
  char worst = 'X';
  Oracle once(1);
  while (dirent* e = readdir(dir)) {
    uint32_t tid = uint32_t(atoi(e->d_name));
    char c = tid ? once.state(0, pid, tid) : 'X';
    if (c != 'X' && worst != 'R') worst = c == 'S' ? (worst == 'X' ? 'S' : worst) : 'R';
  }
  once.forget(0);
  closedir(dir);
  return worst;
}

std::string describe_thread(uint32_t pid, uint32_t tid) {
  char path[64], name[64] = "?";
  snprintf(path, sizeof path, "/proc/%u/task/%u/comm", pid, tid);
  if (FILE* f = fopen(path, "re")) {
    if (fgets(name, sizeof name, f)) name[strcspn(name, "\n")] = 0;
    fclose(f);
  }
  return std::string(name) + " (pid " + std::to_string(pid) + ", thread " + std::to_string(tid) + ")";
}

}  // namespace revati::warp
