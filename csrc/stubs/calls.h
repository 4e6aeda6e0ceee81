// Counts the calls into a stub library. There should be none: a test asks.
#pragma once

extern __attribute__((visibility("hidden"))) unsigned long revati_stub_count;
extern __attribute__((visibility("hidden"))) const char* revati_stub_name;

#define CALLED() (revati_stub_name = __func__, __atomic_add_fetch(&revati_stub_count, 1, __ATOMIC_RELAXED))
