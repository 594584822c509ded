#include "client/read_news.h"

#include <algorithm>
#include <utility>

#include "common/base/limits.h"

namespace simm::client {

void ReadNews::Touch(const protocol::SlotTouch& touch, Instant now) {
  protocol::SlotTouch& recent = recent_[touch.slot % recent_.size()];
  if (recent.slot == touch.slot && recent.generation == touch.generation) return;
  recent = touch;
  if (pending_.empty()) oldest_ = now;
  if (pending_.size() == kMostPending) pending_.pop_front();
  pending_.push_back(touch);
}

bool ReadNews::Due(Instant now) {
  if (HasTotals()) {
    if (counting_since_ == Instant{}) counting_since_ = now;
    if (now - counting_since_ >= limits::kReadReport) return true;
  }
  if (pending_.empty() || now - last_sent_ < kMinInterval) return false;
  return pending_.size() >= protocol::kMaxSlotTouches || now - oldest_ >= kMaxAge;
}

ByteSpan ReadNews::Take(Instant now, protocol::MessageBuffer& out) {
  const auto end = pending_.begin() +
                   static_cast<ptrdiff_t>(std::min(pending_.size(), protocol::kMaxSlotTouches));
  std::vector<protocol::SlotTouch> touches(pending_.begin(), end);
  pending_.erase(pending_.begin(), end);
  recent_.fill({});
  oldest_ = last_sent_ = now;
  if (!HasTotals()) return protocol::Encode(protocol::TouchSlots{std::move(touches)}, out);
  counting_since_ = {};
  return protocol::Encode(protocol::ReadReport{std::exchange(totals_, {}), std::move(touches)},
                          out);
}

}  // namespace simm::client
