#include "comm/backend.h"

#include <ATen/ops/empty.h>
#include <c10/core/StreamGuard.h>
#include <sys/random.h>

#include <torch/csrc/distributed/c10d/PrefixStore.hpp>

#include "device/backend.h"
#include "dispatch/values.h"

namespace revati::comm {
namespace {

Reduce reduce_of(const c10d::ReduceOp& op) {
  using R = c10d::ReduceOp;
  switch (op.op_) {
    case R::SUM:
    case R::PREMUL_SUM: return Reduce::kSum;
    case R::AVG: return Reduce::kAvg;
    case R::PRODUCT: return Reduce::kProduct;
    case R::MIN: return Reduce::kMin;
    case R::MAX: return Reduce::kMax;
    case R::BAND: return Reduce::kBand;
    case R::BOR: return Reduce::kBor;
    case R::BXOR: return Reduce::kBxor;
    default: TORCH_CHECK(false, "revati: unknown reduce operation");
  }
}

/// What the first rank to ask proposes; all ranks get the same answer, and none waits.
std::string agree(c10d::Store& store, const std::string& key, const std::string& proposal) {
  std::vector<uint8_t> answer = store.compareSet(key, std::vector<uint8_t>(), std::vector<uint8_t>(proposal.begin(), proposal.end()));
  return std::string(answer.begin(), answer.end());
}

std::string fresh_name() {
  unsigned char b[16];
  TORCH_CHECK(getrandom(b, sizeof b, 0) == long(sizeof b), "revati: no random bytes");
  std::string s = "c10d/";
  for (unsigned char x : b) s += "0123456789abcdef"[x >> 4], s += "0123456789abcdef"[x & 15];
  return s;
}

void need_contiguous(const std::vector<at::Tensor>& tensors) {
  for (auto& t : tensors) {
    TORCH_CHECK(t.is_non_overlapping_and_dense(), "Tensors must be contiguous");
    TORCH_CHECK(on_device(t), "revati: the nccl backend works on tensors of the virtual GPU, got one on ", t.device());
  }
}

}  // namespace

// ---- work

VirtualWork::VirtualWork(int rank, c10d::OpType type, int device, std::vector<at::Tensor> outputs, bool host_waits)
    : c10d::Work(rank, type), device_(device), outputs_(std::move(outputs)), host_waits_(host_waits) {}

void VirtualWork::record(int64_t stream) {
  stream_ = stream;
  Timeline::get().record(event_, device_, stream);
}

bool VirtualWork::isCompleted() { return Timeline::get().query(event_); }

void VirtualWork::blockCurrentStream() { Timeline::get().block(event_, device_, Timeline::get().current(device_)); }

bool VirtualWork::wait(std::chrono::milliseconds) {
  blockCurrentStream();
  if (host_waits_) Timeline::get().synchronize(event_);
  return true;
}

c10::intrusive_ptr<c10::ivalue::Future> VirtualWork::getFuture() {
  if (!future_) {
    c10::Device device(device_type(), c10::DeviceIndex(device_));
    future_ = c10::make_intrusive<c10::ivalue::Future>(c10::ListType::create(c10::TensorType::get()), std::vector<c10::Device>{device});
    c10::StreamGuard guard(c10::Stream(c10::Stream::UNSAFE, device, stream_));
    future_->markCompleted(c10::IValue(outputs_));
  }
  return future_;
}

// ---- group

VirtualBackend::VirtualBackend(const c10::intrusive_ptr<c10d::Store>& store, int rank, int size, c10::intrusive_ptr<Options> options,
                               const std::string& world, int64_t outside_bytes)
    : c10d::Backend(rank, size), options_(std::move(options)), outside_bytes_(outside_bytes) {
  std::string mine = World::get().path();
  world_ = agree(*store, "revati/world", mine.empty() ? world : mine);
  World::get().open(world_);
  communicator_ = std::make_unique<Communicator>(agree(*store, "revati/group", fresh_name()), rank, size, outside_bytes);
}

c10::intrusive_ptr<c10d::Backend> VirtualBackend::split(const c10::intrusive_ptr<c10d::Store>& store, const std::vector<int>& ranks,
                                                        const c10::intrusive_ptr<c10d::Backend::Options>& options) {
  auto me = std::find(ranks.begin(), ranks.end(), rank_);
  if (me == ranks.end()) return nullptr;
  auto mine = c10::dynamic_intrusive_pointer_cast<Options>(options);
  if (!mine) {
    mine = c10::make_intrusive<Options>();
    mine->timeout = options_->timeout;
  }
  std::string key = "split";
  for (int r : ranks) key += "/" + std::to_string(r);
  auto below = c10::make_intrusive<c10d::PrefixStore>(key, store);
  return c10::make_intrusive<VirtualBackend>(below, int(me - ranks.begin()), int(ranks.size()), mine, world_, outside_bytes_);
}

// ---- launching

/// Operations of a batch start together, each on a lane (a stream) of its own.
struct VirtualBackend::Batch {
  Event begin;
  int device = -1;
  bool async = false;
  std::vector<std::pair<Communicator*, Communicator::Launched>> launched;
  size_t lanes = 0;
};

int64_t VirtualBackend::own_stream(int device, size_t lane) {
  auto& of = streams_[device];
  while (of.size() <= lane) of.push_back(Timeline::get().new_stream(device, options_->is_high_priority_stream ? -1 : 0));
  return of[lane];
}

int VirtualBackend::device_of(const Call& call) const {
  for (auto* of : {&call.inputs, &call.outputs})
    for (auto& t : *of)
      if (on_device(t)) return t.get_device();
  return bound_device_id_ ? int(bound_device_id_->index()) : current_device();
}

VirtualBackend::WorkPtr VirtualBackend::start(Communicator& through, Call call, c10d::OpType type, bool async, int device) {
  if (device < 0) device = device_of(call);
  sequence_++;
  Timeline& timeline = Timeline::get();
  int64_t current = timeline.current(device);
  bool host_waits = type == c10d::OpType::BARRIER;
  auto work = c10::make_intrusive<VirtualWork>(rank_, type, device, call.outputs, host_waits);
  if (batch_) {
    Batch& b = *batch_;
    if (b.device < 0) {
      b.device = device;
      timeline.record(b.begin, device, current);
    }
    int64_t lane = own_stream(device, ++b.lanes);
    timeline.block(b.begin, device, lane);
    b.launched.emplace_back(&through, through.launch(std::move(call), device, lane, false));
    work->record(lane);
    return work;
  }
  int64_t stream = current;
  if (async) {  // NCCL's own stream, beside the caller's
    stream = own_stream(device, 0);
    Event before;
    timeline.record(before, device, current);
    timeline.block(before, device, stream);
  }
  auto launched = through.launch(std::move(call), device, stream, true);
  work->record(stream);
  through.finish(launched);
  return work;
}

void VirtualBackend::startCoalescing() {
  TORCH_CHECK(!batch_, "revati: a batch of collectives is already open on this group");
  batch_ = std::make_shared<Batch>();
}

VirtualBackend::WorkPtr VirtualBackend::endCoalescing() {
  TORCH_CHECK(batch_, "revati: no batch of collectives is open on this group");
  auto b = std::move(batch_);
  batch_ = nullptr;
  int device = b->device < 0 ? current_device() : b->device;
  Timeline& timeline = Timeline::get();
  std::vector<at::Tensor> outputs;
  int64_t join = own_stream(device, 0);
  timeline.block(b->begin, device, join);
  for (size_t lane = 1; lane <= b->lanes; lane++) {
    Event end;
    timeline.record(end, device, own_stream(device, lane));
    timeline.block(end, device, join);
  }
  for (auto& [through, launched] : b->launched) {
    through->finish(launched);
    outputs.insert(outputs.end(), launched.call.outputs.begin(), launched.call.outputs.end());
  }
  auto work = c10::make_intrusive<VirtualWork>(rank_, c10d::OpType::COALESCED, device, std::move(outputs), false);
  work->record(join);
  return work;
}

// ---- collectives, in the order of c10d::Backend

VirtualBackend::WorkPtr VirtualBackend::broadcast(Tensors& t, const c10d::BroadcastOptions& o) {
  need_contiguous(t);
  return start(*communicator_, communicator_->broadcast(t, int(o.rootRank)), c10d::OpType::BROADCAST, o.asyncOp);
}

VirtualBackend::WorkPtr VirtualBackend::allreduce(Tensors& t, const c10d::AllreduceOptions& o) {
  need_contiguous(t);
  return start(*communicator_, communicator_->all_reduce(t, t, reduce_of(o.reduceOp)), c10d::OpType::ALLREDUCE, o.asyncOp);
}

VirtualBackend::WorkPtr VirtualBackend::allreduce_coalesced(Tensors& t, const c10d::AllreduceCoalescedOptions& o) { return allreduce(t, o); }

VirtualBackend::WorkPtr VirtualBackend::reduce(Tensors& t, const c10d::ReduceOptions& o) {
  need_contiguous(t);
  return start(*communicator_, communicator_->reduce(t, t, int(o.rootRank), reduce_of(o.reduceOp)), c10d::OpType::REDUCE, o.asyncOp);
}

VirtualBackend::WorkPtr VirtualBackend::allgather(std::vector<Tensors>& out, Tensors& in, const c10d::AllgatherOptions& o) {
  need_contiguous(in);
  return start(*communicator_, communicator_->all_gather(in, out), c10d::OpType::ALLGATHER, o.asyncOp);
}

VirtualBackend::WorkPtr VirtualBackend::_allgather_base(at::Tensor& out, at::Tensor& in, const c10d::AllgatherOptions& o) {
  Tensors outs{out}, ins{in};
  return allgather_into_tensor_coalesced(outs, ins, o);
}

VirtualBackend::WorkPtr VirtualBackend::allgather_coalesced(std::vector<Tensors>& out, Tensors& in, const c10d::AllgatherOptions& o) {
  return allgather(out, in, o);
}

VirtualBackend::WorkPtr VirtualBackend::allgather_into_tensor_coalesced(Tensors& out, Tensors& in, const c10d::AllgatherOptions& o) {
  need_contiguous(in);
  std::vector<Tensors> cut;
  Tensors flat;
  for (size_t k = 0; k < out.size(); k++) {
    TORCH_CHECK(out[k].numel() == in[k].numel() * size_, "output tensor size must be equal to world_size times input tensor size");
    cut.push_back(pieces(out[k], size_));
    flat.push_back(in[k].is_contiguous() ? in[k].view({-1}) : in[k]);
  }
  Call c = communicator_->all_gather(std::move(flat), std::move(cut));
  if (in.size() == 1) c.priced = in[0];
  return start(*communicator_, std::move(c), c10d::OpType::_ALLGATHER_BASE, o.asyncOp);
}

VirtualBackend::WorkPtr VirtualBackend::gather(std::vector<Tensors>& out, Tensors& in, const c10d::GatherOptions& o) {
  need_contiguous(in);
  return start(*communicator_, communicator_->gather(in.at(0), out.empty() ? Tensors{} : out[0], int(o.rootRank)), c10d::OpType::GATHER, o.asyncOp);
}

VirtualBackend::WorkPtr VirtualBackend::scatter(Tensors& out, std::vector<Tensors>& in, const c10d::ScatterOptions& o) {
  need_contiguous(out);
  return start(*communicator_, communicator_->scatter(in.empty() ? Tensors{} : in[0], out.at(0), int(o.rootRank)), c10d::OpType::SCATTER, o.asyncOp);
}

VirtualBackend::WorkPtr VirtualBackend::reduce_scatter(Tensors& out, std::vector<Tensors>& in, const c10d::ReduceScatterOptions& o) {
  need_contiguous(out);
  return start(*communicator_, communicator_->reduce_scatter(in, out, reduce_of(o.reduceOp)), c10d::OpType::REDUCE_SCATTER, o.asyncOp);
}

VirtualBackend::WorkPtr VirtualBackend::_reduce_scatter_base(at::Tensor& out, at::Tensor& in, const c10d::ReduceScatterOptions& o) {
  Tensors outs{out}, ins{in};
  return reduce_scatter_tensor_coalesced(outs, ins, o);
}

VirtualBackend::WorkPtr VirtualBackend::reduce_scatter_tensor_coalesced(Tensors& out, Tensors& in, const c10d::ReduceScatterOptions& o) {
  need_contiguous(out);
  std::vector<Tensors> cut;
  for (size_t k = 0; k < in.size(); k++) {
    TORCH_CHECK(in[k].numel() == out[k].numel() * size_, "input tensor must be the same size as output size times world size");
    cut.push_back(pieces(in[k], size_));
  }
  Call c = communicator_->reduce_scatter(std::move(cut), out, reduce_of(o.reduceOp));
  if (in.size() == 1) c.priced = in[0];
  return start(*communicator_, std::move(c), c10d::OpType::_REDUCE_SCATTER_BASE, o.asyncOp);
}

namespace {
std::vector<at::Tensor> split_rows(const at::Tensor& t, const std::vector<int64_t>& splits, int size) {
  if (splits.empty()) return pieces(t, size);
  TORCH_CHECK(int(splits.size()) == size, "Number of tensor splits not equal to group size");
  std::vector<at::Tensor> out;
  int64_t at = 0;
  for (int64_t n : splits) {
    out.push_back(t.narrow(0, at, n));
    at += n;
  }
  TORCH_CHECK(at == t.size(0), "Split sizes doesn't match total dim 0 size");
  return out;
}
}  // namespace

VirtualBackend::WorkPtr VirtualBackend::alltoall_base(at::Tensor& out, at::Tensor& in, std::vector<int64_t>& out_splits,
                                                      std::vector<int64_t>& in_splits, const c10d::AllToAllOptions& o) {
  need_contiguous({in, out});
  Call c = communicator_->all_to_all(split_rows(in, in_splits, size_), split_rows(out, out_splits, size_));
  c.priced = in;
  return start(*communicator_, std::move(c), c10d::OpType::ALLTOALL_BASE, o.asyncOp);
}

VirtualBackend::WorkPtr VirtualBackend::alltoall(Tensors& out, Tensors& in, const c10d::AllToAllOptions& o) {
  need_contiguous(in);
  TORCH_CHECK(int(in.size()) == size_ && int(out.size()) == size_, "revati: all_to_all among ", size_, " ranks needs as many tensors");
  return start(*communicator_, communicator_->all_to_all(in, out), c10d::OpType::ALLTOALL, o.asyncOp);
}

VirtualBackend::WorkPtr VirtualBackend::send(Tensors& t, int dst, int) {
  need_contiguous(t);
  return start(communicator_->channel(dst, true), Communicator::send(t.at(0)), c10d::OpType::SEND, true);
}

VirtualBackend::WorkPtr VirtualBackend::recv(Tensors& t, int src, int) {
  need_contiguous(t);
  return start(communicator_->channel(src, false), Communicator::recv(t.at(0)), c10d::OpType::RECV, true);
}

VirtualBackend::WorkPtr VirtualBackend::barrier(const c10d::BarrierOptions& o) {
  int device = o.device ? int(o.device->index()) : o.device_ids.empty() ? -1 : int(o.device_ids[0]);
  Call c = communicator_->barrier(device);
  return start(*communicator_, std::move(c), c10d::OpType::BARRIER, o.asyncOp, device);
}

}  // namespace revati::comm
