#pragma once

#include <chrono>
#include <vector>

#include "bench/outcome.h"
#include "bench/target.h"

namespace simm::bench {

// What a run costs besides time, from construction to AddTo: work of the client's connections, and
// CPU of the data servers where this program has started them.
class WorkMeter {
 public:
  explicit WorkMeter(Target& target);
  // round_trips_per_call, work_requests, doorbells, completions, validation_retries, lookups,
  // retries, payload_bytes_copied, server_cpu_seconds (embedded servers), metered_seconds.
  void AddTo(Outcome* outcome) const;

 private:
  double ServerCpuSeconds() const;

  Target& target_;
  const std::chrono::steady_clock::time_point start_;
  const ClientStats before_;
  const double cpu_before_;
};

}  // namespace simm::bench
