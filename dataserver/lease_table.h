#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "common/base/clock.h"
#include "common/base/mutex.h"
#include "common/base/process.h"
#include "common/base/status.h"
#include "common/protocol/messages.h"
#include "common/transport/transport.h"
#include "dataserver/lease_records.h"
#include "dataserver/pool.h"

namespace simm::dataserver {

// Which granted extents belong to which lane, and how much may be. Pure bookkeeping: whoever takes
// an extent out commits or abandons it at the pool. Thread-safe; the calls about one lane come from
// the thread that drives it.
//
// Invariants: an extent is in at most one lease; a lease ends because its extents are taken out by
// COMMIT or RETURN or by the end of its lane, never by time. Extents of a lane whose process could
// not be cut off outlive it as orphans, until that process has ended or has disowned the lane. What
// is in a lease or an orphan has a record in the index file.
class LeaseTable {
 public:
  struct LaneRef {
    uint64_t lane = 0;
    std::shared_ptr<transport::PeerProcess> process;  // of peers that cannot be cut off
    uint64_t session = 0;
    uint64_t tag = 0;  // the client's name of it
  };
  struct Admission {
    Code code = Code::kBusy;
    uint32_t count = 0;  // of the extents asked for
  };
  enum class Held : uint8_t { kHeld, kNone, kMismatch };
  struct Totals {
    uint64_t bytes = 0;  // leased, orphans included
    uint64_t extents = 0;
    uint64_t orphan_bytes = 0;
    uint64_t leases = 0;  // without orphans
  };

  // `records`: the area of the index file, borrowed; empty: nothing is recorded.
  LeaseTable(uint64_t pool_bytes, uint64_t max_extents, MutableByteSpan records = {})
      : pool_bytes_(pool_bytes),
        max_extents_(max_extents),
        pid_namespace_(static_cast<uint32_t>(ThisProcess().pid_namespace)),
        records_(records) {}

  // Once, at the start: what the server before this one had granted, as orphans of whoever `owner`
  // names for a record.
  void Adopt(
      std::span<const AdoptedGrant> grants,
      const std::function<std::shared_ptr<transport::PeerProcess>(const protocol::LeaseRecord&)>&
          owner);

  // Reserves room for up to `count` extents of `bytes`, of which `ahead` are not needed at once;
  // Fill follows when it is kOk. All clients together hold 1 % of the pool; beyond it a lane holds
  // at most 64 MiB or one extent, and all together an eighth of the pool or one extent. What is
  // asked for ahead stays within the 1 %, half a process's own share and half the records. kBusy:
  // later. kFailedPrecondition: the process holds its own 1 %: it uses another transport.
  Admission Admit(const LaneRef& lane, uint64_t bytes, uint32_t count, uint32_t ahead = 0);
  // Ends an admission of `admitted` extents with those that could be granted; the id of the lease,
  // 0 when there are none.
  uint64_t Fill(const LaneRef& lane, uint64_t bytes, uint32_t admitted,
                std::span<const LeasedExtent> granted, Instant now);

  // For a COMMIT: takes the extent out of the lane's lease. kNone: it is not there (any more).
  // kMismatch: the generation is, at another offset.
  Held Take(uint64_t lane, uint64_t lease, uint64_t generation, uint64_t offset, Instant now,
            LeasedExtent* out);
  // For a RETURN: takes out what is still there. kProtocolError: ranges that cannot be of this
  // lease; nothing is taken then.
  Result<std::vector<LeasedExtent>> TakeRanges(uint64_t lane, uint64_t lease,
                                               std::span<const protocol::LeaseRange> ranges,
                                               Instant now);
  // For a RETURN of a whole lane: of the sender's own (0), all that it holds; of the one that the
  // same process has named so, what it has left behind or, not ended yet, will leave behind.
  std::vector<LeasedExtent> Disown(const LaneRef& sender, uint64_t tag);
  // The lane has been closed: takes out what can be freed, which is nothing where its process can
  // still write.
  std::vector<LeasedExtent> EndLane(const LaneRef& lane);
  // Takes out what belonged to processes that have ended.
  std::vector<LeasedExtent> TakeEnded();

  // Marks leases for recall, those beyond the share first, then the longest untouched: when too
  // much is leased or somebody was refused (untouched for 5 s), or under `pressure` (for 1 s).
  void StartRecalls(Instant now, bool pressure);
  // The leases of the lane to recall now; each is named once.
  std::vector<uint64_t> TakeRecalls(uint64_t lane, Instant now);
  // A recall has not been answered in time.
  bool Overdue(uint64_t lane, Instant now) const;

  Totals totals() const;

 private:
  struct Recorded {
    LeasedExtent extent;
    uint32_t record = LeaseRecords::kNone;
  };
  struct Lease {
    uint64_t lane = 0;
    uint64_t bytes = 0;                    // of each extent
    std::map<uint64_t, Recorded> extents;  // by generation
    Instant touched;
    bool beyond_share = false;
    bool recalled = false;
    Instant recall_sent{};  // nanos 0: not yet
  };
  struct LaneBooks {
    uint64_t bytes = 0;
    std::set<uint64_t> leases;
    std::shared_ptr<transport::PeerProcess> process;
    uint64_t tag = 0;
  };
  struct Orphans {
    uint64_t tag = 0;
    std::shared_ptr<transport::PeerProcess> process;
    std::vector<Recorded> extents;
  };

  void Charge(const LaneRef& lane, uint64_t bytes, uint64_t extents) SIMM_REQUIRES(mutex_);
  void Discharge(uint64_t lane, uint64_t bytes, uint64_t extents) SIMM_REQUIRES(mutex_);
  void DischargeProcess(const transport::PeerProcess& process, uint64_t bytes)
      SIMM_REQUIRES(mutex_);
  uint32_t AdmitAhead(const LaneRef& lane, uint64_t bytes, uint32_t ahead) SIMM_REQUIRES(mutex_);
  void Touch(Lease& lease, Instant now) SIMM_REQUIRES(mutex_);
  Recorded Record(const LaneRef& lane, const LeasedExtent& extent) SIMM_REQUIRES(mutex_);
  LeasedExtent Unrecord(const Recorded& recorded) SIMM_REQUIRES(mutex_);
  std::vector<Recorded> TakeLeases(LaneBooks& books) SIMM_REQUIRES(mutex_);
  bool TakeDisowned(const std::string& process, uint64_t tag) SIMM_REQUIRES(mutex_);
  void TakeOrphans(const Orphans& orphans, std::vector<LeasedExtent>* taken) SIMM_REQUIRES(mutex_);
  void DropIfEmpty(std::map<uint64_t, Lease>::iterator it) SIMM_REQUIRES(mutex_);
  bool Plausible(const protocol::LeaseRange& range) const;

  const uint64_t pool_bytes_;
  const uint64_t max_extents_;
  const uint32_t pid_namespace_;
  mutable Mutex mutex_;
  LeaseRecords records_ SIMM_GUARDED_BY(mutex_);
  std::map<uint64_t, Lease> leases_ SIMM_GUARDED_BY(mutex_);  // by id, hence by age
  std::unordered_map<uint64_t, LaneBooks> lanes_ SIMM_GUARDED_BY(mutex_);
  std::unordered_map<std::string, uint64_t> process_bytes_ SIMM_GUARDED_BY(mutex_);
  // Lanes that are still to end here, oldest first; {process, tag}.
  std::deque<std::pair<std::string, uint64_t>> disowned_ SIMM_GUARDED_BY(mutex_);
  std::list<Orphans> orphans_ SIMM_GUARDED_BY(mutex_);
  uint64_t last_lease_ SIMM_GUARDED_BY(mutex_) = 0;
  uint64_t bytes_ SIMM_GUARDED_BY(mutex_) = 0;
  uint64_t extents_ SIMM_GUARDED_BY(mutex_) = 0;
  uint64_t orphan_bytes_ SIMM_GUARDED_BY(mutex_) = 0;
  bool refused_ SIMM_GUARDED_BY(mutex_) = false;  // since the last StartRecalls
};

}  // namespace simm::dataserver
