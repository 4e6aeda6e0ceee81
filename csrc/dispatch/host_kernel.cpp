#include "dispatch/host_kernel.h"

#include "dispatch/values.h"

#include <algorithm>
#include <cstring>

namespace revati {
namespace {

const c10::IValue* find(const HostLaunch& launch, std::string_view name) {
  for (size_t i = 0; i < launch.names.size(); i++)
    if (launch.names[i] == name) return &launch.values[i];
  return nullptr;
}

const c10::IValue& get(const HostLaunch& launch, std::string_view name) {
  const c10::IValue* v = find(launch, name);
  TORCH_CHECK_VALUE(v, "revati: a kernel's host twin needs the argument '", name, "', which the launch does not have: another engine version?");
  return *v;
}

template <class T>
int64_t load_as(const char* p) {
  T value;
  memcpy(&value, p, sizeof value);
  return int64_t(value);
}

template <class T>
void store_as(char* p, int64_t wide) {
  T value = T(wide);
  memcpy(p, &value, sizeof value);
}

}  // namespace

bool HostLaunch::has(std::string_view name) const {
  const c10::IValue* v = find(*this, name);
  return v && !v->isNone();
}

const at::Tensor& HostLaunch::tensor(std::string_view name) const { return get(*this, name).toTensor(); }

int64_t HostLaunch::integer(std::string_view name) const {
  const c10::IValue& v = get(*this, name);
  return v.isBool() ? v.toBool() : v.toInt();
}

Ints Ints::bits(const at::Tensor& t) {
  switch (t.element_size()) {
    case 1: return {t, at::kByte};
    case 2: return {t, at::kShort};
    case 4: return {t, at::kInt};
    default: return {t, at::kLong};
  }
}

Ints::Ints(const at::Tensor& t, at::ScalarType as) : type_(as), item_(int64_t(t.element_size())), count_(t.numel()), extent_(t.numel() ? 1 : 0) {
  TORCH_CHECK_TYPE(c10::isIntegralType(type_, true), "revati: a kernel's host twin needs integers, got ", type_);
  TORCH_CHECK_VALUE(t.dim() <= 2, "revati: a kernel's host twin needs one or two dimensions, got ", t.dim());
  base_ = live_data(t);
  if (t.dim() > 0) row_ = t.stride(0);
  if (t.dim() > 1) column_ = t.stride(1);
  for (int64_t d = 0; d < t.dim() && count_; d++) extent_ += (t.size(d) - 1) * t.stride(d);
}

void Ints::fill(int64_t value) {
  TORCH_CHECK_VALUE(extent_ == count_, "revati: a kernel's host twin fills memory without gaps only");
  if (type_ == at::kLong) std::fill_n(reinterpret_cast<int64_t*>(base_), count_, value);
  else
    for (int64_t i = 0; i < count_; i++) store(base_ + i * item_, value);
}

int64_t Ints::load(const char* p) const {
  switch (type_) {
    case at::kBool:
    case at::kByte: return load_as<uint8_t>(p);
    case at::kChar: return load_as<int8_t>(p);
    case at::kShort: return load_as<int16_t>(p);
    case at::kInt: return load_as<int32_t>(p);
    case at::kUInt32: return load_as<uint32_t>(p);
    default: return load_as<int64_t>(p);
  }
}

void Ints::store(char* p, int64_t value) {
  switch (item_) {
    case 1: return store_as<uint8_t>(p, value);
    case 2: return store_as<uint16_t>(p, value);
    case 4: return store_as<uint32_t>(p, value);
    default: return store_as<uint64_t>(p, value);
  }
}

}  // namespace revati
