#include "dispatch/live_price.h"

#include <atomic>
#include <cmath>
#include <unordered_map>

#include "dispatch/values.h"
#include "timeline/clock.h"

namespace revati {
namespace {

std::atomic<uint64_t> epoch{1};
std::atomic<int64_t> misses{0};
thread_local std::unordered_map<uint64_t, std::weak_ptr<LiveCall>> captured_calls;

uint64_t bucket(double x) { return x < 64 ? uint64_t(x) : 64 + uint64_t(std::lround(std::log2(x) * 32)); }

/// Condenses the values of length arguments: lengths near each other cost the same to about 1%.
Signature digest(const std::vector<std::string>& names, const std::vector<at::Tensor>& values) {
  std::vector<std::vector<int64_t>> lengths;
  for (size_t k = 0; k < values.size(); k++) {
    std::vector<int64_t> v;
    if (values[k].defined() && is_live(values[k])) {
      at::Tensor h = host_view(values[k]).to(at::kLong).contiguous();
      const int64_t* d = h.const_data_ptr<int64_t>();
      v.assign(d, d + h.numel());
      if (names[k].rfind("cu_", 0) == 0 || names[k].find("indptr") != std::string::npos) {
        for (size_t i = v.size(); i-- > 1;) v[i] -= v[i - 1];
        if (!v.empty()) v.erase(v.begin());
      }
    }
    lengths.push_back(std::move(v));
  }
  Signature s;
  for (auto& v : lengths) {
    double sum = 0, square = 0, top = 0;
    size_t used = 0;
    for (int64_t x : v) {
      sum += double(x);
      square += double(x) * double(x);
      top = std::max(top, double(x));
      used += x > 0;
    }
    s.mix(used);
    s.mix(bucket(sum));
    s.mix(bucket(square));
    s.mix(bucket(top));
  }
  if (lengths.size() > 1 && lengths[0].size() == lengths[1].size()) {  // query and key lengths: what prefills and decodes do
    double work = 0, decode = 0;
    size_t prefills = 0;
    for (size_t i = 0; i < lengths[0].size(); i++) {
      auto q = double(std::min(lengths[0][i], lengths[1][i])), k = double(std::max(lengths[0][i], lengths[1][i]));
      if (q > 1) work += q * k, prefills++;
      else decode += k;
    }
    s.mix(prefills);
    s.mix(bucket(work));
    s.mix(bucket(decode));
  }
  return s;
}

}  // namespace

int64_t LiveCall::price() {
  uint64_t now = epoch.load(std::memory_order_relaxed);
  if (priced_at == now) return duration_ns;
  priced_at = now;
  OwnWork own;
  Signature key = digest(info->live_args, values);
  {
    std::lock_guard lock(op->live->mutex);
    auto it = op->live->by_values.find(key);
    if (it != op->live->by_values.end()) return duration_ns = it->second;
  }
  misses.fetch_add(1, std::memory_order_relaxed);
  PriceRequest request{op->stats->name, &info->arg_names, args.data(), args.size(), {}, &info->live_args};
  duration_ns = ask(request).duration_ns;
  std::lock_guard lock(op->live->mutex);
  op->live->by_values.emplace(key, duration_ns);
  return duration_ns;
}

std::shared_ptr<LiveCall> live_call(PricedOp* p, const OpInfo& info, const c10::IValue* args, size_t n, bool share) {
  std::vector<at::Tensor> values;
  Signature key;
  key.mix(uint64_t(p));
  for (int k : info.live_index) {
    values.push_back(args[k].isTensor() ? args[k].toTensor() : at::Tensor());
    key.mix(values.back().defined() ? uint64_t(values.back().storage().data_ptr().get()) + uint64_t(values.back().storage_offset()) : 0);
  }
  if (share)
    if (auto known = captured_calls[key.a].lock()) return known;
  auto c = std::make_shared<LiveCall>();
  c->op = p;
  c->info = &info;
  for (size_t k = 0; k < n; k++)  // only the lengths are kept alive: a graph must not hold its activations
    c->args.push_back(std::find(info.live_index.begin(), info.live_index.end(), int(k)) != info.live_index.end()
                          ? args[k]
                          : mapped(args[k], at::kMeta, [](const at::Tensor& t) { return to_meta(t, false); }));
  c->values = std::move(values);
  if (share) captured_calls[key.a] = c;
  return c;
}

void next_price_epoch() { epoch.fetch_add(1, std::memory_order_relaxed); }
int64_t live_price_misses() { return misses.load(std::memory_order_relaxed); }

}  // namespace revati
