#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "bench/options.h"
#include "common/base/status.h"

namespace simm::bench {

// Longer than any id of a trace with a short prefix; extents round the key up to 64 B.
inline constexpr size_t kTraceKeyBytes = 20;

// Requests of a chat service, each a chain of prefix blocks named by ids: equal id, equal prefix.
class Trace {
 public:
  // JSON lines; only "hash_ids" is read. kInvalidArgument names file and line.
  static Result<Trace> Read(const std::string& path, uint64_t limit);

  const std::vector<std::vector<uint64_t>>& requests() const { return requests_; }
  uint64_t blocks() const { return blocks_; }
  uint64_t distinct() const { return distinct_; }
  size_t longest() const { return longest_; }

 private:
  std::vector<std::vector<uint64_t>> requests_;
  uint64_t blocks_ = 0;
  uint64_t distinct_ = 0;
  size_t longest_ = 0;
};

// Chooses the value size if the user did not, and sizes the embedded servers so that their data
// files together hold options.capacity_fraction of the distinct blocks; the index comes on top.
// kInvalidArgument: less than the smallest pool.
Status SizeForTrace(const Trace& trace, Options* options);

}  // namespace simm::bench
