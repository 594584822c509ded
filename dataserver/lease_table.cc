#include "dataserver/lease_table.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "common/base/check.h"
#include "common/base/limits.h"

namespace simm::dataserver {
namespace {

uint64_t Left(uint64_t limit, uint64_t used) { return limit > used ? limit - used : 0; }

}  // namespace

void LeaseTable::Charge(const LaneRef& lane, uint64_t bytes, uint64_t extents) {
  LaneBooks& books = lanes_[lane.lane];
  books.bytes += bytes;
  books.process = lane.process;
  books.tag = lane.tag;
  if (lane.process) process_bytes_[lane.process->Name()] += bytes;
  bytes_ += bytes;
  extents_ += extents;
}

void LeaseTable::DischargeProcess(const transport::PeerProcess& process, uint64_t bytes) {
  const auto it = process_bytes_.find(process.Name());
  SIMM_CHECK(it != process_bytes_.end() && it->second >= bytes, "books of a process are wrong");
  if ((it->second -= bytes) == 0) process_bytes_.erase(it);
}

void LeaseTable::Discharge(uint64_t lane, uint64_t bytes, uint64_t extents) {
  const auto it = lanes_.find(lane);
  SIMM_CHECK(it != lanes_.end() && it->second.bytes >= bytes, "books of a lane are wrong");
  it->second.bytes -= bytes;
  if (it->second.process && bytes > 0) DischargeProcess(*it->second.process, bytes);
  bytes_ -= bytes;
  extents_ -= extents;
  if (it->second.bytes == 0 && it->second.leases.empty()) lanes_.erase(it);
}

// Only what leaves room for puts that cannot wait.
uint32_t LeaseTable::AdmitAhead(const LaneRef& lane, uint64_t bytes, uint32_t ahead) {
  uint64_t n = std::min<uint64_t>(ahead, limits::kMaxLeaseExtents);
  n = std::min(n, Left(pool_bytes_ / limits::kLeaseShare, bytes_) / bytes);
  n = std::min(n, Left(max_extents_ / 2, extents_));
  if (lane.process) {
    const auto it = process_bytes_.find(lane.process->Name());
    const uint64_t used = it == process_bytes_.end() ? 0 : it->second;
    n = std::min(n, Left(pool_bytes_ / limits::kProcessAheadShare, used) / bytes);
  }
  const auto books = lanes_.find(lane.lane);
  if (books != lanes_.end() && books->second.leases.size() >= limits::kMaxLeasesPerLane / 2) n = 0;
  if (n > 0) Charge(lane, n * bytes, n);
  return static_cast<uint32_t>(n);
}

LeaseTable::Admission LeaseTable::Admit(const LaneRef& lane, uint64_t bytes, uint32_t count,
                                        uint32_t ahead) {
  MutexLock lock(mutex_);
  count -= ahead;
  if (count == 0) {
    const uint32_t n = AdmitAhead(lane, bytes, ahead);
    return {n > 0 ? Code::kOk : Code::kBusy, n};
  }
  const auto books = lanes_.find(lane.lane);
  const uint64_t held = books == lanes_.end() ? 0 : books->second.bytes;
  if (books != lanes_.end() && books->second.leases.size() >= limits::kMaxLeasesPerLane) {
    return {Code::kBusy, 0};
  }
  uint64_t n = std::min<uint64_t>(count, limits::kMaxLeaseExtents);
  if (lane.process) {
    const auto it = process_bytes_.find(lane.process->Name());
    const uint64_t used = it == process_bytes_.end() ? 0 : it->second;
    n = std::min(n, Left(pool_bytes_ / limits::kProcessShare, used) / bytes);
    if (n == 0) return {Code::kFailedPrecondition, 0};
  }
  const uint64_t in_share = Left(pool_bytes_ / limits::kLeaseShare, bytes_);
  const uint64_t own = Left(std::max(limits::kOwnLeaseBytes, bytes), held);
  uint64_t in_all = Left(pool_bytes_ / limits::kBatchShare, bytes_);
  if (bytes_ == 0) in_all = std::max(in_all, bytes);
  n = std::min(n, std::min(std::max(in_share, own), in_all) / bytes);
  n = std::min(n, Left(max_extents_, extents_));
  if (n == 0) {
    refused_ = true;
    return {Code::kBusy, 0};
  }
  Charge(lane, n * bytes, n);
  const bool all = n == count;
  if (all && ahead > 0) n += AdmitAhead(lane, bytes, ahead);
  return {Code::kOk, static_cast<uint32_t>(n)};
}

LeaseTable::Recorded LeaseTable::Record(const LaneRef& lane, const LeasedExtent& extent) {
  protocol::LeaseRecord record;
  record.generation = extent.generation;
  record.offset = extent.offset;
  record.bytes = extent.bytes;
  record.session = lane.session;
  record.lane_tag = lane.tag;
  if (lane.process) {
    record.flags = protocol::kLeaseOfMapping;
    record.owner_namespace = pid_namespace_;
    const transport::PeerProcess::Identity identity = lane.process->identity();
    record.owner_pid = identity.pid;
    record.owner_start_time = identity.start_time;
  }
  return {extent, records_.Write(record)};
}

LeasedExtent LeaseTable::Unrecord(const Recorded& recorded) {
  records_.Clear(recorded.record);
  return recorded.extent;
}

uint64_t LeaseTable::Fill(const LaneRef& lane, uint64_t bytes, uint32_t admitted,
                          std::span<const LeasedExtent> granted, Instant now) {
  MutexLock lock(mutex_);
  uint64_t id = 0;
  if (!granted.empty()) {
    id = ++last_lease_;
    Lease& lease = leases_[id];
    lease.lane = lane.lane;
    lease.bytes = bytes;
    for (const LeasedExtent& extent : granted)
      lease.extents[extent.generation] = Record(lane, extent);
    lease.touched = now;
    lease.beyond_share = bytes_ > pool_bytes_ / limits::kLeaseShare;
    lanes_[lane.lane].leases.insert(id);
  }
  const uint64_t unused = admitted - granted.size();
  Discharge(lane.lane, unused * bytes, unused);
  return id;
}

void LeaseTable::Touch(Lease& lease, Instant now) {
  lease.touched = now;
  lease.recalled = false;
  lease.recall_sent = {};
}

void LeaseTable::DropIfEmpty(std::map<uint64_t, Lease>::iterator it) {
  if (!it->second.extents.empty()) return;
  const auto books = lanes_.find(it->second.lane);
  books->second.leases.erase(it->first);
  if (books->second.bytes == 0 && books->second.leases.empty()) lanes_.erase(books);
  leases_.erase(it);
}

LeaseTable::Held LeaseTable::Take(uint64_t lane, uint64_t lease, uint64_t generation,
                                  uint64_t offset, Instant now, LeasedExtent* out) {
  MutexLock lock(mutex_);
  const auto it = leases_.find(lease);
  if (it == leases_.end() || it->second.lane != lane) return Held::kNone;
  const auto extent = it->second.extents.find(generation);
  if (extent == it->second.extents.end()) return Held::kNone;
  if (extent->second.extent.offset != offset) return Held::kMismatch;
  *out = Unrecord(extent->second);
  it->second.extents.erase(extent);
  Touch(it->second, now);
  Discharge(lane, out->bytes, 1);
  DropIfEmpty(it);
  return Held::kHeld;
}

bool LeaseTable::Plausible(const protocol::LeaseRange& range) const {
  return range.extent_bytes != 0 && range.count != 0 &&
         range.extent_bytes % protocol::kExtentAlign == 0 &&
         range.offset % protocol::kExtentAlign == 0 && range.extent_bytes <= pool_bytes_ &&
         range.offset <= pool_bytes_ &&
         range.count <= (pool_bytes_ - range.offset) / range.extent_bytes &&
         range.first_generation <= UINT64_MAX - range.count;
}

Result<std::vector<LeasedExtent>> LeaseTable::TakeRanges(
    uint64_t lane, uint64_t lease, std::span<const protocol::LeaseRange> ranges, Instant now) {
  const Status garbage(Code::kProtocolError, "return of ranges that were never leased");
  MutexLock lock(mutex_);
  if (lease == 0 || lease > last_lease_) return garbage;
  for (const protocol::LeaseRange& range : ranges) {
    if (!Plausible(range)) return garbage;
  }
  const auto it = leases_.find(lease);
  std::vector<LeasedExtent> taken;
  if (it == leases_.end()) return taken;  // all of it has been committed
  if (it->second.lane != lane) return garbage;
  auto& extents = it->second.extents;
  for (const protocol::LeaseRange& range : ranges) {
    const uint64_t end = range.first_generation + range.count;
    for (auto at = extents.lower_bound(range.first_generation);
         at != extents.end() && at->first < end; ++at) {
      const uint64_t offset =
          range.offset + (at->first - range.first_generation) * range.extent_bytes;
      const LeasedExtent& extent = at->second.extent;
      if (range.extent_bytes != extent.bytes || offset != extent.offset) return garbage;
    }
  }
  for (const protocol::LeaseRange& range : ranges) {
    const uint64_t end = range.first_generation + range.count;
    for (auto at = extents.lower_bound(range.first_generation);
         at != extents.end() && at->first < end;) {
      taken.push_back(Unrecord(at->second));
      at = extents.erase(at);
    }
  }
  Touch(it->second, now);
  if (!taken.empty()) Discharge(lane, taken.size() * it->second.bytes, taken.size());
  DropIfEmpty(it);
  return taken;
}

std::vector<LeaseTable::Recorded> LeaseTable::TakeLeases(LaneBooks& books) {
  std::vector<Recorded> extents;
  for (const uint64_t id : books.leases) {
    const auto it = leases_.find(id);
    for (const auto& [generation, recorded] : it->second.extents) extents.push_back(recorded);
    leases_.erase(it);
  }
  books.leases.clear();
  return extents;
}

bool LeaseTable::TakeDisowned(const std::string& process, uint64_t tag) {
  const auto it = std::find(disowned_.begin(), disowned_.end(), std::pair(process, tag));
  if (it == disowned_.end()) return false;
  disowned_.erase(it);
  return true;
}

std::vector<LeasedExtent> LeaseTable::EndLane(const LaneRef& lane) {
  MutexLock lock(mutex_);
  std::vector<LeasedExtent> ended;
  const auto books = lanes_.find(lane.lane);
  if (books == lanes_.end()) return ended;
  const uint64_t tag = books->second.tag;
  const bool disowned = lane.process && TakeDisowned(lane.process->Name(), tag);
  std::vector<Recorded> extents = TakeLeases(books->second);
  uint64_t bytes = 0;
  for (const Recorded& recorded : extents) bytes += recorded.extent.bytes;
  if (!lane.process || disowned) {
    for (const Recorded& recorded : extents) ended.push_back(Unrecord(recorded));
    Discharge(lane.lane, bytes, extents.size());
    return ended;
  }
  // Still charged to process and pool.
  lanes_.erase(books);
  if (extents.empty()) return ended;
  orphan_bytes_ += bytes;
  orphans_.push_back({tag, lane.process, std::move(extents)});
  return ended;
}

void LeaseTable::Adopt(
    std::span<const AdoptedGrant> grants,
    const std::function<std::shared_ptr<transport::PeerProcess>(const protocol::LeaseRecord&)>&
        owner) {
  MutexLock lock(mutex_);
  std::map<std::pair<std::string, uint64_t>, Orphans*> known;
  for (const AdoptedGrant& grant : grants) {
    const std::shared_ptr<transport::PeerProcess> process = owner(grant.record);
    Orphans*& orphans = known[{process->Name(), grant.record.lane_tag}];
    if (orphans == nullptr) {
      orphans = &orphans_.emplace_back(Orphans{grant.record.lane_tag, process, {}});
    }
    orphans->extents.push_back({grant.extent, grant.number});
    process_bytes_[process->Name()] += grant.extent.bytes;
    bytes_ += grant.extent.bytes;
    orphan_bytes_ += grant.extent.bytes;
    ++extents_;
  }
}

void LeaseTable::TakeOrphans(const Orphans& orphans, std::vector<LeasedExtent>* taken) {
  uint64_t bytes = 0;
  for (const Recorded& recorded : orphans.extents) {
    bytes += recorded.extent.bytes;
    taken->push_back(Unrecord(recorded));
  }
  DischargeProcess(*orphans.process, bytes);
  bytes_ -= bytes;
  orphan_bytes_ -= bytes;
  extents_ -= orphans.extents.size();
}

std::vector<LeasedExtent> LeaseTable::Disown(const LaneRef& sender, uint64_t tag) {
  MutexLock lock(mutex_);
  std::vector<LeasedExtent> taken;
  if (tag == 0) {
    const auto books = lanes_.find(sender.lane);
    if (books == lanes_.end()) return taken;
    const std::vector<Recorded> extents = TakeLeases(books->second);
    uint64_t bytes = 0;
    for (const Recorded& recorded : extents) {
      bytes += recorded.extent.bytes;
      taken.push_back(Unrecord(recorded));
    }
    Discharge(sender.lane, bytes, extents.size());
    return taken;
  }
  if (!sender.process) return taken;
  const std::string name = sender.process->Name();
  for (auto it = orphans_.begin(); it != orphans_.end(); ++it) {
    if (it->tag != tag || it->process->Name() != name) continue;
    TakeOrphans(*it, &taken);
    orphans_.erase(it);
    return taken;
  }
  // Its lane has not ended here yet; what was asked on it may not even have been read.
  if (disowned_.size() == limits::kMaxDisowned) disowned_.pop_front();
  disowned_.emplace_back(name, tag);
  return taken;
}

std::vector<LeasedExtent> LeaseTable::TakeEnded() {
  // Asked outside the lock: each answer is a system call.
  std::vector<std::shared_ptr<transport::PeerProcess>> asked;
  {
    MutexLock lock(mutex_);
    for (const Orphans& orphans : orphans_) {  // no more than there are extents
      if (asked.empty() || asked.back() != orphans.process) asked.push_back(orphans.process);
    }
  }
  std::erase_if(asked, [](const auto& process) { return !process->Ended(); });
  std::vector<LeasedExtent> taken;
  if (asked.empty()) return taken;
  MutexLock lock(mutex_);
  for (auto it = orphans_.begin(); it != orphans_.end();) {
    if (std::find(asked.begin(), asked.end(), it->process) == asked.end()) {
      ++it;
      continue;
    }
    TakeOrphans(*it, &taken);
    it = orphans_.erase(it);
  }
  return taken;
}

void LeaseTable::StartRecalls(Instant now, bool pressure) {
  MutexLock lock(mutex_);
  const uint64_t share = pool_bytes_ / limits::kLeaseShare;
  if (!pressure && !refused_ && bytes_ <= share) return;
  const Duration idle = pressure ? Duration(limits::kLeaseIdleShort) : limits::kLeaseIdle;
  // {within the share, touched, id}
  std::vector<std::tuple<bool, Instant, uint64_t>> candidates;
  for (const auto& [id, lease] : leases_) {
    if (lease.recalled || now - lease.touched < idle) continue;
    candidates.emplace_back(!lease.beyond_share, lease.touched, id);
  }
  std::sort(candidates.begin(), candidates.end());
  uint64_t left = Left(bytes_, orphan_bytes_);
  size_t marked = 0;
  for (const auto& [within, touched, id] : candidates) {
    if (marked == limits::kMaxRecallsPerTick) break;
    if (!pressure && !refused_ && left <= share) break;
    Lease& lease = leases_[id];
    lease.recalled = true;
    left -= std::min<uint64_t>(left, lease.extents.size() * lease.bytes);
    ++marked;
  }
  refused_ = false;
}

std::vector<uint64_t> LeaseTable::TakeRecalls(uint64_t lane, Instant now) {
  MutexLock lock(mutex_);
  std::vector<uint64_t> recalls;
  const auto books = lanes_.find(lane);
  if (books == lanes_.end()) return recalls;
  for (const uint64_t id : books->second.leases) {
    Lease& lease = leases_[id];
    if (!lease.recalled || lease.recall_sent.nanos != 0) continue;
    lease.recall_sent = now;
    recalls.push_back(id);
  }
  return recalls;
}

bool LeaseTable::Overdue(uint64_t lane, Instant now) const {
  MutexLock lock(mutex_);
  const auto books = lanes_.find(lane);
  if (books == lanes_.end()) return false;
  return std::any_of(books->second.leases.begin(), books->second.leases.end(),
                     [&](uint64_t id) SIMM_NO_THREAD_SAFETY {
                       const Lease& lease = leases_.at(id);
                       return lease.recalled && lease.recall_sent.nanos != 0 &&
                              now - lease.recall_sent >= limits::kRecallAnswer;
                     });
}

LeaseTable::Totals LeaseTable::totals() const {
  MutexLock lock(mutex_);
  return {bytes_, extents_, orphan_bytes_, leases_.size()};
}

}  // namespace simm::dataserver
