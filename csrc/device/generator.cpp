#include "device/generator.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/empty.h>

namespace revati {

VirtualGenerator::VirtualGenerator(c10::Device device)
    : c10::GeneratorImpl(device, c10::DispatchKeySet(device.is_cuda() ? c10::DispatchKey::CUDA : c10::DispatchKey::PrivateUse1)),
      seed_(c10::detail::getNonDeterministicRandom()) {}

void VirtualGenerator::set_current_seed(uint64_t seed) {
  seed_ = seed;
  offset_ = 0;
}

uint64_t VirtualGenerator::seed() {
  set_current_seed(c10::detail::getNonDeterministicRandom());
  return seed_;
}

void VirtualGenerator::set_state(const c10::TensorImpl& state) {
  TORCH_CHECK(state.numel() == 16 && state.dtype() == caffe2::TypeMeta::Make<uint8_t>(),
              "revati: a generator state is a uint8 tensor of 16 bytes (seed, offset), got ", state.numel(), " elements");
  auto* p = static_cast<const uint64_t*>(state.data());
  seed_ = p[0];
  offset_ = p[1];
}

c10::intrusive_ptr<c10::TensorImpl> VirtualGenerator::get_state() const {
  at::Tensor t = at::empty({16}, at::TensorOptions(at::kByte).device(at::kCPU));
  auto* p = reinterpret_cast<uint64_t*>(t.mutable_data_ptr());
  p[0] = seed_;
  p[1] = offset_;
  return t.getIntrusivePtr();
}

void VirtualGenerator::graphsafe_set_state(const c10::intrusive_ptr<c10::GeneratorImpl>& other) {
  seed_ = other->current_seed();
  offset_ = other->get_offset();
}

c10::intrusive_ptr<c10::GeneratorImpl> VirtualGenerator::graphsafe_get_state() const { return clone(); }

VirtualGenerator* VirtualGenerator::clone_impl() const {
  auto* g = new VirtualGenerator(device());
  g->seed_ = seed_;
  g->offset_ = offset_;
  return g;
}

at::Generator VirtualGenerator::draw() {
  auto g = at::make_generator<at::CPUGeneratorImpl>(seed_ + 0x9e3779b97f4a7c15ull * offset_);
  offset_ += 4;
  return g;
}

}  // namespace revati
