// The identity of a call: everything that decides its output metadata and its price, as 128 bits.
#pragma once
#include <ATen/core/stack.h>
#include <ATen/core/Tensor.h>

#include <cstdint>

namespace revati {

struct Signature {
  uint64_t a = 0x243f6a8885a308d3ull, b = 0x13198a2e03707344ull;

  void mix(uint64_t x) {
    a = (a ^ x) * 0x9fb21c651e98df25ull;
    a ^= a >> 32;
    b = (b + x) * 0xd6e8feb86659fd93ull;
    b ^= b >> 29;
  }
  void mix_tensor(const at::Tensor& t, bool with_offset);
  void mix_value(const c10::IValue& v, bool with_offset);
  bool operator==(const Signature& o) const { return a == o.a && b == o.b; }
};

struct SignatureHash {
  size_t operator()(const Signature& s) const { return s.a; }
};

}  // namespace revati
