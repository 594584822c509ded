#include "manager/adoption.h"

#include <algorithm>
#include <cstdio>
#include <utility>

namespace simm::manager {

bool Adoption::Offer(const std::string& server, const MapVersion& held) {
  if (held.cluster.IsZero()) {
    offers_.erase(server);
    return false;
  }
  if (offers_.size() < limits::kMaxServers || offers_.contains(server)) offers_[server] = held;
  const auto report = reports_.find(held.cluster);
  if (report == reports_.end()) return reports_.size() < kMaxClusters;
  // What is kept is already that of the next term and epoch.
  MapVersion reported = report->second.map.version;
  --reported.term;
  --reported.epoch;
  return reported.OlderThan(held);
}

Status Adoption::Report(const RouteTable& table) {
  Result<DurableState> state = AdoptedFrom(table);
  if (!state.ok()) {
    std::erase_if(offers_, [&](const auto& offer) { return offer.second == table.version(); });
    return state.status();
  }
  const auto found = reports_.find(table.version().cluster);
  if (found == reports_.end()) {
    if (reports_.size() < kMaxClusters)
      reports_.emplace(table.version().cluster, *std::move(state));
  } else if (found->second.map.version.OlderThan(state->map.version)) {
    found->second = *std::move(state);
  }
  return Status::Ok();
}

std::optional<MapVersion> Adoption::Chosen(bool reported) const {
  struct Cluster {
    uint32_t servers = 0;
    MapVersion newest;
  };
  std::map<Id128, Cluster> clusters;
  for (const auto& [server, held] : offers_) {
    if (reported && !reports_.contains(held.cluster)) continue;
    Cluster& cluster = clusters[held.cluster];
    if (cluster.servers++ == 0 || cluster.newest.OlderThan(held)) cluster.newest = held;
  }
  const auto best =
      std::max_element(clusters.begin(), clusters.end(), [](const auto& a, const auto& b) {
        if (a.second.servers != b.second.servers) return a.second.servers < b.second.servers;
        if (a.second.newest.OlderThan(b.second.newest)) return true;
        return false;
      });
  if (best == clusters.end()) return std::nullopt;
  return best->second.newest;
}

std::optional<DurableState> Adoption::Decide(Instant now, const Id128& fresh) {
  if (now - std::exchange(looked_, now) > wait_ / 3) until_ = now + wait_;
  if (now < until_) return std::nullopt;
  if (wait_ == Duration::zero() || offers_.empty()) return NewCluster(fresh);
  const bool enough = now >= until_ + wait_;
  const std::optional<MapVersion> chosen = Chosen(/*reported=*/enough);
  if (!chosen.has_value()) return std::nullopt;
  const auto report = reports_.find(chosen->cluster);
  if (report == reports_.end()) return std::nullopt;
  const MapVersion& next = report->second.map.version;
  const bool newest = next.term > chosen->term + 1 ||
                      (next.term == chosen->term + 1 && next.epoch >= chosen->epoch + 1);
  if (!newest && !enough) return std::nullopt;
  return report->second;
}

std::string Adoption::Describe(Instant now) const {
  const double left = std::max(0.0, ToSeconds(until_ - now));
  char text[192];
  std::snprintf(text, sizeof text,
                "this manager has no state and waits %.1f s more for the maps that data servers "
                "hold (%zu servers have offered one); --new-cluster skips the wait",
                left, offers_.size());
  return text;
}

}  // namespace simm::manager
