#include "dataserver/expiry_queue.h"

#include "common/base/check.h"

namespace simm::dataserver {

void ExpiryQueue::Put(uint32_t at, const Node& node) {
  heap_[at] = node;
  places_[node.extent] = at + 1;
}

// Puts the node where it belongs, from the hole at `at`, upwards or downwards.
void ExpiryQueue::Settle(uint32_t at, const Node& node) {
  while (at > 0) {
    const uint32_t up = (at - 1) / 2;
    if (heap_[up].at_ms <= node.at_ms) break;
    Put(at, heap_[up]);
    at = up;
  }
  for (;;) {
    uint32_t down = 2 * at + 1;
    if (down >= size_) break;
    if (down + 1 < size_ && heap_[down + 1].at_ms < heap_[down].at_ms) ++down;
    if (node.at_ms <= heap_[down].at_ms) break;
    Put(at, heap_[down]);
    at = down;
  }
  Put(at, node);
}

void ExpiryQueue::Add(uint32_t extent, uint64_t at_ms) {
  SIMM_CHECK(PlaceOf(extent) == 0, "an entry expires twice");
  if (extent >= reach_) places_.Reach(reach_ = extent + 1);
  heap_.Reach(size_ + 1);
  ++size_;
  Settle(size_ - 1, {at_ms, extent});
}

void ExpiryQueue::Remove(uint32_t extent) {
  const uint32_t place = PlaceOf(extent);
  if (place == 0) return;
  places_[extent] = 0;
  --size_;
  if (place - 1 != size_) Settle(place - 1, Node(heap_[size_]));
}

uint32_t ExpiryQueue::Due(uint64_t now_ms) const {
  return size_ > 0 && heap_[0].at_ms <= now_ms ? heap_[0].extent : kNoExtent;
}

Status ExpiryQueue::Check() const {
  for (uint32_t i = 0; i < size_; ++i) {
    if (PlaceOf(heap_[i].extent) != i + 1)
      return Status(Code::kInternal, "the expiry queue has lost an entry's place");
    if (i > 0 && heap_[(i - 1) / 2].at_ms > heap_[i].at_ms)
      return Status(Code::kInternal, "the expiry queue is out of order");
  }
  size_t placed = 0;
  for (uint32_t extent = 0; extent < reach_; ++extent) placed += places_[extent] != 0;
  if (placed != size_) return Status(Code::kInternal, "the expiry queue's places do not add up");
  return Status::Ok();
}

}  // namespace simm::dataserver
