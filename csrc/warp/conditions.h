// conditions.h: a condition variable of the program, with a layout of our own, because glibc's internal futex words cannot
// be waited on beside the slot.
#pragma once
#include "shim.h"

#include <pthread.h>

namespace revati::warp {

struct Condition {
  uint32_t sequence, clock, waiters, shared;
};
static_assert(sizeof(Condition) <= sizeof(pthread_cond_t));
inline Condition* own(pthread_cond_t* c) { return reinterpret_cast<Condition*>(c); }

// python_lock.cpp. A condition is signalled: whether that says that Python's global lock is free. Nobody need be woken then.
bool is_python_lock(Condition* condition, void* caller);
int wait_for_python(Condition* condition, pthread_mutex_t* mutex, int64_t deadline);

}  // namespace revati::warp
