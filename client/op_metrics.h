#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "common/base/clock.h"
#include "common/base/code.h"
#include "common/protocol/messages.h"

namespace simm::client {

enum class ClientOp : uint8_t { kGet, kPut, kExists, kRemove, kTouch, kPin };
inline constexpr size_t kClientOps = 6;
std::string_view ClientOpName(ClientOp op);
ClientOp ClientOpOf(protocol::MessageType type);

// Over what a key was answered; kNone: over nothing, such as a key that the breaker answers.
enum class Road : uint8_t { kNone, kTcp, kShm, kVerbs };
inline constexpr size_t kRoads = 4;
std::string_view RoadName(Road road);  // that of the transport, or "none"
Road RoadOf(std::string_view transport);

// Counts by value; fixed bounds, one more bucket without. Thread-safe: relaxed atomics.
template <size_t kBounds>
class AtomicHistogram {
 public:
  explicit constexpr AtomicHistogram(const std::array<double, kBounds>& bounds) : bounds_(bounds) {}
  void Observe(double value) {
    const auto at = std::lower_bound(bounds_.begin(), bounds_.end(), value);
    buckets_[static_cast<size_t>(at - bounds_.begin())].fetch_add(1, std::memory_order_relaxed);
    sum_.fetch_add(value, std::memory_order_relaxed);
  }
  // Adds to counts (kBounds + 1 of them) and sum.
  void AddTo(uint64_t* counts, double* sum) const {
    for (size_t i = 0; i <= kBounds; ++i) counts[i] += buckets_[i].load(std::memory_order_relaxed);
    *sum += sum_.load(std::memory_order_relaxed);
  }

 private:
  const std::array<double, kBounds>& bounds_;
  std::array<std::atomic<uint64_t>, kBounds + 1> buckets_{};
  std::atomic<double> sum_{0};
};

// 1, 2 and 5 of each decade from 10 us to 10 s.
inline constexpr std::array<double, 19> kCallBounds = {
    10e-6, 20e-6, 50e-6,  100e-6, 200e-6, 500e-6, 1e-3, 2e-3, 5e-3, 10e-3,
    20e-3, 50e-3, 100e-3, 200e-3, 500e-3, 1.0,    2.0,  5.0,  10.0};
inline constexpr std::array<double, 14> kPrefixBounds = {0,  1,   2,   4,   8,    16,   32,
                                                         64, 128, 256, 512, 1024, 2048, 4096};

// Sums of everything below, of one engine or of many; plain numbers.
struct OpTotals {
  using Counts = std::array<uint64_t, kMaxCode + 1>;
  struct Calls {
    std::array<uint64_t, kCallBounds.size() + 1> counts{};
    double seconds = 0;
  };
  struct Prefix {
    std::array<uint64_t, kPrefixBounds.size() + 1> counts{};
    double keys = 0;
  };
  std::array<std::array<Counts, kRoads>, kClientOps> keys{};
  std::array<Calls, kClientOps> calls{};
  std::array<Prefix, kClientOps> prefixes{};  // of get and exists
};

// What calls have come to: keys by operation, transport and outcome, times, prefix lengths. A call
// adds at its end, once for each run of keys that ended alike. Thread-safe, without a lock.
class OpMetrics {
 public:
  OpMetrics();
  void CountKeys(ClientOp op, Road road, Code code, uint64_t n) {
    keys_[Index(op)][Index(road)][Index(code)].fetch_add(n, std::memory_order_relaxed);
  }
  void CountCall(ClientOp op, Duration took) { calls_[Index(op)].Observe(ToSeconds(took)); }
  // Of a get or an exists: how many of its keys, from the first one on, were there.
  void CountPrefix(ClientOp op, size_t keys) {
    prefixes_[Index(op)].Observe(static_cast<double>(keys));
  }
  void AddTo(OpTotals* totals) const;

 private:
  template <typename Enum>
  static constexpr size_t Index(Enum value) {
    return static_cast<size_t>(value);
  }

  std::array<std::array<std::array<std::atomic<uint64_t>, kMaxCode + 1>, kRoads>, kClientOps>
      keys_{};
  std::array<AtomicHistogram<kCallBounds.size()>, kClientOps> calls_;
  std::array<AtomicHistogram<kPrefixBounds.size()>, kClientOps> prefixes_;
};

}  // namespace simm::client
