#pragma once

#include "dataserver/allocator.h"
#include "dataserver/eviction_policy.h"
#include "dataserver/slab.h"

namespace simm::dataserver {

// Least recently used first; an insertion is a use. Heat is linear in the number of uses since, so
// that it does not depend on how fast the clock goes. Aged entries come hottest first: the place of
// each is looked for from that of the one before, at most kAgedSteps away.
class LruPolicy final : public EvictionPolicy {
 public:
  void OnInsert(uint32_t extent, Instant now) override;
  void OnInsertAged(uint32_t extent, Instant used) override;
  void OnTouch(uint32_t extent, Instant now) override;
  void OnRemove(uint32_t extent) override;
  size_t Coldest(std::span<uint32_t> out) const override;
  double Heat(uint32_t extent) const override;
  Instant LastUse(uint32_t extent) const override { return {nodes_[extent].used_nanos}; }
  uint64_t Rank(uint32_t extent) const override { return nodes_[extent].use; }
  size_t size() const override { return size_; }
  Status Check() const override;

 private:
  // At about 100 ns a step (each a cache miss), 50 us.
  static constexpr int kAgedSteps = 512;
  struct Node {
    uint32_t colder;
    uint32_t hotter;
    uint64_t use;  // number of the last use; an aged entry has its colder neighbour's
    int64_t used_nanos;
  };
  void Append(uint32_t extent, Instant now);
  void Unlink(uint32_t extent);

  Slab<Node> nodes_;
  uint32_t coldest_ = kNoExtent;
  uint32_t hottest_ = kNoExtent;
  uint32_t aged_ = kNoExtent;  // where the last aged entry was put, or the entry hotter than that
  size_t size_ = 0;
  uint64_t uses_ = 0;
};

}  // namespace simm::dataserver
