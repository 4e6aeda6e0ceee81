// program.h: can virtual time cover this program?
#pragma once
#include <string>

namespace revati::warp {
// Empty: yes, or not known (a script, a missing file). Else what it is: "/bin/x is statically linked".
std::string why_uncovered(const std::string& command);
}  // namespace revati::warp
