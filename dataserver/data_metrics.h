#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <optional>
#include <string_view>

#include "common/base/clock.h"
#include "common/base/code.h"
#include "common/protocol/messages.h"

namespace simm::dataserver {

// Requests by what they ask for; those before kLease are counted by key and outcome as well.
enum class DataOp : uint8_t {
  kGet,
  kExists,
  kPut,
  kRemove,
  kTouch,
  kScrub,
  kLease,
  kCommit,
  kReturn,
  kResolve,
  kLookup,
  kPin,
};
inline constexpr size_t kKeyOps = 6;
inline constexpr size_t kDataOps = 12;
std::string_view DataOpName(DataOp op);
std::optional<DataOp> DataOpOf(protocol::MessageType type);  // none: it asks for nothing

// On which a request came in; kOther: a double in tests.
enum class DataRoad : uint8_t { kTcp, kShm, kVerbs, kOther };
inline constexpr size_t kDataRoads = 4;
std::string_view DataRoadName(DataRoad road);  // that of the transport
DataRoad DataRoadOf(std::string_view transport);

// What a connection is doing, as looked at several times a second.
enum class ConnectionState : uint8_t {
  kIdle,     // nothing but keepalives for limits::kActiveConnection
  kActive,   // else
  kStalled,  // within a request or an answer, and no byte of it has moved since the last look
};
inline constexpr size_t kConnectionStates = 3;
std::string_view ConnectionStateName(ConnectionState state);

// Counters of the data path: plain atomics, read when somebody scrapes, so that a scrape never
// stops a request. Thread-safe.
class DataMetrics {
 public:
  // Upper bounds of the latency buckets in seconds; one more bucket has no bound.
  static constexpr std::array<double, 16> kLatencyBounds = {
      10e-6, 25e-6, 50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3,
      5e-3,  10e-3, 25e-3, 50e-3,  0.1,    0.25,   1.0,  10.0};
  struct Latency {
    std::array<std::atomic<uint64_t>, kLatencyBounds.size() + 1> buckets{};
    std::atomic<uint64_t> nanos{0};
  };

  // How `n` keys of an operation ended.
  void CountKeys(DataRoad road, DataOp op, Code code, uint64_t n = 1) {
    keys_[Index(road)][Index(op)][Index(code)].fetch_add(n, std::memory_order_relaxed);
  }
  void CountConnection(DataRoad road, ConnectionState state, int64_t n) {
    connections_[Index(road)][Index(state)].fetch_add(static_cast<uint64_t>(n),
                                                      std::memory_order_relaxed);
  }
  // What a one-sided reader has reported, cut down to what is believed (ReadAllowance).
  void CountReads(DataRoad road, const protocol::ReadTotals& totals);
  // Stays at the largest number rather than begin anew: these bytes are what peers say.
  void CountBytesOut(DataRoad road, uint64_t n);
  // One request, from its last byte in to its last byte out.
  void ObserveRequest(DataOp op, Duration took);
  uint64_t Keys(DataRoad road, DataOp op, Code code) const {
    return keys_[Index(road)][Index(op)][Index(code)].load(std::memory_order_relaxed);
  }
  uint64_t Keys(DataOp op, Code code) const;  // over all roads
  uint64_t Connections(DataRoad road, ConnectionState state) const {
    return connections_[Index(road)][Index(state)].load(std::memory_order_relaxed);
  }
  uint64_t Connections(DataRoad road) const;  // in all states
  uint64_t Connections() const;               // over all roads
  uint64_t BytesOut(DataRoad road) const {
    return bytes_out_[Index(road)].load(std::memory_order_relaxed);
  }
  uint64_t BytesOut() const;  // over all roads
  const Latency& latency(DataOp op) const { return latency_[Index(op)]; }

  std::atomic<uint64_t> value_bytes_in{0};
  std::atomic<uint64_t> connections_accepted{0};
  std::atomic<uint64_t> connections_refused{0};
  std::atomic<uint64_t> protocol_errors{0};
  std::atomic<uint64_t> stalled_closed{0};
  std::atomic<uint64_t> abandoned_puts{0};

  std::atomic<uint64_t> listings{0};  // under way, for destinations

  // One-sided peers.
  std::atomic<uint64_t> leased_extents{0};
  std::atomic<uint64_t> leases_refused{0};
  std::atomic<uint64_t> returned_extents{0};
  std::atomic<uint64_t> abandoned_extents{0};  // with their lane, or with their process
  std::atomic<uint64_t> orphaned_lanes{0};     // closed while their process may still write
  std::atomic<uint64_t> recalls{0};
  std::atomic<uint64_t> recalls_unanswered{0};  // lanes destroyed for it
  std::atomic<uint64_t> resolves{0};
  std::atomic<uint64_t> lookups{0};
  std::atomic<uint64_t> pins{0};
  std::atomic<uint64_t> pins_refused{0};  // beyond their share of the pool
  std::atomic<uint64_t> slot_touches{0};
  std::atomic<uint64_t> read_reports{0};
  std::atomic<uint64_t> read_reports_cut{0};  // said more than a lane can read
  std::atomic<uint64_t> validation_failures{0};
  std::atomic<uint64_t> validation_retries{0};

 private:
  template <typename Enum>
  static constexpr size_t Index(Enum value) {
    return static_cast<size_t>(value);
  }
  using CodeCounts = std::array<std::atomic<uint64_t>, kMaxCode + 1>;

  std::array<std::array<CodeCounts, kKeyOps>, kDataRoads> keys_{};
  std::array<std::array<std::atomic<uint64_t>, kConnectionStates>, kDataRoads> connections_{};
  std::array<std::atomic<uint64_t>, kDataRoads> bytes_out_{};
  std::array<Latency, kDataOps> latency_{};
};

}  // namespace simm::dataserver
