// cputime.cpp: this thread's CPU time, most often without a system call.
//
// The kernel clears `rseq_cs` of a thread's restartable-sequence area (linux/rseq.h; glibc registers one for every
// thread) whenever it takes the thread off its processor. While the mark left there stands, the thread has run without
// a break, and the processor's counter says how long. The mark names a sequence that is never executed.
#include "shim.h"

#include <linux/rseq.h>
#include <stddef.h>

asm(R"(
.pushsection .text
.balign 16
  .long 0x53053053
revati_sequence_abort:
  ud2
revati_sequence_begin:
  nop
revati_sequence_end:
.popsection
.pushsection .data.rel.ro, "aw"
.balign 32
.hidden revati_sequence
.globl revati_sequence
revati_sequence:
  .long 0, 0
  .quad revati_sequence_begin, revati_sequence_end - revati_sequence_begin, revati_sequence_abort
.popsection
)");
extern "C" __attribute__((visibility("hidden"))) const char revati_sequence[];

namespace revati::warp {

constexpr int64_t kLongestStretch = 200'000;  // ns until the kernel is asked again: bounds every error

static int64_t ask_kernel() {
  timespec t;
  sys(SYS_clock_gettime, CLOCK_THREAD_CPUTIME_ID, long(&t));
  return t.tv_sec * 1000000000LL + t.tv_nsec;
}

// Null: no area (glibc before 2.35, or switched off).
static volatile rseq* own_area() {
  static const ptrdiff_t* offset = [] {
    auto* size = static_cast<const unsigned*>(dlsym(RTLD_DEFAULT, "__rseq_size"));
    auto* at = static_cast<const ptrdiff_t*>(dlsym(RTLD_DEFAULT, "__rseq_offset"));
    return size && *size ? at : nullptr;
  }();
  if (!offset) return nullptr;
  auto* area = reinterpret_cast<volatile rseq*>(static_cast<char*>(__builtin_thread_pointer()) + *offset);
  return int32_t(area->cpu_id) >= 0 ? area : nullptr;
}

int64_t thread_cpu() {
  volatile rseq* area = own_area();
  if (!area || page->ns_per_tick <= 0) return ask_kernel();
  const uint64_t mark = reinterpret_cast<uint64_t>(revati_sequence);
  Self::Stretch& stretch = self.stretch;
  uint64_t begin = stretch.begin_ticks;
  int64_t cpu_ns = stretch.cpu_ns;
  if (begin && area->rseq_cs == mark) {
    auto since_ns = int64_t(double(__builtin_ia32_rdtsc() - begin) * page->ns_per_tick);
    // A signal handler may have begun another stretch meanwhile.
    if (since_ns < kLongestStretch && area->rseq_cs == mark && stretch.begin_ticks == begin) return cpu_ns + since_ns;
  }
  stretch.begin_ticks = 0;
  area->rseq_cs = mark;
  cpu_ns = ask_kernel();
  begin = __builtin_ia32_rdtsc();
  stretch.cpu_ns = cpu_ns;
  if (area->rseq_cs == mark) stretch.begin_ticks = begin;
  return cpu_ns;
}

int32_t own_processor() {
  volatile rseq* area = own_area();
  return area ? int32_t(area->cpu_id) : -1;
}

}  // namespace revati::warp
