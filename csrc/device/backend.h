// The PyTorch interfaces of one identity: guard, allocator, pinned memory, generator, hooks.
// Everything is a template on the device type and instantiated for CUDA ("cuda") and PrivateUse1 ("revati").
#pragma once
#include <ATen/core/Generator.h>
#include <c10/core/Allocator.h>
#include <c10/core/Device.h>

#include <string>

namespace revati {

struct DeviceConfig {
  std::string gpu, name;
  int count = 0, major = 0, minor = 0, sm_count = 0;
  size_t total_bytes = 0, outside_bytes = 0;
  int64_t graph_node_bytes = 0;  // driver memory of one kernel of a graph's executable
};

DeviceConfig& config();

/// Registers the backend as `cuda` or as `revati`; once a process.
void install(bool as_cuda);
bool installed();
c10::DeviceType device_type();

int current_device();
void set_device(int device);

at::Generator default_generator(int device);
c10::Allocator* device_allocator();

}  // namespace revati
