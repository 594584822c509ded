#include "common/rpc/cluster_health.h"

#include <algorithm>
#include <map>

#include "common/base/bytes.h"
#include "common/base/limits.h"

namespace simm::rpc {
namespace {

constexpr size_t kNamesShown = 3;

// "a", "a and b", "a, b, c and 9 more".
std::string Names(const std::vector<std::string>& names) {
  std::string text;
  const size_t shown = std::min(names.size(), kNamesShown);
  for (size_t i = 0; i < shown; ++i) {
    const bool last = i + 1 == names.size();
    text += (i == 0 ? "" : last ? " and " : ", ") + names[i];
  }
  if (names.size() > shown) text += " and " + std::to_string(names.size() - shown) + " more";
  return text;
}

std::vector<std::string> NamesIn(const ClusterStatus& status, ServerState state) {
  std::vector<std::string> names;
  for (const NodeStatus& node : status.nodes) {
    if (node.record.state == state) names.push_back(node.record.name);
  }
  return names;
}

std::string Be(const std::vector<std::string>& names) { return names.size() == 1 ? " is" : " are"; }

void FindProblems(const ClusterStatus& status, std::vector<Finding>& out) {
  if (!status.problem.empty()) {
    out.push_back({true, status.problem,
                   "the cache goes on as it is; nothing in the membership changes until the "
                   "manager can do its work: see its log"});
  }
  if (!status.frozen.empty()) {
    out.push_back({true, "the map is frozen: " + status.frozen,
                   "look at the network between the manager and these servers; it thaws when they "
                   "are back; forget one that is gone for good: simmctl node remove NAME"});
  }
  if (const auto dead = NamesIn(status, ServerState::kDead); !dead.empty()) {
    out.push_back(
        {true, Names(dead) + Be(dead) + " dead: others hold the shards",
         "start it again (a named pool is warm), or forget it: simmctl node remove NAME"});
  }
  if (const auto silent = NamesIn(status, ServerState::kSuspect); !silent.empty()) {
    out.push_back({true, Names(silent) + Be(silent) + " silent: reads there are misses",
                   "is the process running, and can it reach the manager?"});
  }
}

void FindNews(const ClusterStatus& status, const ClusterTotals& totals, std::vector<Finding>& out) {
  std::map<std::string, size_t> versions;
  for (const NodeStatus& node : status.nodes) {
    if (node.record.state != ServerState::kDead && !node.version.empty()) ++versions[node.version];
  }
  if (versions.size() > 1) {
    std::string text;
    for (const auto& [version, count] : versions) {
      text += (text.empty() ? "" : ", ") + version + " (" + std::to_string(count) + ")";
    }
    out.push_back({false, "data servers of several versions: " + text,
                   "normal during a rolling upgrade: finish it"});
  }
  if (const auto names = NamesIn(status, ServerState::kDraining); !names.empty()) {
    uint32_t left = 0;
    for (const NodeStatus& node : status.nodes) {
      if (node.record.state == ServerState::kDraining) left += node.shards + node.shards_leaving;
    }
    out.push_back(
        {false,
         Names(names) + Be(names) + " being drained, " + std::to_string(left) + " shards to go",
         left == 0 ? "empty: it can be stopped; then simmctl node remove NAME"
                   : "wait, or take it back: simmctl node undrain NAME"});
  }
  if (status.shards_under_replicated != 0) {
    out.push_back({false,
                   std::to_string(status.shards_under_replicated) + " shards lie on fewer than " +
                       std::to_string(status.replicas) + " servers",
                   "copies are made in the background while there are servers enough; do not stop "
                   "another server meanwhile"});
  }
  if (totals.shards_moving != 0) {
    out.push_back({false, std::to_string(totals.shards_moving) + " shards are on their way",
                   "their keys stay readable meanwhile"});
  }
  if (totals.entries_given_up != 0) {
    out.push_back({false,
                   std::to_string(totals.entries_given_up) + " entries (" +
                       FormatSize(totals.bytes_given_up) + ") were given up by migration",
                   "the servers that took the shards had no room: add memory"});
  }
}

}  // namespace

ClusterTotals SumOf(const ClusterStatus& status) {
  ClusterTotals totals;
  for (const NodeStatus& node : status.nodes) {
    totals.alive += node.record.state == ServerState::kAlive;
    totals.suspect += node.record.state == ServerState::kSuspect;
    totals.dead += node.record.state == ServerState::kDead;
    totals.draining += node.record.state == ServerState::kDraining;
    totals.shards_moving += node.shards_coming;
    if (node.record.state == ServerState::kDead) continue;
    totals.entries_given_up += node.migration.entries_given_up;
    totals.bytes_given_up += node.migration.bytes_given_up;
    const ServerStats& stats = node.stats;
    totals.stats.data_bytes += stats.data_bytes;
    totals.stats.free_bytes += stats.free_bytes;
    totals.stats.granted_bytes += stats.granted_bytes;
    totals.stats.live_bytes += stats.live_bytes;
    totals.stats.limbo_bytes += stats.limbo_bytes;
    totals.stats.pinned_bytes += stats.pinned_bytes;
    totals.stats.live_value_bytes += stats.live_value_bytes;
    totals.stats.entries += stats.entries;
    totals.stats.hits += stats.hits;
    totals.stats.misses += stats.misses;
    totals.stats.puts += stats.puts;
    totals.stats.evictions += stats.evictions;
    totals.stats.bytes_read += stats.bytes_read;
    totals.stats.bytes_written += stats.bytes_written;
    totals.stats.connections += stats.connections;
  }
  return totals;
}

std::string_view HealthName(Health health) {
  switch (health) {
    case Health::kHealthy:
      return "healthy";
    case Health::kDegraded:
      return "degraded";
    case Health::kEmpty:
      return "empty";
    case Health::kDown:
      return "down";
  }
  return "unknown";
}

ClusterHealth AssessHealth(const ClusterStatus& status) {
  const ClusterTotals totals = SumOf(status);
  ClusterHealth health;
  FindProblems(status, health.findings);
  if (!health.findings.empty()) health.word = Health::kDegraded;
  if (status.nodes.empty()) {
    health.word = Health::kEmpty;
    health.findings.push_back({true, "no data server has joined yet: every get is a miss",
                               "start one: simm-dataserver --manager HOST:PORT --memory 4GiB"});
  } else if (totals.alive + totals.draining == 0) {
    health.word = Health::kDown;
    health.findings.insert(
        health.findings.begin(),
        {true, "no data server is alive: every get is a miss",
         "start them again, or new ones: simm-dataserver --manager HOST:PORT --memory 4GiB"});
  }
  FindNews(status, totals, health.findings);
  return health;
}

}  // namespace simm::rpc
