// Live and phantom: which device tensors have values a host may read, and what a host reads where there are none.
#pragma once
#include <ATen/core/Tensor.h>

namespace revati {

struct ValuePolicy {
  int64_t token_id = 1;                      // what a phantom integer reads as: in every vocabulary (engines/vllm/token_id.py)
  int64_t live_elements_int = 4 << 20;       // larger results are phantom
  int64_t live_elements_float = 256 << 10;
  int64_t materialise_elements = 64 << 10;   // integer results of phantom inputs up to this size get policy values
  size_t live_storage_bytes = 64 << 20;      // larger storages are always phantom
};
ValuePolicy& policy();

bool on_device(const at::Tensor& t);
bool is_live(const at::Tensor& t);
void mark_phantom(const at::Tensor& t);
/// Nobody knows the values of `t` any more: small integers read as the policy says, everything else is phantom.
void forget_values(const at::Tensor& t);
bool is_invented(const at::Tensor& t);
void mark_invented(const at::Tensor& t);
/// Makes `t` live: where its storage was phantom, everything else in it reads as the policy says.
/// False if the storage is too large to ever be live.
bool make_live(const at::Tensor& t);
/// Where the first element of `t` lies; a device tensor becomes live first, and an error says if it cannot.
char* live_data(const at::Tensor& t);
/// Integer tensors get the policy's token id, the rest zeros.
void fill_with_policy(const at::Tensor& host);
/// A CPU tensor over the same memory.
at::Tensor host_view(const at::Tensor& t);
/// A device tensor over pinned host memory, which it keeps alive (unified virtual addressing). Always live.
at::Tensor uva_view(const at::Tensor& host);
/// A tensor over the same memory that does not keep it alive, as engines hold the outputs of captured graphs.
at::Tensor weak_view(const at::Tensor& t);

}  // namespace revati
