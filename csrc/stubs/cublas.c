// Link stub for cuBLAS and cuBLASLt, which kernel libraries expect to find through libtorch_cuda.
#include "calls.h"

enum { CUBLAS_STATUS_NOT_INITIALIZED = 1 };
#define STUB(name) int name(void) { CALLED(); return CUBLAS_STATUS_NOT_INITIALIZED; }

STUB(cublasGemmEx)
STUB(cublasGetMathMode)
STUB(cublasHgemm)
STUB(cublasLtCreate)
STUB(cublasLtDestroy)
STUB(cublasLtMatmul)
STUB(cublasLtMatmulAlgoGetHeuristic)
STUB(cublasLtMatmulDescCreate)
STUB(cublasLtMatmulDescDestroy)
STUB(cublasLtMatmulDescSetAttribute)
STUB(cublasLtMatmulPreferenceCreate)
STUB(cublasLtMatmulPreferenceDestroy)
STUB(cublasLtMatmulPreferenceSetAttribute)
STUB(cublasLtMatrixLayoutCreate)
STUB(cublasLtMatrixLayoutDestroy)
STUB(cublasLtMatrixLayoutSetAttribute)

const char* cublasGetStatusString(int status) {
  CALLED();
  (void)status;
  return "virtual GPU: no cuBLAS";
}
