#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "client/cli/session.h"
#include "client/cli/table.h"
#include "common/base/bytes.h"
#include "common/base/limits.h"

namespace simm::cli {
namespace {

constexpr size_t kBarCells = 20;

nlohmann::json ToJson(const rpc::ClusterStatus& status) {
  nlohmann::json servers = nlohmann::json::array();
  for (const rpc::NodeStatus& node : status.nodes) {
    servers.push_back({{"name", node.record.name},
                       {"state", ServerStateName(node.record.state)},
                       {"shards", node.shards},
                       {"coming", node.shards_coming},
                       {"leaving", node.shards_leaving},
                       {"to_pull", node.migration.shards_to_pull},
                       {"bytes_pulled", node.migration.bytes_pulled},
                       {"bytes_left", node.migration.bytes_left}});
  }
  return {{"shards", limits::kShards},
          {"replicas", status.replicas},
          {"under_replicated", status.shards_under_replicated},
          {"servers", servers}};
}

void Print(const rpc::ClusterStatus& status) {
  uint32_t most = 1, moving = 0;
  for (const rpc::NodeStatus& node : status.nodes) {
    most = std::max(most, node.shards);
    moving += node.shards_coming;
  }
  std::printf("%s shards", WithCommas(limits::kShards).c_str());
  if (status.replicas > 1) std::printf(", each on %u servers", status.replicas);
  std::printf("; %s on their way", WithCommas(moving).c_str());
  if (status.shards_under_replicated != 0) {
    std::printf("; %s on too few servers", WithCommas(status.shards_under_replicated).c_str());
  }
  std::printf("\n\n");
  Table table({"NAME", "STATE", "SHARDS", "", "SHARE", "COMING", "LEAVING", "PULLED", "LEFT"});
  const uint64_t all = uint64_t{limits::kShards} * std::max<uint32_t>(status.replicas, 1);
  for (const rpc::NodeStatus& node : status.nodes) {
    table.Add({node.record.name, std::string(ServerStateName(node.record.state)),
               WithCommas(node.shards), Bar(node.shards, most, kBarCells),
               Percent(node.shards, all), WithCommas(node.shards_coming),
               WithCommas(node.shards_leaving), FormatSize(node.migration.bytes_pulled),
               FormatSize(node.migration.bytes_left)});
  }
  std::fputs(table.ToString().c_str(), stdout);
}

}  // namespace

void AddShards(CLI::App& app, Session& session) {
  CLI::App* shards =
      app.add_subcommand("shards", "How the shards lie on the data servers, and which move");
  shards->callback([&session] {
    session.command = [&session] {
      std::unique_ptr<Admin> admin;
      if (const int code = session.OpenAdmin(&admin); code != kDone) return code;
      const Result<rpc::ClusterStatus> status = admin->GetStatus(session.timeout());
      if (!status.ok()) return session.Fail(status.status());
      if (session.json) {
        session.PrintJson(ToJson(*status));
      } else {
        Print(*status);
      }
      return static_cast<int>(kDone);
    };
  });
}

}  // namespace simm::cli
