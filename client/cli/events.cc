#include <CLI/CLI.hpp>
#include <cstdio>
#include <ctime>
#include <nlohmann/json.hpp>

#include "client/cli/session.h"
#include "client/cli/table.h"

namespace simm::cli {
namespace {

// "2026-11-25 12:00:01.234" in UTC.
std::string TimeOf(uint64_t unix_ms) {
  const auto seconds = static_cast<std::time_t>(unix_ms / 1000);
  std::tm parts{};
  gmtime_r(&seconds, &parts);
  char text[64];
  const size_t size = std::strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S", &parts);
  std::snprintf(text + size, sizeof text - size, ".%03u", static_cast<unsigned>(unix_ms % 1000));
  return text;
}

nlohmann::json ToJson(const rpc::Event& event) {
  return {{"number", event.number},        {"unix_ms", event.unix_ms},
          {"time", TimeOf(event.unix_ms)}, {"kind", rpc::EventKindName(event.kind)},
          {"server", event.server},        {"term", event.map.term},
          {"epoch", event.map.epoch},      {"text", event.text}};
}

int List(const Session& session, uint64_t after, uint32_t limit) {
  std::unique_ptr<Admin> admin;
  if (const int code = session.OpenAdmin(&admin); code != kDone) return code;
  const Result<std::vector<rpc::Event>> events = admin->ListEvents(after, limit, session.timeout());
  if (!events.ok()) return session.Fail(events.status());
  if (session.json) {
    nlohmann::json list = nlohmann::json::array();
    for (const rpc::Event& event : *events) list.push_back(ToJson(event));
    session.PrintJson({{"events", list}});
    return kDone;
  }
  Table table({"TIME (UTC)", "EVENT", "SERVER", "EPOCH", "WHAT"});
  for (const rpc::Event& event : *events) {
    table.Add({TimeOf(event.unix_ms), std::string(rpc::EventKindName(event.kind)),
               event.server.empty() ? "-" : event.server, std::to_string(event.map.epoch),
               event.text});
  }
  std::fputs(table.ToString().c_str(), stdout);
  return kDone;
}

}  // namespace

void AddEvents(CLI::App& app, Session& session) {
  CLI::App* events =
      app.add_subcommand("events", "Joins, deaths, returns, epochs, ... since the manager's start");
  auto after = std::make_shared<uint64_t>(0);
  auto limit = std::make_shared<uint32_t>(100);
  events->add_option("--after", *after, "Only those with a higher number (of --json)");
  events->add_option("--limit", *limit, "At most so many, the newest; 0: all that are kept")
      ->capture_default_str();
  events->callback([&session, after, limit] {
    session.command = [&session, after, limit] { return List(session, *after, *limit); };
  });
}

}  // namespace simm::cli
