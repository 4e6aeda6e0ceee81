// run.h: one run from start to end.
#pragma once
#include "options.h"

namespace revati::warp {
// Starts the command, keeps its time, ends what it leaves behind. Returns the exit code.
int run(const Options& options);
}  // namespace revati::warp
