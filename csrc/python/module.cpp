// Python face of the backend: one function a need of revati.cuda, no policy.
#include <pybind11/functional.h>
#include <pybind11/numpy.h>
#include <pybind11/stl.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/utils/pybind.h>
#include <torch/version.h>

#include "device/allocator.h"
#include "device/backend.h"
#include "device/fork.h"
#include "dispatch/fallback.h"
#include "dispatch/registration.h"
#include "dispatch/values.h"
#include "python/bindings.h"
#include "timeline/clock.h"
#include "timeline/timeline.h"

/// Installs the cuda identity before torch has looked for CUDA: called through ctypes by revati.boot. 0 or 1 (failed).
extern "C" __attribute__((visibility("default"))) int revati_install_cuda() {
  try {
    revati::install(true);
    return 0;
  } catch (const std::exception& e) {
    fprintf(stderr, "revati: %s\n", e.what());
    return 1;
  }
}

namespace revati {
namespace {

struct OwnWorkBlock {  // of a Python `with`
  std::optional<OwnWork> work;
};

py::object tensor_arg_class;

py::object record_of(const at::Tensor& t, bool with_values) {
  if (!t.defined()) return py::none();
  py::tuple shape(t.dim()), stride(t.dim());
  for (int64_t i = 0; i < t.dim(); i++) {
    shape[size_t(i)] = t.size(i);
    stride[size_t(i)] = t.stride(i);
  }
  py::object values = py::none();
  if (with_values && on_device(t) && is_live(t)) {
    at::Tensor h = host_view(t).to(at::kLong).contiguous();
    py::array_t<int64_t> a(h.numel());
    std::copy_n(h.const_data_ptr<int64_t>(), h.numel(), a.mutable_data());
    values = a;
  }
  return tensor_arg_class(shape, stride, c10::getDtypeNames(t.scalar_type()).first, values);
}

py::object record_of(const c10::IValue& v, bool with_values) {
  if (v.isTensor()) return record_of(v.toTensor(), with_values);
  if (v.isInt()) return py::int_(v.toInt());
  if (v.isBool()) return py::bool_(v.toBool());
  if (v.isDouble()) return py::float_(v.toDouble());
  if (v.isString()) return py::str(v.toStringRef());
  if (v.isList()) {
    py::list l;
    for (const c10::IValue& e : v.toListRef()) l.append(record_of(e, with_values));
    return l;
  }
  return py::none();
}

void set_latency(py::object predict, py::object arg_roles, py::object tensor_arg, py::object op_record) {
  tensor_arg_class = std::move(tensor_arg);
  tensor_arg_class.inc_ref();  // lives until the process ends, whatever the interpreter does at exit
  predict.inc_ref();
  arg_roles.inc_ref();
  op_record.inc_ref();
  latency_hook().price = [predict, op_record](const PriceRequest& r) {
    py::gil_scoped_acquire gil;
    py::tuple args(r.n_args), names(r.arg_names->size()), outs(r.outputs.size());
    for (size_t k = 0; k < r.n_args; k++) {
      const std::string& name = k < r.arg_names->size() ? (*r.arg_names)[k] : "";
      bool live = std::find(r.live->begin(), r.live->end(), name) != r.live->end();
      args[k] = record_of(r.args[k], live);
    }
    for (size_t k = 0; k < names.size(); k++) names[k] = (*r.arg_names)[k];
    for (size_t k = 0; k < outs.size(); k++) outs[k] = record_of(r.outputs[k], false);
    py::object p = predict(op_record(r.name, args, outs, names));
    Price price;
    price.duration_ns = int64_t(p.attr("duration_ns").cast<double>());
    price.family = p.attr("family").cast<std::string>();
    price.confidence = p.attr("confidence").cast<std::string>();
    return price;
  };
  latency_hook().arg_roles = [arg_roles](const std::string& name) {
    py::gil_scoped_acquire gil;
    auto [live, unpriced] = arg_roles(name).cast<std::pair<std::vector<std::string>, std::vector<std::string>>>();
    return ArgRoles{std::move(live), std::move(unpriced)};
  };
}

py::dict stat_dict(const c10::CachingAllocator::StatArray& a) {
  static const char* kinds[] = {"all", "small_pool", "large_pool"};
  py::dict d;
  for (size_t k = 0; k < 3; k++) {
    py::dict s;
    s["current"] = a[k].current;
    s["peak"] = a[k].peak;
    s["allocated"] = a[k].allocated;
    s["freed"] = a[k].freed;
    d[kinds[k]] = s;
  }
  return d;
}

py::dict memory_stats(int device) {
  auto s = Memory::get().stats(device);
  py::dict d;
  d["allocation"] = stat_dict(s.allocation);
  d["segment"] = stat_dict(s.segment);
  d["active"] = stat_dict(s.active);
  d["inactive_split"] = stat_dict(s.inactive_split);
  d["allocated_bytes"] = stat_dict(s.allocated_bytes);
  d["reserved_bytes"] = stat_dict(s.reserved_bytes);
  d["active_bytes"] = stat_dict(s.active_bytes);
  d["inactive_split_bytes"] = stat_dict(s.inactive_split_bytes);
  d["requested_bytes"] = stat_dict(s.requested_bytes);
  d["num_alloc_retries"] = s.num_alloc_retries;
  d["num_ooms"] = s.num_ooms;
  d["num_sync_all_streams"] = s.num_sync_all_streams;
  d["num_device_alloc"] = s.num_device_alloc;
  d["num_device_free"] = s.num_device_free;
  d["max_split_size"] = -1;
  for (const char* name : {"oversize_allocations", "oversize_segments"}) {
    py::dict z;
    for (const char* k : {"current", "peak", "allocated", "freed"}) z[k] = 0;
    d[name] = z;
  }
  return d;
}

}  // namespace

c10::IValue value_of(const py::handle& h) {
  if (h.is_none()) return {};
  if (THPVariable_Check(h.ptr())) return THPVariable_Unpack(h.ptr());
  if (py::isinstance<py::bool_>(h)) return h.cast<bool>();
  if (py::isinstance<py::int_>(h)) return h.cast<int64_t>();
  if (py::isinstance<py::float_>(h)) return h.cast<double>();
  return py::str(h).cast<std::string>();
}

}  // namespace revati

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  using namespace revati;
  m.attr("built_for_torch") = TORCH_VERSION;
  m.def("install", &install, py::arg("as_cuda"));
  m.def("installed", &installed);
  m.def("configure", [](const std::string& gpu, const std::string& name, int count, int major, int minor, int sm_count, size_t total_bytes,
                        size_t outside_bytes, int64_t graph_node_bytes, int64_t launch_ns, int64_t graph_launch_ns, int64_t graph_gap_ns,
                        int64_t eager_gap_ns, int64_t compiled_call_ns) {
    config() = {gpu, name, count, major, minor, sm_count, total_bytes, outside_bytes, graph_node_bytes};
    Memory::get().configure(count, total_bytes, outside_bytes, gpu);
    Timeline::get().configure(count, {launch_ns, graph_launch_ns, graph_gap_ns, eager_gap_ns, compiled_call_ns});
  }, py::kw_only(), py::arg("gpu"), py::arg("name"), py::arg("count"), py::arg("major"), py::arg("minor"), py::arg("sm_count"),
     py::arg("total_bytes"), py::arg("outside_bytes"), py::arg("graph_node_bytes"), py::arg("launch_ns"), py::arg("graph_launch_ns"),
     py::arg("graph_gap_ns"), py::arg("eager_gap_ns"), py::arg("compiled_call_ns") = 0);
  m.def("device_count", [] { return config().count; });
  m.def("current_device", &current_device);
  m.def("set_device", &set_device);
  m.def("in_bad_fork", &in_bad_fork);
  m.def("device_in_use", &device_in_use);
  m.def("use_device", &use_device);
  m.def("default_generator", &default_generator);

  m.def("set_latency", &set_latency);
  m.def("takeover", &takeover);
  m.def("launch", [](const std::string& name, const std::vector<std::string>& names, const py::args& args, int device) {
    std::vector<c10::IValue> v;
    for (auto a : args) v.push_back(value_of(a));
    py::gil_scoped_release nogil;
    launch_named(name, names, std::move(v), device);
  }, py::arg("name"), py::arg("arg_names"), py::kw_only(), py::arg("device"));

  m.def("now_ns", &HostClock::now_ns);
  HostClock::set_without_python([](void (*wait)()) {
    if (!PyGILState_Check()) return wait();
    py::gil_scoped_release nogil;
    wait();
  });
  m.def("charge_ns", [](int64_t ns) {
    HostClock::charge_ns(ns);
    HostClock::settle();
  });
  py::class_<OwnWorkBlock>(m, "OwnWork")
      .def(py::init<>())
      .def("__enter__", [](OwnWorkBlock& own) { own.work.emplace(); })
      .def("__exit__", [](OwnWorkBlock& own, const py::args&) { own.work.reset(); });
  m.def("wait_until_ns", &HostClock::wait_until_ns, py::call_guard<py::gil_scoped_release>());
  m.def("shared_clock", &HostClock::shared);
  m.def("synchronize", [](int device) { Timeline::get().synchronize_device(device); }, py::call_guard<py::gil_scoped_release>());
  m.def("busy_ns", [] { return Timeline::get().busy_ns(); });
  m.def("launches", [] { return Timeline::get().launches(); });
  m.def("op_stats", [] {
    py::list l;
    for (auto& s : Timeline::get().collect_stats()) l.append(py::make_tuple(s.name, s.family, s.confidence, s.shapes, s.count, s.total_ns));
    return l;
  });
  m.def("reset_stats", [] { Timeline::get().reset_stats(); });
  m.def("cache_counters", [] {
    auto c = cache_counters();
    py::dict d;
    d["hits"] = c.hits;
    d["misses"] = c.misses;
    d["live_runs"] = c.live_runs;
    d["live_price_misses"] = c.live_price_misses;
    return d;
  });
  m.def("trace", [](bool on) { Timeline::get().trace(on); });
  m.def("take_trace", [] {
    py::list l;
    for (auto& r : Timeline::get().take_trace())
      l.append(py::make_tuple(r.device, r.stream, r.start_ns, r.duration_ns, r.stats->name, r.stats->family, r.stats->shapes));
    return l;
  });

  m.def("is_live", [](const at::Tensor& t) { return !on_device(t) || is_live(t); });
  m.def("mark_phantom", &mark_phantom);
  m.def("host_view", [](const at::Tensor& t) { return host_view(t); });
  m.def("token_id", [] { return policy().token_id; });
  m.def("uva_view", &uva_view);
  m.def("weak_view", &weak_view);
  m.def("set_token_id", [](int64_t id) { policy().token_id = id; });

  m.def("memory_stats", &memory_stats);
  m.def("memory_info", [](int device) { return Memory::get().info(device); });
  m.def("set_memory_fraction", [](int device, double fraction) { Memory::get().set_fraction(device, fraction); });
  m.def("memory_fraction", [](int device) { return Memory::get().fraction(device); });
  m.def("memory_outside", [](int device, int64_t bytes) { Memory::get().outside(device, bytes); });
  m.def("empty_cache", [] { Memory::get().empty_cache(); });
  m.def("reset_peak", [](int device) { Memory::get().reset_peak(device); });
  py::class_<c10::CachingDeviceAllocator::DeviceStats>(m, "Peaks");
  m.def("peaks", [](int device) { return Memory::get().stats(device); });
  m.def("restore_peaks", [](int device, const c10::CachingDeviceAllocator::DeviceStats& before) { Memory::get().restore_peaks(device, before); });
  m.def("reset_accumulated", [](int device) { Memory::get().reset_accumulated(device); });
  m.def("new_pool_id", [](bool user) { return Memory::get().new_pool_id(user); });
  m.def("exchange_pool", [](std::pair<uint64_t, uint64_t> id) { return Memory::exchange_pool({id.first, id.second}); });
  m.def("raw_alloc", [](size_t n, int device) { return reinterpret_cast<uintptr_t>(Memory::get().allocate(device, n)->ptr); });

  m.def("priority", [](int device, int64_t stream) { return Timeline::get().priority(device, stream); });
  m.def("current_stream", [](int device) { return Timeline::get().current(device); });
  m.def("exchange_stream", [](int device, int64_t stream) { return Timeline::get().exchange_current(device, stream); });
  m.def("occupy", [](int64_t ns, int device) {
    static auto& stats = *new auto(Timeline::get().stats("sleep", "sleep", "in_range", ""));
    Timeline::get().launch(device, stats, ns);
  });
  m.def("elapsed_ms", [](uintptr_t a, uintptr_t b) {  // torch.Event's own refuses subclasses
    TORCH_CHECK(a && b, "Both events must be recorded before calculating elapsed time.");
    return Timeline::get().elapsed_ms(*reinterpret_cast<Event*>(a), *reinterpret_cast<Event*>(b));
  }, py::call_guard<py::gil_scoped_release>());
  m.def("capturing", [](int device) { return Timeline::get().capturing(device, Timeline::get().current(device)); });
  bind_graph(m);
  bind_comm(m);
  bind_piece(m);
  bind_kernel(m);
}
