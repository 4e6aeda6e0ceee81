// A process forked after its parent used the virtual GPU must not go on with it, as with CUDA.
#pragma once
#include <atomic>

namespace revati {

enum class DeviceUse : int { kNone, kInUse, kForked };
extern std::atomic<DeviceUse> device_use;

/// Registers the handler that tells a child of fork() from its parent. Once a process.
void watch_forks();
void first_use();

/// Notes that this process uses the device. Raises what torch.cuda raises in a child of a process that did.
inline void use_device() {
  if (device_use.load(std::memory_order_relaxed) != DeviceUse::kInUse) first_use();
}

/// Memory or work on the device exists: a child of fork() could not go on with it.
inline bool device_in_use() { return device_use.load(std::memory_order_relaxed) == DeviceUse::kInUse; }
inline bool in_bad_fork() { return device_use.load(std::memory_order_relaxed) == DeviceUse::kForked; }

}  // namespace revati
