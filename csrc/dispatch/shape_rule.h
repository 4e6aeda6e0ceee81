// What comes out of a call and for how long it runs: asked once for each signature, then cached.
#pragma once
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/util/SmallVector.h>
#include <c10/util/flat_hash_map.h>

#include <memory>
#include <mutex>
#include <vector>

#include "dispatch/fallback.h"
#include "dispatch/op_info.h"
#include "dispatch/signature.h"
#include "timeline/timeline.h"

namespace revati {

struct Output {
  enum Kind : uint8_t { kNew, kArg, kView, kUndefined, kValue, kList } kind = kNew;
  bool contiguous = false;
  int arg = -1;  // flat tensor index, for kArg and kView
  c10::ScalarType dtype = c10::ScalarType::Float;
  c10::SmallVector<int64_t, 5> sizes, strides;
  int64_t offset = 0, numel = 0;
  size_t nbytes = 0;
  c10::IValue value;
  std::vector<Output> list;

  /// Shape, strides and dtype of `t`, as something new.
  static Output like(const at::Tensor& t);
};

struct LivePrice {  // prices of one call site over the values it depends on
  std::mutex mutex;
  ska::flat_hash_map<Signature, int64_t, SignatureHash> by_values;
};

struct PricedOp {
  std::vector<Output> outputs;
  std::vector<std::pair<int, std::vector<int64_t>>> resized;  // out= arguments that grow
  int64_t duration_ns = 0, out_int = 0, out_float = 0;
  bool free = false;  // views and the like: nothing is launched
  std::shared_ptr<OpStats> stats;
  std::unique_ptr<LivePrice> live;
};

/// Asks the latency layer, or a crude bandwidth model in a process without one.
Price ask(const PriceRequest& r);

/// Runs the op's meta kernel and prices it. May take the GIL; never call it under a lock.
std::unique_ptr<PricedOp> shape_and_price(const c10::OperatorHandle& op, const OpInfo& info, const c10::IValue* args, size_t n);

}  // namespace revati
