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
  JAXBOX_CLONES void filter_##Name(const Shape& shape, const double* theta, const T* x,          \
                                   Band band, T* output, Arena& arena) {                         \
    filter_band_of<T>(shape, theta, x, band, output, arena);                                     \
  }                                                                                              \
  JAXBOX_CLONES void filter_channels_##Name(const Shape& shape, Channels channels,               \
                                            const double* theta, const T* x, Band band,          \
                                            T* output, Arena& arena) {                           \
    filter_channels_of<T>(shape, channels, theta, x, band, output, arena);                       \
  }                                                                                              \
  JAXBOX_CLONES void differentiate_##Name(const Shape& shape, const double* theta, const T* x,   \
                                          const T* g, Band band, T* dx, double* dtheta,          \
                                          Arena& arena) {                                        \
    differentiate_band_of<T>(shape, theta, x, g, band, dx, dtheta, arena);                       \
  }                                                                                              \
  JAXBOX_CLONES void differentiate_channels_##Name(                                              \
      const Shape& shape, Channels channels, const double* theta, const T* x, const T* g,        \
      Band band, T* dx, double* dtheta, Arena& arena) {                                          \
    differentiate_channels_of<T>(shape, channels, theta, x, g, band, dx, dtheta, arena);         \
  }

namespace jaxbox {
namespace {

JAXBOX_DEFINE_KERNELS(float32, float)
JAXBOX_DEFINE_KERNELS(float64, double)

template <class T>
const T* as(const void* numbers) {
  return static_cast<const T*>(numbers);
}

template <class T>
T* as(void* numbers) {
  return static_cast<T*>(numbers);
}

}  // namespace

void filter_band(DType dtype, const Shape& shape, const double* theta, const void* x, Band band,
                 void* output, Arena& arena) {
  if (dtype == DType::kFloat32) {
    filter_float32(shape, theta, as<float>(x), band, as<float>(output), arena);
  } else {
    filter_float64(shape, theta, as<double>(x), band, as<double>(output), arena);
  }
}

void filter_channels(DType dtype, const Shape& shape, Channels channels, const double* theta,
                     const void* x, Band band, void* output, Arena& arena) {
  if (dtype == DType::kFloat32) {
    filter_channels_float32(shape, channels, theta, as<float>(x), band, as<float>(output), arena);
  } else {
    filter_channels_float64(shape, channels, theta, as<double>(x), band, as<double>(output), arena);
  }
}

void differentiate_band(DType dtype, const Shape& shape, const double* theta, const void* x,
                        const void* g, Band band, void* dx, double* dtheta, Arena& arena) {
  if (dtype == DType::kFloat32) {
    differentiate_float32(shape, theta, as<float>(x), as<float>(g), band, as<float>(dx), dtheta,
                          arena);
  } else {
    differentiate_float64(shape, theta, as<double>(x), as<double>(g), band, as<double>(dx), dtheta,
                          arena);
  }
}

void differentiate_channels(DType dtype, const Shape& shape, Channels channels, const double* theta,
                            const void* x, const void* g, Band band, void* dx, double* dtheta,
                            Arena& arena) {
  if (dtype == DType::kFloat32) {
    differentiate_channels_float32(shape, channels, theta, as<float>(x), as<float>(g), band,
                                   as<float>(dx), dtheta, arena);
  } else {
    differentiate_channels_float64(shape, channels, theta, as<double>(x), as<double>(g), band,
                                   as<double>(dx), dtheta, arena);
  }
}

}  // namespace jaxbox
