// The ways on which a peer can be reached one-sidedly, and the cap on their lanes.

#include <algorithm>
#include <utility>

#include "client/peer.h"
#include "common/base/limits.h"
#include "common/protocol/pool_layout.h"

namespace simm::client {

Peer::Way Peer::MakeWay(transport::Transport& transport, const rpc::TransportOffer& offer,
                        const rpc::HandshakeReply& reply) const {
  auto pool = std::make_shared<PoolAccess>();
  pool->view = {.bucket_count = reply.pool.bucket_count,
                .buckets_offset = reply.pool.buckets_offset,
                .index_bytes = reply.pool.index_bytes,
                .data_bytes = reply.pool.data_bytes};
  pool->overflow_offset = reply.pool.overflow_offset;
  pool->boot = reply.boot_id;
  for (const auto& chunk : offer.index)
    pool->index.chunks.push_back({chunk.offset, chunk.length, chunk.key});
  for (const auto& chunk : offer.data)
    pool->data.chunks.push_back({chunk.offset, chunk.length, chunk.key});
  pool->locations = env_.locations;
  pool->lost = lost_lanes_;
  pool->takes_reports = reply.takes_read_reports;
  if (transport.capabilities().needs_registration) {
    pool->registrar = &transport;
    pool->bounce = env_.bounce;
  }
  return {0, {}, &transport, offer.endpoint, std::move(pool)};
}

// The one-sided transports that both sides speak, with what is needed to use them.
void Peer::FindWays(Bond* bond, std::string* reason) const {
  const rpc::HandshakeReply& reply = bond->reply;
  if (env_.one_sided.empty()) {
    *reason = env_.one_sided_missing.empty() ? "chosen by --transport" : env_.one_sided_missing;
    return;
  }
  if (reply.layout != protocol::LayoutFingerprint()) {
    *reason = "the server's pool has a layout that this program does not know";
    return;
  }
  for (auto* const transport : env_.one_sided) {
    for (const rpc::TransportOffer& offer : reply.offers) {
      if (offer.transport != transport->name()) continue;
      bond->ways.push_back(MakeWay(*transport, offer, reply));
      bond->ways.back().rank = bond->ways.size();
    }
  }
  *reason = "the best that both sides speak";
  if (!bond->ways.empty()) return;
  *reason = "the server offers no other that this client speaks";
  if (!env_.one_sided_missing.empty()) *reason += "; " + env_.one_sided_missing;
}

// The way does not work from here now (another host, no rights, no memory, a link that is down):
// what is left does, and it is probed later.
void Peer::GiveUpWay(const std::shared_ptr<const PoolAccess>& pool, const Status& why) {
  MutexLock lock(mutex_);
  if (!session_) return;
  auto& ways = session_->ways;
  const auto way =
      std::find_if(ways.begin(), ways.end(), [&](const Way& w) { return w.pool == pool; });
  if (way == ways.end()) return;
  way->reason = why.message();
  failed_ways_.push_back(std::move(*way));
  ways.erase(way);
  PutOffWaysLocked(MonotonicClock::Get().Now());
  prefer_one_sided_ = !ways.empty();
}

void Peer::PutOffWaysLocked(Instant now) {
  next_way_try_ = now + way_backoff_;
  way_backoff_ = std::min<Duration>(way_backoff_ * 2, limits::kWayRetryMax);
}

// What failed in an earlier session is not walked into again by callers: a probe finds out.
void Peer::ShunFailedWaysLocked(Bond* bond) {
  std::vector<Way> failed;
  for (const Way& old : failed_ways_) {
    const auto way = std::find_if(bond->ways.begin(), bond->ways.end(),
                                  [&](const Way& w) { return w.transport == old.transport; });
    if (way == bond->ways.end()) continue;
    failed.push_back(std::move(*way));
    failed.back().reason = old.reason;
    bond->ways.erase(way);
  }
  failed_ways_ = std::move(failed);
}

// Whether a way that failed works again: a lane over it, and an echo.
void Peer::ProbeWay() {
  Bond bond;
  Way way;
  {
    MutexLock lock(mutex_);
    if (!session_ || failed_ways_.empty() || retired_) {
      probing_ = false;
      return;
    }
    bond = *session_;
    way = failed_ways_.front();
  }
  auto lane = ConnectOver(*way.transport, way.endpoint, bond, way.pool);
  const bool works = lane.ok() && (*lane)->Drain(limits::kConnectTimeout, limits::kDrainBytes);
  MutexLock lock(mutex_);
  probing_ = false;
  const auto failed = std::find_if(failed_ways_.begin(), failed_ways_.end(),
                                   [&](const Way& w) { return w.pool == way.pool; });
  if (!session_ || failed == failed_ways_.end()) return;  // another session has begun
  if (!works) {
    failed->reason = lane.ok() ? "no answer" : lane.status().message();
    std::rotate(failed, failed + 1, failed_ways_.end());
    return PutOffWaysLocked(MonotonicClock::Get().Now());
  }
  auto& ways = session_->ways;
  ways.push_back(std::move(*failed));
  failed_ways_.erase(failed);
  std::sort(ways.begin(), ways.end(), [](const Way& a, const Way& b) { return a.rank < b.rank; });
  prefer_one_sided_ = true;
  if (breaker_open_ || retired_) return;
  ++roads_[kOneSided].lanes;
  GiveLocked(std::move(*lane));
}

std::vector<std::unique_ptr<Lane>> Peer::TakeClosedIdleLocked() {
  std::vector<std::unique_ptr<Lane>> closed;
  Road& road = roads_[kOneSided];
  for (size_t i = 0; i < road.idle.size();) {
    if (road.idle[i]->connection().Progress()) {
      ++i;
      continue;
    }
    closed.push_back(std::move(road.idle[i]));
    road.idle.erase(road.idle.begin() + static_cast<ptrdiff_t>(i));
    --road.lanes;
  }
  return closed;
}

size_t Peer::OneSidedLanes() const {
  MutexLock lock(mutex_);
  return roads_[kOneSided].lanes;
}

// Lanes are taken from the back and given back there: the first one has rested longest.
std::optional<Instant> Peer::LongestUnused() const {
  MutexLock lock(mutex_);
  const auto& idle = roads_[kOneSided].idle;
  if (idle.empty()) return std::nullopt;
  return idle.front()->last_used();
}

bool Peer::CloseLongestUnused() {
  std::unique_ptr<Lane> lane;  // closed outside the lock
  MutexLock lock(mutex_);
  Road& road = roads_[kOneSided];
  if (road.idle.empty()) return false;
  lane = std::move(road.idle.front());
  road.idle.erase(road.idle.begin());
  --road.lanes;
  return true;
}

}  // namespace simm::client
