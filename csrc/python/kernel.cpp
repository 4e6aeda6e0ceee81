// Launches of kernels that Python started (Triton): binding, host twin and record in one call.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>
#include <torch/csrc/utils/pybind.h>

#include "device/backend.h"
#include "dispatch/fallback.h"
#include "dispatch/host_kernel.h"
#include "dispatch/op_info.h"
#include "dispatch/values.h"
#include "engines/vllm.h"
#include "python/bindings.h"
#include "timeline/clock.h"
#include "timeline/timeline.h"

namespace revati {
namespace {

struct NativeTwin {
  HostKernel run;
};

class Kernel {
 public:
  /// `defaults`: what the kernel takes where a launch gives nothing; only a grid that is a function sees them.
  /// `host`: None, or what the kernel does to values: a native twin, or a function of (arguments by name, grid).
  Kernel(std::string name, const std::vector<std::string>& arg_names, py::dict defaults, py::object host)
      : name_(std::move(name)), arg_names_(arg_names), defaults_(std::move(defaults)) {
    for (const std::string& arg : arg_names_) keys_.emplace_back(arg);
    if (py::isinstance<NativeTwin>(host)) native_ = host.cast<NativeTwin>().run;
    else host_ = std::move(host);
  }

  void launch(const py::tuple& args, const py::dict& kwargs, py::object grid, int64_t launcher_ns) {
    {
      OwnWork own;
      record(args, kwargs, std::move(grid));
    }
    HostClock::charge_ns(launcher_ns);
    HostClock::settle();
  }

 private:
  struct Bound {
    py::dict by_name;  // empty if nobody asks for it
    std::vector<size_t> order;  // of the arguments that were given
    std::vector<c10::IValue> values{c10::IValue()};
    int device = -1;
  };
  /// Launches that give the same arguments share what the device knows of them.
  struct Form {
    std::vector<size_t> order;
    const OpInfo* info;
  };

  const OpInfo& info(const std::vector<size_t>& order) {
    for (const Form& form : forms_)
      if (form.order == order) return *form.info;
    std::vector<std::string> names{"grid"};
    for (size_t k : order) names.push_back(arg_names_[k]);
    return *forms_.emplace_back(Form{order, &info_of(name_, names)}).info;
  }

  void record(const py::tuple& args, const py::dict& kwargs, py::object grid) {
    bool has_grid_function = PyCallable_Check(grid.ptr());
    Bound bound;
    auto take = [&](size_t k, py::handle value) {
      bound.order.push_back(k);
      bound.values.push_back(value_of(value));
      const c10::IValue& v = bound.values.back();
      if (bound.device < 0 && v.isTensor() && on_device(v.toTensor())) bound.device = v.toTensor().get_device();
      if (has_grid_function || !host_.is_none()) bound.by_name[keys_[k]] = value;
    };
    size_t given = std::min(args.size(), arg_names_.size());
    for (size_t k = 0; k < given; k++) take(k, args[k]);
    for (auto [key, value] : kwargs)
      for (size_t k = given; k < keys_.size(); k++)
        if (keys_[k].equal(key)) take(k, value);
    if (has_grid_function) {
      py::dict all = py::reinterpret_steal<py::dict>(PyDict_Copy(defaults_.ptr()));
      PyDict_Update(all.ptr(), bound.by_name.ptr());
      grid = grid(all);
    }
    py::tuple sizes = PyTuple_Check(grid.ptr()) || PyList_Check(grid.ptr()) ? py::tuple(grid) : py::make_tuple(grid);
    std::vector<int64_t> extent;
    int64_t programs = 1;
    for (auto size : sizes) programs *= extent.emplace_back(size.cast<int64_t>());
    bound.values[0] = programs;
    const OpInfo& op = info(bound.order);
    if (native_) run_native(op.arg_names, bound.values, extent);
    if (!host_.is_none()) run_host(bound.by_name, sizes);
    int device = bound.device < 0 ? current_device() : bound.device;
    launch_named(op, bound.values, device);
  }

  /// A twin runs now, and again wherever its launch is replayed: `make` returns what runs then.
  template <class Make>
  static void at_replays(Make make) {
    Timeline& timeline = Timeline::get();
    int device = current_device();
    if (timeline.keeps_values(device)) timeline.keep_rerun(device, make());
  }

  void run_native(const std::vector<std::string>& names, const std::vector<c10::IValue>& values, const std::vector<int64_t>& grid) {
    native_(HostLaunch{names, values, grid});
    at_replays([&] { return [run = native_, names, values, grid] { run(HostLaunch{names, values, grid}); }; });
  }

  /// The references are kept for good: graphs may die without the GIL.
  void run_host(const py::dict& bound, const py::tuple& grid) {
    host_(bound, grid);
    at_replays([&] {
      host_.inc_ref();
      bound.inc_ref();
      grid.inc_ref();
      return [f = host_.ptr(), b = bound.ptr(), g = grid.ptr()] {
        py::gil_scoped_acquire gil;
        py::reinterpret_borrow<py::object>(f)(py::reinterpret_borrow<py::object>(b), py::reinterpret_borrow<py::object>(g));
      };
    });
  }

  std::string name_;
  std::vector<std::string> arg_names_;
  std::vector<py::str> keys_;
  std::vector<Form> forms_;
  py::dict defaults_;
  HostKernel native_ = nullptr;
  py::object host_ = py::none();
};

py::dtype dtype_of(at::ScalarType type) {
  switch (type) {
    case at::kBool: return py::dtype::of<bool>();
    case at::kByte: return py::dtype::of<uint8_t>();
    case at::kChar: return py::dtype::of<int8_t>();
    case at::kShort: return py::dtype::of<int16_t>();
    case at::kInt: return py::dtype::of<int32_t>();
    case at::kLong: return py::dtype::of<int64_t>();
    case at::kUInt64: return py::dtype::of<uint64_t>();
    case at::kFloat: return py::dtype::of<float>();
    case at::kDouble: return py::dtype::of<double>();
    default: TORCH_CHECK_TYPE(false, "revati: a ", type, " tensor has no numpy array");
  }
}

/// The memory of a tensor as a numpy array; a device tensor becomes live first.
py::array live_array(const at::Tensor& t) {
  char* base = live_data(t);
  auto item = py::ssize_t(t.element_size());
  std::vector<py::ssize_t> shape(t.sizes().begin(), t.sizes().end()), strides(t.strides().begin(), t.strides().end());
  for (auto& s : strides) s *= item;
  return {dtype_of(t.scalar_type()), std::move(shape), std::move(strides), base, py::cast(t)};
}

}  // namespace

void bind_kernel(py::module_& m) {
  py::class_<NativeTwin>(m, "NativeTwin");
  m.def("vllm_host_kernels", [] {
    py::dict twins;
    for (auto& [kernel, run] : vllm_host_kernels()) twins[kernel] = NativeTwin{run};
    return twins;
  });
  py::class_<Kernel>(m, "Kernel")
      .def(py::init<std::string, const std::vector<std::string>&, py::dict, py::object>(), py::arg("name"), py::arg("arg_names"),
           py::arg("defaults"), py::arg("host"))
      .def("launch", &Kernel::launch, py::arg("args"), py::arg("kwargs"), py::arg("grid"), py::arg("launcher_ns"));
  m.def("live_array", &live_array);
}

}  // namespace revati
