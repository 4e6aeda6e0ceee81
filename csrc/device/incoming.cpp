#include "device/incoming.h"

#include <mutex>
#include <utility>
#include <vector>

#include "device/allocator.h"
#include "timeline/clock.h"

namespace revati {
namespace {
std::mutex& mutex() {
  static auto& m = *new std::mutex;
  return m;
}
// What this thread is writing now: it asks the block itself whether it may hold values.
thread_local Incoming* arriving = nullptr;

void arrive() { arriving->arrive(); }
}  // namespace

void expect(Block* b, std::shared_ptr<Incoming> values) {
  std::lock_guard lock(mutex());
  b->incoming.push_back(std::move(values));
  b->awaits.store(true, std::memory_order_release);
}

void settle(Block* b) {
  if (arriving) return;
  std::vector<std::shared_ptr<Incoming>> all;
  {
    std::lock_guard lock(mutex());
    all = b->incoming;
  }
  for (auto& values : all) {
    struct Arriving {
      explicit Arriving(Incoming* i) { arriving = i; }
      ~Arriving() { arriving = nullptr; }
    } guard(values.get());
    if (values->here()) arrive();
    else HostClock::without_python(&arrive);
  }
  std::lock_guard lock(mutex());
  for (auto& values : all) std::erase(b->incoming, values);
  b->awaits.store(!b->incoming.empty(), std::memory_order_release);
}

void drop_incoming(Block* b) {
  std::vector<std::shared_ptr<Incoming>> all;
  {
    std::lock_guard lock(mutex());
    all.swap(b->incoming);
    b->awaits.store(false, std::memory_order_release);
  }
  for (auto& values : all) values->drop();
}

}  // namespace revati
