// torch.cuda.CUDAGraph's base class.
#include <pybind11/stl.h>
#include <torch/csrc/utils/pybind.h>

#include "device/graph.h"
#include "python/bindings.h"

namespace revati {

void bind_graph(py::module_& m) {
  using PoolId = std::pair<uint64_t, uint64_t>;
  py::class_<CapturedGraph>(m, "Graph", py::dynamic_attr())
      .def(py::init([](bool) { return std::make_unique<CapturedGraph>(); }), py::arg("keep_graph") = false)
      .def("capture_begin", [](CapturedGraph& g, std::optional<PoolId> pool, const std::string&) {
        g.begin(pool ? c10::MempoolId_t{pool->first, pool->second} : c10::MempoolId_t{0, 0});
      }, py::arg("pool") = py::none(), py::arg("capture_error_mode") = "global")
      .def("capture_end", &CapturedGraph::end)
      .def("instantiate", [](CapturedGraph&) {})
      .def("register_generator_state", [](CapturedGraph&, const at::Generator&) {})
      .def("replay", &CapturedGraph::replay, py::call_guard<py::gil_scoped_release>())
      .def("reset", &CapturedGraph::reset)
      .def("pool", [](CapturedGraph& g) { return PoolId{g.pool().first, g.pool().second}; })
      .def("enable_debug_mode", [](CapturedGraph&) {})
      .def("debug_dump", [](CapturedGraph&, const std::string&) {})
      .def("raw_cuda_graph", [](CapturedGraph&) { return 0; })
      .def("raw_cuda_graph_exec", [](CapturedGraph&) { return 0; })
      .def_property_readonly("node_count", &CapturedGraph::nodes);
}

}  // namespace revati
