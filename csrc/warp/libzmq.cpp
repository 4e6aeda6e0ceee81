// libzmq.cpp: libzmq caches milliseconds by the processor's time stamp counter and throttles its mailboxes
// with it. Both are real time: after a jump it would return stale time. It has a path for processors without
// the counter, whose reading is zero; where the counter is read, zeros are put in its place. Two kinds of code
// are known: optimised, `rdtsc; shl rdx,32; mov eax,eax`, and not (pyzmq 26.4.0), `rdtsc; mov [rbp-a],eax;
// mov [rbp-b],edx`.
#include "shim.h"

#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

namespace revati::warp {

constexpr size_t kSite = 8;  // bytes that are rewritten, of either kind

static bool zeros_for(const unsigned char* code, unsigned char* zeros) {
  static const unsigned char kOptimised[kSite] = {0x0f, 0x31, 0x48, 0xc1, 0xe2, 0x20, 0x89, 0xc0};
  static const unsigned char kNoCounter[kSite] = {0x31, 0xc0, 0x31, 0xd2, 0x0f, 0x1f, 0x40, 0x00};
  if (memcmp(code, kOptimised, kSite) == 0) {
    memcpy(zeros, kNoCounter, kSite);
    return true;
  }
  if (code[0] != 0x0f || code[1] != 0x31 || code[2] != 0x89 || code[3] != 0x45 || code[5] != 0x89 || code[6] != 0x55)
    return false;
  memcpy(zeros, code, kSite);
  zeros[0] = 0x31, zeros[1] = 0xc0;  // xor eax,eax
  zeros[6] = 0x45;                   // and eax, not edx, into both places
  return true;
}

static int rewrite(unsigned char* code, size_t size) {
  int sites = 0;
  unsigned char zeros[kSite];
  for (size_t o = 0; o + kSite <= size; o++) {
    if (!zeros_for(code + o, zeros)) continue;
    uintptr_t first = uintptr_t(code + o) & ~4095ul, end = uintptr_t(code + o) + kSite;
    if (mprotect(reinterpret_cast<void*>(first), end - first, PROT_READ | PROT_WRITE | PROT_EXEC)) return -1;
    memcpy(code + o, zeros, kSite);
    mprotect(reinterpret_cast<void*>(first), end - first, PROT_READ | PROT_EXEC);
    sites++;
  }
  return sites;
}

struct Found {
  char path[512];
  int sites;
};
static int visit(dl_phdr_info* object, size_t, void* out) {
  if (!object->dlpi_name || !strstr(object->dlpi_name, "libzmq")) return 0;
  auto* found = static_cast<Found*>(out);
  strncpy(found->path, object->dlpi_name, sizeof found->path - 1);
  for (int i = 0; i < object->dlpi_phnum; i++) {
    auto& h = object->dlpi_phdr[i];
    if (h.p_type == PT_LOAD && (h.p_flags & PF_X))
      found->sites += rewrite(reinterpret_cast<unsigned char*>(object->dlpi_addr + h.p_vaddr), h.p_memsz);
  }
  return 1;
}

}  // namespace revati::warp

using namespace revati::warp;

// The first call of every user of libzmq.
EXPORT void* zmq_ctx_new() {
  static void* (*next)() = [] {
    Found found = {};
    if (page) {
      dl_iterate_phdr(visit, &found);
      if (found.path[0] && found.sites <= 0)
        fprintf(stderr, "revati: %s reads the processor's counter in an unknown way: its timeouts may be late; "
                        "use the libzmq of a pyzmq wheel\n", found.path);
    }
    void* library = found.path[0] ? dlopen(found.path, RTLD_NOW | RTLD_NOLOAD) : nullptr;
    void* f = dlsym(library ? library : RTLD_NEXT, "zmq_ctx_new");
    return reinterpret_cast<void* (*)()>(f);
  }();
  return next ? next() : nullptr;
}
