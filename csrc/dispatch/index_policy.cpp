#include "dispatch/index_policy.h"

#include <ATen/WrapDimUtils.h>
#include <ATen/ops/arange.h>

#include <algorithm>

#include "dispatch/values.h"

namespace revati {
namespace {

constexpr int64_t kFew = 1024;  // more experts than any router has, fewer tokens than any vocabulary

/// Dimension of `self` that the call searches; -1: all of them.
int64_t searched(const OpInfo& info, const c10::IValue* args, const at::Tensor& self) {
  for (size_t k = 1; k < info.arg_names.size(); k++)
    if (info.arg_names[k] == "dim") return args[k].isInt() ? at::maybe_wrap_dim(args[k].toInt(), self.dim()) : -1;
  return at::maybe_wrap_dim(-1, self.dim());
}

}  // namespace

int find_index_result(const c10::FunctionSchema& schema) {
  const std::string& name = schema.name();
  if (name == "aten::argmax" || name == "aten::argmin" || name == "aten::argsort" || name == "aten::multinomial") return 0;
  for (const char* op : {"aten::topk", "aten::sort", "aten::max", "aten::min", "aten::median", "aten::nanmedian", "aten::mode",
                         "aten::kthvalue", "aten::cummax", "aten::cummin"})
    if (name == op && schema.returns().size() == 2) return 1;
  return -1;
}

void choose_indices(const OpInfo& info, const c10::IValue* args, const torch::jit::Stack& results) {
  const at::Tensor &self = args[0].toTensor(), &indices = results[size_t(info.index_result)].toTensor();
  if (!indices.defined() || indices.numel() == 0 || !on_device(indices) || !is_live(indices)) return;
  int64_t dim = searched(info, args, self), token = policy().token_id;
  int64_t range = self.dim() == 0 ? 1 : dim < 0 ? self.numel() : self.size(dim);
  at::Tensor host = host_view(indices);
  bool many = dim >= 0 && indices.dim() == self.dim() && indices.dim() > 0 && indices.size(dim) > 1;
  if (!many) {
    host.fill_(token % range);
    return;
  }
  at::Tensor rows = host.movedim(dim, -1);
  int64_t k = rows.size(-1);
  if (k == range) rows.copy_(at::arange(k));
  else if (range <= kFew) rows.copy_(at::arange(token, token + rows.numel()).remainder(range).view(rows.sizes()));
  else rows.copy_(at::arange(token, token + k).remainder(range));
}

}  // namespace revati
