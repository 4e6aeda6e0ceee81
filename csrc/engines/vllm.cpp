// Host twins of vLLM's Triton kernels whose results steer the engine (model runner V2, vllm/v1/worker/gpu).
//
// Each does on live memory what the kernel of the same name does on the GPU. Kernels that only fill buffers which nothing
// but other kernels read (input ids, slot mappings, block tables of one group) have none. Those of speculative decoding
// follow a policy: revati/engines/vllm/speculation.py. Requests whose row is negative are padding.
#include "engines/vllm.h"

#include <optional>

#include "dispatch/values.h"

namespace revati {
namespace {

void apply_write(const HostLaunch& a) {
  Ints rows(a.tensor("write_indices_ptr")), starts(a.tensor("write_starts_ptr"));
  const at::Tensor &source = a.tensor("write_contents_ptr"), &target = a.tensor("output_ptr");
  bool same = source.scalar_type() == target.scalar_type();  // of floats too: temperatures and the like
  Ints contents = same ? Ints::bits(source) : Ints(source), ends(a.tensor("write_cu_lens_ptr"));
  int64_t writes = a.grid[0], begin = 0;
  if (a.integer("MULTI_GROUP")) {  // the targets are addresses of int32
    Ints groups(a.tensor("write_group_ids_ptr")), pointers(target), strides(a.tensor("output_stride"));
    for (int64_t i = 0; i < writes; begin = ends.at(i++)) {
      int64_t group = groups.at(i);
      auto* to = reinterpret_cast<int32_t*>(pointers.at(group)) + rows.at(i) * strides.at(group) + starts.at(i);
      for (int64_t k = begin; k < ends.at(i); k++) *to++ = int32_t(contents.at(k));
    }
    return;
  }
  Ints out = same ? Ints::bits(target) : Ints(target);
  bool flat = target.dim() == 1;
  for (int64_t i = 0; i < writes; begin = ends.at(i++))
    for (int64_t k = begin, at = starts.at(i); k < ends.at(i); k++, at++) {
      if (flat) out.set(rows.at(i) + at, contents.at(k));
      else out.set(rows.at(i), at, contents.at(k));
    }
}

void prepare_pos_seq_lens(const HostLaunch& a) {
  Ints index(a.tensor("idx_mapping_ptr")), starts(a.tensor("query_start_loc_ptr")), computed(a.tensor("num_computed_tokens_ptr"));
  Ints positions(a.tensor("pos_ptr")), lengths(a.tensor("seq_lens_ptr"));
  int64_t requests = a.grid[0] - 1;
  for (int64_t i = 0; i < requests; i++) {
    int64_t row = index.at(i), start = starts.at(i), count = starts.at(i + 1) - start;
    int64_t done = row < 0 ? 0 : computed.at(row);
    lengths.set(i, done + count);
    for (int64_t k = 0; k < count; k++) positions.set(start + k, done + k);
  }
  for (int64_t i = requests, most = a.integer("max_num_reqs"); i < most; i++) lengths.set(i, 0);
}

void num_sampled_and_rejected(const HostLaunch& a) {
  Ints sampled(a.tensor("num_sampled_ptr")), rejected(a.tensor("num_rejected_ptr")), lengths(a.tensor("seq_lens_ptr"));
  Ints bounds(a.tensor("cu_num_logits_ptr")), index(a.tensor("idx_mapping_ptr")), prefill(a.tensor("prefill_len_ptr"));
  for (int64_t i = 0; i < a.grid[0]; i++) {
    int64_t row = index.at(i);
    bool chunked = row >= 0 && lengths.at(i) < prefill.at(row);
    if (chunked) sampled.set(i, 0);
    rejected.set(i, chunked ? 0 : bounds.at(i + 1) - bounds.at(i) - sampled.at(i));
  }
}

/// Without the counts of penalties: only other kernels read them.
void post_update(const HostLaunch& a) {
  Ints index(a.tensor("idx_mapping_ptr")), computed(a.tensor("num_computed_tokens_ptr")), last(a.tensor("last_sampled_tokens_ptr"));
  Ints tokens(a.tensor("sampled_tokens_ptr")), sampled(a.tensor("num_sampled_ptr")), rejected(a.tensor("num_rejected_ptr"));
  Ints all(a.tensor("all_token_ids_ptr")), total(a.tensor("total_len_ptr"));
  std::optional<Ints> starts;
  if (a.has("query_start_loc_ptr")) starts.emplace(a.tensor("query_start_loc_ptr"));
  for (int64_t i = 0; i < a.grid[0]; i++) {
    int64_t row = index.at(i);
    if (row < 0) continue;
    int64_t count = sampled.at(i), at = total.at(row);
    if (count > 0) {
      last.set(row, tokens.at(i, count - 1));
      total.set(row, at + count);
    }
    for (int64_t k = 0; k < count; k++) all.set(row, at + k, tokens.at(i, k));
    int64_t length = starts ? starts->at(i + 1) - starts->at(i) : 0;
    computed.set(row, computed.at(row) + length - rejected.at(i));
  }
}

void post_update_computed(const HostLaunch& a) {
  Ints index(a.tensor("idx_mapping_ptr")), computed(a.tensor("num_computed_tokens_ptr")), starts(a.tensor("query_start_loc_ptr"));
  for (int64_t i = 0; i < a.grid[0]; i++) {
    int64_t row = index.at(i);
    if (row >= 0) computed.set(row, computed.at(row) + starts.at(i + 1) - starts.at(i));
  }
}

void expand_idx_mapping(const HostLaunch& a) {
  Ints index(a.tensor("idx_mapping_ptr")), bounds(a.tensor("cu_num_logits_ptr"));
  Ints expanded(a.tensor("expanded_idx_mapping_ptr")), local(a.tensor("expanded_local_pos_ptr"));
  for (int64_t i = 0; i < a.grid[0]; i++)
    for (int64_t begin = bounds.at(i), k = begin; k < bounds.at(i + 1); k++) {
      expanded.set(k, index.at(i));
      local.set(k, k - begin);
    }
}

/// Which rows of the hidden states become logits: the last of each request. Token ids stay unknown.
void combine_sampled_and_draft_tokens(const HostLaunch& a) {
  Ints bounds(a.tensor("cu_num_logits_ptr")), starts(a.tensor("query_start_loc_ptr")), rows(a.tensor("logits_indices_ptr"));
  for (int64_t i = 0; i < a.grid[0]; i++)
    for (int64_t begin = bounds.at(i), end = bounds.at(i + 1), k = begin; k < end; k++)
      rows.set(k, starts.at(i + 1) - (end - k));
}

void gumbel_sample(const HostLaunch& a) {
  Ints(a.tensor("local_argmax_ptr")).fill(policy().token_id);
  mark_phantom(a.tensor("local_max_ptr"));
}

}  // namespace

const std::vector<NamedHostKernel>& vllm_host_kernels() {
  static const std::vector<NamedHostKernel> twins{
      {"_apply_write_kernel", apply_write},
      {"_prepare_pos_seq_lens_kernel", prepare_pos_seq_lens},
      {"_get_num_sampled_and_rejected_kernel", num_sampled_and_rejected},
      {"_post_update_kernel", post_update},
      {"_post_update_num_computed_tokens_kernel", post_update_computed},
      {"_expand_idx_mapping_kernel", expand_idx_mapping},
      {"_combine_sampled_and_draft_tokens_kernel", combine_sampled_and_draft_tokens},
      {"_gumbel_sample_kernel", gumbel_sample},
  };
  return twins;
}

}  // namespace revati
