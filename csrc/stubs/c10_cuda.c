// Link stub for libc10_cuda: only its name is needed.
#include "calls.h"

int revati_no_c10_cuda(void) { CALLED(); return 0; }
