// The counter of one stub library, linked into each of them.
#include "calls.h"

unsigned long revati_stub_count;
const char* revati_stub_name = "";

unsigned long revati_stub_calls(void) { return revati_stub_count; }
const char* revati_stub_last_call(void) { return revati_stub_name; }
