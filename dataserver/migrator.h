#pragma once

#include <array>
#include <atomic>
#include <functional>
#include <memory>
#include <string_view>
#include <thread>
#include <vector>

#include "common/base/mutex.h"
#include "common/rpc/control_types.h"
#include "common/transport/transport.h"
#include "dataserver/pool.h"
#include "dataserver/pull_plan.h"

namespace simm::dataserver {

class PullLane;

// What became of an entry that a source has told of.
enum class PullOutcome : uint8_t {
  kPulled = 0,
  kExists = 1,   // here already, or a newer one
  kRemoved = 2,  // removed here since the shard came
  kGone = 3,     // not at the source any more, or another by now
  kNoRoom = 4,   // given up: what is here was used later
  kDamaged = 5,  // given up: its checksum is wrong
};
inline constexpr size_t kPullOutcomes = 6;
std::string_view PullOutcomeName(PullOutcome outcome);

// The destination's side of moving shards (DESIGN 3): pulls what the sources of this server's
// shards still have, hottest first, over a few lanes at once, throttled over all of them. Starts
// anew after a failure or a restart of either side; what is here already is not fetched again.
// Thread-safe.
class Migrator {
 public:
  struct Options {
    uint64_t bytes_per_s = 0;  // 0: no limit
    // A lane to the source, whose session has been opened.
    std::function<Result<std::unique_ptr<transport::Connection>>(const ServerRecord& source,
                                                                 const MapVersion& map)>
        connect;
    // A source has been pulled from: the manager is to hear of it.
    std::function<void()> on_pulled = [] {};
    size_t threads = limits::kPullThreads;
    // Asked while a lane waits for its source; true: the lane is given up.
    std::function<bool()> gives_up = [] { return false; };
  };
  // `pool` is borrowed.
  Migrator(Pool& pool, Options options);
  ~Migrator();  // Stop
  void Stop();

  // The map that is about to be in force: from here on, removals leave tombstones where they must.
  void OnTable(std::shared_ptr<const RouteTable> table, ServerId self);
  // For a driver of its own (Options::threads 0): pulls from the next source that is due by this
  // clock, until that has ended well or not. False: none was due.
  bool PullNext(const Clock& clock);
  Instant NextDue() const;  // when PullNext may have something; kForever: not before OnTable
  // Ascending: what has been pulled by the rows of `table`, at most limits::kMaxPulledShards.
  std::vector<uint32_t> Pulled(const RouteTable& table) const;
  rpc::MigrationProgress Progress() const;
  uint64_t Entries(PullOutcome outcome) const {
    return entries_[static_cast<size_t>(outcome)].load(std::memory_order_relaxed);
  }
  uint64_t failures() const { return failures_.load(std::memory_order_relaxed); }
  Duration time_pulling() const { return Duration(nanos_.load(std::memory_order_relaxed)); }

 private:
  struct Tally;

  void Run();
  void Pull(const PullJob& job, const Clock& clock);
  Status RunJob(const PullJob& job, Tally* tally);
  Status PullPage(const PullJob& job, std::span<const EntryFacts> page, PullLane& lane,
                  Tally* tally);
  Status FetchBatch(const PullJob& job, std::span<const EntryFacts> batch, PullLane& lane,
                    Tally* tally);
  Status Wait(Duration time, PullLane& lane);
  void Count(PullOutcome outcome, uint64_t value_bytes, Tally* tally);
  void Report(const PullJob& job, const Status& status, const Tally& tally, Duration took);

  Pool& pool_;
  const Options options_;
  std::atomic<bool> stopping_{false};
  mutable Mutex mutex_;
  CondVar changed_;
  PullPlan plan_ SIMM_GUARDED_BY(mutex_);
  Throttle throttle_ SIMM_GUARDED_BY(mutex_);
  std::array<std::atomic<uint64_t>, kPullOutcomes> entries_{};
  std::atomic<uint64_t> bytes_pulled_{0};
  std::atomic<uint64_t> bytes_given_up_{0};
  std::atomic<uint64_t> failures_{0};
  std::atomic<int64_t> nanos_{0};
  std::vector<std::thread> threads_;
};

}  // namespace simm::dataserver
