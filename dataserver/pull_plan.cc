#include "dataserver/pull_plan.h"

#include <algorithm>
#include <utility>

#include "common/base/limits.h"

namespace simm::dataserver {

Duration Throttle::Take(uint64_t bytes, Instant now) {
  if (bytes_per_s_ == 0) return Duration::zero();
  const Instant begin = std::max(next_, now - std::chrono::milliseconds(100));
  next_ = begin + Duration(static_cast<int64_t>(static_cast<double>(bytes) * 1e9 /
                                                static_cast<double>(bytes_per_s_)));
  return std::max(Duration::zero(), begin - now);
}

Duration RestAfter(Duration took) {
  return std::clamp<Duration>(3 * took, Duration::zero(), std::chrono::milliseconds(50));
}

void PullPlan::OnTable(std::shared_ptr<const RouteTable> table, ServerId self) {
  if (self != self_ || source_of_.empty()) {
    source_of_.assign(limits::kShards, kNoServer);
    pulled_from_.assign(limits::kShards, kNoServer);
    sources_.clear();
  }
  table_ = std::move(table);
  self_ = self;
  pulling_.clear();
  leaving_.clear();
  for (uint32_t shard = 0; shard < limits::kShards; ++shard) {
    ServerId source = kNoServer;
    bool owned = false;
    bool source_of_other = false;
    for (const ShardOwner& owner : table_->Owners(shard)) {
      if (self == kNoServer) break;
      if (owner.server == self) {
        owned = true;
        source = owner.source;
      }
      source_of_other |= owner.source == self;
    }
    source_of_[shard] = source;
    if (pulled_from_[shard] != source) pulled_from_[shard] = kNoServer;
    if (source != kNoServer) pulling_.push_back(shard);
    if (source_of_other && !owned) leaving_.push_back(shard);
  }
  Count();
}

void PullPlan::Count() {
  shards_left_ = 0;
  for (auto& [id, source] : sources_) source.shards_left = 0;
  for (const uint32_t shard : pulling_) {
    if (pulled_from_[shard] == source_of_[shard]) continue;
    ++sources_[source_of_[shard]].shards_left;
    ++shards_left_;
  }
  std::erase_if(sources_, [](const auto& entry) {
    return entry.second.shards_left == 0 && !entry.second.busy;
  });
}

std::optional<PullJob> PullPlan::Next(Instant now) {
  Source* chosen = nullptr;
  PullJob job;
  for (auto& [id, source] : sources_) {
    if (source.busy || source.shards_left == 0 || source.not_before > now) continue;
    const ServerRecord* const record = table_->FindServer(id);
    if (record == nullptr || (chosen != nullptr && chosen->turn <= source.turn)) continue;
    chosen = &source;
    job.source = *record;
  }
  if (chosen == nullptr) return std::nullopt;
  chosen->busy = true;
  chosen->turn = ++turns_;
  job.table = table_;
  job.self = self_;
  job.shards.assign(limits::kShards, false);
  for (const uint32_t shard : pulling_) {
    if (source_of_[shard] != job.source.id || pulled_from_[shard] == job.source.id) continue;
    job.shards[shard] = true;
    ++job.shard_count;
  }
  return job;
}

Instant PullPlan::NextDue() const {
  Instant due = kForever;
  for (const auto& [id, source] : sources_) {
    if (!source.busy && source.shards_left > 0) due = std::min(due, source.not_before);
  }
  return due;
}

void PullPlan::Done(const PullJob& job) {
  if (job.self == self_) {
    for (const uint32_t shard : pulling_) {
      if (job.shards[shard] && source_of_[shard] == job.source.id)
        pulled_from_[shard] = job.source.id;
    }
  }
  if (const auto source = sources_.find(job.source.id); source != sources_.end()) {
    source->second.busy = false;
    source->second.failures = 0;
  }
  Count();
}

void PullPlan::Failed(const PullJob& job, Instant now) {
  const auto source = sources_.find(job.source.id);
  if (source == sources_.end()) return;
  source->second.busy = false;
  const auto pause = limits::kPullRetryMin * (1 << std::min<uint32_t>(source->second.failures, 8));
  source->second.not_before = now + std::min<Duration>(pause, limits::kPullRetryMax);
  ++source->second.failures;
  Count();
}

void PullPlan::NotReady(const PullJob& job, Instant now) {
  const auto source = sources_.find(job.source.id);
  if (source == sources_.end()) return;
  source->second.busy = false;
  source->second.not_before = now + limits::kPullRetryMin;
  Count();
}

std::vector<uint32_t> PullPlan::Pulled(const RouteTable& table) const {
  std::vector<uint32_t> pulled;
  for (const uint32_t shard : pulling_) {
    if (pulled_from_[shard] == kNoServer) continue;
    for (const ShardOwner& owner : table.Owners(shard)) {
      if (owner.server == self_ && owner.source == pulled_from_[shard]) pulled.push_back(shard);
    }
  }
  return pulled;
}

}  // namespace simm::dataserver
