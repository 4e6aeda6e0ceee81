#include "dispatch/fallback.h"

#include <ATen/EmptyTensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/as_strided.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_strided.h>
#include <c10/util/flat_hash_map.h>

#include <cmath>
#include <mutex>

#include "device/allocator.h"
#include "device/backend.h"
#include "device/generator.h"
#include "dispatch/kernels.h"
#include "dispatch/signature.h"
#include "dispatch/values.h"
#include "timeline/clock.h"
#include "timeline/timeline.h"

namespace revati {

struct Output {
  enum Kind : uint8_t { kNew, kArg, kView, kUndefined, kValue, kList } kind = kNew;
  int arg = -1;  // flat tensor index, for kArg and kView
  c10::ScalarType dtype = c10::ScalarType::Float;
  c10::SmallVector<int64_t, 5> sizes, strides;
  int64_t offset = 0, numel = 0;
  c10::IValue value;
  std::vector<Output> list;
};

struct LivePrice {  // prices of one call site over the values it depends on
  ska::flat_hash_map<Signature, int64_t, SignatureHash> by_values;
};

struct PricedOp {
  std::vector<Output> outputs;
  std::vector<std::pair<int, std::vector<int64_t>>> resized;  // out= arguments that grow
  int64_t duration_ns = 0, out_int = 0, out_float = 0;
  bool free = false;  // views and the like: nothing is launched
  std::shared_ptr<OpStats> stats;
  std::unique_ptr<LivePrice> live;
};

namespace {

struct OpInfo {
  std::string name;
  std::vector<std::string> arg_names, live_args;
  std::vector<int> live_index, written;  // argument positions
  bool view = false, dynamic = false, runs_on_cpu = false, cpu_indices = false;
};

std::mutex info_mutex, cache_mutex;
ska::flat_hash_map<const c10::FunctionSchema*, std::unique_ptr<OpInfo>> infos;
ska::flat_hash_map<Signature, std::unique_ptr<PricedOp>, SignatureHash> cache;
CacheCounters counters;
std::atomic<uint64_t> epoch{1};

const OpInfo& info_of(const c10::OperatorHandle& op) {
  const c10::FunctionSchema* key = &op.schema();
  {
    std::lock_guard lock(info_mutex);
    auto it = infos.find(key);
    if (it != infos.end()) return *it->second;
  }
  auto i = std::make_unique<OpInfo>();
  const auto& s = *key;
  i->name = s.name() + (s.overload_name().empty() ? "" : "." + s.overload_name());
  for (size_t k = 0; k < s.arguments().size(); k++) {
    const auto& a = s.arguments()[k];
    i->arg_names.push_back(a.name());
    if (a.alias_info() && a.alias_info()->isWrite()) i->written.push_back(int(k));
    else if (a.alias_info()) i->view = true;
  }
  if (!i->written.empty()) i->view = false;
  for (auto tag : op.getTags())
    if (tag == at::Tag::dynamic_output_shape || tag == at::Tag::data_dependent_output) i->dynamic = true;
  i->runs_on_cpu = op.hasComputedKernelForDispatchKey(c10::DispatchKey::CPU);
  i->cpu_indices = s.name().find("index") != std::string::npos || s.name().find("copy") != std::string::npos;
  if (latency_hook().live_args) i->live_args = latency_hook().live_args(s.name());
  for (auto& n : i->live_args)
    for (size_t k = 0; k < i->arg_names.size(); k++)
      if (i->arg_names[k] == n) i->live_index.push_back(int(k));
  std::lock_guard lock(info_mutex);
  auto [it, fresh] = infos.emplace(key, std::move(i));
  return *it->second;
}

// ------------------------------------------------------------------ walking arguments
template <class F>
void each_tensor(const c10::IValue& v, F&& f) {
  if (v.isTensor()) {
    f(v.toTensor());
  } else if (v.isTensorList() || v.isOptionalTensorList() || v.isList()) {
    for (const c10::IValue& e : v.toListRef())
      if (e.isTensor()) f(e.toTensor());
      else if (!e.isNone()) break;
  }
}

/// The same arguments with every tensor mapped; devices and generators go along.
template <class F>
c10::IValue mapped(const c10::IValue& v, c10::Device device, F&& f) {
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
  if (v.isGenerator())
    return device.is_cpu() ? c10::IValue(static_cast<VirtualGenerator*>(v.toGenerator().unsafeGetGeneratorImpl())->draw()) : c10::IValue();
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

// ------------------------------------------------------------------ a miss: what comes out, and for how long
struct Flat {
  std::vector<at::Tensor> originals, mapped;
};

Output describe(const c10::IValue& r, const Flat& flat) {
  Output o;
  if (r.isTensor()) {
    const at::Tensor& t = r.toTensor();
    if (!t.defined()) {
      o.kind = Output::kUndefined;
      return o;
    }
    o.dtype = t.scalar_type();
    o.sizes.assign(t.sizes().begin(), t.sizes().end());
    o.strides.assign(t.strides().begin(), t.strides().end());
    o.offset = t.storage_offset();
    o.numel = t.numel();
    for (size_t k = 0; k < flat.mapped.size(); k++) {
      if (!flat.mapped[k].defined()) continue;
      if (flat.mapped[k].unsafeGetTensorImpl() == t.unsafeGetTensorImpl()) {
        o.kind = Output::kArg;
        o.arg = int(k);
        return o;
      }
      if (flat.mapped[k].has_storage() && t.has_storage() && flat.mapped[k].is_alias_of(t)) {
        o.kind = Output::kView;
        o.arg = int(k);
      }
    }
  } else if (r.isTensorList()) {
    o.kind = Output::kList;
    for (const c10::IValue& e : r.toListRef()) o.list.push_back(describe(e, flat));
  } else {
    o.kind = Output::kValue;
    o.value = r;
  }
  return o;
}

std::string shapes_of(const c10::IValue* args, size_t n) {
  std::string s;
  for (size_t k = 0; k < n; k++)
    each_tensor(args[k], [&](const at::Tensor& t) {
      if (t.defined()) s += (s.empty() ? "" : " ") + c10::str(t.sizes()) + c10::toString(t.scalar_type());
    });
  return s;
}

size_t bytes_of(const at::Tensor& t) { return t.defined() ? size_t(t.numel()) * t.element_size() : 0; }

Price ask(const PriceRequest& r) {
  if (latency_hook().price) return latency_hook().price(r);
  size_t bytes = 0;  // no latency layer in this process: memory traffic at 3 TB/s
  for (size_t k = 0; k < r.n_args; k++) each_tensor(r.args[k], [&](const at::Tensor& t) { bytes += bytes_of(t); });
  for (auto& t : r.outputs) bytes += bytes_of(t);
  return {int64_t(2000 + double(bytes) / 3e12 * 1e9), "roofline", "roofline"};
}

void count_outputs(const std::vector<Output>& outs, PricedOp& p, std::vector<at::Tensor>& tensors, const Flat& flat) {
  for (const Output& o : outs) {
    if (o.kind == Output::kList) count_outputs(o.list, p, tensors, flat);
    if (o.kind != Output::kNew && o.kind != Output::kArg) continue;
    (c10::isIntegralType(o.dtype, true) ? p.out_int : p.out_float) += o.numel;
    tensors.push_back(at::empty_strided(o.sizes, o.strides, at::TensorOptions(o.dtype).device(at::kMeta)));
  }
}

std::unique_ptr<PricedOp> miss(const c10::OperatorHandle& op, const OpInfo& info, const c10::IValue* args, size_t n) {
  OwnWork own;
  auto p = std::make_unique<PricedOp>();
  Flat flat;
  torch::jit::Stack s;
  s.reserve(n);
  for (size_t k = 0; k < n; k++)
    s.push_back(mapped(args[k], at::kMeta, [&](const at::Tensor& t) {
      at::Tensor m = to_meta(t, info.view);
      flat.originals.push_back(t);
      flat.mapped.push_back(m);
      return m;
    }));
  bool has_returns = !op.schema().returns().empty();
  bool has_meta = op.hasComputedKernelForDispatchKey(c10::DispatchKey::Meta);
  if (has_returns || (has_meta && info.name.rfind("aten::", 0) == 0)) {
    TORCH_CHECK_NOT_IMPLEMENTED(has_meta, "revati: op '", info.name, "' has no shape rule (no meta kernel, no fake implementation); inputs: ",
                                shapes_of(args, n), ". Register one with torch.library.register_fake: see docs/adding-an-op.md");
    op.callBoxed(&s);
  } else {
    s.clear();
  }
  for (size_t k = 0; k < flat.mapped.size(); k++)
    if (flat.mapped[k].defined() && flat.mapped[k].sizes() != flat.originals[k].sizes() && on_device(flat.originals[k]))
      p->resized.emplace_back(int(k), flat.mapped[k].sizes().vec());
  for (const c10::IValue& r : s) p->outputs.push_back(describe(r, flat));
  std::vector<at::Tensor> outs;
  count_outputs(p->outputs, *p, outs, flat);
  p->free = info.view && outs.empty();
  if (p->free) return p;
  PriceRequest request{op.schema().name(), &info.arg_names, args, n, std::move(outs), &info.live_args};
  Price price = ask(request);
  p->duration_ns = price.duration_ns;
  p->stats = Timeline::get().stats(request.name, price.family, price.confidence, shapes_of(args, n));
  if (!info.live_index.empty()) p->live = std::make_unique<LivePrice>();
  return p;
}

PricedOp* lookup(const Signature& key) {
  std::lock_guard lock(cache_mutex);
  auto it = cache.find(key);
  if (it == cache.end()) {
    counters.misses++;
    return nullptr;
  }
  counters.hits++;
  return it->second.get();
}

PricedOp* keep(const Signature& key, std::unique_ptr<PricedOp> p) {
  std::lock_guard lock(cache_mutex);
  return cache.emplace(key, std::move(p)).first->second.get();
}

// ------------------------------------------------------------------ prices that depend on live values
uint64_t bucket(double x) { return x < 64 ? uint64_t(x) : 64 + uint64_t(std::lround(std::log2(x) * 32)); }

/// Condenses the values of length arguments: lengths near each other cost the same to about 1%.
Signature digest(const std::vector<std::string>& names, const std::vector<at::Tensor>& values) {
  std::vector<std::vector<int64_t>> lengths;
  for (size_t k = 0; k < values.size(); k++) {
    std::vector<int64_t> v;
    if (values[k].defined() && is_live(values[k])) {
      at::Tensor h = host_view(values[k]).to(at::kLong).contiguous();
      const int64_t* d = h.const_data_ptr<int64_t>();
      v.assign(d, d + h.numel());
      if (names[k].rfind("cu_", 0) == 0 || names[k].find("indptr") != std::string::npos) {
        for (size_t i = v.size(); i-- > 1;) v[i] -= v[i - 1];
        if (!v.empty()) v.erase(v.begin());
      }
    }
    lengths.push_back(std::move(v));
  }
  Signature s;
  for (auto& v : lengths) {
    double sum = 0, square = 0, top = 0;
    size_t used = 0;
    for (int64_t x : v) {
      sum += double(x);
      square += double(x) * double(x);
      top = std::max(top, double(x));
      used += x > 0;
    }
    s.mix(used);
    s.mix(bucket(sum));
    s.mix(bucket(square));
    s.mix(bucket(top));
  }
  if (lengths.size() > 1 && lengths[0].size() == lengths[1].size()) {  // query and key lengths: what prefills and decodes do
    double work = 0, decode = 0;
    size_t prefills = 0;
    for (size_t i = 0; i < lengths[0].size(); i++) {
      auto q = double(std::min(lengths[0][i], lengths[1][i])), k = double(std::max(lengths[0][i], lengths[1][i]));
      if (q > 1) work += q * k, prefills++;
      else decode += k;
    }
    s.mix(prefills);
    s.mix(bucket(work));
    s.mix(bucket(decode));
  }
  return s;
}

struct LiveCall {  // one call whose price depends on values; shared by graph nodes over the same tensors
  PricedOp* op;
  const OpInfo* info;
  std::vector<c10::IValue> args;
  std::vector<at::Tensor> values;
  uint64_t priced_at = 0;
  int64_t duration_ns = 0;

  int64_t price() {
    uint64_t now = epoch.load(std::memory_order_relaxed);
    if (priced_at == now) return duration_ns;
    priced_at = now;
    OwnWork own;
    Signature key = digest(info->live_args, values);
    auto it = op->live->by_values.find(key);
    if (it != op->live->by_values.end()) return duration_ns = it->second;
    counters.live_price_misses++;
    PriceRequest request{op->stats->name, &info->arg_names, args.data(), args.size(), {}, &info->live_args};
    duration_ns = ask(request).duration_ns;
    op->live->by_values.emplace(key, duration_ns);
    return duration_ns;
  }
};

thread_local std::unordered_map<uint64_t, std::weak_ptr<LiveCall>> captured_calls;

std::shared_ptr<LiveCall> live_call(PricedOp* p, const OpInfo& info, const c10::IValue* args, size_t n, bool share) {
  std::vector<at::Tensor> values;
  Signature key;
  key.mix(uint64_t(p));
  for (int k : info.live_index) {
    values.push_back(args[k].isTensor() ? args[k].toTensor() : at::Tensor());
    key.mix(values.back().defined() ? uint64_t(values.back().storage().data_ptr().get()) + uint64_t(values.back().storage_offset()) : 0);
  }
  if (share)
    if (auto known = captured_calls[key.a].lock()) return known;
  auto c = std::make_shared<LiveCall>();
  c->op = p;
  c->info = &info;
  for (size_t k = 0; k < n; k++)  // only the lengths are kept alive: a graph must not hold its activations
    c->args.push_back(std::find(info.live_index.begin(), info.live_index.end(), int(k)) != info.live_index.end()
                          ? args[k]
                          : mapped(args[k], at::kMeta, [](const at::Tensor& t) { return to_meta(t, false); }));
  c->values = std::move(values);
  if (share) captured_calls[key.a] = c;
  return c;
}

// ------------------------------------------------------------------ making outputs
c10::DispatchKeySet key_set() {
  return c10::DispatchKeySet(device_type() == c10::DeviceType::CUDA ? c10::DispatchKey::CUDA : c10::DispatchKey::PrivateUse1);
}

struct OnDevice {
  int old;
  explicit OnDevice(int d) : old(current_device()) { set_device(d); }
  ~OnDevice() { set_device(old); }
};

at::Tensor fresh(const Output& o, int device) {
  OnDevice guard(device);
  return at::detail::empty_strided_generic(o.sizes, o.strides, device_allocator(), key_set(), o.dtype);
}

at::Tensor view_like(const at::Tensor& base, const Output& o) {
  auto r = at::detail::make_tensor<c10::TensorImpl>(c10::TensorImpl::VIEW, c10::Storage(base.storage()), base.key_set(),
                                                    c10::scalarTypeToTypeMeta(o.dtype));
  r.unsafeGetTensorImpl()->set_sizes_and_strides(o.sizes, o.strides, o.offset);
  return r;
}

at::Tensor flat_arg(const c10::IValue* args, size_t n, int index) {
  at::Tensor found;
  int k = 0;
  for (size_t i = 0; i < n; i++)
    each_tensor(args[i], [&](const at::Tensor& t) {
      if (k++ == index) found = t;
    });
  return found;
}

c10::IValue build(const Output& o, const c10::IValue* args, size_t n, int device, bool phantom) {
  switch (o.kind) {
    case Output::kNew: {
      at::Tensor t = fresh(o, device);
      if (phantom) {
        if (c10::isIntegralType(o.dtype, true) && o.numel <= policy().materialise_elements) fill_with_policy(host_view(t));
        else mark_phantom(t);
      }
      return t;
    }
    case Output::kArg: return flat_arg(args, n, o.arg);
    case Output::kView: return view_like(flat_arg(args, n, o.arg), o);
    case Output::kUndefined: return at::Tensor();
    case Output::kValue: return o.value;
    case Output::kList: {
      c10::List<at::Tensor> l;
      for (const Output& e : o.list) l.push_back(build(e, args, n, device, phantom).toTensor());
      return l;
    }
  }
  return {};
}

/// Computes the op on host memory. Throws what the CPU kernel throws.
void run_live(const c10::OperatorHandle& op, const c10::IValue* args, size_t n, int device, torch::jit::Stack* out) {
  OwnWork own;
  Flat flat;
  torch::jit::Stack s;
  for (size_t k = 0; k < n; k++) {
    if (op.schema().arguments()[k].name() == "pin_memory") {
      s.emplace_back();
      continue;
    }
    s.push_back(mapped(args[k], at::kCPU, [&](const at::Tensor& t) {
      at::Tensor h = on_device(t) ? host_view(t) : t;
      if (on_device(t) && t.unsafeGetTensorImpl()->is_wrapped_number()) h.unsafeGetTensorImpl()->set_wrapped_number(true);
      flat.originals.push_back(t);
      flat.mapped.push_back(h);
      return h;
    }));
  }
  op.callBoxed(&s);
  auto back = [&](const at::Tensor& t) -> at::Tensor {
    if (!t.defined()) return t;
    for (size_t k = 0; k < flat.mapped.size(); k++)
      if (flat.mapped[k].defined() && flat.mapped[k].unsafeGetTensorImpl() == t.unsafeGetTensorImpl()) return flat.originals[k];
    Output o;
    o.dtype = t.scalar_type();
    o.sizes.assign(t.sizes().begin(), t.sizes().end());
    o.strides.assign(t.strides().begin(), t.strides().end());
    at::Tensor r = fresh(o, device);
    if (t.numel()) host_view(r).copy_(t);
    return r;
  };
  for (c10::IValue& r : s) {
    if (r.isTensor()) out->emplace_back(back(r.toTensor()));
    else if (r.isTensorList()) {
      c10::List<at::Tensor> l;
      for (const c10::IValue& e : r.toListRef()) l.push_back(back(e.toTensor()));
      out->emplace_back(l);
    } else out->push_back(r);
  }
  counters.live_runs++;
}

void copy_values(const c10::IValue& from, const c10::IValue& to) {
  if (to.isTensor() && from.isTensor() && to.toTensor().defined() && !to.toTensor().is_same(from.toTensor()) && on_device(to.toTensor()))
    host_view(to.toTensor()).copy_(host_view(from.toTensor()));
}

struct Census {
  int device = -1;
  bool all_live = true, any = false;
  int64_t ints = 0, floats = 0;
};

Census look(const OpInfo& info, const c10::IValue* args, size_t n) {
  Census c;
  for (size_t k = 0; k < n; k++) {
    if (args[k].isDevice() && args[k].toDevice().type() == device_type() && c.device < 0)
      c.device = args[k].toDevice().index() < 0 ? current_device() : args[k].toDevice().index();
    each_tensor(args[k], [&](const at::Tensor& t) {
      if (!t.defined()) return;
      if (!on_device(t)) {
        TORCH_CHECK(t.dim() == 0 || info.cpu_indices || t.device().is_meta(), "Expected all tensors to be on the same device, but found at least two devices, ",
                    c10::DeviceTypeName(device_type(), true), ":", c.device < 0 ? current_device() : c.device, " and ", t.device(), "! (op ", info.name, ")");
        return;
      }
      if (!c.any) c.device = t.get_device();
      c.any = true;
      TORCH_CHECK(t.get_device() == c.device, "Expected all tensors to be on the same device, but found at least two devices, ",
                  c10::DeviceTypeName(device_type(), true), ":", c.device, " and ", t.device(), "! (op ", info.name, ")");
      c.all_live = c.all_live && is_live(t);
      (c10::isIntegralType(t.scalar_type(), true) ? c.ints : c.floats) += t.numel();
    });
  }
  if (c.device < 0) c.device = current_device();
  return c;
}

bool small_enough(const Census& c, const PricedOp& p) {
  return c.ints + p.out_int <= policy().live_elements_int && c.floats + p.out_float <= policy().live_elements_float;
}

void run_dynamic(const c10::OperatorHandle& op, const OpInfo& info, const Census& c, torch::jit::Stack* stack) {
  size_t n = op.schema().arguments().size();
  TORCH_CHECK(c.all_live && info.runs_on_cpu, "revati: the result of '", info.name, "' depends on values that a virtual GPU does not compute; inputs: ",
              shapes_of(&*(stack->end() - long(n)), n), ". Compute it on the CPU, or give it a rule: see docs/adding-an-op.md");
  std::vector<c10::IValue> args(stack->end() - long(n), stack->end());
  torch::jit::drop(*stack, n);
  Timeline::get().synchronize_stream(c.device, Timeline::get().current(c.device));  // the host needs the size: CUDA waits here too
  run_live(op, args.data(), n, c.device, stack);
  launch_named(op.schema().name(), info.arg_names, args, c.device);
}

}  // namespace

LatencyHook& latency_hook() {
  static auto* h = new LatencyHook;
  return *h;
}

void fallback(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const OpInfo& info = info_of(op);
  size_t n = op.schema().arguments().size();
  const c10::IValue* args = stack->data() + (stack->size() - n);
  Census census = look(info, args, n);
  if (info.dynamic) return run_dynamic(op, info, census, stack);

  Signature key;
  key.mix(uint64_t(&op.schema()));
  for (size_t k = 0; k < n; k++) key.mix_value(args[k], info.view);
  PricedOp* p = lookup(key);
  if (!p) p = keep(key, miss(op, info, args, n));

  if (p->free) {
    std::vector<c10::IValue> results;
    for (const Output& o : p->outputs) results.push_back(build(o, args, n, census.device, false));
    torch::jit::drop(*stack, n);
    for (auto& r : results) stack->push_back(std::move(r));
    return;
  }

  for (auto& [index, sizes] : p->resized) kernels::grow(flat_arg(args, n, index), sizes);
  torch::jit::Stack results;
  bool live = census.all_live && info.runs_on_cpu && small_enough(census, *p);
  if (live) {
    try {
      run_live(op, args, n, census.device, &results);
    } catch (const std::exception&) {  // no CPU kernel for this dtype, say: then nobody can know the values
      live = false;
      results.clear();
    }
  }
  Timeline& timeline = Timeline::get();
  bool capturing = timeline.capturing(census.device, timeline.current(census.device));
  if (!live) {
    for (int w : info.written)
      each_tensor(args[w], [&](const at::Tensor& t) {
        if (!on_device(t)) return;
        if (c10::isIntegralType(t.scalar_type(), true) && t.numel() <= policy().materialise_elements && make_live(t)) fill_with_policy(host_view(t));
        else mark_phantom(t);
      });
    for (const Output& o : p->outputs) results.push_back(build(o, args, n, census.device, true));
  } else if (capturing) {
    std::vector<c10::IValue> kept(args, args + n);
    std::vector<c10::IValue> first(results.begin(), results.end());
    int device = census.device;
    timeline.captured_rerun(device, [op, kept, first, device] {
      torch::jit::Stack again;
      run_live(op, kept.data(), kept.size(), device, &again);
      for (size_t k = 0; k < again.size(); k++) copy_values(again[k], first[k]);
    });
  }
  if (p->live) {
    auto call = live_call(p, info, args, n, capturing);
    if (!capturing) call->priced_at = 0;
    int64_t d = call->price();
    timeline.launch(census.device, p->stats, d, capturing ? std::function<int64_t()>([call] { return call->price(); }) : nullptr);
  } else {
    timeline.launch(census.device, p->stats, p->duration_ns);
  }
  torch::jit::drop(*stack, n);
  for (auto& r : results) stack->push_back(std::move(r));
}

namespace {
PricedOp* named(const std::string& name, const std::vector<std::string>& arg_names, const std::vector<c10::IValue>& args, OpInfo** info_out) {
  static auto* by_name = new std::unordered_map<std::string, std::unique_ptr<OpInfo>>;
  OpInfo* info;
  {
    std::lock_guard lock(info_mutex);
    auto& slot = (*by_name)[name];
    info = slot.get();
  }
  if (!info) {
    auto fresh_info = std::make_unique<OpInfo>();
    fresh_info->name = name;
    fresh_info->arg_names = arg_names;
    if (latency_hook().live_args) fresh_info->live_args = latency_hook().live_args(name);
    for (auto& l : fresh_info->live_args)
      for (size_t k = 0; k < arg_names.size(); k++)
        if (arg_names[k] == l) fresh_info->live_index.push_back(int(k));
    std::lock_guard lock(info_mutex);
    auto& slot = (*by_name)[name];
    if (!slot) slot = std::move(fresh_info);
    info = slot.get();
  }
  Signature key;
  key.mix(uint64_t(info));
  for (auto& a : args) key.mix_value(a, false);
  PricedOp* p = lookup(key);
  if (!p) {
    OwnWork own;
    auto fresh_op = std::make_unique<PricedOp>();
    PriceRequest request{name, &info->arg_names, args.data(), args.size(), {}, &info->live_args};
    Price price = ask(request);
    fresh_op->duration_ns = price.duration_ns;
    fresh_op->stats = Timeline::get().stats(name, price.family, price.confidence, shapes_of(args.data(), args.size()));
    if (!info->live_index.empty()) fresh_op->live = std::make_unique<LivePrice>();
    p = keep(key, std::move(fresh_op));
  }
  *info_out = info;
  return p;
}
}  // namespace

void launch_named(const std::string& name, const std::vector<std::string>& arg_names, std::vector<c10::IValue> args, int device, bool host_cost) {
  OpInfo* info;
  PricedOp* p = named(name, arg_names, args, &info);
  Timeline& timeline = Timeline::get();
  if (!p->live) return timeline.launch(device, p->stats, p->duration_ns, {}, host_cost);
  bool capturing = timeline.capturing(device, timeline.current(device));
  auto call = live_call(p, *info, args.data(), args.size(), capturing);
  if (!capturing) call->priced_at = 0;
  int64_t d = call->price();
  timeline.launch(device, p->stats, d, capturing ? std::function<int64_t()>([call] { return call->price(); }) : nullptr, host_cost);
}

int64_t price_named(const std::string& name, const std::vector<std::string>& arg_names, const std::vector<c10::IValue>& args, int,
                    std::shared_ptr<OpStats>* stats) {
  OpInfo* info;
  PricedOp* p = named(name, arg_names, args, &info);
  *stats = p->stats;
  return p->duration_ns;
}

CacheCounters cache_counters() {
  std::lock_guard lock(cache_mutex);
  return counters;
}

void clear_cache() {
  std::lock_guard lock(cache_mutex);
  cache.clear();
}

void next_price_epoch() { epoch.fetch_add(1, std::memory_order_relaxed); }

}  // namespace revati
