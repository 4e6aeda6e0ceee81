// A captured graph as programs hold it: a timeline graph, the private memory pool of its tensors, and the driver
// memory of its executable. Behind torch.cuda.CUDAGraph and torch.accelerator.Graph.
#pragma once
#include <c10/core/CachingDeviceAllocator.h>

#include <memory>

namespace revati {

struct Graph;

class CapturedGraph {
 public:
  CapturedGraph();
  ~CapturedGraph();
  CapturedGraph(const CapturedGraph&) = delete;
  CapturedGraph& operator=(const CapturedGraph&) = delete;

  /// Captures the current stream of the current device; allocations of this thread go to `pool`, or to a new one.
  void begin(c10::MempoolId_t pool);
  /// Ends the capture and takes the executable's memory, `graph_node_bytes` of the GPU's spec for each kernel.
  void end();
  void replay();
  void reset();
  c10::MempoolId_t pool() const { return pool_; }
  size_t nodes() const;

 private:
  void release_driver_memory();

  std::shared_ptr<Graph> graph_;
  c10::MempoolId_t pool_{0, 0}, outer_pool_{0, 0};
  int device_ = 0;
  int64_t driver_bytes_ = 0;
};

/// Lets torch.accelerator.Graph find the virtual GPU.
void register_graphs(bool as_cuda);

}  // namespace revati
