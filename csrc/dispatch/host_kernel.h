// Host twins: what a kernel that is only recorded does to values which the host will read.
#pragma once
#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>

#include <string>
#include <string_view>
#include <vector>

namespace revati {

/// A launch as its twin sees it.
struct HostLaunch {
  const std::vector<std::string>& names;  // of the arguments, as `values`
  const std::vector<c10::IValue>& values;
  const std::vector<int64_t>& grid;

  bool has(std::string_view name) const;  // given, and not None
  /// Errors name the argument that is missing.
  const at::Tensor& tensor(std::string_view name) const;
  int64_t integer(std::string_view name) const;
};

using HostKernel = void (*)(const HostLaunch&);

/// The integers of a tensor of one or two dimensions, which becomes live first. What lies outside is an error.
class Ints {
 public:
  explicit Ints(const at::Tensor& t) : Ints(t, t.scalar_type()) {}
  /// The elements of any type as bits, to be moved about.
  static Ints bits(const at::Tensor& t);
  int64_t at(int64_t i) const { return load(place(i * row_)); }
  int64_t at(int64_t i, int64_t j) const { return load(place(i * row_ + j * column_)); }
  void set(int64_t i, int64_t value) { store(place(i * row_), value); }
  void set(int64_t i, int64_t j, int64_t value) { store(place(i * row_ + j * column_), value); }
  void fill(int64_t value);

 private:
  Ints(const at::Tensor& t, at::ScalarType as);
  char* place(int64_t offset) const {
    TORCH_CHECK_INDEX(offset >= 0 && offset < extent_, "revati: a kernel's host twin meets element ", offset, " of ", extent_);
    return base_ + offset * item_;
  }
  int64_t load(const char* p) const;
  void store(char* p, int64_t value);

  char* base_;
  at::ScalarType type_;
  int64_t item_, count_, extent_, row_ = 1, column_ = 1;
};

}  // namespace revati
