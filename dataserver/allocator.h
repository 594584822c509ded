#pragma once

#include <absl/container/btree_set.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "common/base/status.h"
#include "dataserver/slab.h"

namespace simm::dataserver {

inline constexpr uint32_t kNoExtent = UINT32_MAX;

// What the bytes of an extent are at this moment (DESIGN 4).
enum class ExtentState : uint8_t { kFree = 0, kGranted = 1, kLive = 2, kLimbo = 3, kPinned = 4 };
inline constexpr size_t kExtentStates = 5;

// Divides [0, bytes) into extents in address order, each free or in use; exact sizes at 64 B
// granularity. Best fit, at the lowest address among equals; free neighbours are always merged.
// Works on offsets only: no memory, no clock, no thread. Extents are named by handles that are
// stable until they are freed. Thread-compatible.
//
// Invariants: extents cover [0, bytes) without gap; no two free extents touch.
class Allocator {
 public:
  // bytes: a multiple of 64, not 0.
  explicit Allocator(uint64_t bytes);

  struct Range {
    uint64_t offset;
    uint64_t bytes;
  };
  // Once, before anything else: these ranges are in use, in state kGranted. They ascend, do not
  // overlap, are not empty and are multiples of 64. The handles, in the same order.
  std::vector<uint32_t> Restore(std::span<const Range> used);

  // An extent of exactly `bytes`, rounded up to 64, in state kGranted; kNoExtent when no free one
  // is long enough. The state of an extent in use is the owner's to change, except to kFree.
  uint32_t Allocate(uint64_t bytes);
  // Gives the extent back. Its handle, and those of its free neighbours, are no longer valid.
  void Free(uint32_t extent);

  // Whether `count` (1 or 2) allocations of `bytes` would succeed one after the other.
  bool Fits(uint64_t bytes, int count) const;
  uint64_t bytes() const { return bytes_; }
  uint64_t free_bytes() const { return free_bytes_; }
  uint64_t largest_free() const { return free_.empty() ? 0 : free_.rbegin()->units * kUnit; }
  size_t free_extents() const { return free_.size(); }
  // Free extents shorter than `below`, longest first, from where the last call ended and round
  // again; returns how many.
  size_t NextFragments(uint64_t below, std::span<uint32_t> out);
  // Handles are below this; for tables beside this one.
  uint32_t handles() const { return handles_; }

  uint64_t OffsetOf(uint32_t extent) const { return nodes_[extent].offset_units * kUnit; }
  uint64_t BytesOf(uint32_t extent) const { return nodes_[extent].units * kUnit; }
  ExtentState StateOf(uint32_t extent) const {
    return static_cast<ExtentState>(nodes_[extent].state);
  }
  void SetState(uint32_t extent, ExtentState state) {
    nodes_[extent].state = static_cast<uint8_t>(state);
  }
  // Neighbours in address order; kNoExtent at the ends.
  uint32_t Before(uint32_t extent) const { return nodes_[extent].before; }
  uint32_t After(uint32_t extent) const { return nodes_[extent].after; }
  uint32_t First() const { return first_; }

  // Walks everything; kInternal names the first broken invariant.
  Status Check() const;

 private:
  static constexpr uint64_t kUnit = 64;
  struct Node {
    uint64_t offset_units : 56;
    uint64_t state : 8;
    uint64_t units;
    uint32_t before;
    uint32_t after;  // of an unused node: the next unused one
  };
  static_assert(sizeof(Node) == 24);
  struct FreeKey {
    uint64_t units;
    uint64_t offset_units;
    uint32_t extent;
    bool operator<(const FreeKey& other) const {
      return units != other.units ? units < other.units : offset_units < other.offset_units;
    }
  };
  FreeKey KeyOf(uint32_t extent) const {
    return {nodes_[extent].units, nodes_[extent].offset_units, extent};
  }
  uint32_t NewNode();
  uint32_t Append(uint64_t units, ExtentState state, uint32_t last);
  void Drop(uint32_t extent);  // unlinks the node and keeps it for reuse

  const uint64_t bytes_;
  uint64_t free_bytes_;
  Slab<Node> nodes_;
  uint32_t handles_ = 0;
  uint32_t unused_ = kNoExtent;
  uint32_t first_ = kNoExtent;
  absl::btree_set<FreeKey> free_;
  FreeKey resume_{0, 0, kNoExtent};  // of NextFragments
};

}  // namespace simm::dataserver
