#pragma once

#include <cstddef>
#include <cstdint>

#include "common/base/status.h"
#include "dataserver/allocator.h"
#include "dataserver/slab.h"

namespace simm::dataserver {

// When entries expire, the next first: a heap that knows where each entry is in it, so that one
// that goes before its time leaves nothing behind. Entries are named by the handles of their
// extents; those that never expire cost nothing. Add and Remove take O(log n); growth copies
// nothing. Pure. Thread-compatible.
class ExpiryQueue {
 public:
  // Not in the queue yet.
  void Add(uint32_t extent, uint64_t at_ms);
  // Nothing happens if it is not there.
  void Remove(uint32_t extent);
  // The entry that expires first, if it does so at `now_ms` or before; else kNoExtent.
  uint32_t Due(uint64_t now_ms) const;
  size_t size() const { return size_; }

  // Walks everything; kInternal names the first broken invariant.
  Status Check() const;

 private:
  struct Node {
    uint64_t at_ms;
    uint32_t extent;
  };
  // Place in the heap + 1; 0: not there.
  uint32_t PlaceOf(uint32_t extent) const { return extent < reach_ ? places_[extent] : 0; }
  void Put(uint32_t at, const Node& node);
  void Settle(uint32_t at, const Node& node);

  Slab<Node> heap_;
  Slab<uint32_t> places_;  // by extent
  uint32_t reach_ = 0;     // of places_
  uint32_t size_ = 0;
};

}  // namespace simm::dataserver
