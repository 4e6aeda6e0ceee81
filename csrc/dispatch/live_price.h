// Prices that depend on values: attention over sequence lengths. Asked again at each call and each graph replay,
// from a cache over condensed values, so that a replay of 32 layers asks once.
#pragma once
#include <memory>
#include <vector>

#include "dispatch/shape_rule.h"

namespace revati {

struct LiveCall {  // one call; shared by the graph nodes that read the same tensors
  PricedOp* op;
  const OpInfo* info;
  std::vector<c10::IValue> args;
  std::vector<at::Tensor> values;
  uint64_t priced_at = 0;
  int64_t duration_ns = 0;

  int64_t price();
};

/// `share`: nodes of a capture over the same length tensors get the same call.
std::shared_ptr<LiveCall> live_call(PricedOp* p, const OpInfo& info, const c10::IValue* args, size_t n, bool share);

int64_t live_price_misses();

}  // namespace revati
