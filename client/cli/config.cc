#include <CLI/CLI.hpp>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "client/cli/session.h"
#include "client/cli/table.h"

namespace simm::cli {
namespace {

// A program of the cluster and what it says of itself, or why it does not.
struct Described {
  std::string name;
  Result<rpc::NodeDescription> node;
};

int Ask(const Session& session, const std::string& name, std::vector<Described>& all) {
  std::unique_ptr<Admin> admin;
  if (const int code = session.OpenAdmin(&admin); code != kDone) return code;
  const Result<rpc::ClusterStatus> status = admin->GetStatus(session.timeout());
  if (!status.ok()) return session.Fail(status.status());
  if (name.empty() || name == "manager") {
    all.push_back({"manager", admin->Describe(session.timeout())});
  }
  for (const rpc::NodeStatus& node : status->nodes) {
    if (node.record.state == ServerState::kDead || (!name.empty() && node.record.name != name)) {
      continue;
    }
    all.push_back(
        {node.record.name, Admin::DescribeAt(node.record.control_address, session.timeout())});
  }
  if (!all.empty()) return kDone;
  std::fprintf(stderr,
               "simmctl: '%s' is neither 'manager' nor a living server; see simmctl nodes\n",
               name.c_str());
  return kNotThere;
}

nlohmann::json ToJson(const Described& described, bool changed) {
  if (!described.node.ok()) {
    return {{"name", described.name}, {"problem", described.node.status().message()}};
  }
  nlohmann::json options = nlohmann::json::array();
  for (const rpc::OptionText& option : described.node->options) {
    if (changed && option.source == "default") continue;
    options.push_back({{"name", option.name}, {"value", option.value}, {"source", option.source}});
  }
  return {{"name", described.name},
          {"program", described.node->program},
          {"version", described.node->version},
          {"options", options}};
}

void Print(const Described& described, bool changed) {
  const rpc::NodeDescription& node = *described.node;
  std::printf("%s: %s %s\n", described.name.c_str(), node.program.c_str(), node.version.c_str());
  Table table({"OPTION", "VALUE", "FROM"});
  for (const rpc::OptionText& option : node.options) {
    if (changed && option.source == "default") continue;
    table.Add({option.name, option.value.empty() ? "-" : option.value, option.source});
  }
  std::fputs(table.ToString().c_str(), stdout);
}

int Show(const Session& session, const std::string& name, bool changed) {
  std::vector<Described> all;
  if (const int code = Ask(session, name, all); code != kDone) return code;
  nlohmann::json list = nlohmann::json::array();
  int code = kDone;
  for (size_t i = 0; i < all.size(); ++i) {
    if (session.json) list.push_back(ToJson(all[i], changed));
    if (!all[i].node.ok()) {
      std::fprintf(stderr, "simmctl: %s: %s\n", all[i].name.c_str(),
                   all[i].node.status().message().c_str());
      code = kRefused;
    } else if (!session.json) {
      if (i > 0) std::printf("\n");
      Print(all[i], changed);
    }
  }
  if (session.json) session.PrintJson({{"programs", list}});
  return code;
}

}  // namespace

void AddConfig(CLI::App& app, Session& session) {
  auto name = std::make_shared<std::string>();
  auto changed = std::make_shared<bool>(false);
  CLI::App* config = app.add_subcommand(
      "config",
      "The options in force of the manager and the data servers, and where they are from");
  config->add_option("NAME", *name, "A data server, or 'manager'; nothing: all");
  config->add_flag("--changed", *changed, "Only what is not the default");
  config->callback([&session, name, changed] {
    session.command = [&session, name, changed] { return Show(session, *name, *changed); };
  });
}

}  // namespace simm::cli
