// oracle.h: asks the kernel what threads do. Waiters are never asked: a woken receiver that has not been
// scheduled yet shows as runnable here, and nowhere else.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace revati::warp {

class Oracle {
 public:
  explicit Oracle(int slots) : files_(size_t(slots)) {}
  // 'R' runs or may run, 'S' sleeps, 'D' and 'T' as in ps, 'X' is no more. `in_futex`: the thread is in a futex
  // wait, where 'S' can be trusted: nothing there looks again after a wake-up.
  char state(int slot, uint32_t pid, uint32_t tid, bool in_futex = false);
  // Whether the thread sleeps off its processor in one of the kernel's common waits, and nobody has woken it: the kernel
  // says where a thread sleeps (`wchan`) under the lock that a wake-up takes. False: not known, ask `state`.
  bool surely_sleeps(int slot, uint32_t pid, uint32_t tid);
  // Of a thread that slept off its processor when its run count was `runs`: does it still, in the same sleep? A woken
  // thread shows as 'R' until it runs, and the count grows before it does. The file `syscall` cannot be asked here: it
  // calls a thread asleep whose wake-up is on its way to another processor.
  bool still_sleeps(int slot, uint32_t pid, uint32_t tid, uint64_t runs);
  // Changes whenever the thread is put on a processor.
  uint64_t run_count(int slot, uint32_t pid, uint32_t tid);
  // CPU time as of the kernel's last look at it, ns; -1: unknown.
  int64_t cpu_ns(int slot, uint32_t pid, uint32_t tid);
  // Grows when the thread touches new memory or reads or writes: a sign that it works and does not spin.
  uint64_t progress(int slot, uint32_t pid, uint32_t tid);
  void forget(int slot);
  uint64_t reads() const { return reads_; }

 private:
  struct Files {
    uint32_t pid = 0, tid = 0;
    int stat = -1, schedstat = -1, syscall = -1, wchan = -1;
  };
  // A thread that is about to sleep, or has just been woken and looks again, shows as 'S' while it is still on a
  // processor. Only the file `syscall` waits for it to be off. It answers for threads that show as 'S'.
  bool is_off_processor(Files& f);
  char stat_state(int slot, uint32_t pid, uint32_t tid);
  bool open_files(int slot, uint32_t pid, uint32_t tid);
  bool read_schedstat(int slot, uint32_t pid, uint32_t tid, unsigned long long (&out)[3]);
  std::vector<Files> files_;
  uint64_t reads_ = 0;
};

// The same for a whole process: 'S' only when all its threads sleep. For programs that have no slots.
char process_state(uint32_t pid);

// "python3 (pid 12, thread 34)"
std::string describe_thread(uint32_t pid, uint32_t tid);

}  // namespace revati::warp
