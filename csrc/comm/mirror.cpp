#include "comm/mirror.h"

namespace revati::comm {
namespace {

/// Work that was over when it began.
class DoneWork : public c10d::Work {
 public:
  DoneWork(int rank, c10d::OpType type, std::vector<at::Tensor> outputs) : c10d::Work(rank, type), outputs_(std::move(outputs)) {}
  bool isCompleted() override { return true; }
  bool isSuccess() const override { return true; }
  bool wait(std::chrono::milliseconds) override { return true; }
  std::vector<at::Tensor> result() override { return outputs_; }
  c10::intrusive_ptr<c10::ivalue::Future> getFuture() override {
    auto future = c10::make_intrusive<c10::ivalue::Future>(c10::ListType::create(c10::TensorType::get()));
    future->markCompleted(c10::IValue(outputs_));
    return future;
  }

 private:
  std::vector<at::Tensor> outputs_;
};

c10::intrusive_ptr<c10d::Work> done(int rank, c10d::OpType type, std::vector<at::Tensor> outputs) {
  return c10::make_intrusive<DoneWork>(rank, type, std::move(outputs));
}

/// What `size` equal contributions reduce to.
void reduce_equal(at::Tensor& t, const c10d::ReduceOp& op, int size) {
  switch (c10d::ReduceOp::RedOpType(op)) {
    case c10d::ReduceOp::SUM:
      if (t.scalar_type() != at::kBool) t.mul_(size);
      return;
    case c10d::ReduceOp::PRODUCT: t.pow_(size); return;
    case c10d::ReduceOp::BXOR:
      if (size % 2 == 0) t.zero_();
      return;
    default: return;  // average, minimum, maximum, and, or: equal values stay what they are
  }
}

}  // namespace

MirrorBackend::WorkPtr MirrorBackend::broadcast(Tensors& t, const c10d::BroadcastOptions&) { return done(rank_, c10d::OpType::BROADCAST, t); }

MirrorBackend::WorkPtr MirrorBackend::allreduce(Tensors& t, const c10d::AllreduceOptions& o) {
  for (auto& x : t) reduce_equal(x, o.reduceOp, size_);
  return done(rank_, c10d::OpType::ALLREDUCE, t);
}

MirrorBackend::WorkPtr MirrorBackend::reduce(Tensors& t, const c10d::ReduceOptions& o) {
  for (auto& x : t) reduce_equal(x, o.reduceOp, size_);
  return done(rank_, c10d::OpType::REDUCE, t);
}

MirrorBackend::WorkPtr MirrorBackend::allgather(std::vector<Tensors>& out, Tensors& in, const c10d::AllgatherOptions&) {
  for (size_t k = 0; k < in.size(); k++)
    for (auto& piece : out.at(k)) piece.copy_(in[k]);
  return done(rank_, c10d::OpType::ALLGATHER, out.at(0));
}

MirrorBackend::WorkPtr MirrorBackend::_allgather_base(at::Tensor& out, at::Tensor& in, const c10d::AllgatherOptions&) {
  out.view({size_, -1}).copy_(in.reshape({1, -1}).expand({size_, -1}));
  return done(rank_, c10d::OpType::_ALLGATHER_BASE, {out});
}

MirrorBackend::WorkPtr MirrorBackend::gather(std::vector<Tensors>& out, Tensors& in, const c10d::GatherOptions&) {
  for (auto& pieces : out)
    for (auto& piece : pieces) piece.copy_(in.at(0));
  return done(rank_, c10d::OpType::GATHER, out.empty() ? Tensors{} : out[0]);
}

MirrorBackend::WorkPtr MirrorBackend::scatter(Tensors& out, std::vector<Tensors>& in, const c10d::ScatterOptions&) {
  if (!in.empty()) out.at(0).copy_(in[0].at(size_t(rank_)));
  return done(rank_, c10d::OpType::SCATTER, out);
}

MirrorBackend::WorkPtr MirrorBackend::barrier(const c10d::BarrierOptions&) { return done(rank_, c10d::OpType::BARRIER, {}); }

}  // namespace revati::comm
