#include "dispatch/fallback.h"

#include <array>
#include <atomic>
#include <mutex>
#include <string_view>

#include "device/backend.h"
#include "device/fork.h"
#include "dispatch/compute.h"
#include "dispatch/index_policy.h"
#include "dispatch/kernels.h"
#include "dispatch/live_price.h"
#include "dispatch/op_info.h"
#include "dispatch/shape_rule.h"
#include "dispatch/signature.h"
#include "dispatch/values.h"
#include "timeline/clock.h"
#include "timeline/timeline.h"

namespace revati {
namespace {

// ------------------------------------------------------------------ the cache: all calls ever seen
std::mutex cache_mutex;
// Never destroyed: threads of autograd and of compilers may still launch while the process exits.
auto& cache = *new ska::flat_hash_map<Signature, std::unique_ptr<PricedOp>, SignatureHash>;
std::atomic<int64_t> hits{0}, misses{0};

struct Recent {  // of this thread, so that a hit takes no lock; entries of `cache` are never dropped
  Signature key{0, 0};
  PricedOp* op = nullptr;
};
thread_local std::array<Recent, 2048> recent;

PricedOp* lookup(const Signature& key) {
  Recent& r = recent[key.a % recent.size()];
  if (!(r.key == key)) {
    std::lock_guard lock(cache_mutex);
    auto it = cache.find(key);
    if (it == cache.end()) {
      misses.fetch_add(1, std::memory_order_relaxed);
      return nullptr;
    }
    r = {key, it->second.get()};
  }
  hits.fetch_add(1, std::memory_order_relaxed);
  return r.op;
}

PricedOp* keep(const Signature& key, std::unique_ptr<PricedOp> p) {
  std::lock_guard lock(cache_mutex);
  return cache.emplace(key, std::move(p)).first->second.get();
}

// ------------------------------------------------------------------ one walk over the arguments
struct Call {
  const OpInfo& info;
  Signature key;
  int device = -1;
  bool all_live = true, any = false, masked = false;
  int64_t ints = 0, floats = 0;

  Call(const OpInfo& i, const c10::IValue* args) : info(i) {
    key.mix(uint64_t(&info));
    for (size_t k = 0; k < info.arg_count; k++)
      if (k >= 64 || !(info.unpriced >> k & 1)) take(args[k]);
    if (device < 0) device = current_device();
  }

  void take(const c10::IValue& v) {
    if (v.isTensor()) return take(v.toTensor(), false);
    if (v.isList() && !v.isIntList()) {
      c10::ArrayRef<c10::IValue> list = v.toListRef();
      key.mix_list(list.size());
      for (const c10::IValue& e : list)
        if (e.isTensor()) take(e.toTensor(), info.masks);
        else key.mix_value(e);
      return;
    }
    if (v.isDevice() && v.toDevice().type() == device_type() && device < 0)
      device = v.toDevice().index() < 0 ? current_device() : v.toDevice().index();
    key.mix_value(v);
  }

  void take(const at::Tensor& t, bool index) {
    key.mix_tensor(t, info.view);
    if (!t.defined()) return;
    const c10::TensorImpl* impl = t.unsafeGetTensorImpl();
    c10::ScalarType dtype = c10::typeMetaToScalarType(impl->dtype());
    if (index && (dtype == c10::ScalarType::Bool || dtype == c10::ScalarType::Byte)) masked = true;
    if (impl->device_type() != device_type()) return elsewhere(t);
    if (!any) device = impl->device().index();
    any = true;
    if (impl->device().index() != device) mixed(t);
    all_live = all_live && is_live(t);
    (c10::isIntegralType(dtype, true) ? ints : floats) += impl->numel();
  }

  void elsewhere(const at::Tensor& t) const {
    if (t.dim() != 0 && !info.cpu_indices && !t.device().is_meta()) mixed(t);
  }
  [[noreturn]] void mixed(const at::Tensor& t) const {
    TORCH_CHECK(false, "Expected all tensors to be on the same device, but found at least two devices, ", c10::DeviceTypeName(device_type(), true), ":",
                device < 0 ? current_device() : device, " and ", t.device(), "! (op ", info.name, ")");
  }
  bool small_enough(const PricedOp& p) const {
    return ints + p.out_int <= policy().live_elements_int && floats + p.out_float <= policy().live_elements_float;
  }
};

void push_results(torch::jit::Stack* stack, size_t drop, torch::jit::Stack&& results) {
  torch::jit::drop(*stack, drop);
  for (auto& r : results) stack->push_back(std::move(r));
}

bool invented(const c10::IValue* args, size_t n) {
  bool any = false;
  for (size_t k = 0; k < n && !any; k++) each_tensor(args[k], [&](const at::Tensor& t) { any = any || (on_device(t) && is_invented(t)); });
  return any;
}

void mark_all_invented(const OpInfo& info, const c10::IValue* args, const torch::jit::Stack& results) {
  auto mark = [](const at::Tensor& t) { if (on_device(t)) mark_invented(t); };
  for (int w : info.written) each_tensor(args[w], mark);
  for (const c10::IValue& r : results) each_tensor(r, mark);
}

/// Ops whose result shape depends on values: only where the values exist, and the host waits for them as on CUDA.
void run_dynamic(const c10::OperatorHandle& op, const Call& call, torch::jit::Stack* stack) {
  size_t n = call.info.arg_count;
  TORCH_CHECK(call.all_live && call.info.runs_on_cpu, "revati: the result of '", call.info.name,
              "' depends on values that a virtual GPU does not compute; inputs: ", shapes_of(&*(stack->end() - long(n)), n),
              ". Compute it on the CPU, or give it a rule: see docs/adding-an-op.md");
  std::vector<c10::IValue> args(stack->end() - long(n), stack->end());
  Timeline& timeline = Timeline::get();
  timeline.synchronize_stream(call.device, timeline.current(call.device));
  torch::jit::Stack results;
  run_live(op, args.data(), n, call.device, &results);
  if (invented(args.data(), n)) mark_all_invented(call.info, args.data(), results);
  push_results(stack, n, std::move(results));
  launch_named(op.schema().name(), call.info.arg_names, args, call.device);
}

/// A limit of the CPU's kernels ("not implemented for 'Half'", "... on CPU"), which a GPU may not have.
bool is_cpu_limit(const c10::Error& e) {
  if (dynamic_cast<const c10::NotImplementedError*>(&e)) return true;
  std::string_view text = e.what_without_backtrace();
  for (const char* word : {"CPU", "not implemented", "not supported", "nsupported"})
    if (text.find(word) != std::string_view::npos) return true;
  return false;
}

/// True if the op was computed. Where the CPU has no kernel, nobody knows the values; what a kernel has against
/// its inputs (an index out of range) is the caller's business, unless the policy made those inputs up.
bool try_live(const c10::OperatorHandle& op, const Call& call, const c10::IValue* args, torch::jit::Stack* results) {
  size_t n = call.info.arg_count;
  bool guessed = invented(args, n);
  try {
    run_live(op, args, n, call.device, results);
  } catch (const c10::Error& e) {
    if (!guessed && !is_cpu_limit(e)) throw;
    results->clear();
    return false;
  }
  if (guessed) mark_all_invented(call.info, args, *results);
  return true;
}

void append(PricedOp* p, const OpInfo& info, const c10::IValue* args, size_t n, int device, bool host_cost) {
  use_device();
  Timeline& timeline = Timeline::get();
  if (!p->live) return timeline.launch(device, p->stats, p->duration_ns, {}, host_cost);
  bool capturing = timeline.capturing(device, timeline.current(device));
  bool kept = timeline.keeps_values(device);
  auto call = live_call(p, info, args, n, capturing);
  if (!capturing) call->priced_at = 0;
  int64_t d = call->price();
  if (Sequence* sequence = Timeline::exchange_recording(nullptr)) {  // its price depends on values: not to be repeated
    sequence->repeatable = false;
    Timeline::exchange_recording(sequence);
  }
  timeline.launch(device, p->stats, d, kept ? std::function<int64_t()>([call] { return call->price(); }) : nullptr, host_cost);
}

PricedOp* named(const OpInfo& info, const std::vector<c10::IValue>& args) {
  Signature key;
  key.mix(uint64_t(&info));
  for (auto& a : args) key.mix_value(a);
  if (PricedOp* p = lookup(key)) return p;
  OwnWork own;
  auto fresh = std::make_unique<PricedOp>();
  PriceRequest request{info.name, &info.arg_names, args.data(), args.size(), {}, &info.live_args};
  Price price = ask(request);
  fresh->duration_ns = price.duration_ns;
  fresh->stats = Timeline::get().stats(info.name, price.family, price.confidence, shapes_of(args.data(), args.size()));
  if (!info.live_index.empty()) fresh->live = std::make_unique<LivePrice>();
  return keep(key, std::move(fresh));
}

}  // namespace

LatencyHook& latency_hook() {
  static auto* h = new LatencyHook;
  return *h;
}

void fallback(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const OpInfo& info = info_of(op);
  size_t n = info.arg_count;
  const c10::IValue* args = stack->data() + (stack->size() - n);
  Call call(info, args);
  if (info.dynamic || call.masked) return run_dynamic(op, call, stack);

  PricedOp* p = lookup(call.key);
  if (!p) {
    auto fresh = shape_and_price(op, info, args, n);
    p = keep(call.key, std::move(fresh));
  }

  bool live = !p->free && call.all_live && info.runs_on_cpu && call.small_enough(*p);
  if (!live && p->resized.empty() && info.written.empty() && p->outputs.size() == 1 && info.error_results.empty() && info.index_result < 0) {
    c10::IValue result = build(p->outputs[0], args, n, call.device, !p->free);  // the usual case: nothing but one result
    if (!p->free) append(p, info, args, n, call.device, true);
    torch::jit::drop(*stack, n);
    stack->push_back(std::move(result));
    return;
  }

  torch::jit::Stack results;
  if (p->free) {
    for (const Output& o : p->outputs) results.push_back(build(o, args, n, call.device, false));
    return push_results(stack, n, std::move(results));
  }
  for (auto& [index, sizes] : p->resized) kernels::grow(flat_arg(args, n, index), sizes);
  if (live && try_live(op, call, args, &results)) {
    Timeline& timeline = Timeline::get();
    if (timeline.keeps_values(call.device)) rerun_at_replay(op, args, n, call.device, results);
  } else {
    write_phantom(info, args);
    for (const Output& o : p->outputs) results.push_back(build(o, args, n, call.device, true));
    clear_error_codes(info, results.data(), results.size());
    if (info.index_result >= 0) choose_indices(info, args, results);
  }
  append(p, info, args, n, call.device, true);
  push_results(stack, n, std::move(results));
}

void launch_named(const std::string& name, const std::vector<std::string>& arg_names, const std::vector<c10::IValue>& args, int device,
                  bool host_cost) {
  launch_named(info_of(name, arg_names), args, device, host_cost);
}

void launch_named(const OpInfo& info, const std::vector<c10::IValue>& args, int device, bool host_cost) {
  append(named(info, args), info, args.data(), args.size(), device, host_cost);
}

int64_t price_named(const std::string& name, const std::vector<std::string>& arg_names, const std::vector<c10::IValue>& args, int,
                    std::shared_ptr<OpStats>* stats) {
  PricedOp* p = named(info_of(name, arg_names), args);
  *stats = p->stats;
  return p->duration_ns;
}

CacheCounters cache_counters() { return {hits.load(), misses.load(), live_runs(), live_price_misses()}; }

}  // namespace revati
