#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <unordered_map>
#include <vector>

#include "common/base/clock.h"
#include "common/routing/route_table.h"

namespace simm::dataserver {

// Lets bytes pass at a rate, 100 ms of it at once. Pure, thread-compatible.
class Throttle {
 public:
  // 0: no limit.
  explicit Throttle(uint64_t bytes_per_s) : bytes_per_s_(bytes_per_s) {}
  // How long to wait before these bytes may move; they count from here on.
  Duration Take(uint64_t bytes, Instant now);

 private:
  const uint64_t bytes_per_s_;
  Instant next_{};
};

// How long a lane rests after a batch that took so long: three times that, at most 50 ms. Where
// moving bytes costs processor time, which source, destination and their clients share, a pull has
// a quarter of one processor at either end; on faster links and idle machines the Throttle counts.
Duration RestAfter(Duration took);

// All that one source still has to be asked for, by one map.
struct PullJob {
  std::shared_ptr<const RouteTable> table;
  ServerRecord source;
  ServerId self = kNoServer;
  std::vector<bool> shards;  // by number
  uint32_t shard_count = 0;
};

// Which shards this server has to pull from which source, which it has pulled, and when to try a
// source again. Pure: no socket, no thread, time is passed in. Thread-compatible.
//
// A shard is due while the newest map names a source in this server's place of its row, and pulled
// when a job for that very source has ended well. One job a source at a time.
class PullPlan {
 public:
  // The map in force, and who this is in it.
  void OnTable(std::shared_ptr<const RouteTable> table, ServerId self);
  // The next job, of the source that has waited longest; it is under way until Done or Failed.
  std::optional<PullJob> Next(Instant now);
  // When Next may have something without a further call here; kForever: not before OnTable.
  Instant NextDue() const;
  // All of the job's shards are pulled, as far as they are still that source's.
  void Done(const PullJob& job);
  // It is tried again after a pause, which doubles while the source fails: from `limits`.
  void Failed(const PullJob& job, Instant now);
  // The source is not ready, which is no failure: again after the shortest pause.
  void NotReady(const PullJob& job, Instant now);

  // Ascending: shards with a source for this server, pulled or not.
  const std::vector<uint32_t>& pulling() const { return pulling_; }
  // Ascending: what is pulled by the rows of `table`.
  std::vector<uint32_t> Pulled(const RouteTable& table) const;
  // Ascending: shards that others pull from here, and this server does not own.
  const std::vector<uint32_t>& leaving() const { return leaving_; }
  uint32_t shards_left() const { return shards_left_; }

 private:
  struct Source {
    bool busy = false;
    uint32_t shards_left = 0;
    uint32_t failures = 0;
    Instant not_before{};
    uint64_t turn = 0;  // of its last job
  };
  void Count();

  std::shared_ptr<const RouteTable> table_;
  ServerId self_ = kNoServer;
  std::vector<ServerId> source_of_;    // by shard; empty: none
  std::vector<ServerId> pulled_from_;  // by shard
  std::vector<uint32_t> pulling_;
  std::vector<uint32_t> leaving_;
  std::unordered_map<ServerId, Source> sources_;
  uint32_t shards_left_ = 0;
  uint64_t turns_ = 0;
};

}  // namespace simm::dataserver
