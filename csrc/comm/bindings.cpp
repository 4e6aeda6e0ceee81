// Python face of the collectives: ProcessGroupNCCL for torch.distributed, Communicator for engines that call NCCL themselves.
#include <pybind11/chrono.h>
#include <pybind11/stl.h>
#include <torch/csrc/utils/pybind.h>

#include "comm/backend.h"
#include "comm/mirror.h"
#include "python/bindings.h"

namespace revati {
namespace {
using namespace comm;
namespace py = pybind11;
using release = py::call_guard<py::gil_scoped_release>;

Reduce reduce_named(const std::string& name) {
  for (size_t k = 0; k <= size_t(Reduce::kBxor); k++)
    if (name == name_of(Reduce(k))) return Reduce(k);
  TORCH_CHECK(false, "revati: unknown reduce operation '", name, "'; expected sum, avg, product, min, max, band, bor or bxor");
}

const char* kept(const std::string& name) {  // implementation names: a handful, kept for good
  static std::mutex mutex;
  static auto& names = *new std::map<std::string, std::unique_ptr<std::string>>;
  std::lock_guard lock(mutex);
  auto& n = names[name];
  if (!n) n = std::make_unique<std::string>(name);
  return n->c_str();
}

int device_index(const at::Tensor& t) { return t.get_device(); }

void run(Communicator& c, Call call, const at::Tensor& where, int64_t stream, const std::string& implementation) {
  call.implementation = kept(implementation);
  int device = device_index(where);
  c.run(std::move(call), device, stream < 0 ? Timeline::get().current(device) : stream);
}

/// The classes that torch.distributed looks for. Called when its own bindings exist.
void bind_process_group(py::module_ m) {
  py::class_<VirtualBackend, c10::intrusive_ptr<VirtualBackend>, c10d::Backend> group(m, "ProcessGroupNCCL");
  py::class_<VirtualBackend::Options, c10::intrusive_ptr<VirtualBackend::Options>, c10d::Backend::Options>(group, "Options")
      .def(py::init<bool>(), py::arg("is_high_priority_stream") = false)
      .def_readwrite("is_high_priority_stream", &VirtualBackend::Options::is_high_priority_stream)
      .def_readwrite("split_from", &VirtualBackend::Options::split_from)
      .def_readwrite("split_color", &VirtualBackend::Options::split_color);
  group
      .def(py::init([](const c10::intrusive_ptr<c10d::Store>& store, int rank, int size, c10::intrusive_ptr<VirtualBackend::Options> options,
                       const std::string& world, int64_t outside_bytes) {
             return c10::make_intrusive<VirtualBackend>(store, rank, size, std::move(options), world, outside_bytes);
           }),
           py::arg("store"), py::arg("rank"), py::arg("size"), py::arg("options"), py::arg("world"), py::arg("outside_bytes"), release())
      .def_property_readonly("options", &VirtualBackend::getBackendOptions)
      .def_property_readonly("uid", [](VirtualBackend& b) { return b.getID(); })
      .def("perform_nocolor_split", [](VirtualBackend&, const at::Device&) {})
      .def("comm_split_count", [](VirtualBackend&) { return 0; })
      .def("register_mem_pool", [](VirtualBackend&, const py::object&) {})
      .def("deregister_mem_pool", [](VirtualBackend&, const py::object&) {})
      .def("_add_ephemeral_timeout", [](VirtualBackend&, const py::object&) {})
      .def("_is_initialized", [](VirtualBackend&) { return true; })
      .def("_group_start", &VirtualBackend::startCoalescing)
      .def("_group_end", [](VirtualBackend& b) { b.endCoalescing(); }, release())
      .def("abort", [](VirtualBackend&) {});
  py::class_<MirrorBackend, c10::intrusive_ptr<MirrorBackend>, c10d::Backend>(m, "MirrorBackend", "The CPU group of a folded job.")
      .def(py::init([](int rank, int size) { return c10::make_intrusive<MirrorBackend>(rank, size); }), py::arg("rank"), py::arg("size"));
}

}  // namespace

void bind_comm(py::module_& m) {
  m.def("open_world", [](const std::string& path) { World::get().open(path); });
  m.def("world_path", [] { return World::get().path(); });
  m.def("bind_process_group", [m] { bind_process_group(m); });
  py::class_<Communicator, std::shared_ptr<Communicator>>(m, "Communicator", "One rank of a group whose members call each other by `name`.")
      .def(py::init<std::string, int, int, int64_t>(), py::arg("name"), py::arg("rank"), py::arg("size"), py::arg("outside_bytes") = 0)
      .def_property_readonly("rank", &Communicator::rank)
      .def_property_readonly("size", &Communicator::size)
      .def("all_reduce", [](Communicator& c, const at::Tensor& in, const at::Tensor& out, const std::string& op, const std::string& implementation, int64_t stream) {
        run(c, c.all_reduce({in}, {out}, reduce_named(op)), in, stream, implementation);
      }, py::arg("input"), py::arg("output"), py::arg("op") = "sum", py::arg("implementation") = "nccl", py::arg("stream") = -1, release())
      .def("all_gather", [](Communicator& c, const std::vector<at::Tensor>& in, const std::vector<std::vector<at::Tensor>>& out, const std::string& implementation, int64_t stream) {
        run(c, c.all_gather(in, out), in.at(0), stream, implementation);
      }, py::arg("inputs"), py::arg("outputs"), py::arg("implementation") = "nccl", py::arg("stream") = -1, release(),
         "One launch that gathers each input into its list of outputs, one a rank; their sizes may differ.")
      .def("reduce_scatter", [](Communicator& c, const std::vector<at::Tensor>& in, const at::Tensor& out, const std::string& op, const std::string& implementation, int64_t stream) {
        run(c, c.reduce_scatter({in}, {out}, reduce_named(op)), out, stream, implementation);
      }, py::arg("inputs"), py::arg("output"), py::arg("op") = "sum", py::arg("implementation") = "nccl", py::arg("stream") = -1, release())
      .def("reduce", [](Communicator& c, const at::Tensor& in, const at::Tensor& out, int root, const std::string& op, int64_t stream) {
        run(c, c.reduce({in}, {out}, root, reduce_named(op)), in, stream, "nccl");
      }, py::arg("input"), py::arg("output"), py::arg("root"), py::arg("op") = "sum", py::arg("stream") = -1, release())
      .def("broadcast", [](Communicator& c, const at::Tensor& t, int root, int64_t stream) {
        run(c, c.broadcast({t}, root), t, stream, "nccl");
      }, py::arg("tensor"), py::arg("root"), py::arg("stream") = -1, release())
      .def("send", [](Communicator& c, const at::Tensor& t, int peer, int64_t stream) {
        run(c.channel(peer, true), Communicator::send(t), t, stream, "nccl");
      }, py::arg("tensor"), py::arg("peer"), py::arg("stream") = -1, release())
      .def("recv", [](Communicator& c, const at::Tensor& t, int peer, int64_t stream) {
        run(c.channel(peer, false), Communicator::recv(t), t, stream, "nccl");
      }, py::arg("tensor"), py::arg("peer"), py::arg("stream") = -1, release());
}

}  // namespace revati
