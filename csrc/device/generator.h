// Random state of a virtual GPU: a seed and an offset, as CUDA's Philox generator has. Only live values draw from it.
#pragma once
#include <ATen/core/Generator.h>
#include <c10/core/GeneratorImpl.h>

namespace revati {

struct VirtualGenerator final : c10::GeneratorImpl {
  explicit VirtualGenerator(c10::Device device);
  void set_current_seed(uint64_t seed) override;
  void set_offset(uint64_t offset) override { offset_ = offset; }
  uint64_t get_offset() const override { return offset_; }
  uint64_t current_seed() const override { return seed_; }
  uint64_t seed() override;
  void set_state(const c10::TensorImpl& state) override;
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override;
  void graphsafe_set_state(const c10::intrusive_ptr<c10::GeneratorImpl>& other) override;
  c10::intrusive_ptr<c10::GeneratorImpl> graphsafe_get_state() const override;

  /// A CPU generator for the next draw; moves the offset.
  at::Generator draw();

 private:
  VirtualGenerator* clone_impl() const override;
  uint64_t seed_ = 0, offset_ = 0;
};

}  // namespace revati
