#include "dispatch/registration.h"

#include <c10/util/Exception.h>
#include <torch/csrc/jit/frontend/function_schema_parser.h>
#include <torch/library.h>

#include <memory>
#include <unordered_map>

#include "device/backend.h"
#include "dispatch/fallback.h"
#include "dispatch/kernels.h"

namespace revati {
namespace {

struct Silent final : c10::WarningHandler {  // replacing a device kernel is what takeover() is for
  void process(const c10::Warning&) override {}
};

c10::DispatchKey key_of(c10::DeviceType type) {
  return type == c10::DeviceType::CUDA ? c10::DispatchKey::CUDA : c10::DispatchKey::PrivateUse1;
}

std::vector<std::unique_ptr<torch::Library>>& libraries() {  // registrations live as long as the process
  static auto* all = new std::vector<std::unique_ptr<torch::Library>>;
  return *all;
}

torch::Library& library(torch::Library::Kind kind, const std::string& ns, c10::DispatchKey key) {
  libraries().push_back(std::make_unique<torch::Library>(kind, ns, key, __FILE__, __LINE__));
  return *libraries().back();
}

/// Ops with a kernel of their own on CPU and CUDA, and a composite for all others: we are no other. A composite would
/// launch something else than a GPU does (native_layer_norm becomes a batch norm), or the same at twice the cost.
void register_over_composites(torch::Library& aten, c10::DispatchKey key) {
  auto& dispatcher = c10::Dispatcher::singleton();
  for (const c10::OperatorName& name : dispatcher.getAllOpNames()) {
    if (name.name.rfind("aten::", 0) != 0) continue;
    auto op = dispatcher.findOp(name);
    if (!op || !op->hasSchema() || op->hasKernelForDispatchKey(key)) continue;
    bool own = op->hasKernelForDispatchKey(c10::DispatchKey::CPU);
    bool composite = op->hasKernelForDispatchKey(c10::DispatchKey::CompositeExplicitAutograd) ||
                     op->hasKernelForDispatchKey(c10::DispatchKey::CompositeExplicitAutogradNonFunctional);
    // One kernel for all backends that picks a library: what it picks for an unknown device is an error.
    bool convolution = name.name == "aten::convolution" || name.name == "aten::convolution_backward";
    if (!(own && composite) && !(convolution && name.overload_name.empty())) continue;
    std::string full = name.name.substr(6) + (name.overload_name.empty() ? "" : "." + name.overload_name);
    aten.impl(full.c_str(), torch::CppFunction::makeFromBoxedFunction<&fallback>());
  }
}

}  // namespace

void register_kernels(c10::DeviceType type) {
  c10::DispatchKey key = key_of(type);
  library(torch::Library::IMPL, "_", key).fallback(torch::CppFunction::makeFromBoxedFunction<&fallback>());
  torch::Library& m = library(torch::Library::IMPL, "aten", key);
  m.impl("empty.memory_format", &kernels::empty);
  m.impl("empty_strided", &kernels::empty_strided);
  m.impl("as_strided", &kernels::as_strided);
  m.impl("view", &kernels::view);
  m.impl("_reshape_alias", &kernels::reshape_alias);
  m.impl("resize_", &kernels::resize_);
  m.impl("set_.source_Storage", &kernels::set_storage);
  m.impl("set_.source_Storage_storage_offset", &kernels::set_storage_view);
  m.impl("set_.source_Tensor", &kernels::set_tensor);
  m.impl("set_", &kernels::set_empty);
  m.impl("copy_", &kernels::copy_);
  m.impl("_copy_from", &kernels::copy_from);
  m.impl("_copy_from_and_resize", &kernels::copy_from_and_resize);
  m.impl("_local_scalar_dense", &kernels::local_scalar_dense);
  m.impl("record_stream", &kernels::record_stream);
  register_over_composites(m, key);
}

std::vector<std::string> takeover(const std::vector<std::string>& ops) {
  std::vector<std::string> taken;
  Silent silent;
  c10::WarningUtils::WarningHandlerGuard guard(&silent);
  c10::DispatchKey key = key_of(device_type());
  std::unordered_map<std::string, torch::Library*> of;  // one for each namespace
  for (const std::string& full : ops) {
    auto op = c10::Dispatcher::singleton().findOp(torch::jit::parseName(full));
    if (!op || !op->hasSchema()) continue;
    if (!op->hasKernelForDispatchKey(key)) continue;  // composite: it will reach us through the ops it calls
    size_t colons = full.find("::");
    torch::Library*& lib = of[full.substr(0, colons)];
    if (!lib) lib = &library(torch::Library::IMPL, full.substr(0, colons), key);
    lib->impl(full.substr(colons + 2).c_str(), torch::CppFunction::makeFromBoxedFunction<&fallback>());
    taken.push_back(full);
  }
  return taken;
}

}  // namespace revati
