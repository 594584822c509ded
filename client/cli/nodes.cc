#include <CLI/CLI.hpp>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "client/admin_json.h"
#include "client/cli/session.h"
#include "client/cli/table.h"
#include "common/base/bytes.h"

namespace simm::cli {
namespace {

nlohmann::json ToJson(const rpc::NodeStatus& node) {
  nlohmann::json object = {{"name", node.record.name},
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
                           {"boot_id", ToString(node.record.boot_id)},
                           {"can_report_map", node.record.Can(kCapabilityReportMap)},
                           {"can_migrate", node.record.Can(kCapabilityMigration)},
                           {"shards_coming", node.shards_coming},
                           {"shards_leaving", node.shards_leaving},
                           {"shards_to_pull", node.migration.shards_to_pull},
                           {"entries_pulled", node.migration.entries_pulled},
                           {"bytes_pulled", node.migration.bytes_pulled},
                           {"entries_given_up", node.migration.entries_given_up},
                           {"bytes_given_up", node.migration.bytes_given_up},
                           {"entries_left", node.migration.entries_left},
                           {"bytes_left", node.migration.bytes_left},
                           {"silent_ms", node.silent_ms}};
  object.update(rpc::ToJson(node.stats));
  return object;
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

// "120 in, 1.5 MiB pulled" or "300 out, 20.0 MiB left": shards on their way, and how far they are.
std::string MovingColumn(const rpc::NodeStatus& node) {
  std::string text;
  if (node.shards_coming != 0) {
    text = std::to_string(node.shards_coming) + " in, " + FormatSize(node.migration.bytes_pulled) +
           " pulled";
  }
  if (node.shards_leaving != 0) {
    text += (text.empty() ? "" : "; ") + std::to_string(node.shards_leaving) + " out, " +
            FormatSize(node.migration.bytes_left) + " left";
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
  Table table({"NAME", "STATE", "SHARDS", "MOVING", "DATA", "LIVE", "ENTRIES", "HITS", "EVICTIONS",
               "SILENT", "EPOCH", "ADDRESS", "CONNECTIONS", "ZONE"});
  for (const rpc::NodeStatus& node : status->nodes) {
    const rpc::ServerStats& stats = node.stats;
    table.Add({node.record.name, std::string(ServerStateName(node.record.state)),
               std::to_string(node.shards), MovingColumn(node), FormatSize(stats.data_bytes),
               Percent(stats.live_bytes, stats.data_bytes), WithCommas(stats.entries),
               Percent(stats.hits, stats.hits + stats.misses), WithCommas(stats.evictions),
               FormatDuration(node.silent_ms), std::to_string(node.map.epoch),
               node.record.data_address, TransportColumn(stats),
               node.record.zone.empty() ? "-" : node.record.zone});
  }
  std::fputs(table.ToString().c_str(), stdout);
  return kDone;
}

// Says so where there is no such server; otherwise as Session::Fail.
int FailNamed(const Session& session, const std::string& name, const Status& status) {
  if (status.code() != Code::kMiss) return session.Fail(status);
  std::fprintf(stderr, "simmctl: no server is called '%s'; see simmctl nodes\n", name.c_str());
  return kNotThere;
}

int Show(const Session& session, const std::string& name) {
  std::unique_ptr<Admin> admin;
  if (const int code = session.OpenAdmin(&admin); code != kDone) return code;
  const Result<rpc::ClusterStatus> status = admin->GetStatus(session.timeout());
  if (!status.ok()) return session.Fail(status.status());
  for (const rpc::NodeStatus& node : status->nodes) {
    if (node.record.name != name) continue;
    nlohmann::json object = ToJson(node);
    object["transports"] = TransportsOf(node.stats);
    if (session.json) {
      session.PrintJson(object);
      return kDone;
    }
    object.erase("transports");
    for (const auto& [key, value] : object.items()) {
      const std::string text = value.is_string() ? value.get<std::string>() : value.dump();
      std::printf("%-18s %s\n", key.c_str(), text.c_str());
    }
    for (const rpc::TransportStatus& entry : node.stats.transports) {
      const std::string state = entry.offered ? std::to_string(entry.connections) + " connections"
                                              : "not offered: " + entry.reason;
      std::printf("transport %-8s %s\n", entry.name.c_str(), state.c_str());
    }
    return kDone;
  }
  return FailNamed(session, name, Status(Code::kMiss, ""));
}

int Remove(const Session& session, const std::string& name, bool yes) {
  const std::string question =
      "this forgets server '" + name + "' for good, others own its shards at once";
  if (const int code = session.Confirm(yes, question); code != kDone) return code;
  std::unique_ptr<Admin> admin;
  if (const int code = session.OpenAdmin(&admin); code != kDone) return code;
  const Status status = admin->RemoveNode(name, session.timeout());
  if (!status.ok()) return FailNamed(session, name, status);
  if (session.json) {
    session.PrintJson({{"removed", name}});
  } else {
    std::printf("removed %s; its shards have other owners\n", name.c_str());
  }
  return kDone;
}

int Drain(const Session& session, const std::string& name, bool undrain) {
  std::unique_ptr<Admin> admin;
  if (const int code = session.OpenAdmin(&admin); code != kDone) return code;
  const Result<rpc::DrainReply> reply = admin->DrainNode(name, undrain, session.timeout());
  if (!reply.ok()) return FailNamed(session, name, reply.status());
  if (session.json) {
    session.PrintJson({{undrain ? "undrained" : "draining", name},
                       {"migrates", reply->migrates},
                       {"epoch", reply->map.epoch}});
  } else if (undrain) {
    std::printf("%s gets its shards back with epoch %lu\n", name.c_str(), reply->map.epoch);
  } else {
    std::printf("%s is being drained since epoch %lu; simmctl node show %s says how far it is\n",
                name.c_str(), reply->map.epoch, name.c_str());
    if (!reply->migrates) std::printf("it cannot move its entries: they are misses from now on\n");
  }
  return kDone;
}

}  // namespace

void AddNodes(CLI::App& app, Session& session) {
  CLI::App* nodes =
      app.add_subcommand("nodes", "The data servers, one a line; show, drain, undrain, remove one");
  nodes->alias("node");
  nodes->require_subcommand(0, 1);
  nodes->callback([&session, nodes] {
    if (nodes->get_subcommands().empty()) {
      session.command = [&session] { return List(session); };
    }
  });
  CLI::App* list = nodes->add_subcommand("list", "The same as nodes");
  list->callback([&session] { session.command = [&session] { return List(session); }; });
  // A command about one server.
  const auto add = [&session, nodes](const std::string& verb, const std::string& what, auto run) {
    CLI::App* command = nodes->add_subcommand(verb, what);
    auto name = std::make_shared<std::string>();
    command->add_option("NAME", *name, "Its name, as nodes shows it")->required();
    command->callback([&session, name, run] {
      session.command = [&session, name, run] { return run(session, *name); };
    });
    return command;
  };
  add("show", "All that is known of one server", Show);
  add("drain", "Gives its shards to others until undrain; it may be stopped when it is empty",
      [](const Session& s, const std::string& name) { return Drain(s, name, false); });
  add("undrain", "Gives a drained server its shards back",
      [](const Session& s, const std::string& name) { return Drain(s, name, true); });
  auto yes = std::make_shared<bool>(false);
  CLI::App* remove =
      add("remove", "Forgets a dead server for good: others own its shards",
          [yes](const Session& s, const std::string& name) { return Remove(s, name, *yes); });
  remove->add_flag("--yes", *yes, "Do it without a question");
}

}  // namespace simm::cli
