#include "dispatch/compute.h"

#include <ATen/EmptyTensor.h>

#include <atomic>

#include "device/allocator.h"
#include "device/backend.h"
#include "dispatch/kernels.h"
#include "dispatch/values.h"
#include "timeline/clock.h"

namespace revati {
namespace {

std::atomic<int64_t> live_count{0};

c10::DispatchKeySet key_set() {
  return c10::DispatchKeySet(device_type() == c10::DeviceType::CUDA ? c10::DispatchKey::CUDA : c10::DispatchKey::PrivateUse1);
}

at::Tensor fresh(const Output& o, int device, bool phantom) {
  c10::Device where(device_type(), c10::DeviceIndex(device));
  c10::DataPtr data(nullptr, where);
  if (o.nbytes) {
    Block* b = Memory::get().allocate(device, o.nbytes);
    if (phantom) b->phantom.store(true, std::memory_order_relaxed);
    data = c10::DataPtr(b->ptr, b, &delete_block, where);
  }
  auto storage = c10::make_intrusive<c10::StorageImpl>(c10::StorageImpl::use_byte_size_t(), o.nbytes, std::move(data), device_allocator(), true);
  auto t = at::detail::make_tensor_base<c10::TensorImpl>(std::move(storage), key_set(), c10::scalarTypeToTypeMeta(o.dtype));
  if (o.contiguous) t.unsafeGetTensorImpl()->set_sizes_contiguous(o.sizes);
  else t.unsafeGetTensorImpl()->set_sizes_and_strides(o.sizes, o.strides);
  return t;
}

at::Tensor view_like(const at::Tensor& base, const Output& o) {
  auto r = at::detail::make_tensor<c10::TensorImpl>(c10::TensorImpl::VIEW, c10::Storage(base.storage()), base.key_set(),
                                                    c10::scalarTypeToTypeMeta(o.dtype));
  if (o.contiguous) {
    r.unsafeGetTensorImpl()->set_storage_offset(o.offset);
    r.unsafeGetTensorImpl()->set_sizes_contiguous(o.sizes);
  } else {
    r.unsafeGetTensorImpl()->set_sizes_and_strides(o.sizes, o.strides, o.offset);
  }
  return r;
}

void copy_values(const c10::IValue& from, const c10::IValue& to) {
  if (to.isTensor() && from.isTensor() && to.toTensor().defined() && !to.toTensor().is_same(from.toTensor()) && on_device(to.toTensor()))
    host_view(to.toTensor()).copy_(host_view(from.toTensor()));
}

}  // namespace

c10::IValue build(const Output& o, const c10::IValue* args, size_t n, int device, bool phantom) {
  switch (o.kind) {
    case Output::kNew: {
      if (!phantom || !c10::isIntegralType(o.dtype, true) || o.numel > policy().materialise_elements) return fresh(o, device, phantom);
      at::Tensor t = fresh(o, device, false);
      forget_values(t);
      return t;
    }
    case Output::kArg: return flat_arg(args, n, o.arg);
    case Output::kView: return view_like(flat_arg(args, n, o.arg), o);
    case Output::kUndefined: return at::Tensor();
    case Output::kValue: return o.value;
    case Output::kList: {
      c10::List<at::Tensor> l;
      l.reserve(o.list.size());
      for (const Output& e : o.list) l.push_back(build(e, args, n, device, phantom).toTensor());
      return l;
    }
  }
  return {};
}

void write_phantom(const OpInfo& info, const c10::IValue* args) {
  for (int w : info.written)
    each_tensor(args[w], [&](const at::Tensor& t) {
      if (on_device(t)) forget_values(t);
    });
  for (int w : info.error_args) each_tensor(args[w], [](const at::Tensor& t) { if (on_device(t) && make_live(t)) host_view(t).zero_(); });
}

void clear_error_codes(const OpInfo& info, const c10::IValue* results, size_t n) {
  for (int k : info.error_results)
    if (size_t(k) < n) each_tensor(results[k], [](const at::Tensor& t) { if (on_device(t) && make_live(t)) host_view(t).zero_(); });
}

void run_live(const c10::OperatorHandle& op, const c10::IValue* args, size_t n, int device, torch::jit::Stack* out) {
  OwnWork own;
  Flat flat;
  torch::jit::Stack s;
  s.reserve(n);
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
  for (size_t k = 0; k < flat.mapped.size(); k++) {  // out= arguments of a size that only the values decide
    const at::Tensor &given = flat.originals[k], &computed = flat.mapped[k];
    if (!given.defined() || !on_device(given) || given.sizes() == computed.sizes()) continue;
    kernels::grow(given, computed.sizes());
    host_view(given).copy_(computed);
  }
  auto back = [&](const at::Tensor& t) -> at::Tensor {
    if (!t.defined()) return t;
    for (size_t k = 0; k < flat.mapped.size(); k++)
      if (flat.mapped[k].defined() && flat.mapped[k].unsafeGetTensorImpl() == t.unsafeGetTensorImpl()) return flat.originals[k];
    at::Tensor r = fresh(Output::like(t), device, false);
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
  live_count.fetch_add(1, std::memory_order_relaxed);
}

int64_t live_runs() { return live_count.load(std::memory_order_relaxed); }

void rerun_at_replay(const c10::OperatorHandle& op, const c10::IValue* args, size_t n, int device, const torch::jit::Stack& first) {
  std::vector<c10::IValue> kept(args, args + n);
  std::vector<c10::IValue> results(first.begin(), first.end());
  Timeline::get().keep_rerun(device, [op, kept, results, device] {
    torch::jit::Stack again;
    run_live(op, kept.data(), kept.size(), device, &again);
    for (size_t k = 0; k < again.size(); k++) copy_values(again[k], results[k]);
  });
}

}  // namespace revati
