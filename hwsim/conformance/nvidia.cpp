// NVIDIA's converters of cuda_fp8.h, cuda_fp6.h and cuda_fp4.h on the host.
#include <cuda_fp4.h>
#include <cuda_fp6.h>
#include <cuda_fp8.h>

template <typename Convert, typename Real>
static void convert_all(const Real *x, unsigned char *codes, long count, Convert convert) {
    for (long i = 0; i < count; i++) codes[i] = convert(x[i]);
}

#define CONVERTER(NAME, REAL, EXPRESSION) \
    extern "C" void NAME(const REAL *values, unsigned char *codes, long count) { \
        convert_all(values, codes, count, [](REAL x) { return (unsigned char)(EXPRESSION); }); \
    }

CONVERTER(e4m3_saturate_float, float, __nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E4M3))
CONVERTER(e4m3_saturate_double, double, __nv_cvt_double_to_fp8(x, __NV_SATFINITE, __NV_E4M3))
CONVERTER(e4m3_overflow_float, float, __nv_cvt_float_to_fp8(x, __NV_NOSAT, __NV_E4M3))
CONVERTER(e4m3_overflow_double, double, __nv_cvt_double_to_fp8(x, __NV_NOSAT, __NV_E4M3))
CONVERTER(e5m2_saturate_float, float, __nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E5M2))
CONVERTER(e5m2_saturate_double, double, __nv_cvt_double_to_fp8(x, __NV_SATFINITE, __NV_E5M2))
CONVERTER(e5m2_overflow_float, float, __nv_cvt_float_to_fp8(x, __NV_NOSAT, __NV_E5M2))
CONVERTER(e5m2_overflow_double, double, __nv_cvt_double_to_fp8(x, __NV_NOSAT, __NV_E5M2))
CONVERTER(e3m2_saturate_float, float, __nv_cvt_float_to_fp6(x, __NV_E3M2, cudaRoundNearest))
CONVERTER(e3m2_saturate_double, double, __nv_cvt_double_to_fp6(x, __NV_E3M2, cudaRoundNearest))
CONVERTER(e2m3_saturate_float, float, __nv_cvt_float_to_fp6(x, __NV_E2M3, cudaRoundNearest))
CONVERTER(e2m3_saturate_double, double, __nv_cvt_double_to_fp6(x, __NV_E2M3, cudaRoundNearest))
CONVERTER(e2m1_saturate_float, float, __nv_cvt_float_to_fp4(x, __NV_E2M1, cudaRoundNearest))
CONVERTER(e2m1_saturate_double, double, __nv_cvt_double_to_fp4(x, __NV_E2M1, cudaRoundNearest))
CONVERTER(e8m0_down_float, float, __nv_cvt_float_to_e8m0(x, __NV_SATFINITE, cudaRoundZero))
CONVERTER(e8m0_up_float, float, __nv_cvt_float_to_e8m0(x, __NV_SATFINITE, cudaRoundPosInf))
