#include "common/base/random.h"

#include <sys/random.h>

#include "common/base/check.h"

namespace simm {

uint64_t OsEntropy() {
  uint64_t value = 0;
  SIMM_CHECK(getrandom(&value, sizeof value, 0) == sizeof value, "getrandom failed");
  return value;
}

}  // namespace simm
