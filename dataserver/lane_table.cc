#include "dataserver/lane_table.h"

#include <utility>

namespace simm::dataserver {

std::shared_ptr<LaneTable::Lane> LaneTable::Open(uint64_t session, std::function<void()> wake) {
  MutexLock lock(mutex_);
  const uint64_t id = next_id_++;
  auto lane = std::shared_ptr<Lane>(new Lane{id, session});
  lanes_[id] = {lane, std::move(wake), {}};
  return lane;
}

void LaneTable::Close(uint64_t lane) {
  MutexLock lock(mutex_);
  const auto it = lanes_.find(lane);
  if (it == lanes_.end()) return;
  const std::vector<uint64_t> waiters = std::move(it->second.waiters);
  lanes_.erase(it);
  for (const uint64_t waiter : waiters) {
    const auto entry = lanes_.find(waiter);
    if (entry != lanes_.end() && entry->second.wake) entry->second.wake();
  }
}

LaneTable::State LaneTable::RequestClose(uint64_t lane, const Lane& waiter) {
  MutexLock lock(mutex_);
  if (lane == waiter.id) return State::kForeign;
  const auto it = lanes_.find(lane);
  if (it == lanes_.end()) return State::kGone;
  Entry& entry = it->second;
  if (entry.lane->session != waiter.session) return State::kForeign;
  entry.waiters.push_back(waiter.id);
  entry.lane->must_close.store(true, std::memory_order_release);
  if (entry.wake) entry.wake();
  return State::kOpen;
}

bool LaneTable::IsOpen(uint64_t lane) const {
  MutexLock lock(mutex_);
  return lanes_.count(lane) > 0;
}

size_t LaneTable::size() const {
  MutexLock lock(mutex_);
  return lanes_.size();
}

}  // namespace simm::dataserver
