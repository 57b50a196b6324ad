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
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

#include "comparison.h"
#include "draws.h"
#include "random.h"
#include "run.h"
#include "strided_run.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

namespace jaxbox_fuzz {
namespace {

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
void print(const Case<T>& given) {
  const Shape& shape = given.shape;
  const char* dtype = std::is_same_v<T, float> ? "float32" : "float64";
  std::fprintf(stderr, "%s, %td x %td, %zu of %td channels, %td boxes\n", dtype, shape.height,
               shape.width, given.channels.size(), given.all, shape.boxes);
  std::fprintf(stderr, "channels_last %d, normalize %d, whole_pixels %d, dx %d, dtheta %d\n",
               given.channels_last, shape.normalize, shape.whole_pixels, given.needs_dx,
               given.needs_dtheta);
  for (const Channel<T>& channel : given.channels) {
    for (Index f = 0; f < shape.boxes; ++f) {
      const double* box = &channel.theta[4 * f];
      std::fprintf(stderr, "box %.17g %.17g %.17g %.17g\n", box[0], box[1], box[2], box[3]);
    }
  }
  for (const Band& band : given.bands) {
    std::fprintf(stderr, "rows %td to %td\n", band.begin, band.end - 1);
  }
}

template <class T>
bool passes(Random& random) {
  const Case<T> given = draw_case<T>(random);
  const Run<T> run(given);
  std::string wrong = run.wrong;
  for (std::size_t c = 0; c < given.channels.size(); ++c) {
    wrong += Comparison<T>(given.shape, given.channels[c], run.results[c]).run();
  }
  wrong += StridedRun<T>(given, random).run(run.results);
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
