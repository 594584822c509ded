#include <CLI/CLI.hpp>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "client/cli/session.h"
#include "client/cli/table.h"
#include "common/base/bytes.h"

namespace simm::cli {
namespace {

struct Totals {
  rpc::ServerStats stats;
  size_t alive = 0;
  size_t suspect = 0;
  size_t dead = 0;
  size_t draining = 0;
  uint32_t moving = 0;  // shards
};

Totals Sum(const rpc::ClusterStatus& status) {
  Totals totals;
  for (const rpc::NodeStatus& node : status.nodes) {
    switch (node.record.state) {
      case ServerState::kAlive:
        ++totals.alive;
        break;
      case ServerState::kSuspect:
        ++totals.suspect;
        break;
      case ServerState::kDead:
        ++totals.dead;
        break;
      case ServerState::kDraining:
        ++totals.draining;
        break;
    }
    totals.moving += node.shards_coming;
    if (node.record.state == ServerState::kDead) continue;
    totals.stats.data_bytes += node.stats.data_bytes;
    totals.stats.live_bytes += node.stats.live_bytes;
    totals.stats.live_value_bytes += node.stats.live_value_bytes;
    totals.stats.entries += node.stats.entries;
    totals.stats.hits += node.stats.hits;
    totals.stats.misses += node.stats.misses;
    totals.stats.puts += node.stats.puts;
    totals.stats.evictions += node.stats.evictions;
    totals.stats.connections += node.stats.connections;
  }
  return totals;
}

nlohmann::json ToJson(const rpc::ClusterStatus& status, const Totals& totals) {
  return {{"cluster", ToString(status.map.cluster)},
          {"term", status.map.term},
          {"epoch", status.map.epoch},
          {"manager_version", status.manager_version},
          {"uptime_ms", status.uptime_ms},
          {"watchers", status.watchers},
          {"namespaces", status.namespaces},
          {"leader", status.leader},
          {"frozen", status.frozen},
          {"problem", status.problem},
          {"shards_moving", totals.moving},
          {"servers",
           {{"alive", totals.alive},
            {"suspect", totals.suspect},
            {"dead", totals.dead},
            {"draining", totals.draining}}},
          {"data_bytes", totals.stats.data_bytes},
          {"live_bytes", totals.stats.live_bytes},
          {"live_value_bytes", totals.stats.live_value_bytes},
          {"entries", totals.stats.entries},
          {"hits", totals.stats.hits},
          {"misses", totals.stats.misses},
          {"puts", totals.stats.puts},
          {"evictions", totals.stats.evictions}};
}

void Print(const rpc::ClusterStatus& status, const Totals& totals) {
  const rpc::ServerStats& sum = totals.stats;
  std::printf("cluster     %s, term %lu, epoch %lu\n", ToString(status.map.cluster).c_str(),
              status.map.term, status.map.epoch);
  std::printf("manager     version %s, up %s, %lu watchers of the map\n",
              status.manager_version.c_str(), FormatDuration(status.uptime_ms).c_str(),
              status.watchers);
  if (!status.leader.empty()) std::printf("leader      %s\n", status.leader.c_str());
  std::printf("servers     %zu alive, %zu suspect, %zu dead, %zu draining\n", totals.alive,
              totals.suspect, totals.dead, totals.draining);
  std::printf("memory      %s of %s hold live entries (%s)\n", FormatSize(sum.live_bytes).c_str(),
              FormatSize(sum.data_bytes).c_str(), Percent(sum.live_bytes, sum.data_bytes).c_str());
  std::printf("entries     %s, %s of values\n", WithCommas(sum.entries).c_str(),
              FormatSize(sum.live_value_bytes).c_str());
  std::printf("since start %s hits, %s misses (%s hits), %s puts, %s evictions\n",
              WithCommas(sum.hits).c_str(), WithCommas(sum.misses).c_str(),
              Percent(sum.hits, sum.hits + sum.misses).c_str(), WithCommas(sum.puts).c_str(),
              WithCommas(sum.evictions).c_str());
  if (totals.moving != 0) {
    std::printf("moving      %u shards are being pulled by their new owners\n", totals.moving);
  }
  if (!status.frozen.empty()) std::printf("FROZEN      %s\n", status.frozen.c_str());
  if (!status.problem.empty()) std::printf("PROBLEM     %s\n", status.problem.c_str());
  if (totals.alive == 0) {
    std::printf(
        "\nNo data server is alive, so every get is a miss. Start one:\n"
        "  simm-dataserver --manager HOST:PORT --memory 4GiB\n");
  }
}

}  // namespace

void AddStatus(CLI::App& app, Session& session) {
  CLI::App* status = app.add_subcommand("status", "The cluster in a few lines");
  status->callback([&session] {
    session.command = [&session] {
      std::unique_ptr<Admin> admin;
      if (const int code = session.OpenAdmin(&admin); code != kDone) return code;
      const Result<rpc::ClusterStatus> got = admin->GetStatus(session.timeout());
      if (!got.ok()) return session.Fail(got.status());
      const Totals totals = Sum(*got);
      if (session.json) {
        session.PrintJson(ToJson(*got, totals));
      } else {
        Print(*got, totals);
      }
      return static_cast<int>(kDone);
    };
  });
}

}  // namespace simm::cli
