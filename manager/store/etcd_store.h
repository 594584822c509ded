#pragma once

#include <atomic>
#include <functional>
#include <string>

#include "common/base/clock.h"
#include "common/rpc/etcd_stub.h"
#include "manager/store/store.h"

namespace simm::manager {

// The Store of the leader among several managers: one key in etcd. A save is one transaction that
// holds only if the leader's key is still the one that this leader created and the state's key was
// changed last by the save before (which is the previous epoch, in etcd's words). So a leader that
// was paused and deposed changes nothing when it wakes. One thread at a time, but for lost().
class EtcdStore final : public Store {
 public:
  struct Options {
    std::string state_key;
    std::string leader_key;
    int64_t leader_revision = 0;  // at which this leader created its key
    // Until when this manager may believe itself to be the leader. May grow.
    std::function<Instant()> leads_until;
  };
  // The arguments are borrowed.
  EtcdStore(Options options, rpc::EtcdStub& etcd, Clock& clock)
      : options_(std::move(options)), etcd_(etcd), clock_(clock) {}

  Result<std::optional<DurableState>> Load() override;
  // Tries until it knows the outcome or the leadership has run out: an outcome that is not known
  // must not be followed by another state under the same epoch, since followers may have seen it.
  // kUnavailable: not saved by this leader; lost() then says that it must not go on.
  Status Save(const DurableState& state) override;

  // True once a save has shown, or could not exclude, that another manager leads.
  bool lost() const { return lost_.load(); }

 private:
  Status Lose(const std::string& why);

  const Options options_;
  rpc::EtcdStub& etcd_;
  Clock& clock_;
  int64_t revision_ = 0;  // of the state's last change; 0: there is none
  std::atomic<bool> lost_{false};
};

// What a state key in etcd holds. kFailedPrecondition: damaged, or of a newer format; the message
// says what to do.
Result<DurableState> DecodeEtcdState(const std::string& key, const std::string& value);

}  // namespace simm::manager
