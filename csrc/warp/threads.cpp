// threads.cpp: a thread's slot is reserved by its creator and taken by the thread itself.
#include "shim.h"

#include <pthread.h>
#include <stdlib.h>

namespace revati::warp {
struct Start {
  void* (*run)(void*);
  void* argument;
  Slot* slot;
  uint64_t word;
};
static void* begin(void* p) {
  Start s = *static_cast<Start*>(p);
  free(p);
  take_slot(s.slot, s.word);
  wait_turn_at_start();
  return s.run(s.argument);
}
}  // namespace revati::warp

using namespace revati::warp;

EXPORT int pthread_create(pthread_t* thread, const pthread_attr_t* attributes, void* (*run)(void*), void* argument) {
  if (!page) return NEXT(pthread_create)(thread, attributes, run, argument);
  own_slot();
  publish_send();
  auto* s = static_cast<Start*>(malloc(sizeof(Start)));
  if (!s) return EAGAIN;
  Slot* slot = reserve_slot();
  uint64_t word = slot->word.load();
  slot->pid = uint32_t(sys(SYS_getpid));
  *s = {run, argument, slot, word};
  int error = NEXT(pthread_create)(thread, attributes, begin, s);
  if (error) {
    return_slot(slot, word);
    free(s);
  }
  return error;
}
