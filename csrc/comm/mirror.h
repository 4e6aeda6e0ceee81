// The CPU process group of a folded job: one process stands for all ranks, which are taken to do the same work.
//
// Nobody else is there, so nothing is exchanged: every rank's contribution is a copy of this one's.
#pragma once
#include <torch/csrc/distributed/c10d/Backend.hpp>

#include <vector>

namespace revati::comm {

class MirrorBackend : public c10d::Backend {
 public:
  MirrorBackend(int rank, int size) : c10d::Backend(rank, size) {}

  using Tensors = std::vector<at::Tensor>;
  using WorkPtr = c10::intrusive_ptr<c10d::Work>;
  const std::string getBackendName() const override { return "gloo"; }
  void setTimeout(std::chrono::milliseconds) override {}
  void setSequenceNumberForGroup() override {}
  uint64_t getSequenceNumberForGroup() override { return 0; }

  WorkPtr broadcast(Tensors& t, const c10d::BroadcastOptions& o) override;
  WorkPtr allreduce(Tensors& t, const c10d::AllreduceOptions& o) override;
  WorkPtr reduce(Tensors& t, const c10d::ReduceOptions& o) override;
  WorkPtr allgather(std::vector<Tensors>& out, Tensors& in, const c10d::AllgatherOptions& o) override;
  WorkPtr _allgather_base(at::Tensor& out, at::Tensor& in, const c10d::AllgatherOptions& o) override;
  WorkPtr gather(std::vector<Tensors>& out, Tensors& in, const c10d::GatherOptions& o) override;
  WorkPtr scatter(Tensors& out, std::vector<Tensors>& in, const c10d::ScatterOptions& o) override;
  WorkPtr barrier(const c10d::BarrierOptions& o) override;
};

}  // namespace revati::comm
