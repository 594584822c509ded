#include "client/lease_keeper.h"

#include <algorithm>

namespace simm::client {
namespace {

// One message holds so many ranges.
void Append(LeaseKeeper::Returns& returns, const GrantedExtent& extent) {
  protocol::ReturnRequest* request = nullptr;
  for (protocol::ReturnRequest& known : returns) {
    if (known.lease == extent.lease && known.ranges.size() < protocol::kMaxLeaseRanges)
      request = &known;
  }
  if (request == nullptr) {
    request = &returns.emplace_back();
    request->lease = extent.lease;
  }
  request->ranges.push_back({.offset = extent.offset,
                             .first_generation = extent.generation,
                             .extent_bytes = extent.bytes,
                             .count = 1});
}

}  // namespace

const LeaseKeeper::Size* LeaseKeeper::Find(uint64_t bytes) const {
  const auto it = std::find_if(sizes_.begin(), sizes_.end(),
                               [&](const Size& size) { return size.bytes == bytes; });
  return it == sizes_.end() ? nullptr : &*it;
}

LeaseKeeper::Size* LeaseKeeper::Find(uint64_t bytes) {
  return const_cast<Size*>(static_cast<const LeaseKeeper*>(this)->Find(bytes));
}

LeaseKeeper::Size* LeaseKeeper::FindOrAdd(uint64_t bytes) {
  if (Size* const known = Find(bytes)) return known;
  if (sizes_.size() < kSizes) {
    sizes_.push_back({.bytes = bytes});
    return &sizes_.back();
  }
  Size* oldest = nullptr;
  for (Size& size : sizes_) {
    if (!size.idle.empty() || size.awaited > 0) continue;
    if (oldest == nullptr || size.used < oldest->used) oldest = &size;
  }
  if (oldest != nullptr) *oldest = {.bytes = bytes};
  return oldest;
}

std::optional<GrantedExtent> LeaseKeeper::Take(uint64_t bytes) {
  Size* const size = Find(bytes);
  if (size == nullptr || size->idle.empty()) return std::nullopt;
  const GrantedExtent extent = size->idle.back();
  size->idle.pop_back();
  idle_bytes_ -= bytes;
  return extent;
}

bool LeaseKeeper::Keep(const GrantedExtent& extent, Instant now) {
  Size* const size = FindOrAdd(extent.bytes);
  if (size == nullptr) return false;
  if (size->used.nanos == 0) size->used = now;
  size->idle.push_back(extent);
  idle_bytes_ += extent.bytes;
  return true;
}

size_t LeaseKeeper::Idle(uint64_t bytes) const {
  const Size* const size = Find(bytes);
  return size == nullptr ? 0 : size->idle.size();
}

bool LeaseKeeper::Awaiting(uint64_t bytes) const {
  const Size* const size = Find(bytes);
  return size != nullptr && size->awaited > 0;
}

protocol::LeaseRequest LeaseKeeper::Refill(uint64_t bytes, uint32_t used, uint32_t next,
                                           Instant now) {
  protocol::LeaseRequest request;
  request.extent_bytes = bytes;
  Size* const size = FindOrAdd(bytes);
  if (size == nullptr) return request;
  const bool regular = size->used.nanos != 0 && now - size->used < limits::kLeaseIdle;
  const bool refused = size->refused.nanos != 0 && now - size->refused < limits::kAheadPause;
  size->used = now;
  const auto small = static_cast<uint32_t>(
      std::clamp<uint64_t>(limits::kAheadBytes / bytes, 1, limits::kMaxKeysPerMessage));
  size->goal =
      regular && !refused ? std::min(std::max(2 * size->goal, used), std::max(used, small)) : 0;
  uint64_t others = idle_bytes_ - size->idle.size() * bytes;
  for (const Ask& ask : asked_) others += ask.bytes == bytes ? 0 : ask.count * ask.bytes;
  const uint64_t room =
      limits::kIdleLeaseBytes > others ? (limits::kIdleLeaseBytes - others) / bytes : 0;
  const auto goal = static_cast<uint32_t>(std::min<uint64_t>(size->goal, room));
  const auto have = static_cast<uint32_t>(size->idle.size()) + size->awaited;
  // Half of it is enough: not a LEASE for each small put.
  const uint32_t ahead = have * 2 <= goal ? goal : 0;
  const uint32_t want = std::max(ahead, next);
  if (have >= want) return request;
  request.count = want - have;
  request.ahead = want - std::max(have, next);
  return request;
}

void LeaseKeeper::Asked(uint64_t request_id, const protocol::LeaseRequest& request) {
  asked_.push_back({request_id, request.extent_bytes, request.count});
  if (Size* const size = FindOrAdd(request.extent_bytes)) size->awaited += request.count;
}

bool LeaseKeeper::Awaits(uint64_t request_id) const {
  return std::any_of(asked_.begin(), asked_.end(),
                     [&](const Ask& ask) { return ask.request_id == request_id; });
}

Status LeaseKeeper::OnReply(uint64_t request_id, const protocol::LeaseReply& reply, Instant now) {
  const auto it = std::find_if(asked_.begin(), asked_.end(),
                               [&](const Ask& ask) { return ask.request_id == request_id; });
  if (it == asked_.end()) return Status(Code::kProtocolError, "a lease that nobody asked for");
  const Ask ask = *it;
  asked_.erase(it);
  Size* const size = Find(ask.bytes);
  if (size == nullptr) return Status(Code::kInternal, "a size was forgotten while it was awaited");
  size->awaited -= ask.count;
  uint64_t got = 0;
  for (const protocol::LeaseRange& range : reply.ranges) {
    got += range.count;
    if (range.extent_bytes != ask.bytes || got > ask.count)
      return Status(Code::kProtocolError, "data server answered with a lease of another size");
    for (uint32_t i = 0; i < range.count; ++i) {
      size->idle.push_back({.lease = reply.lease,
                            .offset = range.offset + i * range.extent_bytes,
                            .generation = range.first_generation + i,
                            .bytes = ask.bytes});
    }
  }
  idle_bytes_ += got * ask.bytes;
  if (got < ask.count) size->refused = now;
  return Status::Ok();
}

template <typename Wanted>
LeaseKeeper::Returns LeaseKeeper::TakeIf(Wanted wanted) {
  Returns returns;
  for (Size& size : sizes_) {
    std::erase_if(size.idle, [&](const GrantedExtent& extent) {
      if (!wanted(size, extent)) return false;
      Append(returns, extent);
      idle_bytes_ -= extent.bytes;
      return true;
    });
  }
  return returns;
}

LeaseKeeper::Returns LeaseKeeper::TakeLease(uint64_t lease) {
  return TakeIf([&](const Size&, const GrantedExtent& extent) { return extent.lease == lease; });
}

LeaseKeeper::Returns LeaseKeeper::TakeUnused(Instant now) {
  return TakeIf([&](const Size& size, const GrantedExtent&) {
    return now - size.used >= limits::kLeaseIdle;
  });
}

LeaseKeeper::Returns LeaseKeeper::TakeAll() {
  return TakeIf([](const Size&, const GrantedExtent&) { return true; });
}

}  // namespace simm::client
