#include "dispatch/piece.h"

#include "device/allocator.h"
#include "device/backend.h"
#include "device/fork.h"
#include "dispatch/compute.h"
#include "dispatch/kernels.h"
#include "dispatch/values.h"
#include "timeline/clock.h"
#include "timeline/timeline.h"

namespace revati {
namespace {

at::Tensor part_of(const at::Tensor& base, const Output& like, int64_t offset) {
  Output o = like;
  o.kind = Output::kView;
  o.arg = 0;
  o.offset = offset;
  c10::IValue arg(base);
  return build(o, &arg, 1, base.get_device(), false).toTensor();
}

}  // namespace

Signature Piece::signature(const std::vector<c10::IValue>& args) {
  Signature key;
  int device = current_device();
  Timeline& timeline = Timeline::get();
  // Code may ask whether its launches are captured: vLLM's all-reduce launches nothing in the warm-up before a capture.
  bool capturing = timeline.capturing(device, timeline.current(device));
  key.mix(uint64_t(device) << 1 | uint64_t(capturing));
  for (auto& a : args) key.mix_value(a);
  return key;
}

Piece::Answer Piece::call(const std::vector<c10::IValue>& args, std::vector<c10::IValue>* results) {
  OwnWork own;
  auto it = known_.find(signature(args));
  if (it == known_.end()) return Answer::kUnknown;
  const Known& known = it->second;
  if (known.direct) return Answer::kDirect;
  use_device();
  int device = current_device();
  std::vector<at::Tensor> bases;
  for (const Output& base : known.bases) bases.push_back(build(base, nullptr, 0, device, true).toTensor());
  for (const Result& r : known.results) {
    switch (r.kind) {
      case Result::kInput: results->push_back(args[size_t(r.index)]); break;
      case Result::kView: {
        const at::Tensor& base = args[size_t(r.index)].toTensor();
        results->emplace_back(part_of(base, r.like, base.storage_offset() + r.offset));
        break;
      }
      case Result::kNew: results->push_back(build(r.like, nullptr, 0, device, true)); break;
      case Result::kPart: results->emplace_back(part_of(bases[size_t(r.index)], r.like, r.offset)); break;
      case Result::kValue: results->push_back(r.value); break;
    }
  }
  if (known.scratch_bytes) Memory::get().release(Memory::get().allocate(device, known.scratch_bytes));
  Timeline::get().play(known.sequence, device);
  return Answer::kPlayed;
}

void Piece::keep(const std::vector<c10::IValue>& args, const std::vector<c10::IValue>& results, Sequence sequence, size_t scratch_bytes) {
  Known known;
  known.scratch_bytes = scratch_bytes;
  if (scratch_bytes) Memory::get().release(Memory::get().allocate(current_device(), scratch_bytes));
  known.direct = !sequence.repeatable || !describe(args, results, &known);
  known.sequence = std::move(sequence);
  known_.insert_or_assign(signature(args), std::move(known));
}

/// False if the results hold values, or memory of another tensor in a way that cannot be told from the arguments.
bool Piece::describe(const std::vector<c10::IValue>& args, const std::vector<c10::IValue>& results, Known* known) {
  std::unordered_map<const void*, std::pair<int, std::vector<size_t>>> fresh;  // storage -> its number, its results
  for (const c10::IValue& value : results) {
    Result r;
    if (!value.isTensor() || !value.toTensor().defined()) {
      r.value = value;
      known->results.push_back(std::move(r));
      continue;
    }
    const at::Tensor& t = value.toTensor();
    if (!on_device(t)) return false;
    r.like = Output::like(t);
    r.kind = Result::kNew;
    for (size_t k = 0; k < args.size() && r.kind == Result::kNew; k++) {
      if (!args[k].isTensor() || !args[k].toTensor().defined()) continue;
      const at::Tensor& a = args[k].toTensor();
      r.index = int(k);
      if (a.is_same(t)) r.kind = Result::kInput;
      else if (a.has_storage() && a.is_alias_of(t)) {
        r.kind = Result::kView;
        r.offset = t.storage_offset() - a.storage_offset();
        if (a.scalar_type() != t.scalar_type()) return false;
      }
    }
    if (r.kind == Result::kNew) {
      if (is_live(t) && !is_invented(t)) return false;
      fresh[t.storage().unsafeGetStorageImpl()].second.push_back(known->results.size());
    }
    known->results.push_back(std::move(r));
  }
  for (auto& [storage, entry] : fresh) {
    auto& members = entry.second;
    Result& first = known->results[members[0]];
    size_t bytes = static_cast<const c10::StorageImpl*>(storage)->nbytes();
    if (members.size() == 1 && first.like.offset == 0 && first.like.nbytes == bytes) {
      first.like.offset = 0;
      continue;
    }
    Output base;
    base.kind = Output::kNew;
    base.dtype = first.like.dtype;
    base.contiguous = true;
    base.nbytes = bytes;
    base.numel = int64_t(bytes / c10::elementSize(base.dtype));
    base.sizes = {base.numel};
    base.strides = {1};
    for (size_t m : members) {
      Result& r = known->results[m];
      if (r.like.dtype != base.dtype) return false;
      r.kind = Result::kPart;
      r.index = int(known->bases.size());
      r.offset = r.like.offset;
    }
    known->bases.push_back(std::move(base));
  }
  return true;
}

}  // namespace revati
