// Images in memory, by planes or with channels last.

#pragma once

#include <algorithm>
#include <cstring>

#include "axis.h"
#include "cache.h"

namespace jaxbox {

// The pitch of planes that are transposed: no multiple of a page, at which caches hold few lines.
template <class T>
Index plane_pitch(Index pixels) {
  constexpr Index kLine = kCacheLine / sizeof(T);
  return (pixels + kLine - 1) / kLine * kLine + kLine;
}

// Transposes `count` pixels of `planes` channels.
//
// pixels: pixels with channels last, `pixel_pitch` from one to the next.
// plane: the planes, `plane_pitch` from one to the next.
template <class T>
void from_planes(const T* __restrict plane, Index plane_pitch, Index planes, Index count,
                 T* __restrict pixels, Index pixel_pitch);
template <class T>
void to_planes(const T* __restrict pixels, Index pixel_pitch, Index count, Index planes,
               T* __restrict plane, Index plane_pitch);

namespace image_internal {

// How many pixels before they are written they are fetched.
constexpr Index kPixelsAhead = 16;

// Blocks of 4x4 are transposed in registers.
constexpr Index kBlock = 4;

#if defined(__clang__) || (defined(__GNUC__) && __GNUC__ >= 12)
typedef float Four __attribute__((vector_size(16)));

inline void transpose_block(const float* from, Index from_pitch, float* to, Index to_pitch) {
  Four a, b, c, d;
  std::memcpy(&a, from, sizeof a);
  std::memcpy(&b, from + from_pitch, sizeof b);
  std::memcpy(&c, from + 2 * from_pitch, sizeof c);
  std::memcpy(&d, from + 3 * from_pitch, sizeof d);
  const Four ab_low = __builtin_shufflevector(a, b, 0, 4, 1, 5);
  const Four ab_high = __builtin_shufflevector(a, b, 2, 6, 3, 7);
  const Four cd_low = __builtin_shufflevector(c, d, 0, 4, 1, 5);
  const Four cd_high = __builtin_shufflevector(c, d, 2, 6, 3, 7);
  a = __builtin_shufflevector(ab_low, cd_low, 0, 1, 4, 5);
  b = __builtin_shufflevector(ab_low, cd_low, 2, 3, 6, 7);
  c = __builtin_shufflevector(ab_high, cd_high, 0, 1, 4, 5);
  d = __builtin_shufflevector(ab_high, cd_high, 2, 3, 6, 7);
  std::memcpy(to, &a, sizeof a);
  std::memcpy(to + to_pitch, &b, sizeof b);
  std::memcpy(to + 2 * to_pitch, &c, sizeof c);
  std::memcpy(to + 3 * to_pitch, &d, sizeof d);
}
#endif

template <class T>
void transpose_block(const T* from, Index from_pitch, T* to, Index to_pitch) {
  for (Index i = 0; i < kBlock; ++i) {
    for (Index j = 0; j < kBlock; ++j) to[j * to_pitch + i] = from[i * from_pitch + j];
  }
}

// Transposes a matrix of `rows` and `columns`.
template <class T>
void transpose(const T* from, Index from_pitch, Index rows, Index columns, T* to, Index to_pitch) {
  const Index whole_rows = rows / kBlock * kBlock, whole_columns = columns / kBlock * kBlock;
  for (Index j = 0; j < whole_columns; j += kBlock) {
    for (Index k = 0; k < kBlock; ++k) prefetch(to + (j + kPixelsAhead + k) * to_pitch);
    for (Index i = 0; i < whole_rows; i += kBlock) {
      transpose_block(from + i * from_pitch + j, from_pitch, to + j * to_pitch + i, to_pitch);
    }
  }
  for (Index j = 0; j < columns; ++j) {
    for (Index i = j < whole_columns ? whole_rows : 0; i < rows; ++i) {
      to[j * to_pitch + i] = from[i * from_pitch + j];
    }
  }
}

}  // namespace image_internal

template <class T>
void from_planes(const T* __restrict plane, Index plane_pitch, Index planes, Index count,
                 T* __restrict pixels, Index pixel_pitch) {
  image_internal::transpose(plane, plane_pitch, planes, count, pixels, pixel_pitch);
}

template <class T>
void to_planes(const T* __restrict pixels, Index pixel_pitch, Index count, Index planes,
               T* __restrict plane, Index plane_pitch) {
  // Few pixels at a time, so that the cache holds them for the next channels.
  constexpr Index kPixels = 64;
  for (Index first = 0; first < count; first += kPixels) {
    image_internal::transpose(pixels + first * pixel_pitch, pixel_pitch,
                              std::min(kPixels, count - first), planes, plane + first, plane_pitch);
  }
}

}  // namespace jaxbox
