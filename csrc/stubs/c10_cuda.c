// Link stub for libc10_cuda: only its name is needed.
int revati_no_c10_cuda(void) { return 0; }
