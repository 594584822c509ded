#include "client/cli/status.h"

#include <CLI/CLI.hpp>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "client/admin_json.h"
#include "client/cli/table.h"
#include "common/base/bytes.h"

namespace simm::cli {
namespace {

constexpr size_t kBarCells = 30;

nlohmann::json ToJson(const rpc::ClusterStatus& status, const rpc::ClusterTotals& totals) {
  const rpc::ClusterHealth health = rpc::AssessHealth(status);
  return {{"health", rpc::HealthName(health.word)},
          {"findings", rpc::ToJson(health.findings)},
          {"rates", rpc::ToJson(status.rates)},
          {"cluster", ToString(status.map.cluster)},
          {"term", status.map.term},
          {"epoch", status.map.epoch},
          {"replicas", status.replicas},
          {"manager_version", status.manager_version},
          {"uptime_ms", status.uptime_ms},
          {"watchers", status.watchers},
          {"namespaces", status.namespaces},
          {"leader", status.leader},
          {"frozen", status.frozen},
          {"problem", status.problem},
          {"shards_moving", totals.shards_moving},
          {"shards_under_replicated", status.shards_under_replicated},
          {"servers",
           {{"alive", totals.alive},
            {"suspect", totals.suspect},
            {"dead", totals.dead},
            {"draining", totals.draining}}},
          {"data_bytes", totals.stats.data_bytes},
          {"free_bytes", totals.stats.free_bytes},
          {"pinned_bytes", totals.stats.pinned_bytes},
          {"live_bytes", totals.stats.live_bytes},
          {"live_value_bytes", totals.stats.live_value_bytes},
          {"entries", totals.stats.entries},
          {"hits", totals.stats.hits},
          {"misses", totals.stats.misses},
          {"puts", totals.stats.puts},
          {"evictions", totals.stats.evictions}};
}

std::string Line(const std::string& head, const std::string& text) {
  return head + std::string(head.size() < 12 ? 12 - head.size() : 1, ' ') + text + "\n";
}

std::string Findings(const Session& session, const rpc::ClusterHealth& health) {
  std::string text;
  for (const rpc::Finding& finding : health.findings) {
    const std::string mark =
        finding.problem ? session.Paint("!", Session::Colour::kBad) : std::string("-");
    text += "\n" + mark + " " + finding.what + "\n    " + finding.mend + "\n";
  }
  return text;
}

}  // namespace

std::string StatusText(const Session& session, const rpc::ClusterStatus& status) {
  const rpc::ClusterTotals totals = SumOf(status);
  const rpc::ClusterHealth health = rpc::AssessHealth(status);
  const rpc::ServerStats& sum = totals.stats;
  const rpc::Rates& now = status.rates;
  const auto colour = health.word == rpc::Health::kHealthy ? Session::Colour::kGood
                      : health.word == rpc::Health::kDown  ? Session::Colour::kBad
                                                           : Session::Colour::kWarning;
  std::string servers = std::to_string(totals.alive) + " alive";
  if (totals.suspect != 0) servers += ", " + std::to_string(totals.suspect) + " suspect";
  if (totals.dead != 0) servers += ", " + std::to_string(totals.dead) + " dead";
  if (totals.draining != 0) servers += ", " + std::to_string(totals.draining) + " draining";
  std::string text =
      Line("health", session.Paint(std::string(rpc::HealthName(health.word)), colour)) +
      Line("servers", servers) +
      Line("capacity", Bar(sum.live_bytes, sum.data_bytes, kBarCells) + " " +
                           FormatSize(sum.live_bytes) + " of " + FormatSize(sum.data_bytes) + " (" +
                           Percent(sum.live_bytes, sum.data_bytes) + "), " +
                           WithCommas(sum.entries) + " entries") +
      Line("hit rate", PercentOfRates(now.hits, now.hits + now.misses) + " now, " +
                           Percent(sum.hits, sum.hits + sum.misses) + " since the start (" +
                           WithCommas(sum.hits) + " hits, " + WithCommas(sum.misses) + " misses)") +
      Line("traffic", FormatByteRate(now.bytes_read) + " out, " +
                          FormatByteRate(now.bytes_written) + " in; " +
                          FormatRate(now.hits + now.misses) + " gets, " + FormatRate(now.puts) +
                          " puts, " + FormatRate(now.evictions) + " evictions") +
      Line("manager", "version " + status.manager_version + ", up " +
                          FormatDuration(status.uptime_ms) + ", " +
                          std::to_string(status.watchers) + " watchers of the map");
  if (!status.leader.empty()) text += Line("leader", status.leader);
  text +=
      Line("cluster",
           ToString(status.map.cluster) + ", term " + std::to_string(status.map.term) + ", epoch " +
               std::to_string(status.map.epoch) +
               (status.replicas > 1 ? ", " + std::to_string(status.replicas) + " replicas" : ""));
  return text + Findings(session, health);
}

void AddStatus(CLI::App& app, Session& session) {
  CLI::App* status = app.add_subcommand("status", "The cluster at a glance, and what to do");
  status->callback([&session] {
    session.command = [&session] {
      std::unique_ptr<Admin> admin;
      if (const int code = session.OpenAdmin(&admin); code != kDone) return code;
      const Result<rpc::ClusterStatus> got = admin->GetStatus(session.timeout());
      if (!got.ok()) return session.Fail(got.status());
      if (session.json) {
        session.PrintJson(ToJson(*got, SumOf(*got)));
      } else {
        std::fputs(StatusText(session, *got).c_str(), stdout);
      }
      return static_cast<int>(kDone);
    };
  });
}

}  // namespace simm::cli
