#include <CLI/CLI.hpp>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "client/cli/session.h"

namespace simm::cli {
namespace {

int Show(const Session& session, const std::string& text) {
  std::string key;
  if (const int code = session.ReadKey(text, &key); code != kDone) return code;
  std::unique_ptr<Client> client;
  if (const int code = session.Connect(&client); code != kDone) return code;
  const KeyLocation location = client->Locate(key);
  if (session.json) {
    session.PrintJson({{"key", session.ShowKey(key)},
                       {"shard", location.shard},
                       {"server", location.server},
                       {"address", location.address},
                       {"replicas", location.replicas},
                       {"source", location.source},
                       {"replica_sources", location.replica_sources},
                       {"epoch", location.epoch},
                       {"hash", location.hash}});
  } else {
    std::printf("key     %s\nhash    %s\nshard   %u\n", session.ShowKey(key).c_str(),
                location.hash.c_str(), location.shard);
    if (!location.server.empty()) {
      std::printf("server  %s at %s\n", location.server.c_str(), location.address.c_str());
    }
    const auto show_source = [](const std::string& name) {
      if (!name.empty())
        std::printf("source  %s: the shard is on its way from there\n", name.c_str());
    };
    show_source(location.source);
    for (size_t i = 0; i < location.replicas.size(); ++i) {
      std::printf("replica %s\n", location.replicas[i].c_str());
      show_source(location.replica_sources[i]);
    }
  }
  if (!location.server.empty()) return kDone;
  std::fprintf(stderr, "simmctl: no server owns this key's shard; see simmctl nodes\n");
  return kNotThere;
}

}  // namespace

void AddMap(CLI::App& app, Session& session) {
  CLI::App* map = app.add_subcommand("map", "Where a key lives: its hash, shard and data server");
  auto key = std::make_shared<std::string>();
  map->add_option("KEY", *key, "The key")->required();
  map->callback(
      [&session, key] { session.command = [&session, key] { return Show(session, *key); }; });
}

}  // namespace simm::cli
