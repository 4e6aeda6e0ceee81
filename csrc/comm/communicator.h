// One rank's membership of one group: prices a collective, puts it on a stream, and moves values that are live.
//
// Nothing here blocks the host at a launch, with one exception: an operation whose outputs may be live (small, and
// all that goes in is live) waits until the other ranks have launched it too, because their values are needed. What one
// rank sends to others need not be there yet if it is small: it arrives when its receiver looks (device/incoming.h).
#pragma once
#include <ATen/core/Tensor.h>

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "comm/world.h"
#include "timeline/timeline.h"

namespace revati::comm {

enum class Reduce : uint8_t { kSum, kAvg, kProduct, kMin, kMax, kBand, kBor, kBxor };
const char* name_of(Reduce op);

/// True when this process stands for all ranks of its groups (REVATI_FOLD_RANKS=1): the others, which would do the same
/// work at the same time, are not there, and what they contribute is taken to be what this one does.
bool folded();

/// Writes outputs (host views) from the contributions by rank; ranks that are not needed are empty.
using Combine = std::function<void(const std::vector<Contribution>&, std::vector<at::Tensor>&)>;

/// One collective of one rank.
struct Call {
  enum From { kAll, kRoot, kNobody };
  const char* name = "";
  const char* implementation = "nccl";
  Reduce op = Reduce::kSum;
  std::vector<at::Tensor> inputs;     // what this rank contributes, in this order
  std::vector<at::Tensor> outputs;    // what it writes; may be the inputs
  at::Tensor priced;                  // the tensor that the latency layer sees; undefined: the first input
  From from = kAll;                   // whose values the outputs depend on
  int root = 0;
  Combine combine;  // of `outputs`
};

class Receipt;

class Communicator {
 public:
  /// Joins the group `name`; `outside_bytes` of device memory are taken at the first launch, as NCCL's buffers are.
  Communicator(std::string name, int rank, int size, int64_t outside_bytes);

  int rank() const { return rank_; }
  int size() const { return size_; }

  /// The channel to or from `peer`: a group of two, of which the sender is rank 0.
  Communicator& channel(int peer, bool sending);

  struct Launched {
    Call call;
    int device = 0;
    bool exchanged = false, in_capture = false, reads_later = false;
    uint64_t sequence = 0;
    std::vector<char> packed;
  };
  /// Puts the collective on `stream`. The outputs are not written yet. `may_read_later`: finish() follows before the next
  /// launch.
  Launched launch(Call call, int device, int64_t stream, bool may_read_later);
  /// Writes the outputs, or marks them phantom; where it is too early for either, they are written when somebody looks.
  void finish(Launched& l);
  void run(Call call, int device, int64_t stream) {
    Launched l = launch(std::move(call), device, stream, true);
    finish(l);
  }

  // Calls that several faces share. Tensors are contiguous.
  Call all_reduce(std::vector<at::Tensor> in, std::vector<at::Tensor> out, Reduce op) const;
  Call all_gather(std::vector<at::Tensor> in, std::vector<std::vector<at::Tensor>> out) const;
  Call reduce_scatter(std::vector<std::vector<at::Tensor>> in, std::vector<at::Tensor> out, Reduce op) const;
  Call broadcast(std::vector<at::Tensor> tensors, int root) const;
  Call reduce(std::vector<at::Tensor> in, std::vector<at::Tensor> out, int root, Reduce op) const;
  Call gather(at::Tensor in, std::vector<at::Tensor> out, int root) const;
  Call scatter(std::vector<at::Tensor> in, at::Tensor out, int root) const;
  Call all_to_all(std::vector<at::Tensor> in, std::vector<at::Tensor> out) const;
  Call barrier(int device) const;
  static Call send(at::Tensor t);  // through channel(peer, true)
  static Call recv(at::Tensor t);  // through channel(peer, false)

 private:
  void collect_receipts();

  std::string name_;
  int rank_, size_;
  int64_t outside_bytes_;
  uint32_t group_;
  std::mutex mutex_;
  std::map<std::pair<int, bool>, std::unique_ptr<Communicator>> channels_;
  std::vector<bool> charged_;
  std::deque<std::shared_ptr<Receipt>> receipts_;  // of values that nobody has looked at yet
};

/// `t` cut into `parts` equal pieces along its flattened memory.
std::vector<at::Tensor> pieces(const at::Tensor& t, int parts);

}  // namespace revati::comm
