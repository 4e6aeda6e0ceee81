// Link stub for libc10_cuda: what kernel libraries want of c10::cuda at load time, by its mangled names.
// None of it is ever called: the ops that would are taken over before.
#include "calls.h"

int revati_c10_cuda_check(void) __asm__("_ZN3c104cuda29c10_cuda_check_implementationEiPKcS2_jb");
int revati_c10_cuda_check(void) { CALLED(); return 0; }
int revati_current_stream(void) __asm__("_ZN3c104cuda20getCurrentCUDAStreamEa");
int revati_current_stream(void) { CALLED(); return 0; }
void* revati_raw_stream(void) __asm__("_ZNK3c104cuda10CUDAStream6streamEv");
void* revati_raw_stream(void) { CALLED(); return 0; }
