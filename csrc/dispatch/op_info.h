// What is known of an op before any call: read off its schema once. And how to walk the arguments of a call.
#pragma once
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>

#include <functional>
#include <string>
#include <vector>

namespace revati {

struct OpInfo {
  std::string name;  // with overload
  std::vector<std::string> arg_names, live_args;
  std::vector<int> live_index, written;  // argument positions
  int index_result = -1;  // holds positions along a dimension of the first argument
  std::vector<int> error_results, error_args;  // called "info": a virtual solver never fails
  size_t arg_count = 0;
  bool view = false, dynamic = false, runs_on_cpu = false, cpu_indices = false, returns = false;
  uint64_t unpriced = 0;   // bits of arguments that decide neither price nor result
  bool masks = false;  // a boolean index decides the shape of the result
};

const OpInfo& info_of(const c10::OperatorHandle& op);
/// The same for a launch that is no dispatcher op.
const OpInfo& info_of(const std::string& name, const std::vector<std::string>& arg_names);

/// Calls `f` with every tensor of an argument; lists of other things are skipped.
template <class F>
void each_tensor(const c10::IValue& v, F&& f) {
  if (v.isTensor()) {
    f(v.toTensor());
  } else if (v.isList()) {
    for (const c10::IValue& e : v.toListRef())
      if (e.isTensor()) f(e.toTensor());
      else if (!e.isNone()) break;
  }
}

at::Tensor flat_arg(const c10::IValue* args, size_t n, int index);

struct Flat {  // the tensors of a call, in order, and what they were mapped to
  std::vector<at::Tensor> originals, mapped;
};

/// The same argument with every tensor mapped by `f`; devices and generators go along.
c10::IValue mapped(const c10::IValue& v, c10::Device device, const std::function<at::Tensor(const at::Tensor&)>& f);

/// A meta tensor like `t`; `exact` keeps the size of its storage and its offset, which views need.
at::Tensor to_meta(const at::Tensor& t, bool exact);

/// "[4, 4]Float [4]Long": for messages and reports.
std::string shapes_of(const c10::IValue* args, size_t n);

}  // namespace revati
