#include "dataserver/lru_policy.h"

namespace simm::dataserver {

void LruPolicy::OnInsert(uint32_t extent, Instant now) {
  nodes_.Reach(extent + 1);
  Append(extent, now);
  ++size_;
}

void LruPolicy::OnInsertAged(uint32_t extent, Instant used) {
  nodes_.Reach(extent + 1);
  ++size_;
  uint32_t hotter = aged_ != kNoExtent ? aged_ : hottest_;
  uint32_t colder = hotter != kNoExtent ? nodes_[hotter].colder : kNoExtent;
  int steps = kAgedSteps;
  while (hotter != kNoExtent && nodes_[hotter].used_nanos < used.nanos && steps-- > 0) {
    colder = hotter;
    hotter = nodes_[hotter].hotter;
  }
  while (colder != kNoExtent && nodes_[colder].used_nanos > used.nanos && steps-- > 0) {
    hotter = colder;
    colder = nodes_[colder].colder;
  }
  const uint64_t use = colder != kNoExtent ? nodes_[colder].use : 0;
  nodes_[extent] = {colder, hotter, use, used.nanos};
  (colder != kNoExtent ? nodes_[colder].hotter : coldest_) = extent;
  (hotter != kNoExtent ? nodes_[hotter].colder : hottest_) = extent;
  aged_ = extent;
}

void LruPolicy::OnTouch(uint32_t extent, Instant now) {
  Unlink(extent);
  Append(extent, now);
}

void LruPolicy::OnRemove(uint32_t extent) {
  Unlink(extent);
  --size_;
}

size_t LruPolicy::Coldest(std::span<uint32_t> out) const {
  size_t count = 0;
  for (uint32_t at = coldest_; at != kNoExtent && count < out.size(); at = nodes_[at].hotter) {
    out[count++] = at;
  }
  return count;
}

double LruPolicy::Heat(uint32_t extent) const {
  const uint64_t oldest = nodes_[coldest_].use;
  if (uses_ <= oldest) return 0;
  return static_cast<double>(nodes_[extent].use - oldest) / static_cast<double>(uses_ - oldest);
}

void LruPolicy::Append(uint32_t extent, Instant now) {
  nodes_[extent] = {hottest_, kNoExtent, ++uses_, now.nanos};
  if (hottest_ != kNoExtent) nodes_[hottest_].hotter = extent;
  hottest_ = extent;
  if (coldest_ == kNoExtent) coldest_ = extent;
}

void LruPolicy::Unlink(uint32_t extent) {
  const Node& node = nodes_[extent];
  if (aged_ == extent) aged_ = node.hotter;
  (node.colder != kNoExtent ? nodes_[node.colder].hotter : coldest_) = node.hotter;
  (node.hotter != kNoExtent ? nodes_[node.hotter].colder : hottest_) = node.colder;
}

Status LruPolicy::Check() const {
  size_t seen = 0;
  uint32_t colder = kNoExtent;
  for (uint32_t at = coldest_; at != kNoExtent; at = nodes_[at].hotter) {
    if (nodes_[at].colder != colder) return Status(Code::kInternal, "LRU links disagree");
    if (colder != kNoExtent && nodes_[colder].use > nodes_[at].use) {
      return Status(Code::kInternal, "LRU list is not in the order of use");
    }
    if (++seen > size_) return Status(Code::kInternal, "LRU list is longer than its count");
    colder = at;
  }
  if (colder != hottest_ || seen != size_) return Status(Code::kInternal, "LRU count disagrees");
  return Status::Ok();
}

}  // namespace simm::dataserver
