#include "device/allocator.h"

#include <c10/util/Exception.h>
#include <sys/mman.h>

#include "device/fork.h"

namespace revati {
namespace {
constexpr size_t kMinBlock = 512, kSmall = 1 << 20, kSmallSegment = 2 << 20, kLargeSegment = 20 << 20,
                 kMinLarge = 10 << 20, kRoundLarge = 2 << 20;
thread_local c10::MempoolId_t thread_pool{0, 0};

size_t round_block(size_t n) { return n < kMinBlock ? kMinBlock : (n + kMinBlock - 1) / kMinBlock * kMinBlock; }
size_t segment_size(size_t n) {
  if (n <= kSmall) return kSmallSegment;
  if (n < kMinLarge) return kLargeSegment;
  return (n + kRoundLarge - 1) / kRoundLarge * kRoundLarge;
}
std::string human(size_t n) {
  char b[32];
  if (n >= (1ull << 30)) snprintf(b, sizeof b, "%.2f GiB", double(n) / (1ull << 30));
  else if (n >= (1ull << 20)) snprintf(b, sizeof b, "%.2f MiB", double(n) / (1ull << 20));
  else if (n >= (1ull << 10)) snprintf(b, sizeof b, "%.2f KiB", double(n) / (1ull << 10));
  else snprintf(b, sizeof b, "%zu bytes", n);
  return b;
}
template <class Stat>
void add(Stat& array, const Pool& p, int64_t n) {
  auto one = [n](auto& s) { n >= 0 ? s.increase(size_t(n)) : s.decrease(size_t(-n)); };
  one(array[0]);
  one(array[p.small ? 1 : 2]);
}
void count_inactive_split(c10::CachingDeviceAllocator::DeviceStats& s, const Block& free, int sign) {
  if (!free.prev && !free.next) return;  // a whole segment
  add(s.inactive_split, *free.pool, sign);
  add(s.inactive_split_bytes, *free.pool, sign * int64_t(free.size));
}
}  // namespace

Memory& Memory::get() {
  static auto* m = new Memory;
  return *m;
}

void Memory::configure(int devices, size_t total_bytes, size_t outside_bytes, const std::string& label) {
  total_ = total_bytes;
  label_ = label;
  while (int(devices_.size()) < devices) {
    devices_.push_back(std::make_unique<Device>());
    devices_.back()->outside = outside_bytes;
  }
}

Memory::Device& Memory::at(int device) {
  TORCH_CHECK(device >= 0 && device < int(devices_.size()), "revati: device index ", device, " does not exist: this process has ",
              devices_.size(), " virtual GPU(s); ask for more with --gpus");
  return *devices_[size_t(device)];
}

Pool& Memory::pool_of(Device& d, bool small) {
  if (thread_pool == c10::MempoolId_t{0, 0}) {
    d.ordinary[small].small = small;
    return d.ordinary[small];
  }
  auto& slot = d.pools[{thread_pool, small}];
  if (!slot) {
    slot = std::make_unique<Pool>();
    slot->small = small;
    slot->id = thread_pool;
  }
  return *slot;
}

size_t Memory::allowed(const Device& d) const { return size_t(d.fraction * double(total_)); }

Block* Memory::grow(Device& d, int device, Pool& p, size_t size) {
  size_t bytes = segment_size(size);
  if (d.outside + d.reserved + bytes > total_ || d.reserved + bytes > allowed(d)) return nullptr;
  void* m = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (m == MAP_FAILED) return nullptr;
  auto* b = new Block;
  b->ptr = static_cast<char*>(m);
  b->size = bytes;
  b->pool = &p;
  b->device = device;
  d.reserved += bytes;
  d.segments.push_back(b);
  add(d.stats.reserved_bytes, p, int64_t(bytes));
  add(d.stats.segment, p, 1);
  d.stats.num_device_alloc++;
  return b;
}

Block* Memory::allocate(int device, size_t bytes) {
  use_device();
  Device& d = at(device);
  size_t size = round_block(bytes);
  std::lock_guard lock(d.mutex);
  bool small = size <= kSmall;
  Pool& p = pool_of(d, small);
  Block key;
  key.size = size;
  auto it = p.free.lower_bound(&key);
  Block* b = nullptr;
  if (it != p.free.end()) {
    b = *it;
    b->node = p.free.extract(it);
    count_inactive_split(d.stats, *b, -1);
  } else if (!(b = grow(d, device, p, size))) {
    d.stats.num_alloc_retries++;
    drop_free_segments(d);
    b = grow(d, device, p, size);
  }
  if (!b) {
    d.stats.num_ooms++;
    size_t used = d.outside + d.reserved, allocated = size_t(d.stats.allocated_bytes[0].current);
    TORCH_CHECK_WITH(OutOfMemoryError, false, "CUDA out of memory. Tried to allocate ", human(bytes), ". GPU ", device,
                     " has a total capacity of ", human(total_), " of which ", human(total_ - std::min(total_, used)),
                     " is free. Including non-PyTorch memory, this process has ", human(used), " memory in use. ",
                     d.fraction < 1 ? human(allowed(d)) + " allowed; " : "", "Of the allocated memory ", human(allocated), " is allocated by PyTorch, and ",
                     human(d.reserved - allocated), " is reserved by PyTorch but unallocated. (virtual ", label_, ")");
  }
  size_t rest = b->size - size;
  if (small ? rest >= kMinBlock : rest > kSmall) {
    auto* r = new Block;
    r->ptr = b->ptr + size;
    r->size = rest;
    r->pool = &p;
    r->device = device;
    r->prev = b;
    r->next = b->next;
    if (b->next) b->next->prev = r;
    b->next = r;
    b->size = size;
    p.free.insert(r);
    count_inactive_split(d.stats, *r, 1);
  }
  b->in_use = true;
  b->requested = bytes;
  b->phantom.store(false, std::memory_order_relaxed);
  b->invented.store(false, std::memory_order_relaxed);
  add(d.stats.allocation, p, 1);
  add(d.stats.active, p, 1);
  add(d.stats.allocated_bytes, p, int64_t(b->size));
  add(d.stats.active_bytes, p, int64_t(b->size));
  add(d.stats.requested_bytes, p, int64_t(bytes));
  return b;
}

void Memory::release(Block* b) {
  if (b->awaits.load(std::memory_order_acquire)) drop_incoming(b);
  Device& d = at(b->device);
  std::lock_guard lock(d.mutex);
  Pool& p = *b->pool;
  add(d.stats.allocation, p, -1);
  add(d.stats.active, p, -1);
  add(d.stats.allocated_bytes, p, -int64_t(b->size));
  add(d.stats.active_bytes, p, -int64_t(b->size));
  add(d.stats.requested_bytes, p, -int64_t(b->requested));
  if (b->size >= kSmall && !b->phantom) madvise(b->ptr, b->size, MADV_DONTNEED);
  b->in_use = false;
  auto absorb = [&](Block* left, Block* right) {
    left->size += right->size;
    left->next = right->next;
    if (right->next) right->next->prev = left;
    delete right;
  };
  if (Block* n = b->next; n && !n->in_use) {
    p.free.erase(n);
    count_inactive_split(d.stats, *n, -1);
    absorb(b, n);
  }
  if (Block* n = b->prev; n && !n->in_use) {
    p.free.erase(n);
    count_inactive_split(d.stats, *n, -1);
    absorb(n, b);
    b = n;
  }
  count_inactive_split(d.stats, *b, 1);
  if (b->node) {
    b->node.value() = b;
    p.free.insert(std::move(b->node));
  } else {
    p.free.insert(b);
  }
}

void Memory::drop_free_segments(Device& d) {
  std::vector<Block*> kept;
  for (Block* b : d.segments) {
    if (b->in_use || b->next) {
      kept.push_back(b);
      continue;
    }
    b->pool->free.erase(b);
    munmap(b->ptr, b->size);
    d.reserved -= b->size;
    add(d.stats.reserved_bytes, *b->pool, -int64_t(b->size));
    add(d.stats.segment, *b->pool, -1);
    d.stats.num_device_free++;
    delete b;
  }
  d.segments = std::move(kept);
}

void Memory::empty_cache(int device) {
  for (size_t i = 0; i < devices_.size(); i++)
    if (device < 0 || size_t(device) == i) {
      std::lock_guard lock(devices_[i]->mutex);
      drop_free_segments(*devices_[i]);
    }
}

c10::CachingDeviceAllocator::DeviceStats Memory::stats(int device) {
  Device& d = at(device);
  std::lock_guard lock(d.mutex);
  return d.stats;
}

namespace {
template <class F>
void each_stat(c10::CachingDeviceAllocator::DeviceStats& s, F&& f) {
  for (auto* a : {&s.allocation, &s.segment, &s.active, &s.inactive_split, &s.allocated_bytes, &s.reserved_bytes, &s.active_bytes,
                  &s.inactive_split_bytes, &s.requested_bytes})
    for (auto& one : *a) f(one);
}
}  // namespace

void Memory::reset_peak(int device) {
  Device& d = at(device);
  std::lock_guard lock(d.mutex);
  each_stat(d.stats, [](auto& s) { s.reset_peak(); });
}

void Memory::restore_peaks(int device, const c10::CachingDeviceAllocator::DeviceStats& before) {
  Device& d = at(device);
  std::lock_guard lock(d.mutex);
  auto restore = [](auto& now, const auto& then) {
    for (size_t k = 0; k < now.size(); k++) now[k].peak = std::max(then[k].peak, now[k].current);
  };
  restore(d.stats.allocation, before.allocation);
  restore(d.stats.segment, before.segment);
  restore(d.stats.active, before.active);
  restore(d.stats.inactive_split, before.inactive_split);
  restore(d.stats.allocated_bytes, before.allocated_bytes);
  restore(d.stats.reserved_bytes, before.reserved_bytes);
  restore(d.stats.active_bytes, before.active_bytes);
  restore(d.stats.inactive_split_bytes, before.inactive_split_bytes);
  restore(d.stats.requested_bytes, before.requested_bytes);
}

void Memory::reset_accumulated(int device) {
  Device& d = at(device);
  std::lock_guard lock(d.mutex);
  each_stat(d.stats, [](auto& s) { s.reset_accumulated(); });
  d.stats.num_alloc_retries = d.stats.num_ooms = 0;
}

void Memory::set_fraction(int device, double fraction) {
  TORCH_CHECK(0 <= fraction && fraction <= 1, "invalid fraction:", fraction, ". Please set within [0, 1].");
  Device& d = at(device);
  std::lock_guard lock(d.mutex);
  d.fraction = fraction;
}

double Memory::fraction(int device) {
  Device& d = at(device);
  std::lock_guard lock(d.mutex);
  return d.fraction;
}

std::pair<size_t, size_t> Memory::info(int device) {
  Device& d = at(device);
  std::lock_guard lock(d.mutex);
  size_t used = d.outside + d.reserved;
  return {total_ - std::min(total_, used), total_};
}

void Memory::outside(int device, int64_t bytes) {
  Device& d = at(device);
  std::lock_guard lock(d.mutex);
  d.outside += size_t(bytes);  // less than none where what PyTorch holds sleeps: sums with `reserved` come out right
}

c10::MempoolId_t Memory::exchange_pool(c10::MempoolId_t id) { return std::exchange(thread_pool, id); }

c10::MempoolId_t Memory::new_pool_id(bool user) {
  uint64_t n = next_pool_++;
  return user ? c10::MempoolId_t{0, n} : c10::MempoolId_t{n, 0};
}

void delete_block(void* block) { Memory::get().release(static_cast<Block*>(block)); }

Block* block_of(const c10::DataPtr& p) {
  Block* b = p.get_deleter() == &delete_block ? static_cast<Block*>(p.get_context()) : nullptr;
  if (b && b->awaits.load(std::memory_order_acquire)) settle(b);
  return b;
}

}  // namespace revati
