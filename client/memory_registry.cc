#include "client/memory_registry.h"

#include <algorithm>
#include <iterator>

#include "common/base/log.h"

namespace simm::client {

bool MemoryRegistry::OverlapsLocked(uintptr_t begin, size_t size) const {
  const auto after = ranges_.lower_bound(begin);
  if (after != ranges_.end() && after->first - begin < size) return true;
  if (after == ranges_.begin()) return false;
  const auto before = std::prev(after);
  return begin - before->first < before->second.size;
}

Result<MemoryHandle> MemoryRegistry::Register(void* data, size_t size) {
  if (data == nullptr || size == 0) return Status(Code::kInvalidArgument, "no memory to register");
  const auto begin = reinterpret_cast<uintptr_t>(data);
  const Status overlap(Code::kInvalidArgument,
                       "the memory overlaps a registered range: deregister that one first");
  {
    MutexLock lock(mutex_);
    if (OverlapsLocked(begin, size)) return overlap;
  }
  // Pinning takes some 0.2 s per GiB: without the lock, which every call takes.
  std::unique_ptr<transport::LocalRegion> region;
  if (registrar_ != nullptr) {
    auto registered =
        registrar_->Register({static_cast<std::byte*>(data), size}, transport::kLocalOnly);
    if (registered.ok()) {
      region = std::move(*registered);
    } else if (required_) {
      return registered.status();
    } else {
      SIMM_LOG_WARN("{}: its values will be copied through bounce buffers",
                    registered.status().message());
    }
  }
  MutexLock lock(mutex_);
  if (OverlapsLocked(begin, size)) return overlap;
  Range& range = ranges_[begin];
  range.id = ++last_id_;
  range.size = size;
  bytes_ += size;
  range.region = std::move(region);
  return MemoryHandle{range.id};
}

Status MemoryRegistry::Deregister(MemoryHandle handle) {
  Range gone;  // deregistered outside the lock
  MutexLock lock(mutex_);
  const auto it = std::find_if(ranges_.begin(), ranges_.end(),
                               [&](const auto& entry) { return entry.second.id == handle.id; });
  if (it == ranges_.end()) return Status(Code::kInvalidArgument, "unknown memory handle");
  if (it->second.users > 0) {
    return Status(Code::kFailedPrecondition,
                  "operations on this memory are in flight: wait for them first");
  }
  gone = std::move(it->second);
  bytes_ -= gone.size;
  ranges_.erase(it);
  return Status::Ok();
}

MemoryRegistry::Use MemoryRegistry::BeginUse(const void* data, size_t size) {
  const auto begin = reinterpret_cast<uintptr_t>(data);
  MutexLock lock(mutex_);
  auto it = ranges_.upper_bound(begin);
  if (it == ranges_.begin()) return {};
  --it;
  if (begin - it->first > it->second.size || size > it->second.size - (begin - it->first)) {
    return {};
  }
  ++it->second.users;
  return {it->second.id, it->second.region.get()};
}

void MemoryRegistry::EndUse(uint64_t id) {
  if (id == 0) return;
  MutexLock lock(mutex_);
  for (auto& [begin, range] : ranges_) {
    if (range.id == id) --range.users;
  }
}

uint64_t MemoryRegistry::bytes() const {
  MutexLock lock(mutex_);
  return bytes_;
}

bool MemoryRegistry::empty() const {
  MutexLock lock(mutex_);
  return ranges_.empty();
}

}  // namespace simm::client
