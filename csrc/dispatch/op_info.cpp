#include "dispatch/op_info.h"

#include <ATen/ops/as_strided.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_strided.h>
#include <c10/util/flat_hash_map.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <memory>
#include <mutex>
#include <unordered_map>

#include "device/generator.h"
#include "dispatch/fallback.h"
#include "dispatch/index_policy.h"

namespace revati {
namespace {

std::mutex mutex;
// Never destroyed: at exit torch deregisters its ops, and tells Forget, after the statics of this library are gone.
auto& infos = *new ska::flat_hash_map<const c10::FunctionSchema*, std::unique_ptr<OpInfo>>;
auto& retired = *new std::vector<std::unique_ptr<OpInfo>>;  // prices and graphs may still point at them
std::atomic<uint64_t> generation{1};

/// A schema dies with its library, and its address may come back as another op's: forget what was read off it.
struct Forget final : c10::OpRegistrationListener {
  void onOperatorRegistered(const c10::OperatorHandle&) override {}
  void onOperatorDeregistered(const c10::OperatorHandle& op) override {
    std::lock_guard lock(mutex);
    auto it = infos.find(&op.schema());
    if (it == infos.end()) return;
    retired.push_back(std::move(it->second));
    infos.erase(it);
    generation.fetch_add(1, std::memory_order_relaxed);
  }
};

/// What the latency layer says of an op's arguments.
void classify_args(OpInfo& i, const std::string& name) {
  const LatencyHook& hook = latency_hook();
  if (!hook.arg_roles) return;
  ArgRoles roles = hook.arg_roles(name);
  auto has = [](const std::vector<std::string>& names, const std::string& arg) { return std::find(names.begin(), names.end(), arg) != names.end(); };
  for (size_t k = 0; k < i.arg_names.size(); k++) {
    if (has(roles.live, i.arg_names[k])) i.live_index.push_back(int(k));
    if (k < 64 && has(roles.unpriced, i.arg_names[k])) i.unpriced |= uint64_t(1) << k;
  }
  i.live_args = std::move(roles.live);
}

std::unique_ptr<OpInfo> read_schema(const c10::OperatorHandle& op) {
  auto i = std::make_unique<OpInfo>();
  const auto& s = op.schema();
  i->name = s.name() + (s.overload_name().empty() ? "" : "." + s.overload_name());
  i->arg_count = s.arguments().size();
  i->returns = !s.returns().empty();
  bool optional_tensors = false;
  for (size_t k = 0; k < s.arguments().size(); k++) {
    const auto& a = s.arguments()[k];
    i->arg_names.push_back(a.name());
    if (a.alias_info() && a.alias_info()->isWrite()) {
      i->written.push_back(int(k));
      if (a.name() == "info") i->error_args.push_back(int(k));
    } else if (a.alias_info()) {
      i->view = true;
    }
    optional_tensors = optional_tensors || a.type()->str() == "Optional[Tensor][]" || a.type()->str() == "Tensor?[]";
  }
  for (size_t k = 0; k < s.returns().size(); k++)
    if (s.returns()[k].name() == "info" && !s.returns()[k].alias_info()) i->error_results.push_back(int(k));
  if (!i->written.empty()) i->view = false;
  i->masks = optional_tensors && i->returns && (i->written.empty() || i->arg_names[size_t(i->written[0])] == "out");
  for (auto tag : op.getTags())
    if (tag == at::Tag::dynamic_output_shape || tag == at::Tag::data_dependent_output) i->dynamic = true;
  if (i->masks) i->dynamic = false;  // only with a mask among the indices
  i->runs_on_cpu = op.hasComputedKernelForDispatchKey(c10::DispatchKey::CPU);
  i->cpu_indices = s.name().find("index") != std::string::npos || s.name().find("copy") != std::string::npos;
  i->index_result = find_index_result(s);
  classify_args(*i, s.name());
  return i;
}

}  // namespace

const OpInfo& info_of(const c10::OperatorHandle& op) {
  static auto* listening = new c10::RegistrationHandleRAII(c10::Dispatcher::singleton().addRegistrationListener(std::make_unique<Forget>()));
  (void)listening;
  struct Slot {
    const c10::FunctionSchema* key = nullptr;
    const OpInfo* info = nullptr;
    uint64_t generation = 0;
  };
  static thread_local std::array<Slot, 512> recent;
  const c10::FunctionSchema* key = &op.schema();
  Slot& slot = recent[(reinterpret_cast<uintptr_t>(key) >> 5) % recent.size()];
  uint64_t now = generation.load(std::memory_order_relaxed);
  if (slot.key == key && slot.generation == now) return *slot.info;
  {
    std::lock_guard lock(mutex);
    auto it = infos.find(key);
    if (it != infos.end()) {
      slot = {key, it->second.get(), now};
      return *slot.info;
    }
  }
  auto fresh = read_schema(op);  // asks Python for the live arguments: not under the lock
  std::lock_guard lock(mutex);
  slot = {key, infos.emplace(key, std::move(fresh)).first->second.get(), now};
  return *slot.info;
}

const OpInfo& info_of(const std::string& name, const std::vector<std::string>& arg_names) {
  // one name may be launched with several lists of arguments: those left at their defaults are not among them
  static auto& infos = *new std::unordered_multimap<std::string, std::unique_ptr<OpInfo>>;
  auto known = [&]() -> const OpInfo* {
    auto [it, end] = infos.equal_range(name);
    for (; it != end; ++it)
      if (it->second->arg_names == arg_names) return it->second.get();
    return nullptr;
  };
  {
    std::lock_guard lock(mutex);
    if (const OpInfo* info = known()) return *info;
  }
  auto fresh = std::make_unique<OpInfo>();
  fresh->name = name;
  fresh->arg_names = arg_names;
  fresh->arg_count = arg_names.size();
  classify_args(*fresh, name);  // asks Python: not under the lock
  std::lock_guard lock(mutex);
  if (const OpInfo* info = known()) return *info;
  return *infos.emplace(name, std::move(fresh))->second;
}

at::Tensor flat_arg(const c10::IValue* args, size_t n, int index) {
  at::Tensor found;
  int k = 0;
  for (size_t i = 0; i < n && k <= index; i++)
    each_tensor(args[i], [&](const at::Tensor& t) {
      if (k++ == index) found = t;
    });
  return found;
}

c10::IValue mapped(const c10::IValue& v, c10::Device device, const std::function<at::Tensor(const at::Tensor&)>& f) {
  if (v.isTensor()) return f(v.toTensor());
  if (v.isTensorList()) {
    c10::List<at::Tensor> l;
    for (const c10::IValue& e : v.toListRef()) l.push_back(f(e.toTensor()));
    return l;
  }
  if (v.isOptionalTensorList() || (v.isList() && v.toListRef().size() && (v.toListRef()[0].isTensor() || v.toListRef()[0].isNone()))) {
    c10::List<std::optional<at::Tensor>> l;
    for (const c10::IValue& e : v.toListRef()) l.push_back(e.isTensor() ? std::optional<at::Tensor>(f(e.toTensor())) : std::nullopt);
    return l;
  }
  if (v.isDevice()) return device;
  if (v.isGenerator()) {
    if (!device.is_cpu()) return {};
    auto* g = dynamic_cast<VirtualGenerator*>(v.toGenerator().unsafeGetGeneratorImpl());
    return g ? c10::IValue(g->draw()) : v;
  }
  return v;
}

at::Tensor to_meta(const at::Tensor& t, bool exact) {
  if (!t.defined()) return t;
  if (t.is_cpu() && t.unsafeGetTensorImpl()->is_wrapped_number()) return t;  // Python meta kernels read it
  auto o = t.options().device(at::kMeta).requires_grad(false).pinned_memory(false);
  at::Tensor m;
  if (exact && !t.is_cpu() && t.has_storage()) {
    m = at::empty({int64_t(t.storage().nbytes() / t.element_size())}, o).as_strided(t.sizes(), t.strides(), t.storage_offset());
  } else {
    m = at::empty_strided(t.sizes(), t.strides(), o);
  }
  if (t.unsafeGetTensorImpl()->is_wrapped_number()) m.unsafeGetTensorImpl()->set_wrapped_number(true);
  return m;
}

std::string shapes_of(const c10::IValue* args, size_t n) {
  std::string s;
  for (size_t k = 0; k < n; k++)
    each_tensor(args[k], [&](const at::Tensor& t) {
      if (t.defined()) s += (s.empty() ? "" : " ") + c10::str(t.sizes()) + c10::toString(t.scalar_type());
    });
  return s;
}

}  // namespace revati
