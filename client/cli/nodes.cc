#include <CLI/CLI.hpp>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "client/cli/session.h"
#include "client/cli/table.h"
#include "common/base/bytes.h"

namespace simm::cli {
namespace {

nlohmann::json ToJson(const rpc::NodeStatus& node) {
  const rpc::ServerStats& stats = node.stats;
  return {{"name", node.record.name},
          {"id", node.record.id},
          {"state", ServerStateName(node.record.state)},
          {"zone", node.record.zone},
          {"control_address", node.record.control_address},
          {"data_address", node.record.data_address},
          {"version", node.version},
          {"pool_id", ToString(node.record.pool_id)},
          {"incarnation", node.record.incarnation},
          {"weight", node.record.weight},
          {"shards", node.shards},
          {"term", node.map.term},
          {"epoch", node.map.epoch},
          {"silent_ms", node.silent_ms},
          {"data_bytes", stats.data_bytes},
          {"free_bytes", stats.free_bytes},
          {"granted_bytes", stats.granted_bytes},
          {"live_bytes", stats.live_bytes},
          {"limbo_bytes", stats.limbo_bytes},
          {"pinned_bytes", stats.pinned_bytes},
          {"live_value_bytes", stats.live_value_bytes},
          {"entries", stats.entries},
          {"hits", stats.hits},
          {"misses", stats.misses},
          {"puts", stats.puts},
          {"evictions", stats.evictions},
          {"bytes_read", stats.bytes_read},
          {"bytes_written", stats.bytes_written},
          {"connections", stats.connections}};
}

nlohmann::json TransportsOf(const rpc::ServerStats& stats) {
  nlohmann::json list = nlohmann::json::array();
  for (const rpc::TransportStatus& entry : stats.transports) {
    list.push_back({{"name", entry.name},
                    {"offered", entry.offered},
                    {"reason", entry.reason},
                    {"connections", entry.connections}});
  }
  return list;
}

// "tcp 2, shm 1": open connections of each transport that is offered.
std::string TransportColumn(const rpc::ServerStats& stats) {
  std::string text;
  for (const rpc::TransportStatus& entry : stats.transports) {
    if (!entry.offered) continue;
    text += (text.empty() ? "" : ", ") + entry.name + " " + std::to_string(entry.connections);
  }
  return text.empty() ? "-" : text;
}

int List(const Session& session) {
  std::unique_ptr<Admin> admin;
  if (const int code = session.OpenAdmin(&admin); code != kDone) return code;
  const Result<rpc::ClusterStatus> status = admin->GetStatus(session.timeout());
  if (!status.ok()) return session.Fail(status.status());
  if (session.json) {
    nlohmann::json nodes = nlohmann::json::array();
    for (const rpc::NodeStatus& node : status->nodes) {
      nodes.push_back(ToJson(node));
      nodes.back()["transports"] = TransportsOf(node.stats);
    }
    session.PrintJson({{"nodes", nodes}});
    return kDone;
  }
  Table table({"NAME", "STATE", "SHARDS", "DATA", "LIVE", "ENTRIES", "HITS", "EVICTIONS", "SILENT",
               "EPOCH", "ADDRESS", "CONNECTIONS", "ZONE"});
  for (const rpc::NodeStatus& node : status->nodes) {
    const rpc::ServerStats& stats = node.stats;
    table.Add({node.record.name, std::string(ServerStateName(node.record.state)),
               std::to_string(node.shards), FormatSize(stats.data_bytes),
               Percent(stats.live_bytes, stats.data_bytes), WithCommas(stats.entries),
               Percent(stats.hits, stats.hits + stats.misses), WithCommas(stats.evictions),
               FormatDuration(node.silent_ms), std::to_string(node.map.epoch),
               node.record.data_address, TransportColumn(stats),
               node.record.zone.empty() ? "-" : node.record.zone});
  }
  std::fputs(table.ToString().c_str(), stdout);
  return kDone;
}

int Remove(const Session& session, const std::string& name) {
  std::unique_ptr<Admin> admin;
  if (const int code = session.OpenAdmin(&admin); code != kDone) return code;
  const Status status = admin->RemoveNode(name, session.timeout());
  if (status.code() == Code::kMiss) {
    std::fprintf(stderr, "simmctl: no server is called '%s'; see simmctl nodes\n", name.c_str());
    return kNotThere;
  }
  if (!status.ok()) return session.Fail(status);
  if (session.json) {
    session.PrintJson({{"removed", name}});
  } else {
    std::printf("removed %s; its shards have other owners\n", name.c_str());
  }
  return kDone;
}

}  // namespace

void AddNodes(CLI::App& app, Session& session) {
  CLI::App* nodes = app.add_subcommand("nodes", "The data servers, one a line; nodes remove NAME");
  nodes->alias("node");
  nodes->require_subcommand(0, 1);
  nodes->callback([&session, nodes] {
    if (nodes->get_subcommands().empty()) {
      session.command = [&session] { return List(session); };
    }
  });
  CLI::App* list = nodes->add_subcommand("list", "The same as nodes");
  list->callback([&session] { session.command = [&session] { return List(session); }; });
  CLI::App* remove =
      nodes->add_subcommand("remove", "Forgets a dead server for good: others own its shards");
  auto name = std::make_shared<std::string>();
  remove->add_option("NAME", *name, "Its name, as nodes shows it")->required();
  remove->callback(
      [&session, name] { session.command = [&session, name] { return Remove(session, *name); }; });
}

}  // namespace simm::cli
