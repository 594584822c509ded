#pragma once

#include <string_view>

namespace simm {

// Prints the broken invariant with its place to stderr and aborts.
[[noreturn]] void CheckFailed(const char* file, int line, const char* condition,
                              std::string_view why);

}  // namespace simm

// A broken invariant ends the process, in release builds too: going on could serve wrong bytes.
#define SIMM_CHECK(condition, why)                                \
  do {                                                            \
    if (!(condition)) [[unlikely]]                                \
      ::simm::CheckFailed(__FILE__, __LINE__, #condition, (why)); \
  } while (0)
