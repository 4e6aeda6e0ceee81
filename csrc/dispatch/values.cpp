#include "dispatch/values.h"

#include <ATen/ops/empty_strided.h>
#include <ATen/ops/from_blob.h>

#include "device/allocator.h"
#include "device/backend.h"

namespace revati {
namespace {
void weak_phantom(void*) {}  // deleters that tell a weak view of phantom memory from one of live memory
void weak_live(void*) {}
bool is_weak_phantom(const c10::DataPtr& p) { return p.get_deleter() == &weak_phantom; }

char* first_element(const at::Tensor& t) {
  return static_cast<char*>(t.storage().data_ptr().get()) + size_t(t.storage_offset()) * t.element_size();
}
}  // namespace

ValuePolicy& policy() {
  static ValuePolicy p;
  return p;
}

bool on_device(const at::Tensor& t) { return t.defined() && t.device().type() == device_type(); }

bool is_live(const at::Tensor& t) {
  if (t.numel() == 0) return true;
  const Block* b = block_of(t.storage().data_ptr());
  if (!b) return !is_weak_phantom(t.storage().data_ptr());
  return !b->phantom.load(std::memory_order_relaxed) && b->requested <= policy().live_storage_bytes;
}

void mark_phantom(const at::Tensor& t) {
  if (t.numel() == 0) return;
  if (Block* b = block_of(t.storage().data_ptr())) b->phantom.store(true, std::memory_order_relaxed);
}

void forget_values(const at::Tensor& t) {
  if (c10::isIntegralType(t.scalar_type(), true) && t.numel() <= policy().materialise_elements && make_live(t)) {
    fill_with_policy(host_view(t));
    mark_invented(t);
  } else {
    mark_phantom(t);
  }
}

bool is_invented(const at::Tensor& t) {
  const Block* b = t.numel() ? block_of(t.storage().data_ptr()) : nullptr;
  return b && b->invented.load(std::memory_order_relaxed);
}

void mark_invented(const at::Tensor& t) {
  if (t.numel() == 0) return;
  if (Block* b = block_of(t.storage().data_ptr())) b->invented.store(true, std::memory_order_relaxed);
}

void fill_with_policy(const at::Tensor& host) {
  if (host.numel() == 0) return;
  if (c10::isIntegralType(host.scalar_type(), false)) host.fill_(policy().token_id);
  else host.zero_();
}

bool make_live(const at::Tensor& t) {
  if (t.numel() == 0) return true;
  Block* b = block_of(t.storage().data_ptr());
  if (!b) return !is_weak_phantom(t.storage().data_ptr());
  if (b->requested > policy().live_storage_bytes) return false;
  if (!b->phantom.load(std::memory_order_relaxed)) return true;
  int64_t n = int64_t(t.storage().nbytes() / t.element_size());
  fill_with_policy(at::from_blob(b->ptr, {n}, t.options().device(at::kCPU)));
  b->invented.store(true, std::memory_order_relaxed);
  b->phantom.store(false, std::memory_order_relaxed);
  return true;
}

char* live_data(const at::Tensor& t) {
  if (on_device(t)) TORCH_CHECK(make_live(t), "revati: a tensor of ", t.storage().nbytes(), " bytes is too large to hold values");
  return first_element(t);
}

at::Tensor host_view(const at::Tensor& t) {
  auto options = t.options().device(at::kCPU).requires_grad(false).pinned_memory(false);
  if (t.numel() == 0) return at::empty_strided(t.sizes(), t.strides(), options);
  at::Tensor host = at::for_blob(first_element(t), t.sizes()).strides(t.strides()).options(options).target_device(at::kCPU).make_tensor();
  if (t.is_conj()) host._set_conj(true);  // copies reach us with the bits still on
  if (t.is_neg()) host._set_neg(true);
  return host;
}

at::Tensor weak_view(const at::Tensor& t) {
  const c10::DataPtr& own = t.storage().data_ptr();
  c10::DataPtr data(own.get(), own.get(), is_live(t) ? &weak_live : &weak_phantom, t.device());
  c10::Storage storage(c10::Storage::use_byte_size_t(), t.storage().nbytes(), std::move(data), nullptr, false);
  auto view = at::detail::make_tensor<c10::TensorImpl>(std::move(storage), t.key_set(), t.dtype());
  view.unsafeGetTensorImpl()->set_sizes_and_strides(t.sizes(), t.strides(), t.storage_offset());
  return view;
}

at::Tensor uva_view(const at::Tensor& host) {
  TORCH_CHECK(host.is_cpu(), "revati: a device view needs a CPU tensor, got one on ", host.device());
  c10::Device device(device_type(), c10::DeviceIndex(current_device()));
  c10::DataPtr data(host.storage().mutable_data(), new at::Tensor(host), [](void* t) { delete static_cast<at::Tensor*>(t); }, device);
  c10::Storage storage(c10::Storage::use_byte_size_t(), host.storage().nbytes(), std::move(data), nullptr, false);
  auto key = device_type() == c10::DeviceType::CUDA ? c10::DispatchKey::CUDA : c10::DispatchKey::PrivateUse1;
  auto view = at::detail::make_tensor<c10::TensorImpl>(std::move(storage), c10::DispatchKeySet(key), host.dtype());
  view.unsafeGetTensorImpl()->set_sizes_and_strides(host.sizes(), host.strides(), host.storage_offset());
  return view;
}

}  // namespace revati
