#include "manager/cluster_history.h"

#include <algorithm>
#include <chrono>

#include "common/base/limits.h"

namespace simm::manager {
namespace {

// A heartbeat may follow another at once (a new map is in force): too short a time to divide by.
constexpr Duration kShortest = std::chrono::milliseconds(400);

rpc::Rates Between(const rpc::ServerStats& before, const rpc::ServerStats& after, Duration time) {
  const double seconds = ToSeconds(time);
  const auto rate = [&](uint64_t from, uint64_t to) {
    return static_cast<double>(to - std::min(from, to)) / seconds;
  };
  return {.hits = rate(before.hits, after.hits),
          .misses = rate(before.misses, after.misses),
          .puts = rate(before.puts, after.puts),
          .evictions = rate(before.evictions, after.evictions),
          .bytes_read = rate(before.bytes_read, after.bytes_read),
          .bytes_written = rate(before.bytes_written, after.bytes_written)};
}

void AddTo(rpc::Rates& sum, const rpc::Rates& rates) {
  sum.hits += rates.hits;
  sum.misses += rates.misses;
  sum.puts += rates.puts;
  sum.evictions += rates.evictions;
  sum.bytes_read += rates.bytes_read;
  sum.bytes_written += rates.bytes_written;
}

}  // namespace

void ClusterHistory::Look(Instant now, const rpc::NodeStatus& node, Seen& seen) const {
  const Instant heard = now - std::chrono::milliseconds(node.silent_ms);
  const bool alive =
      node.record.state == ServerState::kAlive || node.record.state == ServerState::kDraining;
  // Registered, and its first heartbeat has not come yet: nothing to compare with.
  const bool reported = node.stats.data_bytes != 0;
  if (seen.boot_id != node.record.boot_id || !reported || seen.stats.data_bytes == 0) {
    seen = {node.record.boot_id, heard, node.stats, {}, seen.look};
    return;
  }
  if (!alive) seen.rates = {};
  const Duration time = heard - seen.heard;
  if (time < kShortest) return;
  seen.rates = alive ? Between(seen.stats, node.stats, time) : rpc::Rates{};
  seen.heard = heard;
  seen.stats = node.stats;
}

void ClusterHistory::Add(Instant now, uint64_t unix_ms, const rpc::ClusterStatus& status) {
  MutexLock lock(mutex_);
  HistorySample sample;
  sample.number = ++last_;
  sample.unix_ms = unix_ms;
  for (const rpc::NodeStatus& node : status.nodes) {
    Seen& seen = seen_[node.record.id];
    Look(now, node, seen);
    seen.look = sample.number;
    AddTo(sample.rates, seen.rates);
    if (node.record.state == ServerState::kDead) continue;
    sample.data_bytes += node.stats.data_bytes;
    sample.live_bytes += node.stats.live_bytes;
    sample.entries += node.stats.entries;
    sample.servers_alive += node.record.state != ServerState::kSuspect;
  }
  std::erase_if(seen_, [&](const auto& entry) { return entry.second.look != sample.number; });
  samples_.push_back(sample);
  if (samples_.size() > limits::kMaxHistorySamples) samples_.pop_front();
}

std::vector<HistorySample> ClusterHistory::List(uint64_t after) const {
  MutexLock lock(mutex_);
  const auto first =
      std::partition_point(samples_.begin(), samples_.end(),
                           [after](const HistorySample& s) { return s.number <= after; });
  return {first, samples_.end()};
}

void ClusterHistory::FillRates(rpc::ClusterStatus& status) const {
  MutexLock lock(mutex_);
  if (!samples_.empty()) status.rates = samples_.back().rates;
  for (rpc::NodeStatus& node : status.nodes) {
    if (const auto found = seen_.find(node.record.id); found != seen_.end()) {
      node.rates = found->second.rates;
    }
  }
}

}  // namespace simm::manager
