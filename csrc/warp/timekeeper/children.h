// children.h: the processes of the run, seen from the timekeeper, which is their nearest reaper.
#pragma once
#include <sys/types.h>
#include <vector>

namespace revati::warp {
// All live descendants of `root`, zombies left out.
std::vector<pid_t> descendants(pid_t root);
// TERM, then KILL after `grace` real seconds; returns when all are gone (or after two more seconds).
// `keep_going` is called every few milliseconds, for virtual time must go on while they end.
void terminate_descendants(double grace, void (*keep_going)(void*), void* argument);
}  // namespace revati::warp
