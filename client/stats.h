#pragma once

#include <atomic>
#include <cstdint>

#include "client/client.h"

namespace simm::client {

// The live form of ClientStats. Thread-safe.
struct StatsCounters {
  std::atomic<uint64_t> gets{0}, hits{0}, misses{0}, puts{0}, put_failures{0}, exists{0},
      removes{0}, touches{0};
  std::atomic<uint64_t> errors{0}, corrupt{0}, bytes_read{0}, bytes_written{0}, requests{0},
      round_trips{0};
  std::atomic<uint64_t> retries{0}, breaker_opens{0}, breaker_rejections{0}, late_answers{0};
  std::atomic<uint64_t> payload_bytes_copied{0}, connections_opened{0};
  std::atomic<uint64_t> work_requests{0}, doorbells{0}, completions{0}, validation_retries{0},
      lookups{0}, bounced_values{0}, calls_refused{0};
  std::atomic<uint64_t> lease_hits{0}, resolves{0}, pins{0}, source_hits{0}, replica_hits{0},
      partial_puts{0};

  ClientStats Snapshot() const;
};

inline void Add(std::atomic<uint64_t>& counter, uint64_t n = 1) {
  counter.fetch_add(n, std::memory_order_relaxed);
}

}  // namespace simm::client
