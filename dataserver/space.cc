#include "dataserver/space.h"

#include <algorithm>

#include "common/base/bytes.h"
#include "common/protocol/pool_layout.h"

namespace simm::dataserver {

namespace {
// Losing any entry costs something, however cold: without it the coldest would be free of charge
// and its size and neighbours would not count.
constexpr double kLeastCost = 0.1;
// A sweep that has found a run looks this much further for a cheaper one.
constexpr uint32_t kSweepFurther = 4096;
}  // namespace

Space::Space(uint64_t data_bytes, EvictionPolicy& policy)
    : allocator_(data_bytes), policy_(policy) {
  records_.Reach(allocator_.handles());
}

void Space::Move(uint32_t extent, ExtentState to) {
  const uint64_t bytes = allocator_.BytesOf(extent);
  bytes_in_[static_cast<size_t>(allocator_.StateOf(extent))] -= bytes;
  bytes_in_[static_cast<size_t>(to)] += bytes;
  allocator_.SetState(extent, to);
}

void Space::Free(uint32_t extent) {
  bytes_in_[static_cast<size_t>(allocator_.StateOf(extent))] -= allocator_.BytesOf(extent);
  records_[extent].generation = 0;
  allocator_.Free(extent);
}

bool Space::Is(uint32_t extent, ExtentState state, uint64_t generation) const {
  return extent < allocator_.handles() && allocator_.StateOf(extent) == state &&
         records_[extent].generation == generation;
}

std::vector<uint32_t> Space::Restore(std::span<const Allocator::Range> used,
                                     std::span<const uint64_t> generations) {
  const std::vector<uint32_t> handles = allocator_.Restore(used);
  records_.Reach(allocator_.handles());
  for (size_t i = 0; i < handles.size(); ++i) {
    records_[handles[i]] = {generations[i], 0, 0, kNoExtent, kNoExtent, 0};
    bytes_in_[static_cast<size_t>(ExtentState::kGranted)] += used[i].bytes;
  }
  return handles;
}

void Space::Readmit(uint32_t extent, uint32_t slot, Instant now) {
  NoteSize(allocator_.BytesOf(extent));
  Publish(extent, slot, now);
}

uint32_t Space::Grant(uint64_t bytes, uint64_t generation) {
  while (!allocator_.Fits(bytes, 1) && limbo_oldest_ != kNoExtent) EndOldestLimbo();
  const uint32_t extent = allocator_.Allocate(bytes);
  if (extent == kNoExtent) return kNoExtent;
  records_.Reach(allocator_.handles());
  records_[extent] = {generation, 0, 0, kNoExtent, kNoExtent, 0};
  const uint64_t taken = allocator_.BytesOf(extent);
  bytes_in_[static_cast<size_t>(ExtentState::kGranted)] += taken;
  NoteSize(taken);
  return extent;
}

void Space::NoteSize(uint64_t bytes) {
  largest_now_ = std::max(largest_now_, bytes);
  window_bytes_ += bytes;
  // 1/32 of the pool: long enough to remember the rare large size of a mixture, short enough to
  // forget a size that is gone.
  if (window_bytes_ > allocator_.bytes() / 32) {
    largest_before_ = largest_now_;
    largest_now_ = 0;
    window_bytes_ = 0;
  }
}

void Space::Abandon(uint32_t extent) {
  SIMM_CHECK(allocator_.StateOf(extent) == ExtentState::kGranted, "abandoned what is not granted");
  blocked_bytes_ = UINT64_MAX;
  Free(extent);
}

void Space::BecomeLive(uint32_t extent, uint32_t slot) {
  SIMM_CHECK(allocator_.StateOf(extent) == ExtentState::kGranted, "published what is not granted");
  blocked_bytes_ = UINT64_MAX;
  records_[extent].slot = slot;
  Move(extent, ExtentState::kLive);
}

void Space::Publish(uint32_t extent, uint32_t slot, Instant now) {
  BecomeLive(extent, slot);
  policy_.OnInsert(extent, now);
}

void Space::PublishAged(uint32_t extent, uint32_t slot, Instant used) {
  BecomeLive(extent, slot);
  policy_.OnInsertAged(extent, used);
}

void Space::Unpublish(uint32_t extent, Instant now) {
  SIMM_CHECK(allocator_.StateOf(extent) == ExtentState::kLive, "unpublished what is not live");
  policy_.OnRemove(extent);
  Record& record = records_[extent];
  if (record.pins > 0) {
    Move(extent, ExtentState::kPinned);
    return;
  }
  Move(extent, ExtentState::kLimbo);
  record.limbo_older = limbo_newest_;
  record.limbo_newer = kNoExtent;
  record.limbo_nanos = now.nanos;
  (limbo_newest_ != kNoExtent ? records_[limbo_newest_].limbo_newer : limbo_oldest_) = extent;
  limbo_newest_ = extent;
  ++limbo_extents_;
  while (BytesIn(ExtentState::kLimbo) > allocator_.bytes() / kLimboShare ||
         limbo_extents_ > kMaxLimboExtents) {
    EndOldestLimbo();
  }
}

void Space::Pin(uint32_t extent) {
  SIMM_CHECK(allocator_.StateOf(extent) == ExtentState::kLive, "pinned what is not live");
  if (records_[extent].pins++ == 0) held_bytes_ += allocator_.BytesOf(extent);
}

void Space::Unpin(uint32_t extent) {
  Record& record = records_[extent];
  SIMM_CHECK(record.pins > 0, "released what is not pinned");
  if (--record.pins > 0) return;
  held_bytes_ -= allocator_.BytesOf(extent);
  blocked_bytes_ = UINT64_MAX;
  if (allocator_.StateOf(extent) == ExtentState::kPinned) Free(extent);
}

void Space::EndOldestLimbo() {
  const uint32_t extent = limbo_oldest_;
  limbo_oldest_ = records_[extent].limbo_newer;
  (limbo_oldest_ != kNoExtent ? records_[limbo_oldest_].limbo_older : limbo_newest_) = kNoExtent;
  --limbo_extents_;
  Free(extent);
}

void Space::ExpireLimbo(Instant now) {
  while (limbo_oldest_ != kNoExtent && NextLimboEnd() <= now) EndOldestLimbo();
}

void Space::EndLimbo() {
  while (limbo_oldest_ != kNoExtent) EndOldestLimbo();
}

Instant Space::NextLimboEnd() const {
  if (limbo_oldest_ == kNoExtent) return kForever;
  return Instant{records_[limbo_oldest_].limbo_nanos} + kLimboTime;
}

uint64_t Space::reserve_bytes() const {
  const uint64_t largest = LargestLately() <= LargestAhead() ? LargestLately() : 0;
  return std::max(2 * largest, allocator_.bytes() / 100);
}

bool Space::ShortOfBytes() const {
  // Limbo counts as free here: it is given up at once when it is needed.
  return BytesIn(ExtentState::kFree) + BytesIn(ExtentState::kLimbo) < reserve_bytes();
}

bool Space::ShortOfRoom() const {
  const uint64_t largest = LargestLately();
  return largest != 0 && largest <= LargestAhead() && !allocator_.Fits(largest, 2);
}

bool Space::IsOpen(uint32_t extent) const {
  const ExtentState state = allocator_.StateOf(extent);
  return state == ExtentState::kFree || state == ExtentState::kLimbo;
}

bool Space::IsEvictable(uint32_t extent) const {
  return allocator_.StateOf(extent) == ExtentState::kLive && records_[extent].pins == 0;
}

double Space::CostOf(uint32_t extent) const {
  // The square: among the coldest, where heat is a few hundredths, fragments decide; between cold
  // and fresh (1 : 11) heat does.
  const double heat = policy_.Heat(extent);
  return static_cast<double>(allocator_.BytesOf(extent)) * (kLeastCost + heat * heat);
}

uint64_t Space::WonFrom(uint32_t extent) const {
  const uint64_t bytes = allocator_.BytesOf(extent);
  const uint64_t largest = LargestLately();
  return IsOpen(extent) && largest > 0 ? bytes % largest : bytes;
}

void Space::AddTo(Run* run, uint32_t extent) const {
  run->bytes += allocator_.BytesOf(extent);
  run->won += WonFrom(extent);
  if (IsOpen(extent)) return;
  run->cost += CostOf(extent);
  ++run->victims;
}

void Space::AbsorbOpen(Run* run) const {
  for (uint32_t at = allocator_.Before(run->first); at != kNoExtent && IsOpen(at);
       at = allocator_.Before(at)) {
    AddTo(run, run->first = at);
  }
  for (uint32_t at = allocator_.After(run->last); at != kNoExtent && IsOpen(at);
       at = allocator_.After(at)) {
    AddTo(run, run->last = at);
  }
}

bool Space::Grow(uint32_t start, uint64_t bytes, Run* run, uint32_t* steps) const {
  *run = {start, start, 0, 0, 0, 0};
  AddTo(run, start);
  AbsorbOpen(run);
  while (run->bytes < bytes) {
    const uint32_t left = allocator_.Before(run->first);
    const uint32_t right = allocator_.After(run->last);
    const bool can_left = left != kNoExtent && IsEvictable(left);
    const bool can_right = right != kNoExtent && IsEvictable(right);
    if (!can_left && !can_right) return false;
    const bool go_left = can_left && (!can_right || policy_.Heat(left) < policy_.Heat(right));
    AddTo(run, go_left ? run->first = left : run->last = right);
    AbsorbOpen(run);
    ++*steps;
  }
  Trim(bytes, run);
  return true;
}

// The last entry added may have made those at the other end needless.
void Space::Trim(uint64_t bytes, Run* run) const {
  const auto shrink = [&](bool at_first) {
    while (run->victims > 1) {
      uint64_t spared = 0;
      uint64_t won = 0;
      uint32_t at = at_first ? run->first : run->last;
      while (IsOpen(at)) {
        spared += allocator_.BytesOf(at);
        won += WonFrom(at);
        at = at_first ? allocator_.After(at) : allocator_.Before(at);
      }
      spared += allocator_.BytesOf(at);
      if (run->bytes - spared < bytes) return;
      run->bytes -= spared;
      run->won -= won + WonFrom(at);
      run->cost -= CostOf(at);
      --run->victims;
      (at_first ? run->first : run->last) = at_first ? allocator_.After(at) : allocator_.Before(at);
    }
  };
  shrink(true);
  shrink(false);
}

// Entries that are cold, or moderately cold beside a fragment: without the latter, values evicted
// in random order leave the waste of each hole where it is (12 % when 70,272 B become 3 times
// 20,480 B).
std::span<const uint32_t> Space::Candidates() {
  size_t count = 0;
  // First, because a run that was begun must be finished before patience ends.
  if (Is(front_, ExtentState::kLive, front_generation_)) candidates_[count++] = front_;
  // A sixteenth at most, so that in a small pool "coldest" does not mean everything.
  const size_t wanted = std::clamp<size_t>(policy_.size() / 16, 1, kVictimCandidates);
  count += policy_.Coldest({candidates_.data() + count, wanted});
  std::array<uint32_t, kFragmentCandidates> fragments;
  const size_t found = allocator_.NextFragments(LargestLately(), fragments);
  for (size_t i = 0; i < found; ++i) {
    for (const uint32_t extent :
         {allocator_.Before(fragments[i]), allocator_.After(fragments[i])}) {
      if (extent == kNoExtent || !IsEvictable(extent)) continue;
      if (policy_.Heat(extent) <= kFragmentHeat) candidates_[count++] = extent;
    }
  }
  return {candidates_.data(), count};
}

bool Space::CheapestAmongCold(uint64_t bytes, uint64_t max_victim_bytes, Run* best) {
  bool found = false;
  uint32_t steps = 0;
  for (const uint32_t extent : Candidates()) {
    if (steps > kPlanSteps) break;
    if (!IsEvictable(extent) || allocator_.BytesOf(extent) > max_victim_bytes) continue;
    Run run;
    if (Grow(extent, bytes, &run, &steps) && (!found || run.Score() < best->Score())) {
      *best = run;
      found = true;
    }
  }
  return found;
}

// In address order over everything: only when the coldest entries are all hemmed in by what is
// granted or pinned. Exact: finds a run if there is one.
bool Space::Sweep(uint64_t bytes, Run* best) const {
  bool found = false;
  uint32_t further = 0;
  Run run{kNoExtent, kNoExtent, 0, 0, 0, 0};
  for (uint32_t at = allocator_.First(); at != kNoExtent; at = allocator_.After(at)) {
    if (!IsOpen(at) && !IsEvictable(at)) {
      run = {kNoExtent, kNoExtent, 0, 0, 0, 0};
      continue;
    }
    if (run.first == kNoExtent) run.first = at;
    run.last = at;
    AddTo(&run, at);
    while (run.first != at && run.bytes - allocator_.BytesOf(run.first) >= bytes) {
      run.bytes -= allocator_.BytesOf(run.first);
      run.won -= WonFrom(run.first);
      if (!IsOpen(run.first)) {
        run.cost -= CostOf(run.first);
        --run.victims;
      }
      run.first = allocator_.After(run.first);
    }
    if (run.bytes >= bytes && run.victims > 0 && (!found || run.Score() < best->Score())) {
      *best = run;
      found = true;
    }
    if (found && ++further > kSweepFurther) break;
  }
  return found;
}

bool Space::FindRun(uint64_t bytes, Run* best) {
  if (CheapestAmongCold(bytes, UINT64_MAX, best)) return true;
  if (bytes >= blocked_bytes_) return false;
  if (Sweep(bytes, best)) return true;
  blocked_bytes_ = bytes;
  return false;
}

void Space::ListVictims(const Run& run, size_t max_victims, std::vector<uint32_t>* victims) {
  victims->clear();
  const uint32_t end = allocator_.After(run.last);
  uint32_t at = run.first;
  for (; at != end && victims->size() < max_victims; at = allocator_.After(at)) {
    if (!IsOpen(at)) victims->push_back(at);
  }
  while (at != kNoExtent && IsOpen(at)) at = allocator_.After(at);
  front_ = at;
  front_generation_ = at == kNoExtent ? 0 : records_[at].generation;
}

// The next entries of a run that was begun: costs what it lists, not what the run is long.
bool Space::ListFurther(uint64_t bytes, size_t max_victims, Clearing* clearing,
                        std::vector<uint32_t>* victims) const {
  victims->clear();
  if (!Is(clearing->next, ExtentState::kLive, clearing->generation)) return false;
  uint64_t won = 0;
  for (uint32_t at = allocator_.Before(clearing->next); at != kNoExtent && IsOpen(at);
       at = allocator_.Before(at)) {
    won += allocator_.BytesOf(at);
  }
  uint32_t at = clearing->next;
  for (; at != kNoExtent && won < bytes; at = allocator_.After(at)) {
    if (!IsOpen(at)) {
      if (!IsEvictable(at)) return false;
      if (victims->size() == max_victims) break;
      victims->push_back(at);
    }
    won += allocator_.BytesOf(at);
  }
  clearing->complete = won >= bytes;
  if (!clearing->complete && at == kNoExtent) return false;
  if (!clearing->complete) *clearing = {at, records_[at].generation, false};
  return true;
}

bool Space::Plan(uint64_t bytes, size_t max_victims, Clearing* clearing,
                 std::vector<uint32_t>* victims) {
  bytes = RoundUp(bytes, protocol::kExtentAlign);
  if (clearing->next != kNoExtent && ListFurther(bytes, max_victims, clearing, victims)) {
    return true;
  }
  Run run;
  *clearing = {};
  if (!FindRun(bytes, &run)) return false;
  ListVictims(run, max_victims, victims);
  clearing->complete = victims->size() == run.victims;
  if (!clearing->complete) *clearing = {front_, front_generation_, false};
  return true;
}

bool Space::PlanAhead(size_t max_victims, std::vector<uint32_t>* victims, EvictionCause* cause) {
  Run run;
  if (ShortOfBytes()) {
    if (!CheapestAmongCold(1, LargestAhead(), &run)) return false;
    *cause = EvictionCause::kMemory;
    victims->assign(1, run.first);
    while (IsOpen(victims->front())) victims->front() = allocator_.After(victims->front());
    return true;
  }
  if (!ShortOfRoom()) return false;
  EndLimbo();
  if (!ShortOfRoom() || !FindRun(LargestLately(), &run)) return false;
  *cause = EvictionCause::kContiguity;
  ListVictims(run, max_victims, victims);
  return true;
}

Status Space::Check() const {
  if (Status status = allocator_.Check(); !status.ok()) return status;
  if (Status status = policy_.Check(); !status.ok()) return status;
  std::array<uint64_t, kExtentStates> seen{};
  size_t live = 0;
  size_t limbo = 0;
  for (uint32_t at = allocator_.First(); at != kNoExtent; at = allocator_.After(at)) {
    const ExtentState state = allocator_.StateOf(at);
    seen[static_cast<size_t>(state)] += allocator_.BytesOf(at);
    live += state == ExtentState::kLive;
    limbo += state == ExtentState::kLimbo;
    if (state == ExtentState::kFree) continue;
    const uint32_t pins = records_[at].pins;
    if (state == ExtentState::kPinned ? pins == 0 : state != ExtentState::kLive && pins != 0) {
      return Status(Code::kInternal, "the pins of an extent contradict its state");
    }
  }
  for (size_t i = 0; i < kExtentStates; ++i) {
    if (seen[i] != BytesIn(static_cast<ExtentState>(i))) {
      return Status(Code::kInternal, "bytes counted by state disagree with the extents");
    }
  }
  if (live != policy_.size())
    return Status(Code::kInternal, "the policy holds other than what is live");
  size_t listed = 0;
  for (uint32_t at = limbo_oldest_; at != kNoExtent; at = records_[at].limbo_newer) {
    if (allocator_.StateOf(at) != ExtentState::kLimbo || ++listed > limbo) {
      return Status(Code::kInternal, "the limbo list holds what is not in limbo");
    }
  }
  if (listed != limbo || limbo != limbo_extents_)
    return Status(Code::kInternal, "limbo is not all listed");
  return Status::Ok();
}

}  // namespace simm::dataserver
