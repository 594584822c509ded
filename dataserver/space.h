#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <span>
#include <vector>

#include "common/base/clock.h"
#include "common/base/status.h"
#include "dataserver/allocator.h"
#include "dataserver/eviction_policy.h"
#include "dataserver/pool.h"
#include "dataserver/slab.h"

namespace simm::dataserver {

// Longest that an unpublished extent waits for readers that may still be in it.
inline constexpr auto kLimboTime = std::chrono::seconds(1);
// LIMBO at most: of the data file, and in extents, which bounds what one put may have to end.
inline constexpr uint64_t kLimboShare = 200;
inline constexpr uint32_t kMaxLimboExtents = 2048;
// Coldest entries that are compared for the cheapest room, and neighbours looked at while doing so:
// with about 50 ns a neighbour, the choice costs at most about 100 us.
inline constexpr size_t kVictimCandidates = 32;
inline constexpr uint32_t kPlanSteps = 2048;
// Fragments whose neighbours are compared too, if these are among the coldest quarter.
inline constexpr size_t kFragmentCandidates = 16;
inline constexpr double kFragmentHeat = 0.25;

// Which bytes of the data file are FREE, GRANTED, LIVE, LIMBO or PINNED, and which entries have to
// go so that a value fits. Works on offsets and handles only: no memory, no clock, no thread.
// Thread-compatible.
//
// The owner drives: Grant -> Publish or Abandon; Publish -> Unpublish -> (LIMBO, or PINNED while a
// reader holds it) -> FREE. Handles are valid until the extent is FREE.
class Space {
 public:
  // What the owner keeps about an extent that is not free.
  struct Record {
    uint64_t generation;
    uint32_t slot;  // while LIVE
    uint32_t pins;
    uint32_t limbo_older;
    uint32_t limbo_newer;
    int64_t limbo_nanos;  // since when
  };
  static_assert(sizeof(Record) == 32);

  // `policy` is borrowed and must be empty.
  Space(uint64_t data_bytes, EvictionPolicy& policy);

  // Once, before anything else, see Allocator::Restore: what is in use, GRANTED, each with its
  // generation. Readmit makes one of them an entry.
  std::vector<uint32_t> Restore(std::span<const Allocator::Range> used,
                                std::span<const uint64_t> generations);
  void Readmit(uint32_t extent, uint32_t slot, Instant now);

  // An extent from what is free, ending limbo, oldest first, as far as it is needed; kNoExtent when
  // that is not enough: evict what Plan names, then again.
  uint32_t Grant(uint64_t bytes, uint64_t generation);
  void Abandon(uint32_t extent);                              // GRANTED -> FREE
  void Publish(uint32_t extent, uint32_t slot, Instant now);  // GRANTED -> LIVE
  // The same for an entry used last at `used`, elsewhere.
  void PublishAged(uint32_t extent, uint32_t slot, Instant used);
  void Unpublish(uint32_t extent, Instant now);  // LIVE -> LIMBO, PINNED if a reader holds it
  void Pin(uint32_t extent);                     // LIVE only
  void Unpin(uint32_t extent);                   // the last one of PINNED -> FREE
  void Touch(uint32_t extent, Instant now) { policy_.OnTouch(extent, now); }
  // Frees what has been in limbo for kLimboTime.
  void ExpireLimbo(Instant now);
  void EndLimbo();

  // Where the clearing of a long run goes on: the entry behind what has been cleared of it.
  struct Clearing {
    uint32_t next = kNoExtent;
    uint64_t generation = 0;
    bool complete = false;  // with the victims listed last, Grant succeeds
  };
  // The live entries to unpublish so that Grant(bytes) succeeds: the cheapest contiguous run around
  // one of the coldest entries. At least one, at most `max_victims`: if that is not all of them
  // (!clearing->complete), unpublish these and ask again with the same `clearing`; others may have
  // taken of the room in between, then it reaches further. False: whatever is evicted, GRANTED or
  // PINNED bytes are in the way.
  bool Plan(uint64_t bytes, size_t max_victims, Clearing* clearing, std::vector<uint32_t>* victims);
  // One step of working ahead: the entries to unpublish next so that the reserve is kept, at most
  // `max_victims`; after kContiguity also call EndLimbo. False: nothing to do, or nothing that
  // helps.
  bool PlanAhead(size_t max_victims, std::vector<uint32_t>* victims, EvictionCause* cause);
  // Whether the reserve is short: the larger of 2 values of the largest size seen lately and 1 %
  // free, at most an eighth of the pool, with room for each of those 2 values in one piece.
  bool WantsEviction() const { return ShortOfBytes() || ShortOfRoom(); }

  const Record& record(uint32_t extent) const { return records_[extent]; }
  // Whether `extent` names an extent in `state` that has this generation; any number may be asked
  // about.
  bool Is(uint32_t extent, ExtentState state, uint64_t generation) const;
  const Allocator& allocator() const { return allocator_; }
  const EvictionPolicy& policy() const { return policy_; }
  // Of extents that readers hold, LIVE or PINNED.
  uint64_t held_bytes() const { return held_bytes_; }
  uint64_t BytesIn(ExtentState state) const {
    return state == ExtentState::kFree ? allocator_.free_bytes()
                                       : bytes_in_[static_cast<size_t>(state)];
  }
  uint64_t reserve_bytes() const;
  // When the oldest of limbo ends; kForever when it is empty.
  Instant NextLimboEnd() const;

  // Walks everything; kInternal names the first broken invariant.
  Status Check() const;

 private:
  // Neighbouring extents, by their first and last, that would become one free extent.
  struct Run {
    uint32_t first;
    uint32_t last;
    uint64_t bytes;
    uint64_t
        won;  // of these, bytes that are of no use now: of entries, and of fragments beside them
    double cost;
    uint32_t victims;
    // Per byte won: an entry beside a fragment wins more than its own bytes, and so fragments grow
    // together instead of spreading. Fragment is what remains of free space after whole values of
    // the largest size.
    double Score() const { return cost / static_cast<double>(won); }
  };

  void BecomeLive(uint32_t extent, uint32_t slot);
  void Move(uint32_t extent, ExtentState to);
  void Free(uint32_t extent);
  void EndOldestLimbo();
  void NoteSize(uint64_t bytes);
  uint64_t LargestLately() const { return std::max(largest_now_, largest_before_); }
  bool ShortOfBytes() const;
  bool ShortOfRoom() const;
  // Values beyond this share of the pool are not worked ahead for, nor given up ahead: such a pool
  // holds few of them, and room made for one is an entry lost.
  uint64_t LargestAhead() const { return allocator_.bytes() / 16; }

  bool IsOpen(uint32_t extent) const;       // FREE or LIMBO
  bool IsEvictable(uint32_t extent) const;  // LIVE and held by nobody
  double CostOf(uint32_t extent) const;
  uint64_t WonFrom(uint32_t extent) const;
  void AddTo(Run* run, uint32_t extent) const;
  void AbsorbOpen(Run* run) const;
  bool Grow(uint32_t start, uint64_t bytes, Run* run, uint32_t* steps) const;
  void Trim(uint64_t bytes, Run* run) const;
  std::span<const uint32_t> Candidates();
  bool CheapestAmongCold(uint64_t bytes, uint64_t max_victim_bytes, Run* best);
  bool Sweep(uint64_t bytes, Run* best) const;
  bool FindRun(uint64_t bytes, Run* best);
  void ListVictims(const Run& run, size_t max_victims, std::vector<uint32_t>* victims);
  bool ListFurther(uint64_t bytes, size_t max_victims, Clearing* clearing,
                   std::vector<uint32_t>* victims) const;

  Allocator allocator_;
  EvictionPolicy& policy_;
  Slab<Record> records_;
  std::array<uint64_t, kExtentStates> bytes_in_{};
  uint32_t limbo_oldest_ = kNoExtent;
  uint32_t limbo_newest_ = kNoExtent;
  uint32_t limbo_extents_ = 0;

  // The largest extents of this window of granted bytes and of the one before it.
  uint64_t largest_now_ = 0;
  uint64_t largest_before_ = 0;
  uint64_t window_bytes_ = 0;
  std::array<uint32_t, kVictimCandidates + 1 + 2 * kFragmentCandidates> candidates_;
  // The live entry behind the run cleared last: the next run may well continue there.
  uint32_t front_ = kNoExtent;
  uint64_t front_generation_ = 0;
  // No run of this many bytes exists, as long as nothing that stood in the way has moved.
  uint64_t held_bytes_ = 0;
  uint64_t blocked_bytes_ = UINT64_MAX;
};

}  // namespace simm::dataserver
