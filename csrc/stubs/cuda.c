// Link stub for the CUDA driver: every call fails, so that nothing believes a driver is there.
#include "calls.h"

enum { CUDA_ERROR_NO_DEVICE = 100 };
int cuInit(unsigned flags) { CALLED(); (void)flags; return CUDA_ERROR_NO_DEVICE; }
int cuGetProcAddress_v2(void) { CALLED(); return CUDA_ERROR_NO_DEVICE; }
int cuPointerGetAttribute(void) { CALLED(); return CUDA_ERROR_NO_DEVICE; }
int cuTensorMapEncodeTiled(void) { CALLED(); return CUDA_ERROR_NO_DEVICE; }
int cuCtxSetCurrent(void) { CALLED(); return CUDA_ERROR_NO_DEVICE; }
int cuCtxGetCurrent(void) { CALLED(); return CUDA_ERROR_NO_DEVICE; }
int cuCtxCreate_v2(void) { CALLED(); return CUDA_ERROR_NO_DEVICE; }
int cuDevicePrimaryCtxRetain(void) { CALLED(); return CUDA_ERROR_NO_DEVICE; }
int cuDeviceGetAttribute(void) { CALLED(); return CUDA_ERROR_NO_DEVICE; }
int cuGetErrorString(int error, const char** text) { CALLED(); (void)error; *text = "virtual GPU: no CUDA driver"; return 0; }
int cuMemAddressReserve(void) { CALLED(); return CUDA_ERROR_NO_DEVICE; }
int cuMemAddressFree(void) { CALLED(); return CUDA_ERROR_NO_DEVICE; }
int cuMemCreate(void) { CALLED(); return CUDA_ERROR_NO_DEVICE; }
int cuMemGetAllocationGranularity(void) { CALLED(); return CUDA_ERROR_NO_DEVICE; }
int cuMemMap(void) { CALLED(); return CUDA_ERROR_NO_DEVICE; }
int cuMemRelease(void) { CALLED(); return CUDA_ERROR_NO_DEVICE; }
int cuMemSetAccess(void) { CALLED(); return CUDA_ERROR_NO_DEVICE; }
int cuMemUnmap(void) { CALLED(); return CUDA_ERROR_NO_DEVICE; }
