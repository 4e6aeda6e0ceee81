#include "dispatch/kernels.h"

#include <ATen/EmptyTensor.h>
#include <ATen/InferSize.h>
#include <ATen/TensorUtils.h>
#include <ATen/ops/_local_scalar_dense.h>
#include <ATen/ops/empty_like.h>

#include "device/allocator.h"
#include "device/backend.h"
#include "dispatch/fallback.h"
#include "dispatch/registration.h"
#include "dispatch/values.h"
#include "timeline/clock.h"
#include "timeline/timeline.h"

namespace revati {

void resize_storage(const c10::Storage& storage, size_t bytes) {
  auto* s = storage.unsafeGetStorageImpl();
  if (s->nbytes() == bytes) return;
  int old = current_device();
  if (s->device().index() >= 0) set_device(s->device().index());
  c10::DataPtr next = device_allocator()->allocate(bytes);
  set_device(old);
  const Block* before = block_of(s->data_ptr());
  if (Block* b = block_of(next); b && before) {
    if (before->phantom) b->phantom = true;
    else if (bytes <= policy().live_storage_bytes) memcpy(next.get(), s->data(), std::min(bytes, s->nbytes()));
  }
  s->set_data_ptr_noswap(std::move(next));
  s->set_nbytes(bytes);
}

namespace kernels {
namespace {

struct On {
  int old = current_device();
  explicit On(std::optional<at::Device> d) {
    if (d && d->index() >= 0) set_device(d->index());
  }
  ~On() { set_device(old); }
};

c10::DispatchKeySet keys() {
  return c10::DispatchKeySet(device_type() == c10::DeviceType::CUDA ? c10::DispatchKey::CUDA : c10::DispatchKey::PrivateUse1);
}

void wait_current(int device) { Timeline::get().synchronize_stream(device, Timeline::get().current(device)); }

void note_copy(const char* name, const at::Tensor& dst, const at::Tensor& src, int device) {
  static const auto& names = *new std::vector<std::string>{"dst", "src"};
  launch_named(name, names, {dst, src}, device);
}

/// dst is on the device; src is live host memory.
void store(const at::Tensor& dst, const at::Tensor& src) {
  OwnWork own;
  if (make_live(dst)) host_view(dst).copy_(src);
}

void host_to_device(const at::Tensor& dst, const at::Tensor& src, bool non_blocking) {
  int device = dst.get_device();
  Timeline& timeline = Timeline::get();
  store(dst, src);
  if (timeline.keeps_values(device)) timeline.keep_rerun(device, [dst, src] { store(dst, src); });
  note_copy("copy::h2d", dst, src, device);
  if (!non_blocking && !timeline.capturing(device, timeline.current(device))) wait_current(device);
}

void device_to_host(const at::Tensor& dst, const at::Tensor& src, bool non_blocking) {
  int device = src.get_device();
  auto move = [dst, src] {
    OwnWork own;
    if (is_live(src)) at::Tensor(dst).copy_(host_view(src));
    else fill_with_policy(dst);
  };
  move();
  Timeline& timeline = Timeline::get();
  bool capturing = timeline.capturing(device, timeline.current(device));
  if (timeline.keeps_values(device)) timeline.keep_rerun(device, move);
  note_copy("copy::d2h", dst, src, device);
  if (!capturing && (!non_blocking || !dst.is_pinned())) wait_current(device);
}

bool store_on_device(const at::Tensor& dst, const at::Tensor& src) {
  OwnWork own;
  int64_t most = c10::isIntegralType(src.scalar_type(), true) ? policy().live_elements_int : policy().live_elements_float;
  bool live = is_live(src) && src.numel() <= most && make_live(dst);
  if (!live) forget_values(dst);
  else host_view(dst).copy_(host_view(src));
  if (live && is_invented(src)) mark_invented(dst);
  return live;
}

void device_to_device(const at::Tensor& dst, const at::Tensor& src) {
  int device = dst.get_device();
  Timeline& timeline = Timeline::get();
  bool live = store_on_device(dst, src);
  if (live && timeline.keeps_values(device))  // a phantom copy must not keep its tensors alive
    timeline.keep_rerun(device, [dst, src] { store_on_device(dst, src); });
  note_copy("copy::d2d", dst, src, device);
}

}  // namespace

at::ScalarType supported(std::optional<at::ScalarType> dtype) {
  at::ScalarType t = dtype.value_or(at::get_default_dtype_as_scalartype());
  TORCH_CHECK_NOT_IMPLEMENTED(!c10::isQIntType(t), "revati: the virtual GPU has no quantized tensors (", t,
                              "); use integer tensors with a scale, as serving engines do, or keep them on the CPU");
  return t;
}

at::Tensor empty(c10::SymIntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>, std::optional<at::Device> device,
                 std::optional<bool>, std::optional<at::MemoryFormat> format) {
  On guard(device);
  return at::detail::empty_generic(C10_AS_INTARRAYREF_SLOW(size), device_allocator(), keys(), supported(dtype), format);
}

at::Tensor empty_strided(c10::SymIntArrayRef size, c10::SymIntArrayRef stride, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
                         std::optional<at::Device> device, std::optional<bool>) {
  On guard(device);
  return at::detail::empty_strided_generic(C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride), device_allocator(), keys(),
                                           supported(dtype));
}

at::Tensor as_strided(const at::Tensor& self, at::IntArrayRef size, at::IntArrayRef stride, std::optional<int64_t> offset) {
  auto r = at::detail::make_tensor<c10::TensorImpl>(c10::TensorImpl::VIEW, c10::Storage(self.storage()), self.key_set(), self.dtype());
  r.unsafeGetTensorImpl()->set_sizes_and_strides(size, stride, offset.value_or(self.storage_offset()));
  return r;
}

at::Tensor view(const at::Tensor& self, c10::SymIntArrayRef size) {
  auto sizes = at::infer_size_dv(C10_AS_INTARRAYREF_SLOW(size), self.numel());
  auto strides = at::detail::computeStride(self.sizes(), self.strides(), sizes);
  TORCH_CHECK(strides.has_value(), "view size is not compatible with input tensor's size and stride (at least one dimension spans "
                                   "across two contiguous subspaces). Use .reshape(...) instead.");
  return kernels::as_strided(self, sizes, *strides, self.storage_offset());
}

at::Tensor reshape_alias(const at::Tensor& self, c10::SymIntArrayRef size, c10::SymIntArrayRef stride) {
  return kernels::as_strided(self, C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride), self.storage_offset());
}

void grow(const at::Tensor& t, at::IntArrayRef sizes) {
  auto* impl = t.unsafeGetTensorImpl();
  size_t need = size_t(impl->storage_offset() + c10::multiply_integers(sizes)) * t.element_size();
  if (t.storage().nbytes() < need) resize_storage(t.storage(), need);
  impl->set_sizes_contiguous(sizes);
}

const at::Tensor& resize_(const at::Tensor& self, c10::SymIntArrayRef size, std::optional<at::MemoryFormat> format) {
  auto sizes = C10_AS_INTARRAYREF_SLOW(size);
  if (self.sizes() != sizes) grow(self, sizes);
  if (format && *format != at::MemoryFormat::Preserve) self.unsafeGetTensorImpl()->empty_tensor_restride(*format);
  return self;
}

at::Tensor& set_storage(at::Tensor& self, at::Storage source) {
  int64_t n = int64_t(source.nbytes() / self.element_size());
  auto* impl = self.unsafeGetTensorImpl();
  impl->set_storage_keep_dtype(std::move(source));
  impl->set_sizes_and_strides(at::IntArrayRef{n}, at::IntArrayRef{1}, 0);
  return self;
}

at::Tensor& set_storage_view(at::Tensor& self, at::Storage source, c10::SymInt offset, c10::SymIntArrayRef size, c10::SymIntArrayRef stride) {
  auto* impl = self.unsafeGetTensorImpl();
  impl->set_storage_keep_dtype(std::move(source));
  auto sizes = C10_AS_INTARRAYREF_SLOW(size);
  if (stride.size() == size.size()) impl->set_sizes_and_strides(sizes, C10_AS_INTARRAYREF_SLOW(stride), offset.expect_int());
  else {
    impl->set_storage_offset(offset.expect_int());
    impl->set_sizes_contiguous(sizes);
  }
  return self;
}

at::Tensor& set_tensor(at::Tensor& self, const at::Tensor& source) {
  auto* impl = self.unsafeGetTensorImpl();
  impl->set_storage_keep_dtype(c10::Storage(source.storage()));
  impl->set_sizes_and_strides(source.sizes(), source.strides(), source.storage_offset());
  return self;
}

at::Tensor& set_empty(at::Tensor& self) {
  at::Tensor none = at::empty_like(self, self.options(), at::MemoryFormat::Contiguous).resize_({0});
  return set_tensor(self, none);
}

at::Tensor& copy_(at::Tensor& self, const at::Tensor& source, bool non_blocking) {
  if (self.is_same(source)) return self;
  at::Tensor src = source.sizes() == self.sizes() ? source : source.expand(self.sizes());  // refuses what cannot broadcast
  if (self.numel() == 0) return self;
  bool to = on_device(self), from = on_device(src);
  if (src.device().is_meta()) return self;
  if (to && from) device_to_device(self, src);
  else if (to) host_to_device(self, src, non_blocking);
  else device_to_host(self, src, non_blocking);
  return self;
}

at::Tensor copy_from(const at::Tensor& self, const at::Tensor& destination, bool non_blocking) {
  at::Tensor d = destination;
  return copy_(d, self, non_blocking);
}

at::Tensor copy_from_and_resize(const at::Tensor& self, const at::Tensor& destination) {
  destination.resize_(self.sizes());
  return copy_from(self, destination, false);
}

at::Scalar local_scalar_dense(const at::Tensor& self) {
  int device = self.get_device();
  Timeline& timeline = Timeline::get();
  TORCH_CHECK(!timeline.capturing(device, timeline.current(device)), "operation not permitted when stream is capturing (.item())");
  at::Tensor host = at::empty_like(self, self.options().device(at::kCPU));
  device_to_host(host, self, false);
  return at::_local_scalar_dense(host);
}

void record_stream(at::Tensor&, c10::Stream) {}

}  // namespace kernels
}  // namespace revati
