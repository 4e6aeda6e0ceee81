// The c10d backend of the virtual device: what torch.distributed calls where a program asked for NCCL.
#pragma once
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "comm/communicator.h"

namespace revati::comm {

/// Completion of collectives on a stream. wait() makes the caller's current stream wait, not the host (a barrier waits).
class VirtualWork : public c10d::Work {
 public:
  VirtualWork(int rank, c10d::OpType type, int device, std::vector<at::Tensor> outputs, bool host_waits);
  void record(int64_t stream);
  bool isCompleted() override;
  bool isSuccess() const override { return true; }
  bool wait(std::chrono::milliseconds timeout) override;
  void synchronize() override { wait(kNoTimeout); }
  void blockCurrentStream() override;
  std::vector<at::Tensor> result() override { return outputs_; }
  c10::intrusive_ptr<c10::ivalue::Future> getFuture() override;

 private:
  int device_;
  int64_t stream_ = 0;
  std::vector<at::Tensor> outputs_;
  bool host_waits_;
  Event event_;
  c10::intrusive_ptr<c10::ivalue::Future> future_;
};

class VirtualBackend : public c10d::Backend {
 public:
  struct Options : c10d::Backend::Options {
    explicit Options(bool high_priority = false) : c10d::Backend::Options("nccl"), is_high_priority_stream(high_priority) {}
    bool is_high_priority_stream;
    c10::intrusive_ptr<VirtualBackend> split_from;
    int64_t split_color = 0;
  };

  /// `world` is where this rank would meet the others; the first rank's choice, told through the store, counts.
  VirtualBackend(const c10::intrusive_ptr<c10d::Store>& store, int rank, int size, c10::intrusive_ptr<Options> options, const std::string& world,
                 int64_t outside_bytes);

  const std::string getBackendName() const override { return "nccl"; }
  c10::intrusive_ptr<c10d::Backend::Options> getBackendOptions() override { return options_; }
  bool supportsCoalescing() const override { return true; }
  bool supportsSplitting() const override { return true; }
  void setTimeout(std::chrono::milliseconds t) override { options_->timeout = t; }
  void setSequenceNumberForGroup() override {}
  uint64_t getSequenceNumberForGroup() override { return sequence_; }
  c10d::ErrorType getError() override { return c10d::ErrorType::SUCCESS; }
  c10::intrusive_ptr<c10d::Backend> split(const c10::intrusive_ptr<c10d::Store>& store, const std::vector<int>& ranks,
                                          const c10::intrusive_ptr<c10d::Backend::Options>& options) override;
  void startCoalescing() override;
  c10::intrusive_ptr<c10d::Work> endCoalescing() override;

  using Tensors = std::vector<at::Tensor>;
  using WorkPtr = c10::intrusive_ptr<c10d::Work>;
  WorkPtr broadcast(Tensors& t, const c10d::BroadcastOptions& o) override;
  WorkPtr allreduce(Tensors& t, const c10d::AllreduceOptions& o) override;
  WorkPtr allreduce_coalesced(Tensors& t, const c10d::AllreduceCoalescedOptions& o) override;
  WorkPtr reduce(Tensors& t, const c10d::ReduceOptions& o) override;
  WorkPtr allgather(std::vector<Tensors>& out, Tensors& in, const c10d::AllgatherOptions& o) override;
  WorkPtr _allgather_base(at::Tensor& out, at::Tensor& in, const c10d::AllgatherOptions& o) override;
  WorkPtr allgather_coalesced(std::vector<Tensors>& out, Tensors& in, const c10d::AllgatherOptions& o) override;
  WorkPtr allgather_into_tensor_coalesced(Tensors& out, Tensors& in, const c10d::AllgatherOptions& o) override;
  WorkPtr gather(std::vector<Tensors>& out, Tensors& in, const c10d::GatherOptions& o) override;
  WorkPtr scatter(Tensors& out, std::vector<Tensors>& in, const c10d::ScatterOptions& o) override;
  WorkPtr reduce_scatter(Tensors& out, std::vector<Tensors>& in, const c10d::ReduceScatterOptions& o) override;
  WorkPtr _reduce_scatter_base(at::Tensor& out, at::Tensor& in, const c10d::ReduceScatterOptions& o) override;
  WorkPtr reduce_scatter_tensor_coalesced(Tensors& out, Tensors& in, const c10d::ReduceScatterOptions& o) override;
  WorkPtr alltoall_base(at::Tensor& out, at::Tensor& in, std::vector<int64_t>& out_splits, std::vector<int64_t>& in_splits,
                        const c10d::AllToAllOptions& o) override;
  WorkPtr alltoall(Tensors& out, Tensors& in, const c10d::AllToAllOptions& o) override;
  WorkPtr send(Tensors& t, int dst, int tag) override;
  WorkPtr recv(Tensors& t, int src, int tag) override;
  WorkPtr barrier(const c10d::BarrierOptions& o) override;

 private:
  struct Batch;  // between startCoalescing and endCoalescing
  WorkPtr start(Communicator& through, Call call, c10d::OpType type, bool async, int device = -1);
  int64_t own_stream(int device, size_t lane);
  int device_of(const Call& call) const;

  c10::intrusive_ptr<Options> options_;
  std::string world_;
  int64_t outside_bytes_;
  std::unique_ptr<Communicator> communicator_;
  std::map<int, std::vector<int64_t>> streams_;
  std::shared_ptr<Batch> batch_;
  uint64_t sequence_ = 0;
};

}  // namespace revati::comm
