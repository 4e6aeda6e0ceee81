// The one boxed kernel behind every op of the device.
//
// Way of a call: signature -> cached (output metadata, price) or, on a miss, the op's meta kernel and the latency
// model -> outputs without memory -> one operation more on the current stream. Small ops whose inputs are all live
// are also computed, on host memory. The cache lock is never held across a miss: meta kernels may take the GIL.
#pragma once
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>

#include <functional>
#include <string>
#include <vector>

namespace revati {

struct Price {
  int64_t duration_ns = 0;
  std::string family = "unknown", confidence = "roofline";
};

/// What the latency layer is asked. `live` names the arguments whose values it wants.
struct PriceRequest {
  std::string name;
  const std::vector<std::string>* arg_names;
  const c10::IValue* args;
  size_t n_args;
  std::vector<at::Tensor> outputs;
  const std::vector<std::string>* live;
};

struct ArgRoles {
  std::vector<std::string> live;      // their values set the price
  std::vector<std::string> unpriced;  // they differ from call to call and decide neither price nor result
};

struct LatencyHook {
  std::function<Price(const PriceRequest&)> price;
  std::function<ArgRoles(const std::string&)> arg_roles;
};
LatencyHook& latency_hook();

void fallback(const c10::OperatorHandle& op, torch::jit::Stack* stack);

/// A launch that is no dispatcher op (Triton kernels, copies, collectives): priced, cached and appended alike.
void launch_named(const std::string& name, const std::vector<std::string>& arg_names, const std::vector<c10::IValue>& args,
                  int device, bool host_cost = true);
struct OpInfo;
/// The same for a caller that keeps what info_of(name, arg_names) returned.
void launch_named(const OpInfo& info, const std::vector<c10::IValue>& args, int device, bool host_cost = true);
/// The price alone, for collectives: they have an arrival time of their own.
struct PricedOp;
int64_t price_named(const std::string& name, const std::vector<std::string>& arg_names, const std::vector<c10::IValue>& args,
                    int device, std::shared_ptr<struct OpStats>* stats);

struct CacheCounters {
  int64_t hits = 0, misses = 0, live_runs = 0, live_price_misses = 0;
};
CacheCounters cache_counters();
/// Called once a graph replay so that live prices are computed once for all layers.
void next_price_epoch();

}  // namespace revati
