// The kernels for each dtype, and for each instruction set of x86-64, of which the loader chooses.

#include "kernels.h"

#include "backward.h"
#include "forward.h"

// Each clone has its own copy of all that it calls.
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(JAXBOX_NO_CLONES)
#define JAXBOX_CLONES \
  __attribute__((flatten, target_clones("default", "arch=x86-64-v3")))
#else
#define JAXBOX_CLONES
#endif

#define JAXBOX_DEFINE_KERNELS(Name, T)                                                           \
  JAXBOX_CLONES void filter_##Name(const Shape& shape, const double* theta, const void* x,       \
                                   Band band, void* output, Arena& arena) {                      \
    filter_band_of<T>(shape, theta, static_cast<const T*>(x), band, static_cast<T*>(output),     \
                      arena);                                                                    \
  }                                                                                              \
  JAXBOX_CLONES void differentiate_##Name(const Shape& shape, const double* theta,               \
                                          const void* x, const void* g, Band band, void* dx,     \
                                          double* dtheta, Arena& arena) {                        \
    differentiate_band_of<T>(shape, theta, static_cast<const T*>(x), static_cast<const T*>(g),   \
                             band, static_cast<T*>(dx), dtheta, arena);                          \
  }

namespace jaxbox {

JAXBOX_DEFINE_KERNELS(float32, float)
JAXBOX_DEFINE_KERNELS(float64, double)

void filter_band(DType dtype, const Shape& shape, const double* theta, const void* x, Band band,
                 void* output, Arena& arena) {
  switch (dtype) {
    case DType::kFloat32:
      return filter_float32(shape, theta, x, band, output, arena);
    case DType::kFloat64:
      return filter_float64(shape, theta, x, band, output, arena);
  }
}

void differentiate_band(DType dtype, const Shape& shape, const double* theta, const void* x,
                        const void* g, Band band, void* dx, double* dtheta, Arena& arena) {
  switch (dtype) {
    case DType::kFloat32:
      return differentiate_float32(shape, theta, x, g, band, dx, dtheta, arena);
    case DType::kFloat64:
      return differentiate_float64(shape, theta, x, g, band, dx, dtheta, arena);
  }
}

}  // namespace jaxbox
