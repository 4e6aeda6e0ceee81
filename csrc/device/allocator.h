// Memory of the virtual GPUs: address space without backing, handed out as PyTorch's caching allocator would.
//
// Sizes follow c10/cuda/CUDACachingAllocator.cpp (512 B blocks, 2 MiB small and 20 MiB large segments, best fit,
// splitting, coalescing, private pools), because engines size their KV cache from these statistics.
// Nothing here may take the GIL: deleters run wherever a tensor dies.
#pragma once
#include <c10/core/CachingDeviceAllocator.h>

#include <atomic>
#include <cstddef>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "device/incoming.h"

namespace revati {

struct Block;
struct BlockOrder {
  bool operator()(const Block* a, const Block* b) const;
};
using FreeBlocks = std::set<Block*, BlockOrder>;

/// One allocation; the context of every device DataPtr.
struct Block {
  char* ptr = nullptr;
  size_t size = 0, requested = 0;
  Block *prev = nullptr, *next = nullptr;  // neighbours in the segment
  struct Pool* pool = nullptr;
  int device = 0;
  bool in_use = false;
  /// No value was ever stored here that a host may read: see DESIGN "live and phantom".
  std::atomic<bool> phantom{false};
  /// Holds integers that the value policy chose, or what follows from them: not what a GPU would have computed.
  std::atomic<bool> invented{false};
  std::atomic<bool> awaits{false};  // `incoming` is not empty
  std::vector<std::shared_ptr<Incoming>> incoming;
  FreeBlocks::node_type node;  // of the set it was taken from, to go back without an allocation
};

inline bool BlockOrder::operator()(const Block* a, const Block* b) const {
  return a->size != b->size ? a->size < b->size : a->ptr < b->ptr;
}

struct Pool {
  bool small = false;
  c10::MempoolId_t id{0, 0};
  FreeBlocks free;
};

class Memory {
 public:
  static Memory& get();

  /// `outside_bytes`: what the driver's context takes before the first tensor.
  void configure(int devices, size_t total_bytes, size_t outside_bytes, const std::string& label);
  bool configured() const { return !devices_.empty(); }

  Block* allocate(int device, size_t bytes);
  void release(Block* b);
  void empty_cache(int device = -1);
  c10::CachingDeviceAllocator::DeviceStats stats(int device);
  void reset_peak(int device);
  /// Peaks as in `before`, or as what is taken now where that is more: what came between did not happen.
  void restore_peaks(int device, const c10::CachingDeviceAllocator::DeviceStats& before);
  void reset_accumulated(int device);
  std::pair<size_t, size_t> info(int device);  // free, total
  /// How much of the GPU PyTorch's allocations may take, 0 to 1.
  void set_fraction(int device, double fraction);
  double fraction(int device);
  /// Memory taken by things that are no tensors (communicator buffers, graph executables).
  void outside(int device, int64_t bytes);

  /// Allocations of this thread go to `id` until cleared ({0, 0}).
  static c10::MempoolId_t exchange_pool(c10::MempoolId_t id);
  c10::MempoolId_t new_pool_id(bool user);

 private:
  struct Device {
    std::mutex mutex;
    Pool ordinary[2];  // large, small: of allocations outside private pools
    std::map<std::pair<c10::MempoolId_t, bool>, std::unique_ptr<Pool>> pools;
    c10::CachingDeviceAllocator::DeviceStats stats;
    size_t outside = 0, reserved = 0;
    std::vector<Block*> segments;  // first block of each
    double fraction = 1.0;
  };
  Device& at(int device);
  size_t allowed(const Device& d) const;
  static Pool& pool_of(Device& d, bool small);
  Block* grow(Device& d, int device, Pool& p, size_t size);
  void drop_free_segments(Device& d);

  std::vector<std::unique_ptr<Device>> devices_;
  size_t total_ = 0;
  std::string label_;
  std::atomic<uint64_t> next_pool_{1};
};

/// The block behind a device storage, or nullptr for memory that is not ours. Values on their way into it arrive first.
Block* block_of(const c10::DataPtr& p);
void delete_block(void* block);

}  // namespace revati
