// Counts the calls into a stub library. There should be none: a test asks.
static unsigned long call_count;
static const char* last_called = "";

#define CALLED() (last_called = __func__, __atomic_add_fetch(&call_count, 1, __ATOMIC_RELAXED))

unsigned long revati_stub_calls(void) { return call_count; }
const char* revati_stub_last_call(void) { return last_called; }
