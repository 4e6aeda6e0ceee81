// Which kernels the backend registers with the dispatcher, and the takeover of foreign kernel libraries.
#pragma once
#include <c10/core/Device.h>
#include <c10/core/Storage.h>

#include <string>
#include <vector>

namespace revati {

void register_kernels(c10::DeviceType type);
void resize_storage(const c10::Storage& storage, size_t bytes);

/// Puts our kernel in the place of the device kernel of these ops ("namespace::op.overload"); returns those that had one.
std::vector<std::string> takeover(const std::vector<std::string>& ops);

}  // namespace revati
