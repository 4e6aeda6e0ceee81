#include "device/fork.h"

#include <c10/core/DeviceType.h>
#include <c10/util/Exception.h>
#include <pthread.h>

#include "device/backend.h"

namespace revati {

std::atomic<DeviceUse> device_use{DeviceUse::kNone};

void watch_forks() {
  pthread_atfork(nullptr, nullptr, [] {
    if (device_use.load(std::memory_order_relaxed) == DeviceUse::kInUse) device_use.store(DeviceUse::kForked, std::memory_order_relaxed);
  });
}

void first_use() {
  std::string name = c10::DeviceTypeName(device_type(), false);
  TORCH_CHECK(!in_bad_fork(), "Cannot re-initialize ", name, " in forked subprocess. To use ", name,
              " with multiprocessing, you must use the 'spawn' start method");
  device_use.store(DeviceUse::kInUse, std::memory_order_relaxed);
}

}  // namespace revati
