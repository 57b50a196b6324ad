// Random shapes, boxes and values for the native kernels, compared with the specification:
//
//   cmake -G Ninja -S tests/native -B build/fuzz && cmake --build build/fuzz
//   build/fuzz/fuzz --cases 1000000
//
// The address and undefined-behaviour sanitizers watch. `--seed` draws other cases; a case that
// fails prints the command that runs it alone.

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sstream>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

#include "draws.h"
#include "guarded.h"
#include "kernels.h"
#include "random.h"
#include "reference.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

namespace jaxbox_fuzz {
namespace {

using jaxbox::Arena;
using jaxbox::DType;
using jaxbox::Index;

struct Settings {
  std::uint64_t seed = 0;
  long first = 0;
  long cases = 20000;
  long threads = 1;
};

Settings settings;
thread_local long case_number = -1;

void print_command() {
  std::fprintf(stderr, "run it alone: fuzz --seed %llu --first %ld --cases 1\n",
               static_cast<unsigned long long>(settings.seed), case_number);
}

template <class T>
constexpr DType kDType = std::is_same_v<T, float> ? DType::kFloat32 : DType::kFloat64;

// What the kernels wrote.
template <class T>
struct Results {
  Guarded<T> output;
  Guarded<T> dx;
  std::vector<double> dtheta;

  explicit Results(const Case<T>& given)
      : output(given.g.size()), dx(given.x.size()), dtheta(given.theta.size()) {}
};

template <class T>
class Check {
 public:
  explicit Check(const Case<T>& given) : given_(given), shape_(given.shape), results_(given) {
    for (Index f = 0; f < shape_.boxes; ++f) {
      boxes_.emplace_back(&given.theta[4 * f], shape_.height, shape_.width, shape_.normalize);
    }
  }

  // Returns what is wrong, as text.
  std::string run() {
    run_kernels();
    if (!results_.output.is_intact()) complain("wrote outside the output");
    if (!results_.dx.is_intact()) complain("wrote outside dx");
    compare_output();
    if (given_.needs_dx) compare_dx();
    if (given_.needs_dtheta) compare_dtheta();
    return wrong_.str();
  }

 private:
  void complain(const std::string& text) { wrong_ << "  " << text << "\n"; }

  void run_kernels() {
    // Copies that nothing may be read around.
    const Guarded<double> theta(given_.theta);
    const Guarded<T> x(given_.x), g(given_.g);
    for (const Band& band : given_.bands) {
      Arena arena;
      jaxbox::filter_band(kDType<T>, shape_, theta.data(), x.data(), band, results_.output.data(),
                          arena);
      require_untouched(results_.output, shape_.boxes, band, "the output");
    }
    for (const Band& band : given_.bands) {
      Arena arena;
      Guarded<double> dtheta(given_.theta.size());
      jaxbox::differentiate_band(kDType<T>, shape_, theta.data(),
                                 given_.needs_dtheta ? x.data() : nullptr, g.data(), band,
                                 given_.needs_dx ? results_.dx.data() : nullptr,
                                 given_.needs_dtheta ? dtheta.data() : nullptr, arena);
      require_untouched(results_.dx, 1, band, "dx");
      if (!dtheta.is_intact()) complain("wrote outside dtheta");
      if (!given_.needs_dtheta) continue;
      for (std::size_t i = 0; i < dtheta.size(); ++i) results_.dtheta[i] += dtheta.data()[i];
    }
  }

  // Bands come from the first row to the last, so that those after `band` are not yet written.
  void require_untouched(const Guarded<T>& planes, Index count, Band band, const char* name) {
    for (Index plane = 0; plane < count; ++plane) {
      const Index begin = plane * shape_.pixels();
      if (!planes.is_untouched(begin + band.end * shape_.width, begin + shape_.pixels())) {
        complain(std::string("wrote rows of ") + name + " after the band");
      }
    }
  }

  Matrix to_matrix(const std::vector<T>& values, Index plane) const {
    Matrix matrix(shape_.height, shape_.width);
    std::copy_n(values.begin() + plane * shape_.pixels(), shape_.pixels(), matrix.values.begin());
    return matrix;
  }

  // A double is rounded at each of up to this many additions.
  double rounding_errors() const {
    return 4 * static_cast<double>(shape_.height + shape_.width + 8) * 0x1p-53;
  }

  // How much of a sum of magnitudes an integral may contain: less than one pixel of a short box.
  static double longest_part(double low, double high, double size) {
    const double length = std::clamp(high, -size, size) - std::clamp(low, -size, size);
    return std::min(1.0, std::abs(length));
  }

  double part_along_x(Index f) const {
    const double* box = &given_.theta[4 * f];
    return longest_part(box[0], box[1], static_cast<double>(shape_.width));
  }

  double part_along_y(Index f) const {
    const double* box = &given_.theta[4 * f];
    return longest_part(box[2], box[3], static_cast<double>(shape_.height));
  }

  // Compares a number that was rounded to `Result`.
  template <class Result>
  bool is_close(double result, double exact, double sum) const {
    constexpr double kLargest = static_cast<double>(std::numeric_limits<Result>::max());
    if (!std::isfinite(sum) || std::abs(exact) > 0.99 * kLargest) return true;
    const double rounding = static_cast<double>(std::numeric_limits<Result>::epsilon());
    const double smallest = static_cast<double>(std::numeric_limits<Result>::denorm_min());
    return std::abs(result - exact) <=
           rounding_errors() * sum + rounding * std::abs(exact) + smallest;
  }

  static bool are_same_or_finite(double result, double exact) {
    if (std::isfinite(exact)) return std::isfinite(result);
    return result == exact || (std::isnan(result) && std::isnan(exact));
  }

  void complain_of(const char* name, Index f, std::size_t place, double result, double exact) {
    std::ostringstream text;
    text.precision(17);
    text << name << " of box " << f << " at " << place << ": " << result << ", exact " << exact;
    complain(text.str());
  }

  void compare_output() {
    const Matrix x = to_matrix(given_.x, 0);
    const Matrix magnitudes = x.map([](double pixel) { return std::abs(finite_or_zero(pixel)); });
    for (Index f = 0; f < shape_.boxes; ++f) {
      const Reference& box = boxes_[f];
      const Matrix exact = box.output(x), own = box.output(magnitudes);
      // What a box covers of the image is as accurate where that is a part of one pixel.
      const auto rows = box.y.parts(), columns = box.x.parts();
      const double sum = magnitudes.sum_of_magnitudes() / std::abs(box.area);
      for (std::size_t i = 0; i < exact.values.size(); ++i) {
        const double result = results_.output.data()[f * shape_.pixels() + i];
        if (overflows(own.values[i])) continue;
        const double part = rows[i / shape_.width] * columns[i % shape_.width];
        const double unit = own.values[i] == 0 ? 0 : sum * part;
        const bool is_right = are_same_or_finite(result, exact.values[i]) &&
                              (!std::isfinite(exact.values[i]) ||
                               is_close<T>(result, exact.values[i], unit));
        if (!is_right) return complain_of("output", f, i, result, exact.values[i]);
      }
    }
  }

  // What overflows may be anything.
  static bool overflows(double magnitude) {
    return std::abs(magnitude) > 0.99 * static_cast<double>(std::numeric_limits<T>::max()) &&
           std::isfinite(magnitude);
  }

  void compare_dx() {
    Matrix exact(shape_.height, shape_.width), own = exact;
    double sum = 0;
    for (Index f = 0; f < shape_.boxes; ++f) {
      const Matrix g = to_matrix(given_.g, f);
      const Matrix magnitudes = g.map([](double value) { return std::abs(finite_or_zero(value)); });
      const Matrix dx = boxes_[f].dx(g), sums = boxes_[f].dx(magnitudes);
      for (std::size_t i = 0; i < exact.values.size(); ++i) {
        exact.values[i] += dx.values[i];
        own.values[i] += std::abs(sums.values[i]);
      }
      sum += magnitudes.sum_of_magnitudes() * part_along_x(f) * part_along_y(f) /
             std::abs(boxes_[f].area);
    }
    for (std::size_t i = 0; i < exact.values.size(); ++i) {
      const double result = results_.dx.data()[i];
      if (overflows(own.values[i])) continue;
      const bool is_right =
          are_same_or_finite(result, exact.values[i]) &&
          (!std::isfinite(exact.values[i]) || is_close<T>(result, exact.values[i], sum));
      if (!is_right) return complain_of("dx", 0, i, result, exact.values[i]);
    }
  }

  void compare_dtheta() {
    const Matrix x = to_matrix(given_.x, 0);
    const auto magnitude = [](double value) { return std::abs(finite_or_zero(value)); };
    const double sum_of_x = x.map(magnitude).sum_of_magnitudes();
    for (Index f = 0; f < shape_.boxes; ++f) {
      const Matrix g = to_matrix(given_.g, f);
      const auto exact = boxes_[f].dtheta(x, g);
      // Every product of a pixel and a gradient is a term.
      const double sum = sum_of_x * g.map(magnitude).sum_of_magnitudes() / std::abs(boxes_[f].area);
      const double parts[2] = {part_along_x(f), part_along_y(f)};
      const double lengths[2] = {boxes_[f].x.length, boxes_[f].y.length};
      for (int bound = 0; bound < 4; ++bound) {
        const int axis = bound / 2;
        double unit = sum * parts[1 - axis];
        if (shape_.normalize) unit += sum * parts[0] * parts[1] / std::abs(lengths[axis]);
        const double result = results_.dtheta[4 * f + bound];
        // Which value it is that is not finite depends on the order of the sum.
        const bool is_right = std::isfinite(exact[bound])
                                  ? is_close<double>(result, exact[bound], unit)
                                  : !std::isfinite(result);
        if (!is_right) complain_of("dtheta", f, bound, result, exact[bound]);
      }
    }
  }

  const Case<T>& given_;
  const Shape& shape_;
  Results<T> results_;
  std::vector<Reference> boxes_;
  std::ostringstream wrong_;
};

template <class T>
void print(const Case<T>& given) {
  const Shape& shape = given.shape;
  const char* dtype = std::is_same_v<T, float> ? "float32" : "float64";
  std::fprintf(stderr, "%s, %td boxes, %td x %td, ", dtype, shape.boxes, shape.height,
               shape.width);
  std::fprintf(stderr, "normalize %d, whole_pixels %d, dx %d, dtheta %d\n", shape.normalize,
               shape.whole_pixels, given.needs_dx, given.needs_dtheta);
  for (Index f = 0; f < shape.boxes; ++f) {
    const double* box = &given.theta[4 * f];
    std::fprintf(stderr, "box %.17g %.17g %.17g %.17g\n", box[0], box[1], box[2], box[3]);
  }
  for (const Band& band : given.bands) {
    std::fprintf(stderr, "rows %td to %td\n", band.begin, band.end - 1);
  }
}

template <class T>
bool passes(Random& random) {
  const Case<T> given = draw_case<T>(random);
  const std::string wrong = Check<T>(given).run();
  if (wrong.empty()) return true;
  std::fprintf(stderr, "wrong:\n%s", wrong.c_str());
  print(given);
  print_command();
  return false;
}

// Returns the number of cases that fail.
long run_all() {
  std::atomic<long> next = settings.first, failures = 0;
  const long end = settings.first + settings.cases;
  const auto work = [&] {
    while ((case_number = next.fetch_add(1)) < end) {
      Random random(settings.seed, static_cast<std::uint64_t>(case_number));
      failures += random.chance(0.7) ? !passes<float>(random) : !passes<double>(random);
    }
  };
  std::vector<std::thread> threads;
  for (long i = 0; i < settings.threads; ++i) threads.emplace_back(work);
  for (std::thread& thread : threads) thread.join();
  return failures;
}

bool read_settings(int count, char** words) {
  if (count % 2 == 0) return false;
  for (int i = 1; i < count; i += 2) {
    const std::string name = words[i];
    const long value = std::atol(words[i + 1]);
    if (name == "--seed") {
      settings.seed = static_cast<std::uint64_t>(value);
    } else if (name == "--first") {
      settings.first = value;
    } else if (name == "--cases") {
      settings.cases = value;
    } else if (name == "--threads") {
      settings.threads = value;
    } else {
      return false;
    }
  }
  return true;
}

}  // namespace
}  // namespace jaxbox_fuzz

int main(int count, char** words) {
  using namespace jaxbox_fuzz;
  if (!read_settings(count, words)) {
    std::fprintf(stderr, "usage: fuzz [--cases N] [--seed N] [--first N] [--threads N]\n");
    return 2;
  }
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_set_death_callback(print_command);
#endif
  const long failures = run_all();
  std::printf("%ld of %ld cases failed; --seed %llu\n", failures, settings.cases,
              static_cast<unsigned long long>(settings.seed));
  return failures > 0;
}
