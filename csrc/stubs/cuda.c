// Link stub for the CUDA driver: every call fails, so that nothing believes a driver is there.
enum { CUDA_ERROR_NO_DEVICE = 100 };
int cuInit(unsigned flags) { (void)flags; return CUDA_ERROR_NO_DEVICE; }
int cuGetProcAddress_v2(void) { return CUDA_ERROR_NO_DEVICE; }
int cuPointerGetAttribute(void) { return CUDA_ERROR_NO_DEVICE; }
int cuTensorMapEncodeTiled(void) { return CUDA_ERROR_NO_DEVICE; }
int cuCtxSetCurrent(void) { return CUDA_ERROR_NO_DEVICE; }
int cuCtxGetCurrent(void) { return CUDA_ERROR_NO_DEVICE; }
int cuCtxCreate_v2(void) { return CUDA_ERROR_NO_DEVICE; }
int cuDevicePrimaryCtxRetain(void) { return CUDA_ERROR_NO_DEVICE; }
int cuDeviceGetAttribute(void) { return CUDA_ERROR_NO_DEVICE; }
int cuGetErrorString(int error, const char** text) { (void)error; *text = "virtual GPU: no CUDA driver"; return 0; }
int cuMemAddressReserve(void) { return CUDA_ERROR_NO_DEVICE; }
int cuMemAddressFree(void) { return CUDA_ERROR_NO_DEVICE; }
int cuMemCreate(void) { return CUDA_ERROR_NO_DEVICE; }
int cuMemGetAllocationGranularity(void) { return CUDA_ERROR_NO_DEVICE; }
int cuMemMap(void) { return CUDA_ERROR_NO_DEVICE; }
int cuMemRelease(void) { return CUDA_ERROR_NO_DEVICE; }
int cuMemSetAccess(void) { return CUDA_ERROR_NO_DEVICE; }
int cuMemUnmap(void) { return CUDA_ERROR_NO_DEVICE; }
