// Host twins of vLLM's Triton kernels.
#pragma once
#include "dispatch/host_kernel.h"

namespace revati {

struct NamedHostKernel {
  const char* kernel;
  HostKernel run;
};
const std::vector<NamedHostKernel>& vllm_host_kernels();

}  // namespace revati
