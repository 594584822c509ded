#include "dataserver/allocator.h"

#include <iterator>

#include "common/base/bytes.h"

namespace simm::dataserver {

Allocator::Allocator(uint64_t bytes) : bytes_(bytes), free_bytes_(bytes) {
  SIMM_CHECK(bytes > 0 && bytes % kUnit == 0, "a data file is a positive number of 64 B units");
  first_ = NewNode();
  nodes_[first_] = {0, 0, bytes / kUnit, kNoExtent, kNoExtent};
  free_.insert(KeyOf(first_));
}

uint32_t Allocator::NewNode() {
  if (unused_ != kNoExtent) {
    const uint32_t extent = unused_;
    unused_ = nodes_[extent].after;
    return extent;
  }
  SIMM_CHECK(handles_ != kNoExtent, "out of extent handles");
  nodes_.Reach(handles_ + 1);
  return handles_++;
}

void Allocator::Drop(uint32_t extent) {
  const Node& node = nodes_[extent];
  if (node.before != kNoExtent) nodes_[node.before].after = node.after;
  if (node.after != kNoExtent) nodes_[node.after].before = node.before;
  if (first_ == extent) first_ = node.after;
  nodes_[extent].state = static_cast<uint8_t>(ExtentState::kFree);
  nodes_[extent].units = 0;
  nodes_[extent].after = unused_;
  unused_ = extent;
}

// Behind `last`, the last one so far.
uint32_t Allocator::Append(uint64_t units, ExtentState state, uint32_t last) {
  const uint32_t extent = NewNode();
  const uint64_t at = last == kNoExtent ? 0 : nodes_[last].offset_units + nodes_[last].units;
  nodes_[extent] = {at, static_cast<uint64_t>(state), units, last, kNoExtent};
  (last == kNoExtent ? first_ : nodes_[last].after) = extent;
  if (state == ExtentState::kFree) {
    free_.insert(KeyOf(extent));
  } else {
    free_bytes_ -= units * kUnit;
  }
  return extent;
}

std::vector<uint32_t> Allocator::Restore(std::span<const Range> used) {
  SIMM_CHECK(free_bytes_ == bytes_, "restored what is in use already");
  free_.clear();
  Drop(first_);
  std::vector<uint32_t> handles;
  handles.reserve(used.size());
  uint32_t last = kNoExtent;
  uint64_t at = 0;
  for (const Range& range : used) {
    SIMM_CHECK(range.bytes > 0 && range.offset >= at && range.offset <= bytes_ &&
                   range.bytes <= bytes_ - range.offset && range.offset % kUnit == 0 &&
                   range.bytes % kUnit == 0,
               "restored ranges overlap or lie outside");
    if (range.offset > at) last = Append((range.offset - at) / kUnit, ExtentState::kFree, last);
    last = Append(range.bytes / kUnit, ExtentState::kGranted, last);
    handles.push_back(last);
    at = range.offset + range.bytes;
  }
  if (at < bytes_) Append((bytes_ - at) / kUnit, ExtentState::kFree, last);
  return handles;
}

uint32_t Allocator::Allocate(uint64_t bytes) {
  const uint64_t units = RoundUp(bytes, kUnit) / kUnit;
  if (units == 0) return kNoExtent;
  const auto found = free_.lower_bound(FreeKey{units, 0, 0});
  if (found == free_.end()) return kNoExtent;
  const uint32_t extent = found->extent;
  free_.erase(found);
  Node& node = nodes_[extent];
  if (node.units > units) {
    const uint32_t rest = NewNode();
    nodes_[rest] = {node.offset_units + units, 0, node.units - units, extent, node.after};
    if (node.after != kNoExtent) nodes_[node.after].before = rest;
    node.after = rest;
    node.units = units;
    free_.insert(KeyOf(rest));
  }
  node.state = static_cast<uint8_t>(ExtentState::kGranted);
  free_bytes_ -= units * kUnit;
  return extent;
}

void Allocator::Free(uint32_t extent) {
  Node& node = nodes_[extent];
  SIMM_CHECK(StateOf(extent) != ExtentState::kFree, "extent freed twice");
  free_bytes_ += node.units * kUnit;
  node.state = static_cast<uint8_t>(ExtentState::kFree);
  if (const uint32_t after = node.after;
      after != kNoExtent && StateOf(after) == ExtentState::kFree) {
    free_.erase(KeyOf(after));
    node.units += nodes_[after].units;
    Drop(after);
  }
  if (const uint32_t before = node.before;
      before != kNoExtent && StateOf(before) == ExtentState::kFree) {
    free_.erase(KeyOf(before));
    nodes_[before].units += node.units;
    Drop(extent);
    extent = before;
  }
  free_.insert(KeyOf(extent));
}

bool Allocator::Fits(uint64_t bytes, int count) const {
  const uint64_t units = RoundUp(bytes, kUnit) / kUnit;
  if (free_.empty()) return false;
  const auto largest = free_.rbegin();
  if (largest->units >= units * static_cast<uint64_t>(count)) return true;
  return count == 2 && largest->units >= units && free_.size() > 1 &&
         std::next(largest)->units >= units;
}

size_t Allocator::NextFragments(uint64_t below, std::span<uint32_t> out) {
  const auto end = free_.lower_bound(FreeKey{RoundUp(below, kUnit) / kUnit, 0, 0});
  if (end == free_.begin()) return 0;
  auto at = free_.lower_bound(resume_);
  if (resume_.units >= RoundUp(below, kUnit) / kUnit) at = end;
  size_t count = 0;
  while (count < out.size()) {
    if (at == free_.begin()) {
      if (count > 0) break;
      at = end;
    }
    --at;
    out[count++] = at->extent;
  }
  resume_ = *at;
  return count;
}

Status Allocator::Check() const {
  uint64_t at = 0;
  uint64_t free_units = 0;
  size_t free_seen = 0;
  uint32_t before = kNoExtent;
  for (uint32_t extent = first_; extent != kNoExtent; extent = nodes_[extent].after) {
    const Node& node = nodes_[extent];
    if (node.offset_units != at) return Status(Code::kInternal, "gap or overlap between extents");
    if (node.units == 0) return Status(Code::kInternal, "empty extent");
    if (node.before != before) return Status(Code::kInternal, "address links disagree");
    if (StateOf(extent) == ExtentState::kFree) {
      if (before != kNoExtent && StateOf(before) == ExtentState::kFree) {
        return Status(Code::kInternal, "free neighbours are not merged");
      }
      const auto found = free_.find(KeyOf(extent));
      if (found == free_.end() || found->extent != extent) {
        return Status(Code::kInternal, "free extent is not in the free set");
      }
      free_units += node.units;
      ++free_seen;
    }
    at += node.units;
    before = extent;
  }
  if (at * kUnit != bytes_) return Status(Code::kInternal, "extents do not cover the data file");
  if (free_units * kUnit != free_bytes_) return Status(Code::kInternal, "free bytes disagree");
  if (free_seen != free_.size())
    return Status(Code::kInternal, "the free set holds what is not free");
  return Status::Ok();
}

}  // namespace simm::dataserver
