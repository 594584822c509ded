#pragma once

#include "dataserver/allocator.h"
#include "dataserver/eviction_policy.h"
#include "dataserver/slab.h"

namespace simm::dataserver {

// Least recently used first; an insertion is a use. Heat is linear in the number of uses since, so
// that it does not depend on how fast the clock goes.
class LruPolicy final : public EvictionPolicy {
 public:
  void OnInsert(uint32_t extent, Instant now) override;
  void OnTouch(uint32_t extent, Instant now) override;
  void OnRemove(uint32_t extent) override;
  size_t Coldest(std::span<uint32_t> out) const override;
  double Heat(uint32_t extent) const override;
  Instant LastUse(uint32_t extent) const override { return {nodes_[extent].used_nanos}; }
  size_t size() const override { return size_; }
  Status Check() const override;

 private:
  struct Node {
    uint32_t colder;
    uint32_t hotter;
    uint64_t use;  // number of the last use
    int64_t used_nanos;
  };
  void Append(uint32_t extent, Instant now);
  void Unlink(uint32_t extent);

  Slab<Node> nodes_;
  uint32_t coldest_ = kNoExtent;
  uint32_t hottest_ = kNoExtent;
  size_t size_ = 0;
  uint64_t uses_ = 0;
};

}  // namespace simm::dataserver
