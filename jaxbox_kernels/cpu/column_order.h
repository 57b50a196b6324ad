// The order in which the columns of a row are in memory.

#pragma once

#include "axis.h"

namespace jaxbox {

// Columns that are `stride` apart are neighbours in memory, so that outputs that are so far apart read
// and write neighbours: all columns with the same remainder are a part of the row.
struct ColumnOrder {
  Index stride;
  Index part;  // The length of a part.

  Index pitch() const { return stride * part; }

  // Where in memory a column is; it must not be negative.
  Index place(Index column) const { return column % stride * part + column / stride; }

  // Calls `visit(column, place)` for each column from left to right.
  template <class Visit>
  void for_each(Index width, Visit visit) const {
    switch (stride) {
      // Loops of known length, since these strides are the usual ones.
      case 1: return for_each_at_stride<1>(width, visit);
      case 2: return for_each_at_stride<2>(width, visit);
      case 4: return for_each_at_stride<4>(width, visit);
      default: return for_each_at_stride<0>(width, visit);
    }
  }

 private:
  // `for_each` for a stride that is known at compile time, or for any if `kStride` is 0.
  template <Index kStride, class Visit>
  void for_each_at_stride(Index width, Visit visit) const {
    const Index parts = kStride > 0 ? kStride : stride, whole_ranks = width / parts;
    for (Index rank = 0; rank < whole_ranks; ++rank) {
      for (Index i = 0; i < parts; ++i) visit(rank * parts + i, i * part + rank);
    }
    for (Index i = 0; whole_ranks * parts + i < width; ++i) {
      visit(whole_ranks * parts + i, i * part + whole_ranks);
    }
  }
};

}  // namespace jaxbox
