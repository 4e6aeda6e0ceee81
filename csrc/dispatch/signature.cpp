#include "dispatch/signature.h"

#include <cstring>
#include <string_view>

namespace revati {
namespace {
uint64_t bits(double d) {
  uint64_t u;
  memcpy(&u, &d, 8);
  return u;
}
}  // namespace

void Signature::mix_list(size_t size) { mix(kList + 16 * size); }

void Signature::mix_value(const c10::IValue& v) {
  if (v.isNone()) return mix(kNone);
  if (v.isInt()) return mix(kInt), mix(uint64_t(v.toInt()));
  if (v.isBool()) return mix(kBool + (v.toBool() ? 100 : 200));
  if (v.isDouble()) return mix(kDouble), mix(bits(v.toDouble()));
  if (v.isTensor()) return mix_tensor(v.toTensor(), false);
  if (v.isDevice()) return mix(kDevice), mix(uint64_t(v.toDevice().type()) << 8 | uint8_t(v.toDevice().index()));
  if (v.isString()) return mix(kString), mix(std::hash<std::string_view>{}(v.toStringView()));
  if (v.isSymInt()) return mix(kInt), mix(uint64_t(v.toSymInt().expect_int()));
  if (v.isList()) {
    auto list = v.toListRef();
    mix_list(list.size());
    for (const auto& e : list) mix_value(e);
    return;
  }
  if (v.isComplexDouble()) return mix(kComplex), mix(bits(v.toComplexDouble().real())), mix(bits(v.toComplexDouble().imag()));
  mix(kOther);  // generators and the like decide neither shape nor price
}

}  // namespace revati
