#include "device/graph.h"

#include <ATen/core/GraphImplInterface.h>

#include "device/allocator.h"
#include "device/backend.h"
#include "dispatch/fallback.h"
#include "timeline/timeline.h"

namespace revati {
namespace {

struct AcceleratorGraph final : at::GraphImplInterface {
  void capture_begin(c10::MempoolId_t pool, at::GraphCaptureMode) override { graph.begin(pool); }
  void capture_end() override { graph.end(); }
  void instantiate() override {}
  void replay() override { graph.replay(); }
  void reset() override { graph.reset(); }
  c10::MempoolId_t pool() const override { return graph.pool(); }
  void enable_debug_mode() override {}
  void debug_dump(const std::string&) override {}

  CapturedGraph graph;
};

}  // namespace

CapturedGraph::CapturedGraph() : graph_(std::make_shared<Graph>()) {}
CapturedGraph::~CapturedGraph() { release_driver_memory(); }

void CapturedGraph::begin(c10::MempoolId_t pool) {
  device_ = current_device();
  graph_ = std::make_shared<Graph>();
  pool_ = pool == c10::MempoolId_t{0, 0} ? Memory::get().new_pool_id(false) : pool;
  Timeline::get().capture_begin(graph_, device_);
  outer_pool_ = Memory::exchange_pool(pool_);
}

void CapturedGraph::end() {
  Memory::exchange_pool(outer_pool_);
  Timeline::get().capture_end(graph_, device_);
  release_driver_memory();
  driver_bytes_ = int64_t(nodes()) * config().graph_node_bytes;
  Memory::get().outside(device_, driver_bytes_);
}

void CapturedGraph::replay() {
  next_price_epoch();
  Timeline::get().replay(graph_, device_);
}

void CapturedGraph::reset() {
  release_driver_memory();
  graph_ = std::make_shared<Graph>();
}

size_t CapturedGraph::nodes() const { return graph_->nodes.size(); }

void CapturedGraph::release_driver_memory() {
  if (driver_bytes_) Memory::get().outside(device_, -driver_bytes_);
  driver_bytes_ = 0;
}

void register_graphs(bool as_cuda) {
  // PrivateUse1 is renamed right after the registration, and torch looks the new name up in capitals.
  at::GraphImplRegistry()->Register(as_cuda ? "CUDA" : "REVATI",
                                    [](const at::GraphImplArgs&) -> std::unique_ptr<at::GraphImplInterface> {
                                      return std::make_unique<AcceleratorGraph>();
                                    });
}

}  // namespace revati
