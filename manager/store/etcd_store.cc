#include "manager/store/etcd_store.h"

#include <algorithm>
#include <chrono>
#include <thread>

#include "manager/store/state_codec.h"

namespace simm::manager {
namespace {

using namespace std::chrono_literals;

constexpr Duration kAttempt = 1500ms;
constexpr Duration kPause = 50ms;  // between two attempts, so that a refused port costs no CPU

}  // namespace

Result<DurableState> DecodeEtcdState(const std::string& key, const std::string& value) {
  Result<DurableState> state = DecodeState(value);
  if (state.ok()) return state;
  const bool corrupt = state.code() == Code::kCorrupt;
  return Status(Code::kFailedPrecondition,
                "the state under " + key + " in etcd" + (corrupt ? " is damaged: " : ": ") +
                    state.status().message() +
                    (corrupt ? ". Delete that key (etcdctl del " + key +
                                   "): a manager then learns the newest map from the data servers "
                                   "that run"
                             : ""));
}

Result<std::optional<DurableState>> EtcdStore::Load() {
  const auto entry = etcd_.Get(options_.state_key, kAttempt);
  if (!entry.ok()) return entry.status();
  if (!entry->has_value()) {
    revision_ = 0;
    return std::optional<DurableState>();
  }
  Result<DurableState> state = DecodeEtcdState(options_.state_key, (*entry)->value);
  if (!state.ok()) return state.status();
  revision_ = (*entry)->mod_revision;
  return std::optional<DurableState>(*std::move(state));
}

Status EtcdStore::Lose(const std::string& why) {
  lost_.store(true);
  return Status(Code::kUnavailable, "this manager leads no more: " + why);
}

Status EtcdStore::Save(const DurableState& state) {
  if (lost_.load()) return Lose("another may");
  const std::string bytes = EncodeState(state);
  using Of = rpc::EtcdCondition::Of;
  const std::vector<rpc::EtcdCondition> conditions = {
      {options_.leader_key, Of::kCreation, options_.leader_revision},
      {options_.state_key, Of::kChange, revision_}};
  Status last(Code::kUnavailable, "no time was left");
  bool in_doubt = false;
  while (true) {
    const Duration left = options_.leads_until() - clock_.Now();
    if (left <= Duration::zero()) {
      return Lose("etcd has not answered in time (" + last.message() + ")");
    }
    const Duration timeout = std::min(left, kAttempt);
    const auto done = etcd_.PutIf(conditions, options_.state_key, bytes, /*lease=*/0, timeout);
    if (!done.ok() && done.code() != Code::kUnavailable && done.code() != Code::kDeadlineExceeded) {
      // etcd itself refuses (no space, too large): it is certain that nothing was done, unless an
      // earlier attempt was.
      if (!in_doubt) return done.status();
    }
    if (!done.ok()) {
      in_doubt = true;
      last = done.status();
      std::this_thread::sleep_for(kPause);
      continue;
    }
    if (done->has_value()) {
      revision_ = **done;
      return Status::Ok();
    }
    // Our own earlier attempt was first, or another leader: the key says which.
    const auto entry = etcd_.Get(options_.state_key, timeout);
    if (!entry.ok()) {
      in_doubt = true;
      last = entry.status();
      continue;
    }
    if (entry->has_value() && (*entry)->value == bytes) {
      revision_ = (*entry)->mod_revision;
      return Status::Ok();
    }
    return Lose("another manager has taken over");
  }
}

}  // namespace simm::manager
