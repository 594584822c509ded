#include "common/rpc/map_follower.h"

#include <algorithm>
#include <utility>

namespace simm::rpc {
namespace {

constexpr size_t kServersToAsk = 3;
constexpr Duration kLookForManager = std::chrono::seconds(10);  // on average

}  // namespace

Duration WatchBackoff::Next(bool served, Random& random) {
  if (served) longest_ = kMin;
  const auto pause = static_cast<int64_t>(random.Below(static_cast<uint64_t>(longest_.count())));
  if (!served) longest_ = std::min(2 * longest_, kMax);
  return Duration(pause);
}

std::vector<std::string> WatchCandidates(const std::vector<std::string>& addresses,
                                         const RouteTable* held, bool ask_servers, Random& random) {
  std::vector<std::string> candidates = addresses;
  if (!ask_servers || held == nullptr) return candidates;
  std::vector<std::string> servers;
  for (const ServerRecord& server : held->contents().servers) {
    const bool listed =
        std::find(addresses.begin(), addresses.end(), server.control_address) != addresses.end();
    if (server.state == ServerState::kAlive && !listed) servers.push_back(server.control_address);
  }
  std::shuffle(servers.begin(), servers.end(), random);
  servers.resize(std::min(servers.size(), kServersToAsk));
  candidates.insert(candidates.end(), servers.begin(), servers.end());
  return candidates;
}

Duration LookForManagerAfter(Random& random) {
  const auto half = static_cast<uint64_t>(kLookForManager.count() / 2);
  return Duration(static_cast<int64_t>(half + random.Below(2 * half)));
}

std::optional<MapVersion> MapFollower::BeginStream() {
  base_ = held_;
  if (base_ == nullptr || std::exchange(want_snapshot_, false)) return std::nullopt;
  return base_->version();
}

Result<std::shared_ptr<const RouteTable>> MapFollower::Read(const MapUpdate& update,
                                                            const std::string& from) {
  if (update.snapshot != nullptr) {
    base_ = update.snapshot;
  } else if (update.diff != nullptr) {
    Result<std::shared_ptr<const RouteTable>> next =
        base_ == nullptr ? Status(Code::kFailedPrecondition, "a diff came before any snapshot")
                         : base_->Apply(*update.diff);
    if (!next.ok()) {
      want_snapshot_ = true;  // a gap
      return next.status();
    }
    base_ = *std::move(next);
  } else if (base_ == nullptr || update.up_to_date == nullptr ||
             *update.up_to_date != base_->version()) {
    want_snapshot_ = true;
    return Status(Code::kProtocolError, from + " speaks of a map that nobody holds");
  }
  return base_;
}

Result<bool> MapFollower::Take(std::shared_ptr<const RouteTable> table, const std::string& from) {
  if (held_ != nullptr && !MayReplace(held_->version(), table->version())) {
    const bool same = held_->version().SameCluster(table->version());
    return Status(same ? Code::kFailedPrecondition : Code::kWrongCluster,
                  from + " offers the map of " + ToString(table->version()) +
                      ", refused: held is that of " + ToString(held_->version()));
  }
  if (held_ != nullptr && held_->version() == table->version()) return false;
  held_ = std::move(table);
  return true;
}

}  // namespace simm::rpc
