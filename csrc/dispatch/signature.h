// The identity of a call: everything that decides its output metadata and its price, as 128 bits.
#pragma once
#include <ATen/core/stack.h>
#include <ATen/core/Tensor.h>

#include <cstdint>

namespace revati {

struct Signature {
  enum Tag : uint64_t { kNone = 11, kInt, kDouble, kBool, kString, kDevice, kList, kComplex, kOther, kUndefined };
  uint64_t a = 0x243f6a8885a308d3ull, b = 0x13198a2e03707344ull;

  void mix(uint64_t x) {
    a = (a ^ x) * 0x9fb21c651e98df25ull;
    a ^= a >> 32;
    b = (b + x) * 0xd6e8feb86659fd93ull;
    b ^= b >> 29;
  }
  void mix_tensor(const at::Tensor& t, bool with_offset) {
    if (!t.defined()) return mix(kUndefined);
    const c10::TensorImpl* i = t.unsafeGetTensorImpl();
    auto sizes = i->sizes();
    auto strides = i->strides();
    c10::DispatchKeySet keys = i->key_set();
    mix(uint64_t(uint8_t(c10::typeMetaToScalarType(i->dtype()))) | uint64_t(sizes.size()) << 8 | uint64_t(uint8_t(i->device_type())) << 16 |
        uint64_t(uint8_t(i->is_cpu() ? 0 : i->device().index())) << 24 | uint64_t(i->is_wrapped_number()) << 32 |
        uint64_t(keys.has(c10::DispatchKey::Conjugate)) << 33 | uint64_t(keys.has(c10::DispatchKey::Negative)) << 34);
    for (size_t k = 0; k < sizes.size(); k++) mix(uint64_t(sizes[k]) * 0x100000001b3ull + uint64_t(strides[k]));
    if (with_offset) {
      mix(uint64_t(i->storage_offset()));
      mix(i->storage().nbytes());
    }
  }
  void mix_list(size_t size);
  void mix_value(const c10::IValue& v);
  bool operator==(const Signature& o) const { return a == o.a && b == o.b; }
};

struct SignatureHash {
  size_t operator()(const Signature& s) const { return s.a; }
};

}  // namespace revati
