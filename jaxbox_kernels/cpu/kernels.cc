// The kernels for each dtype.

#include "kernels.h"

#include "backward.h"
#include "forward.h"

namespace jaxbox {
namespace {

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
    filter_band_of<float>(shape, theta, as<float>(x), band, as<float>(output), arena);
  } else {
    filter_band_of<double>(shape, theta, as<double>(x), band, as<double>(output), arena);
  }
}

void filter_channels(DType dtype, const Shape& shape, Channels channels, const double* theta,
                     const void* x, Band band, void* output, Arena& arena) {
  if (dtype == DType::kFloat32) {
    filter_channels_of<float>(shape, channels, theta, as<float>(x), band, as<float>(output), arena);
  } else {
    filter_channels_of<double>(shape, channels, theta, as<double>(x), band, as<double>(output),
                               arena);
  }
}

void differentiate_band(DType dtype, const Shape& shape, const double* theta, const void* x,
                        const void* g, Band band, void* dx, double* dtheta, Arena& arena) {
  if (dtype == DType::kFloat32) {
    differentiate_band_of<float>(shape, theta, as<float>(x), as<float>(g), band, as<float>(dx),
                                 dtheta, arena);
  } else {
    differentiate_band_of<double>(shape, theta, as<double>(x), as<double>(g), band, as<double>(dx),
                                  dtheta, arena);
  }
}

void differentiate_channels(DType dtype, const Shape& shape, Channels channels, const double* theta,
                            const void* x, const void* g, Band band, void* dx, double* dtheta,
                            Arena& arena) {
  if (dtype == DType::kFloat32) {
    differentiate_channels_of<float>(shape, channels, theta, as<float>(x), as<float>(g), band,
                                   as<float>(dx), dtheta, arena);
  } else {
    differentiate_channels_of<double>(shape, channels, theta, as<double>(x), as<double>(g), band,
                                   as<double>(dx), dtheta, arena);
  }
}

}  // namespace jaxbox
