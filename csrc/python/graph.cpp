// torch.cuda.CUDAGraph's base class over Timeline graphs and private memory pools.
#include <pybind11/stl.h>
#include <torch/extension.h>

#include "device/allocator.h"
#include "device/backend.h"
#include "dispatch/fallback.h"
#include "python/bindings.h"
#include "timeline/timeline.h"

namespace revati {
namespace {

class PyGraph {
 public:
  explicit PyGraph(bool) : graph_(std::make_shared<Graph>()) {}

  void capture_begin(std::optional<std::pair<uint64_t, uint64_t>> pool, const std::string&) {
    device_ = current_device();
    graph_ = std::make_shared<Graph>();
    pool_ = pool && (pool->first || pool->second) ? c10::MempoolId_t{pool->first, pool->second} : Memory::get().new_pool_id(false);
    Timeline::get().capture_begin(graph_, device_);
    outer_pool_ = Memory::exchange_pool(pool_);
  }
  void capture_end() {
    Memory::exchange_pool(outer_pool_);
    Timeline::get().capture_end(graph_, device_);
  }
  void replay() {
    next_price_epoch();
    Timeline::get().replay(*graph_, device_);
  }
  void reset() { graph_ = std::make_shared<Graph>(); }
  std::pair<uint64_t, uint64_t> pool() const { return {pool_.first, pool_.second}; }
  size_t nodes() const { return graph_->nodes.size(); }

 private:
  std::shared_ptr<Graph> graph_;
  c10::MempoolId_t pool_{0, 0}, outer_pool_{0, 0};
  int device_ = 0;
};

}  // namespace

void bind_graph(py::module_& m) {
  py::class_<PyGraph>(m, "Graph", py::dynamic_attr())
      .def(py::init<bool>(), py::arg("keep_graph") = false)
      .def("capture_begin", &PyGraph::capture_begin, py::arg("pool") = py::none(), py::arg("capture_error_mode") = "global")
      .def("capture_end", &PyGraph::capture_end)
      .def("instantiate", [](PyGraph&) {})
      .def("register_generator_state", [](PyGraph&, const at::Generator&) {})
      .def("replay", &PyGraph::replay, py::call_guard<py::gil_scoped_release>())
      .def("reset", &PyGraph::reset)
      .def("pool", &PyGraph::pool)
      .def("enable_debug_mode", [](PyGraph&) {})
      .def("debug_dump", [](PyGraph&, const std::string&) {})
      .def("raw_cuda_graph", [](PyGraph&) { return 0; })
      .def("raw_cuda_graph_exec", [](PyGraph&) { return 0; })
      .def_property_readonly("node_count", &PyGraph::nodes);
}

}  // namespace revati
