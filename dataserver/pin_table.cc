#include "dataserver/pin_table.h"

#include "common/base/limits.h"

namespace simm::dataserver {

PinTable::Added PinTable::Add(uint64_t session, const PinnedValue& pinned, Instant until) {
  MutexLock lock(mutex_);
  const Key key = {session, pinned.generation};
  if (const auto it = by_key_.find(key); it != by_key_.end()) {
    it->second->until = until;
    pins_.splice(pins_.end(), pins_, it->second);
    return Added::kExtended;
  }
  const uint64_t bytes = RoundUp(pinned.head.size() + pinned.value.size(), protocol::kExtentAlign);
  if (bytes > share_bytes_ - bytes_ || pins_.size() >= limits::kMaxPins) return Added::kRefused;
  bytes_ += bytes;
  by_key_[key] = pins_.insert(pins_.end(), {session, pinned, until, bytes});
  return Added::kHeld;
}

std::vector<PinnedValue> PinTable::TakeEnded(Instant now) {
  std::vector<PinnedValue> ended;
  MutexLock lock(mutex_);
  while (!pins_.empty() && pins_.front().until <= now) {
    const Pin& pin = pins_.front();
    bytes_ -= pin.bytes;
    by_key_.erase({pin.session, pin.pinned.generation});
    ended.push_back(pin.pinned);
    pins_.pop_front();
  }
  return ended;
}

std::vector<PinnedValue> PinTable::TakeOf(const std::function<bool(uint64_t session)>& ended) {
  std::vector<PinnedValue> taken;
  MutexLock lock(mutex_);
  for (auto it = pins_.begin(); it != pins_.end();) {
    if (!ended(it->session)) {
      ++it;
      continue;
    }
    bytes_ -= it->bytes;
    by_key_.erase({it->session, it->pinned.generation});
    taken.push_back(it->pinned);
    it = pins_.erase(it);
  }
  return taken;
}

std::vector<PinnedValue> PinTable::TakeAll() { return TakeEnded(kForever); }

uint64_t PinTable::bytes() const {
  MutexLock lock(mutex_);
  return bytes_;
}

size_t PinTable::size() const {
  MutexLock lock(mutex_);
  return pins_.size();
}

}  // namespace simm::dataserver
