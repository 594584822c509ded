#include "dataserver/one_sided_state.h"

#include <map>
#include <memory>
#include <string>
#include <tuple>

#include "common/base/limits.h"
#include "common/base/process.h"

namespace simm::dataserver {
namespace {

// Lane ids of two starts of a server differ: a client may ask for a lane of the last one.
constexpr int kLaneCounterBits = 40;

// Who asked the server before this one over a network: its end is the end of the devices' work.
class NetworkPeers final : public transport::PeerProcess {
 public:
  explicit NetworkPeers(const Pool& pool) : pool_(pool) {}
  bool Ended() const override { return pool_.PredecessorEnded(); }
  std::string Name() const override { return "network peers of the server before this one"; }

 private:
  const Pool& pool_;
};

// Who had the memory mapped.
class MappingPeer final : public transport::PeerProcess {
 public:
  MappingPeer(const protocol::LeaseRecord& record, bool visible)
      : pid_(record.owner_pid), start_time_(record.owner_start_time), visible_(visible) {
    if (visible_) process_ = WatchedProcess(pid_, start_time_);
  }
  bool Ended() const override { return process_.Ended(); }
  std::string Name() const override {
    return "pid " + std::to_string(pid_) + (visible_ ? "" : " of another pid namespace");
  }
  Identity identity() const override { return {pid_, start_time_}; }

 private:
  const uint32_t pid_;
  const uint64_t start_time_;
  const bool visible_;
  WatchedProcess process_;
};

// One for each process, or a pidfd for each extent would be held.
class Owners {
 public:
  explicit Owners(const Pool& pool)
      : network_(std::make_shared<NetworkPeers>(pool)),
        pid_namespace_(static_cast<uint32_t>(ThisProcess().pid_namespace)) {}

  std::shared_ptr<transport::PeerProcess> Of(const protocol::LeaseRecord& record) {
    if ((record.flags & protocol::kLeaseOfMapping) == 0) return network_;
    const bool visible = record.owner_pid != 0 && record.owner_namespace != 0 &&
                         record.owner_namespace == pid_namespace_;
    auto& owner = known_[{record.owner_pid, record.owner_start_time, record.owner_namespace}];
    if (!owner) owner = std::make_shared<MappingPeer>(record, visible);
    return owner;
  }

 private:
  const std::shared_ptr<NetworkPeers> network_;
  const uint32_t pid_namespace_;
  std::map<std::tuple<uint32_t, uint64_t, uint32_t>, std::shared_ptr<MappingPeer>> known_;
};

}  // namespace

OneSidedState::OneSidedState(Pool& pool, DataMetrics& metrics)
    : lanes((pool.incarnation() << kLaneCounterBits) + 1),
      leases(pool.geometry().data_bytes, pool.geometry().lease_records, pool.lease_memory()),
      pins(pool.geometry().data_bytes / limits::kPinShare),
      pool_(pool),
      metrics_(metrics) {
  Owners owners(pool);
  leases.Adopt(pool.TakeAdopted(),
               [&](const protocol::LeaseRecord& record) { return owners.Of(record); });
  pool_.AbandonBlank(leases.TakeEnded());
}

OneSidedState::~OneSidedState() {
  for (const PinnedValue& pinned : pins.TakeAll()) pool_.Release(pinned);
}

void OneSidedState::EndPins(const SessionTable& sessions) {
  const auto ended = [&](uint64_t session) { return !sessions.IsOpen(session); };
  for (const PinnedValue& pinned : pins.TakeOf(ended)) pool_.Release(pinned);
}

void OneSidedState::Tick(Instant now) {
  for (const PinnedValue& pinned : pins.TakeEnded(now)) pool_.Release(pinned);
  const auto ended = leases.TakeEnded();
  pool_.AbandonBlank(ended);
  metrics_.abandoned_extents.fetch_add(ended.size(), std::memory_order_relaxed);
  const uint64_t busy = pool_.Counters().busy;
  const bool pressure = busy != busy_seen_ || pool_.IsShort();
  busy_seen_ = busy;
  leases.StartRecalls(now, pressure);
}

}  // namespace simm::dataserver
