#include "dispatch/signature.h"

#include <cstring>
#include <string_view>

namespace revati {
namespace {
enum Tag : uint64_t { kNone = 11, kInt, kDouble, kBool, kString, kDevice, kList, kComplex, kOther, kUndefined };
uint64_t bits(double d) {
  uint64_t u;
  memcpy(&u, &d, 8);
  return u;
}
}  // namespace

void Signature::mix_tensor(const at::Tensor& t, bool with_offset) {
  if (!t.defined()) return mix(kUndefined);
  const c10::TensorImpl* i = t.unsafeGetTensorImpl();
  auto sizes = i->sizes();
  auto strides = i->strides();
  uint64_t head = uint64_t(uint8_t(t.scalar_type())) | uint64_t(sizes.size()) << 8 |
                  uint64_t(uint8_t(i->device_type())) << 16 | uint64_t(uint8_t(i->is_cpu() ? 0 : i->device().index())) << 24 |
                  uint64_t(i->is_wrapped_number()) << 32 | uint64_t(t.is_conj()) << 33 | uint64_t(t.is_neg()) << 34;
  mix(head);
  for (size_t k = 0; k < sizes.size(); k++) mix(uint64_t(sizes[k]) * 0x100000001b3ull + uint64_t(strides[k]));
  if (with_offset) {
    mix(uint64_t(i->storage_offset()));
    mix(i->storage().nbytes());
  }
}

void Signature::mix_value(const c10::IValue& v, bool with_offset) {
  if (v.isTensor()) return mix_tensor(v.toTensor(), with_offset);
  if (v.isNone()) return mix(kNone);
  if (v.isInt()) return mix(kInt), mix(uint64_t(v.toInt()));
  if (v.isBool()) return mix(kBool + (v.toBool() ? 100 : 200));
  if (v.isDouble()) return mix(kDouble), mix(bits(v.toDouble()));
  if (v.isDevice()) return mix(kDevice), mix(uint64_t(v.toDevice().type()) << 8 | uint8_t(v.toDevice().index()));
  if (v.isString()) return mix(kString), mix(std::hash<std::string_view>{}(v.toStringView()));
  if (v.isSymInt()) return mix(kInt), mix(uint64_t(v.toSymInt().expect_int()));
  if (v.isIntList()) {
    auto list = v.toIntList();
    mix(kList + 16 * list.size());
    for (int64_t x : list) mix(uint64_t(x));
    return;
  }
  if (v.isList()) {
    auto list = v.toListRef();
    mix(kList + 16 * list.size());
    for (const auto& e : list) mix_value(e, with_offset);
    return;
  }
  if (v.isComplexDouble()) return mix(kComplex), mix(bits(v.toComplexDouble().real())), mix(bits(v.toComplexDouble().imag()));
  mix(kOther);  // generators and the like decide neither shape nor price
}

}  // namespace revati
