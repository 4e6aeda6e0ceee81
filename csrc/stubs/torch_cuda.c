// Link stub for libtorch_cuda: the symbols that GPU kernel libraries of official wheels want at load time.
// None of them is ever called: the ops that would are taken over before.
#include "calls.h"

int torch_cuda_stream_synchronize(void) { CALLED(); return 0; }
int torch_get_cuda_stream_from_pool(void) { CALLED(); return 0; }
int torch_set_current_cuda_stream(void) { CALLED(); return 0; }
int torch_c10_cuda_check_msg(void) { CALLED(); return 0; }
int torch_c10_cuda_free_error_msg(void) { CALLED(); return 0; }
int torch_get_current_cuda_blas_handle(void) { CALLED(); return 0; }
void* revati_cublaslt_handle(void) __asm__("_ZN2at4cuda26getCurrentCUDABlasLtHandleEv");
void* revati_cublaslt_handle(void) { CALLED(); return 0; }
int aoti_torch_get_current_cuda_stream(int device, void** stream) {
  CALLED();
  (void)device;
  *stream = 0;
  return 0;
}
