// Which of the libraries this CPU can run. Compiled for any CPU, in a library of its own.

#include "export.h"

// Returns the suffix of the library's name: the best instruction set that libraries are built for.
JAXBOX_EXPORT const char* jaxbox_best_instruction_set() {
#if defined(JAXBOX_HAS_V3)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      __builtin_cpu_supports("bmi2")) {
    return "x86_64_v3";
  }
#endif
  return "any";
}
