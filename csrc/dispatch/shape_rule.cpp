#include "dispatch/shape_rule.h"

#include <ATen/ops/empty_strided.h>
#include <c10/util/Exception.h>
#include <fcntl.h>
#include <unistd.h>

#include <cstdlib>

#include "dispatch/kernels.h"
#include "dispatch/values.h"
#include "timeline/clock.h"

namespace revati {
namespace {

constexpr int64_t kProbeElements = 1 << 20;

Output describe(const c10::IValue& r, const Flat& flat) {
  Output o;
  if (r.isTensor()) {
    const at::Tensor& t = r.toTensor();
    if (!t.defined()) {
      o.kind = Output::kUndefined;
      return o;
    }
    TORCH_CHECK_NOT_IMPLEMENTED(t.layout() == at::kStrided, "revati: the virtual GPU has dense tensors only, and this op makes a ", t.layout(),
                                " one; keep sparse tensors on the CPU");
    o = Output::like(t);
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

size_t bytes_of(const at::Tensor& t) { return t.defined() ? size_t(t.numel()) * t.element_size() : 0; }

void count_outputs(const std::vector<Output>& outs, PricedOp& p, std::vector<at::Tensor>& tensors) {
  for (const Output& o : outs) {
    if (o.kind == Output::kList) count_outputs(o.list, p, tensors);
    if (o.kind != Output::kNew && o.kind != Output::kArg) continue;
    (c10::isIntegralType(o.dtype, true) ? p.out_int : p.out_float) += o.numel;
    tensors.push_back(at::empty_strided(o.sizes, o.strides, at::TensorOptions(o.dtype).device(at::kMeta)));
  }
}

template <class Map>
torch::jit::Stack mapped_call(const c10::OperatorHandle& op, const c10::IValue* args, size_t n, c10::Device device, Flat& flat, Map&& map) {
  flat = {};
  torch::jit::Stack s;
  s.reserve(n);
  for (size_t k = 0; k < n; k++)
    s.push_back(mapped(args[k], device, [&](const at::Tensor& t) {
      at::Tensor m = map(t);
      flat.originals.push_back(t);
      flat.mapped.push_back(m);
      return m;
    }));
  op.callBoxed(&s);
  return s;
}

/// The line that the run ends with if the program does not get over it: revati/cuda/refusal.py. The first one stays.
void note_refusal(const std::string& text) {
  const char* folder = std::getenv("REVATI_RUN_DIR");
  int file = folder ? open((std::string(folder) + "/refusal.txt").c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600) : -1;
  if (file < 0) return;
  [[maybe_unused]] ssize_t n = write(file, text.data(), text.size());
  close(file);
}

/// Results without values: by the meta kernel, or for ops that have none by the CPU kernel over zeros.
torch::jit::Stack results_of(const c10::OperatorHandle& op, const OpInfo& info, const c10::IValue* args, size_t n, Flat& flat) {
  bool aten = info.name.rfind("aten::", 0) == 0;
  if (!info.returns && !aten) {  // foreign kernels that only write into their arguments
    for (size_t k = 0; k < n; k++) each_tensor(args[k], [&](const at::Tensor& t) { flat.originals.push_back(t), flat.mapped.push_back(t); });
    return {};
  }
  try {
    return mapped_call(op, args, n, at::kMeta, flat, [&](const at::Tensor& t) { return to_meta(t, info.view); });
  } catch (const c10::NotImplementedError&) {
    if (op.hasKernelForDispatchKey(c10::DispatchKey::Meta)) throw;
  }
  if (!info.returns) return {};
  int64_t elements = 0;
  for (size_t k = 0; k < n; k++) each_tensor(args[k], [&](const at::Tensor& t) { elements += t.defined() ? t.numel() : 0; });
  if (!aten || !info.runs_on_cpu || elements > kProbeElements) {
    std::string text = c10::str("op '", info.name, "' has no shape rule (no meta kernel, no fake implementation); inputs: ",
                                shapes_of(args, n), ". Register one with torch.library.register_fake: see docs/adding-an-op.md");
    note_refusal(text);
    C10_THROW_ERROR(NotImplementedError, "revati: " + text);
  }
  return mapped_call(op, args, n, at::kCPU, flat, [](const at::Tensor& t) {
    if (!t.defined()) return t;
    at::Tensor zeros = at::empty_strided(t.sizes(), t.strides(), t.options().device(at::kCPU).requires_grad(false).pinned_memory(false));
    return zeros.zero_();
  });
}

}  // namespace

Output Output::like(const at::Tensor& t) {
  Output o;
  o.dtype = kernels::supported(t.scalar_type());
  o.sizes.assign(t.sizes().begin(), t.sizes().end());
  o.strides.assign(t.strides().begin(), t.strides().end());
  o.offset = t.storage_offset();
  o.numel = t.numel();
  o.contiguous = t.is_contiguous();
  if (o.contiguous) {  // strides of dimensions of size one are free
    int64_t expected = 1;
    for (size_t k = o.sizes.size(); k-- > 0; expected *= std::max<int64_t>(o.sizes[k], 1)) o.contiguous = o.contiguous && o.strides[k] == expected;
  }
  int64_t extent = o.numel ? 1 : 0;
  for (size_t k = 0; k < o.sizes.size() && o.numel; k++) extent += (o.sizes[k] - 1) * o.strides[k];
  o.nbytes = size_t(extent) * t.element_size();
  return o;
}

Price ask(const PriceRequest& r) {
  if (latency_hook().price) return latency_hook().price(r);
  size_t bytes = 0;  // no latency layer in this process: memory traffic at 3 TB/s
  for (size_t k = 0; k < r.n_args; k++) each_tensor(r.args[k], [&](const at::Tensor& t) { bytes += bytes_of(t); });
  for (auto& t : r.outputs) bytes += bytes_of(t);
  return {int64_t(2000 + double(bytes) / 3e12 * 1e9), "roofline", "roofline"};
}

std::unique_ptr<PricedOp> shape_and_price(const c10::OperatorHandle& op, const OpInfo& info, const c10::IValue* args, size_t n) {
  OwnWork own;
  auto p = std::make_unique<PricedOp>();
  Flat flat;
  torch::jit::Stack results = results_of(op, info, args, n, flat);
  for (size_t k = 0; k < flat.mapped.size(); k++)
    if (flat.mapped[k].defined() && flat.mapped[k].sizes() != flat.originals[k].sizes() && on_device(flat.originals[k]))
      p->resized.emplace_back(int(k), flat.mapped[k].sizes().vec());
  for (const c10::IValue& r : results) p->outputs.push_back(describe(r, flat));
  std::vector<at::Tensor> outs;
  count_outputs(p->outputs, *p, outs);
  p->free = info.view && outs.empty();
  if (p->free) return p;
  PriceRequest request{op.schema().name(), &info.arg_names, args, n, std::move(outs), &info.live_args};
  Price price = ask(request);
  p->duration_ns = price.duration_ns;
  p->stats = Timeline::get().stats(request.name, price.family, price.confidence, shapes_of(args, n));
  if (!info.live_index.empty()) p->live = std::make_unique<LivePrice>();
  return p;
}

}  // namespace revati
