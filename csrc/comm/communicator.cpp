#include "comm/communicator.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include <atomic>
#include <cstdlib>
#include <cstring>

#include "device/allocator.h"
#include "dispatch/fallback.h"
#include "dispatch/values.h"

namespace revati::comm {
namespace {

size_t bytes_of(const std::vector<at::Tensor>& tensors) {
  size_t n = 0;
  for (auto& t : tensors) n += t.nbytes();
  return n;
}

std::vector<char> pack(const std::vector<at::Tensor>& tensors) {
  std::vector<char> out(bytes_of(tensors) + 1);  // never null
  size_t at = 0;
  for (auto& t : tensors) {
    if (!t.numel()) continue;
    at::Tensor h = (on_device(t) ? host_view(t) : t).contiguous();
    std::memcpy(out.data() + at, h.const_data_ptr(), h.nbytes());
    at += h.nbytes();
  }
  return out;
}

at::Tensor view_of(const char* data, const at::Tensor& like) {
  return at::from_blob(const_cast<char*>(data), like.sizes(), like.options().device(at::kCPU).requires_grad(false).pinned_memory(false));
}

void fill_from(const Contribution& c, size_t offset, at::Tensor& out) {
  if (out.numel()) out.copy_(view_of(c.data + offset, out));
}

void combine_into(at::Tensor& total, const at::Tensor& more, Reduce op) {
  switch (op) {
    case Reduce::kSum:
    case Reduce::kAvg:
      total.scalar_type() == at::kBool ? total.logical_or_(more) : total.add_(more);
      return;
    case Reduce::kProduct: total.mul_(more); return;
    case Reduce::kMin: total.copy_(total.minimum(more)); return;
    case Reduce::kMax: total.copy_(total.maximum(more)); return;
    case Reduce::kBand: total.bitwise_and_(more); return;
    case Reduce::kBor: total.bitwise_or_(more); return;
    case Reduce::kBxor: total.bitwise_xor_(more); return;
  }
}

/// out = the reduction over all ranks of what lies at `offset` in each contribution.
void reduce_into(const std::vector<Contribution>& all, size_t offset, at::Tensor& out, Reduce op) {
  if (!out.numel()) return;
  at::Tensor total = view_of(all[0].data + offset, out).clone();
  for (size_t r = 1; r < all.size(); r++) combine_into(total, view_of(all[r].data + offset, out), op);
  if (op == Reduce::kAvg) at::isFloatingType(total.scalar_type()) ? total.div_(int64_t(all.size())) : total.floor_divide_(int64_t(all.size()));
  out.copy_(total);
}

at::Tensor sized_like(const std::vector<at::Tensor>& tensors) {
  if (tensors.size() == 1) return tensors[0];
  int64_t n = 0;
  for (auto& t : tensors) n += t.numel();
  return at::empty({n}, tensors.at(0).options().device(at::kMeta).requires_grad(false));
}

bool all_live(const std::vector<at::Tensor>& tensors) {
  for (auto& t : tensors)
    if (on_device(t) && !is_live(t)) return false;
  return true;
}

void forget(at::Tensor& t) {
  if (on_device(t)) forget_values(t);
}

/// Writes `outputs` from what the ranks contributed; where nobody knows the values, makes them phantom.
void write(const Combine& combine, const std::vector<Contribution>& all, std::vector<at::Tensor>& outputs, bool live) {
  std::vector<at::Tensor> views;
  for (auto& t : outputs) {
    live = live && (!on_device(t) || make_live(t));
    if (live) views.push_back(on_device(t) ? host_view(t) : t);
  }
  if (live) {
    try {
      combine(all, views);
      return;
    } catch (const c10::Error&) {  // no CPU arithmetic for this dtype: then nobody can know the values
    }
  }
  for (auto& t : outputs) forget(t);
}

// Bounds what a sender keeps for a receiver that does not look.
constexpr size_t kReceipts = 64, kReceiptBytes = 64 << 10;
static_assert(kReceipts * kReceiptBytes + kPayloadMax <= kPayloadRing);

}  // namespace

/// What one rank will have received into one tensor. Does not keep the tensor's memory.
class Receipt : public Incoming {
 public:
  Receipt(uint32_t group, uint64_t sequence, int size, Call call)
      : group_(group), sequence_(sequence), root_(call.root), size_(size), combine_(std::move(call.combine)),
        storage_(call.outputs[0].storage().getWeakStorageImpl()), keys_(call.outputs[0].key_set()), dtype_(call.outputs[0].dtype()),
        sizes_(call.outputs[0].sizes().vec()), strides_(call.outputs[0].strides().vec()), offset_(call.outputs[0].storage_offset()) {}

  bool here() override { return over_.load() || World::get().has_posted(group_, sequence_, root_); }
  bool over() const { return over_.load(); }

  void arrive() override {
    c10::Storage storage(storage_.lock());  // outlives the lock: its end calls drop()
    std::lock_guard lock(mutex_);
    if (over_ || !storage) return;
    std::vector<Contribution> all(static_cast<size_t>(size_));
    all[size_t(root_)] = World::get().contribution(group_, sequence_, root_);
    auto tensor = at::detail::make_tensor<c10::TensorImpl>(c10::Storage(storage), keys_, dtype_);
    tensor.unsafeGetTensorImpl()->set_sizes_and_strides(sizes_, strides_, offset_);
    std::vector<at::Tensor> outputs{tensor};
    write(combine_, all, outputs, all[size_t(root_)].data != nullptr);
    end();
  }

  void drop() override {
    std::lock_guard lock(mutex_);
    if (!over_) end();
  }

  /// The values arrive now.
  void collect() {
    c10::Storage storage(storage_.lock());
    if (storage) block_of(storage.data_ptr());
  }

 private:
  void end() {
    over_ = true;
    World::get().read(group_, sequence_);
  }

  uint32_t group_;
  uint64_t sequence_;
  int root_, size_;
  Combine combine_;
  c10::weak_intrusive_ptr<c10::StorageImpl> storage_;
  c10::DispatchKeySet keys_;
  caffe2::TypeMeta dtype_;
  std::vector<int64_t> sizes_, strides_;
  int64_t offset_;
  std::mutex mutex_;
  std::atomic<bool> over_{false};
};

const char* name_of(Reduce op) {
  static const char* names[] = {"sum", "avg", "product", "min", "max", "band", "bor", "bxor"};
  return names[size_t(op)];
}

std::vector<at::Tensor> pieces(const at::Tensor& t, int parts) {
  TORCH_CHECK(t.is_contiguous(), "revati: a collective needs contiguous tensors");
  TORCH_CHECK(t.numel() % parts == 0, "revati: a tensor of ", t.numel(), " elements cannot be divided among ", parts, " ranks");
  at::Tensor flat = t.view({-1});
  int64_t n = t.numel() / parts;
  std::vector<at::Tensor> out;
  for (int k = 0; k < parts; k++) out.push_back(flat.narrow(0, k * n, n));
  return out;
}

bool folded() {
  static const bool on = [] {
    const char* value = std::getenv("REVATI_FOLD_RANKS");
    return value && *value && *value != '0';
  }();
  return on;
}

Communicator::Communicator(std::string name, int rank, int size, int64_t outside_bytes)
    : name_(std::move(name)), rank_(rank), size_(size), outside_bytes_(outside_bytes),
      group_(folded() ? World::get().join(name_, 0, 1) : World::get().join(name_, rank, size)) {}

Communicator& Communicator::channel(int peer, bool sending) {
  TORCH_CHECK(!folded(), "revati: folded ranks cannot send to each other; run without --fold-ranks");
  TORCH_CHECK(peer >= 0 && peer < size_ && peer != rank_, "revati: rank ", rank_, " of ", size_, " cannot send to or receive from rank ", peer);
  std::lock_guard lock(mutex_);
  auto& c = channels_[{peer, sending}];
  if (!c) {
    int from = sending ? rank_ : peer, to = sending ? peer : rank_;
    c = std::make_unique<Communicator>(name_ + "/" + std::to_string(from) + "-" + std::to_string(to), sending ? 0 : 1, 2, 0);
  }
  return *c;
}

// Values that are there are read, so that their sender has room; with too many that are not, the oldest are waited for.
void Communicator::collect_receipts() {
  std::deque<std::shared_ptr<Receipt>> waiting;
  {
    std::lock_guard lock(mutex_);
    waiting = receipts_;
  }
  size_t left = waiting.size();
  for (auto& r : waiting) {
    if (left >= kReceipts || r->here()) r->collect();
    if (r->over()) left--;
  }
  std::lock_guard lock(mutex_);
  std::erase_if(receipts_, [](auto& r) { return r->over(); });
}

Communicator::Launched Communicator::launch(Call call, int device, int64_t stream, bool may_read_later) {
  static const auto& names = *new std::vector<std::string>{"tensor", "world_size", "reduce_op", "implementation"};
  Timeline& timeline = Timeline::get();
  bool open_receipts = false;
  {
    std::lock_guard lock(mutex_);
    open_receipts = !receipts_.empty();
    if (device >= int(charged_.size())) charged_.resize(size_t(device) + 1);
    if (!charged_[size_t(device)] && outside_bytes_ && size_ > 1) Memory::get().outside(device, outside_bytes_);
    charged_[size_t(device)] = true;
  }
  if (open_receipts) collect_receipts();
  Launched l{std::move(call), device, false, timeline.capturing(device, stream), false, 0, {}};
  Call& c = l.call;
  if (!c.priced.defined()) c.priced = sized_like(c.inputs.empty() ? c.outputs : c.inputs);
  std::shared_ptr<OpStats> stats;
  int64_t ns = price_named(std::string("c10d::") + c.name, names, {c.priced, int64_t(size_), name_of(c.op), c.implementation}, device, &stats);
  Arrival a;
  a.call = c.name == std::string_view("recv") ? "send" : c.name;  // the two ends of one transfer
  bool contributes = c.from == Call::kAll || (c.from == Call::kRoot && (c.root == rank_ || folded()));
  if (!l.in_capture && contributes && bytes_of(c.inputs) <= kPayloadMax && all_live(c.inputs)) {
    l.packed = pack(c.inputs);
    a.values = l.packed.data();
    a.bytes = l.packed.size();
  }
  bool receives = c.from == Call::kRoot && c.root != rank_ && !folded();
  a.reads_later = may_read_later && receives && !l.in_capture && c.outputs.size() == 1 && on_device(c.outputs[0]) &&
                  c.outputs[0].nbytes() <= kReceiptBytes && block_of(c.outputs[0].storage().data_ptr());
  World::carry(&a);
  try {
    timeline.collective(device, stream, group_, stats, ns);
  } catch (...) {
    World::carry(nullptr);
    throw;
  }
  World::carry(nullptr);
  l.exchanged = a.posted && (a.values || receives);
  l.reads_later = a.posted && a.reads_later;
  l.sequence = a.sequence;
  return l;
}

void Communicator::finish(Launched& l) {
  Call& c = l.call;
  if (c.from == Call::kNobody || c.outputs.empty()) return;
  if (l.reads_later) {
    Block* block = block_of(c.outputs[0].storage().data_ptr());
    auto receipt = std::make_shared<Receipt>(group_, l.sequence, size_, std::move(c));
    expect(block, receipt);
    if (receipt->here()) return receipt->collect();
    std::lock_guard lock(mutex_);
    receipts_.push_back(std::move(receipt));
    return;
  }
  bool live = l.exchanged && bytes_of(c.outputs) <= kPayloadMax * size_t(size_);
  if (c.from == Call::kRoot && bytes_of(c.outputs) > kPayloadMax) live = false;
  std::vector<Contribution> all(static_cast<size_t>(size_));
  for (int r = 0; r < size_ && live; r++) {
    if (c.from == Call::kRoot && r != c.root) continue;
    all[size_t(r)] = World::get().contribution(group_, l.sequence, folded() ? 0 : r);
    live = all[size_t(r)].data != nullptr;
  }
  write(c.combine, all, c.outputs, live);
}

Call Communicator::all_reduce(std::vector<at::Tensor> in, std::vector<at::Tensor> out, Reduce op) const {
  Call c;
  c.name = "all_reduce";
  c.op = op;
  c.inputs = std::move(in);
  c.outputs = std::move(out);
  c.combine = [op](const std::vector<Contribution>& all, std::vector<at::Tensor>& outputs) {
    size_t at = 0;
    for (auto& o : outputs) {
      reduce_into(all, at, o, op);
      at += o.nbytes();
    }
  };
  return c;
}

Call Communicator::all_gather(std::vector<at::Tensor> in, std::vector<std::vector<at::Tensor>> out) const {
  Call c;
  c.name = "all_gather";
  c.inputs = std::move(in);
  for (auto& of : out) {
    TORCH_CHECK(int(of.size()) == size_, "revati: all_gather among ", size_, " ranks needs as many outputs, got ", of.size());
    c.outputs.insert(c.outputs.end(), of.begin(), of.end());
  }
  c.combine = [n = size_t(size_)](const std::vector<Contribution>& all, std::vector<at::Tensor>& outputs) {
    std::vector<size_t> at(n, 0);
    for (size_t k = 0; k < outputs.size(); k++) {
      fill_from(all[k % n], at[k % n], outputs[k]);
      at[k % n] += outputs[k].nbytes();
    }
  };
  return c;
}

Call Communicator::reduce_scatter(std::vector<std::vector<at::Tensor>> in, std::vector<at::Tensor> out, Reduce op) const {
  Call c;
  c.name = "reduce_scatter";
  c.op = op;
  std::vector<size_t> mine;  // where this rank's piece of each operation begins
  size_t at = 0;
  for (auto& of : in) {
    TORCH_CHECK(int(of.size()) == size_, "revati: reduce_scatter among ", size_, " ranks needs as many inputs, got ", of.size());
    for (int r = 0; r < size_; r++) {
      if (r == rank_) mine.push_back(at);
      at += of[size_t(r)].nbytes();
      c.inputs.push_back(of[size_t(r)]);
    }
  }
  c.outputs = std::move(out);
  c.combine = [mine, op](const std::vector<Contribution>& all, std::vector<at::Tensor>& outputs) {
    for (size_t k = 0; k < outputs.size(); k++) reduce_into(all, mine[k], outputs[k], op);
  };
  return c;
}

Call Communicator::broadcast(std::vector<at::Tensor> tensors, int root) const {
  Call c;
  c.name = "broadcast";
  c.from = Call::kRoot;
  c.root = root;
  c.inputs = tensors;
  c.outputs = std::move(tensors);
  c.combine = [root](const std::vector<Contribution>& all, std::vector<at::Tensor>& outputs) {
    size_t at = 0;
    for (auto& o : outputs) {
      fill_from(all[size_t(root)], at, o);
      at += o.nbytes();
    }
  };
  return c;
}

Call Communicator::reduce(std::vector<at::Tensor> in, std::vector<at::Tensor> out, int root, Reduce op) const {
  Call c = all_reduce(std::move(in), std::move(out), op);
  c.name = "reduce";
  if (rank_ != root) c.outputs.clear();
  return c;
}

Call Communicator::gather(at::Tensor in, std::vector<at::Tensor> out, int root) const {
  Call c = all_gather({std::move(in)}, rank_ == root ? std::vector<std::vector<at::Tensor>>{std::move(out)} : std::vector<std::vector<at::Tensor>>{});
  c.name = "gather";
  return c;
}

Call Communicator::scatter(std::vector<at::Tensor> in, at::Tensor out, int root) const {
  Call c;
  c.name = "scatter";
  c.from = Call::kRoot;
  c.root = root;
  c.priced = out;
  if (rank_ == root) c.inputs = std::move(in);
  c.combine = [root, rank = size_t(rank_)](const std::vector<Contribution>& all, std::vector<at::Tensor>& outputs) {
    fill_from(all[size_t(root)], rank * outputs[0].nbytes(), outputs[0]);
  };
  c.outputs = {std::move(out)};
  return c;
}

Call Communicator::all_to_all(std::vector<at::Tensor> in, std::vector<at::Tensor> out) const {
  Call c;
  c.name = "all_to_all";
  c.priced = sized_like(in);
  at::Tensor sizes = at::empty({size_}, at::kLong);  // pieces differ between ranks: their sizes go first
  for (int r = 0; r < size_; r++) sizes.data_ptr<int64_t>()[r] = int64_t(in[size_t(r)].nbytes());
  c.inputs = {sizes};
  c.inputs.insert(c.inputs.end(), in.begin(), in.end());
  c.outputs = std::move(out);
  c.combine = [rank = rank_](const std::vector<Contribution>& all, std::vector<at::Tensor>& outputs) {
    for (size_t r = 0; r < all.size(); r++) {
      auto* n = reinterpret_cast<const int64_t*>(all[r].data);
      size_t at = all.size() * sizeof(int64_t);
      for (int k = 0; k < rank; k++) at += size_t(n[k]);
      TORCH_CHECK(size_t(n[rank]) == outputs[r].nbytes(), "revati: all_to_all: rank ", r, " sends ", n[rank], " bytes where ", outputs[r].nbytes(),
                  " are expected");
      fill_from(all[r], at, outputs[r]);
    }
  };
  return c;
}

Call Communicator::barrier(int device) const {
  Call c;
  c.name = "barrier";
  c.from = Call::kNobody;
  c.priced = at::empty({1}, at::TensorOptions().device(at::kMeta).dtype(at::kInt));
  (void)device;
  return c;
}

Call Communicator::send(at::Tensor t) {
  Call c;
  c.name = "send";
  c.from = Call::kRoot;
  c.inputs = {std::move(t)};
  return c;
}

Call Communicator::recv(at::Tensor t) {
  Call c;
  c.name = "recv";
  c.from = Call::kRoot;
  c.outputs = {std::move(t)};
  c.combine = [](const std::vector<Contribution>& all, std::vector<at::Tensor>& outputs) { fill_from(all[0], 0, outputs[0]); };
  return c;
}

}  // namespace revati::comm
