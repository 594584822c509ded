#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/bytes.h"
#include "common/base/clock.h"
#include "common/base/hash.h"
#include "common/base/ids.h"
#include "common/base/status.h"
#include "common/protocol/pool_layout.h"
#include "common/routing/route_table.h"
#include "dataserver/eviction_stats.h"

namespace simm::dataserver {

struct PoolOptions {
  uint64_t memory_bytes = 0;  // index and data together
  uint64_t mean_value_bytes = 16 << 10;
  // Empty: anonymous (memfd). Else two files, PATH.index and PATH.data, used as the last server has
  // left them, or made anew under temporary names and renamed into place; their pool id is kept
  // where it can be read, and the incarnation is one higher.
  std::string path;
  // While another server has the pool: asked every 20 ms whether to wait on. Empty: kUnavailable at
  // once.
  std::function<bool()> wait_for_lock = {};
  bool prefault = true;     // touch every page of new files at the start, in parallel
  bool huge_pages = false;  // anonymous pools: data on huge pages if enough of them are free
  // What expiry counts by; nullptr: BootClock. Borrowed.
  const Clock* boot_clock = nullptr;
};

// Bytes of the data file by state (DESIGN 4): their sum is data_bytes at any time.
struct PoolUsage {
  uint64_t data_bytes = 0;
  uint64_t free_bytes = 0;
  uint64_t granted_bytes = 0;
  uint64_t live_bytes = 0;
  uint64_t limbo_bytes = 0;
  uint64_t pinned_bytes = 0;
  uint64_t held_bytes = 0;        // LIVE or PINNED, and held for readers: not to be evicted now
  uint64_t live_value_bytes = 0;  // of values alone, without head and padding
  uint64_t entries = 0;
  uint64_t slots = 0;
  uint64_t overflow_entries = 0;
  uint64_t tombstones = 0;
};

enum class EvictionCause : uint8_t { kMemory = 0, kContiguity = 1, kIndex = 2, kOverflow = 3 };
inline constexpr size_t kEvictionCauses = 4;
std::string_view EvictionCauseName(EvictionCause cause);

struct PoolCounters {
  uint64_t evictions[kEvictionCauses] = {};
  uint64_t evicted_bytes = 0;
  EvictionStats eviction_stats;
  uint64_t inline_evictions = 0;       // on the put path, because the evictor had not kept up
  uint64_t most_victims_per_hold = 0;  // of these, under one hold of the lock
  uint64_t busy = 0;                   // puts refused for want of memory
  uint64_t dropped = 0;                // entries dropped with their shard or namespace
  uint64_t expired = 0;                // entries whose time was over
  uint64_t touches = 0;
  uint64_t last_evicted_age_ms = 0;  // since its last use
};

enum class PutMode : uint8_t { kIfAbsent = 0, kReplace = 1 };

struct PutHints {
  Hash128 parent;
  uint32_t depth = 0;
  uint32_t ttl_ms = 0;  // from the commit on; 0: for ever
};

// Why a start has dropped what a slot or a lease record said.
enum class DropCause : uint8_t {
  kUnfinished = 0,  // the server ended while it wrote the slot
  kDamaged = 1,     // CRC of the slot
  kMisplaced = 2,   // it cannot be: another bucket's, beyond the data, of a generation to come
  kDuplicate = 3,   // a newer slot has the key
  kOverlap = 4,     // a newer slot has some of the bytes
  kGranted = 5,     // somebody may still write to some of the bytes
  kExpired = 6,     // TTL
};
inline constexpr size_t kDropCauses = 7;
std::string_view DropCauseName(DropCause cause);

// What a start found in the pool's files.
struct PoolRecovery {
  bool warm = false;
  std::string cold_because;  // empty: warm, or there was nothing to find
  uint64_t entries = 0;      // kept
  uint64_t value_bytes = 0;  // of these
  uint64_t dropped[kDropCauses] = {};
  uint64_t granted = 0;      // extents that stay granted
  uint64_t bad_records = 0;  // lease records dropped
  Duration took = Duration::zero();
};

// An extent granted to a writer: GRANTED until Commit or Abandon, one of which must follow.
struct Grant {
  uint64_t generation = 0;
  uint32_t extent = 0;    // handle inside the pool
  MutableByteSpan value;  // where the bytes go
};

// An extent granted to a remote writer, who writes head and value by himself: GRANTED until
// CommitWritten or AbandonBlank, one of which must follow.
struct LeasedExtent {
  uint64_t generation = 0;
  uint64_t offset = 0;  // in the data file
  uint64_t bytes = 0;
  uint32_t extent = 0;  // handle inside the pool
};

// An extent that the server before this one had granted to a remote writer who may still write to
// it: GRANTED until AbandonBlank.
struct AdoptedGrant {
  LeasedExtent extent;
  protocol::LeaseRecord record;
  uint32_t number = 0;  // of the record
};

// What lies here of some shards.
struct ShardLoad {
  uint64_t entries = 0;
  uint64_t value_bytes = 0;
};

// An entry as a source tells its destination of it.
struct EntryFacts {
  Hash128 hash;
  NamespaceId ns = 0;
  std::string key;
  uint64_t value_bytes = 0;
  uint64_t checksum = 0;
  uint32_t ttl_ms = 0;              // left; 0: for ever
  Duration age = Duration::zero();  // since its last use
};

// A live slot of a listing.
struct ListedSlot {
  uint64_t rank = 0;  // more is hotter
  uint32_t slot = 0;
  float heat = 0;  // the same from 0 to 1, at the time of the look
};

// What a remote writer says that it has written into a leased extent.
struct WrittenValue {
  Hash128 hash;
  NamespaceId ns = 0;
  std::string_view key;
  uint64_t value_bytes = 0;
  uint64_t checksum = 0;
  PutMode mode = PutMode::kIfAbsent;
  PutHints hints;
};

// A live value held for a reader: its bytes stay as they are until Release, whatever is evicted.
struct PinnedValue {
  uint32_t extent = 0;  // handle inside the pool
  uint64_t generation = 0;
  uint64_t checksum = 0;
  ByteSpan head;   // extent header and key, padded
  ByteSpan value;  // follows head in memory
};

// The memory of a data server: index, extents, allocator and eviction behind one lock. Thread-safe.
// Owns both mappings. Holds no thread: somebody calls EvictSome.
//
// Invariants: every byte of the data file is in exactly one of FREE, GRANTED, LIVE, LIMBO, PINNED
// (Audit checks it the long way); unpublishing happens before reuse; a generation is never used
// twice.
class Pool {
 public:
  // kInvalidArgument: sizes that cannot work, with the smallest that can. kUnavailable: the files
  // cannot be made or locked, with the path and the mend.
  static Result<std::unique_ptr<Pool>> Create(const PoolOptions& options, const Clock& clock);
  ~Pool();

  const Id128& pool_id() const;
  uint64_t incarnation() const;
  const protocol::PoolGeometry& geometry() const;
  ByteSpan index_memory() const;  // for one-sided readers
  MutableByteSpan data_memory() const;
  MutableByteSpan lease_memory() const;  // of the lease records in the index; not the pool's to use
  // How this start went; does not change.
  const PoolRecovery& recovery() const;
  // The entries are those of this cluster from here on: drops all if they are another's, before it
  // returns; how many.
  uint64_t BindTo(const Id128& cluster);
  // What was found granted; for whoever keeps the leases, once.
  std::vector<AdoptedGrant> TakeAdopted();
  // Nothing that the server before this one was asked for over a network can still be written.
  bool PredecessorEnded() const;
  // Maps one stretch of the data ahead of its use, from 0 on, without touching it; returns where
  // the next begins, UINT64_MAX at the end. A warm start leaves that for later.
  uint64_t PopulateSome(uint64_t from);
  // Of the two files, to pass to peers on this host; owned by the pool.
  int index_fd() const;
  int data_fd() const;
  // The longest value that can ever be stored under a key of this length.
  uint64_t MaxValueBytes(size_t key_bytes) const;

  // Grants an extent for the value; its header and key are written. Evicts inline, within bounds,
  // when the evictor has not kept up. kTooLarge: can never fit. kBusy: not at this moment (all is
  // granted or pinned). `hash` is HashKey of (key, namespace). key is 1 to 256 B, checked by the
  // caller.
  Result<Grant> Allocate(const Hash128& hash, NamespaceId ns, std::string_view key,
                         uint64_t value_bytes);
  // Publishes. kOk; kExists (kIfAbsent and the key is live: the grant is freed). With kReplace the
  // old value goes to limbo. kBusy: no slot can be had. The grant is gone in every case.
  Code Commit(const Grant& grant, const Hash128& hash, NamespaceId ns, std::string_view key,
              PutMode mode, uint64_t checksum, const PutHints& hints);
  // Frees a grant that was not committed. Only when nobody can write to it any more.
  void Abandon(const Grant& grant);

  // Grants up to `count` extents of exactly `bytes`, nothing written, for somebody who writes from
  // outside; generations ascend. Evicts inline, within bounds; fewer when no more can be had.
  // kInvalidArgument: not a multiple of 64, or none. kTooLarge: can never fit. kBusy: none now.
  Result<std::vector<LeasedExtent>> GrantBlank(uint64_t bytes, uint32_t count);
  // Publishes what has been written into the extent, if its head, read once, says the same; with
  // `verify`, if the value's checksum agrees too. As Commit; also kInvalidArgument (the extent has
  // another size than key and value need) and kCorrupt (other bytes). Only when the writer's writes
  // are placed. The grant is gone in every case.
  Code CommitWritten(const LeasedExtent& leased, const WrittenValue& written, bool verify);
  // Frees grants that were not committed. Only when nobody can write to them any more.
  void AbandonBlank(std::span<const LeasedExtent> leased);
  // Whether the live value of the key is the one of this generation.
  bool IsLive(const Hash128& hash, NamespaceId ns, std::string_view key, uint64_t generation);
  // The reserve is short and the evictor finds nothing to evict: too much is granted or pinned.
  bool IsShort() const;

  // kOk and a pin; kMiss; kRemoved: a miss, and the key has a TOMBSTONE. Does not touch.
  Code Acquire(const Hash128& hash, NamespaceId ns, std::string_view key, PinnedValue* out);
  // The same with the slot as it is now and its offset in the index file; touches.
  Code Locate(const Hash128& hash, NamespaceId ns, std::string_view key, PinnedValue* out,
              protocol::Slot* slot, uint64_t* slot_offset);
  void Release(const PinnedValue& pinned);
  // kOk and the length, kMiss or kRemoved.
  Code Lookup(const Hash128& hash, NamespaceId ns, std::string_view key, uint64_t* value_bytes);
  // Marks as most recently used; unknown keys are ignored.
  void Touch(const Hash128& hash, NamespaceId ns, std::string_view key);
  // By location, as one-sided readers report it: counts only while the generation is still there.
  void TouchSlot(uint32_t slot, uint64_t generation);
  // kOk (gone, old value in limbo) or kMiss. While the shard has a source, which may have the key:
  // a TOMBSTONE stays, kOk says that it is new, kBusy that there is no room for it.
  Code Remove(const Hash128& hash, NamespaceId ns, std::string_view key);
  // Recomputes the checksum of a live value and removes it if it is wrong. True: removed.
  bool Scrub(const Hash128& hash, NamespaceId ns, std::string_view key);

  // One bounded step (at most about 200 us under the lock) towards the watermark: the larger of 2
  // values and 1 % free. True while there is more to do. Also ends limbo.
  bool EvictSome();
  // One bounded step of unpublishing entries whose time is over. True while there are more. To be
  // called several times a second.
  bool ExpireSome();
  // Blocks up to `timeout` until EvictSome has work; for the evictor's thread.
  void WaitForEvictionWork(Duration timeout);
  // One bounded step of dropping live entries whose shard `owned` denies, and TOMBSTONES of shards
  // that have had no source for a while. The cursor starts at 0; done when it comes back as
  // UINT64_MAX.
  uint64_t DropShards(const std::function<bool(uint32_t shard)>& owned, uint64_t cursor);

  // The same for the live entries of a namespace; adds their number to *dropped. What is put while
  // it goes on may stay.
  uint64_t DropNamespace(NamespaceId ns, uint64_t cursor, uint64_t* dropped);

  // ---- migration (pool_migration.cc)

  // The shards, ascending, whose owner this is and whose older values a source has. Of those that
  // are new here, what is live now counts as older than the source's.
  void SetPulling(std::span<const uint32_t> shards);
  // When the next pass of DropShards ends TOMBSTONES without another SetPulling; kForever: never.
  Instant NextTombstoneEnd() const;
  // Whether a value that the source has is wanted: kOk; kExists (it is here, or a newer one);
  // kRemoved (a TOMBSTONE); kWrongOwner (the shard has no source any more).
  Code WantsPulled(const EntryFacts& entry);
  // Room for the value, beside other bytes on their way, without giving up anything that was used
  // after it.
  bool HasRoomFor(const EntryFacts& entry, uint64_t on_the_way);
  // As Commit, of a value that was fetched from the source: a live entry that is older than the
  // pull is replaced; else kExists, kRemoved and kWrongOwner as above. It is as cold as it was.
  Code CommitPulled(const Grant& grant, const EntryFacts& entry, const PutHints& hints);
  // One bounded step over the index: appends the live slots of shards that `wanted` accepts and of
  // generations above `newer_than`. Cursor as in DropShards.
  uint64_t ListSlots(const std::function<bool(uint32_t shard)>& wanted, uint64_t newer_than,
                     uint64_t cursor, std::vector<ListedSlot>* out) const;
  // The entry in the slot now; false: there is none.
  bool Describe(uint32_t slot, EntryFacts* out) const;
  uint64_t NewestGeneration() const;
  ShardLoad LoadOf(std::span<const uint32_t> shards) const;

  PoolUsage Usage() const;
  PoolCounters Counters() const;
  // The long way: walks every extent and slot and checks the invariants; kInternal names the first
  // broken one.
  Status Audit() const;

  // Calls `visit` with up to `limit` live keys from a cursor on; for sampled scans. Returns the
  // next cursor, UINT64_MAX at the end.
  uint64_t Scan(uint64_t cursor, size_t limit,
                const std::function<void(NamespaceId, std::string_view key, uint64_t value_bytes)>&
                    visit) const;

 private:
  class Core;
  explicit Pool(std::unique_ptr<Core> core);
  // One bounded step over the index: drops the live entries that `drop` names.
  template <typename Drop>
  uint64_t DropSome(uint64_t cursor, uint64_t* dropped, const Drop& drop);
  std::unique_ptr<Core> core_;
};

}  // namespace simm::dataserver
