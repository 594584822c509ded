#include "client/memory_registry.h"

#include <algorithm>
#include <iterator>

namespace simm::client {

Result<MemoryHandle> MemoryRegistry::Register(void* data, size_t size) {
  if (data == nullptr || size == 0) return Status(Code::kInvalidArgument, "no memory to register");
  const auto begin = reinterpret_cast<uintptr_t>(data);
  MutexLock lock(mutex_);
  const auto after = ranges_.lower_bound(begin);
  const bool overlaps_after = after != ranges_.end() && after->first - begin < size;
  const bool overlaps_before =
      after != ranges_.begin() && begin - std::prev(after)->first < std::prev(after)->second.size;
  if (overlaps_after || overlaps_before) {
    return Status(Code::kInvalidArgument,
                  "the memory overlaps a registered range: deregister that one first");
  }
  auto region = transport_.Register({static_cast<std::byte*>(data), size}, transport::kLocalOnly);
  if (!region.ok()) return region.status();
  Range& range = ranges_[begin];
  range.id = ++last_id_;
  range.size = size;
  range.region = std::move(*region);
  return MemoryHandle{range.id};
}

Status MemoryRegistry::Deregister(MemoryHandle handle) {
  MutexLock lock(mutex_);
  const auto it = std::find_if(ranges_.begin(), ranges_.end(),
                               [&](const auto& entry) { return entry.second.id == handle.id; });
  if (it == ranges_.end()) return Status(Code::kInvalidArgument, "unknown memory handle");
  if (it->second.users > 0) {
    return Status(Code::kFailedPrecondition,
                  "operations on this memory are in flight: wait for them first");
  }
  ranges_.erase(it);
  return Status::Ok();
}

uint64_t MemoryRegistry::Use(const void* data, size_t size) {
  const auto begin = reinterpret_cast<uintptr_t>(data);
  MutexLock lock(mutex_);
  auto it = ranges_.upper_bound(begin);
  if (it == ranges_.begin()) return 0;
  --it;
  if (begin - it->first + size > it->second.size) return 0;
  ++it->second.users;
  return it->second.id;
}

void MemoryRegistry::Unuse(uint64_t id) {
  if (id == 0) return;
  MutexLock lock(mutex_);
  for (auto& [begin, range] : ranges_) {
    if (range.id == id) --range.users;
  }
}

bool MemoryRegistry::empty() const {
  MutexLock lock(mutex_);
  return ranges_.empty();
}

}  // namespace simm::client
