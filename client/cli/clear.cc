#include <CLI/CLI.hpp>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "client/cli/session.h"
#include "client/cli/table.h"

namespace simm::cli {
namespace {

int Clear(const Session& session) {
  std::unique_ptr<Client> client;
  if (const int code = session.Connect(&client); code != kDone) return code;
  const Result<uint64_t> dropped = client->ClearNamespace({.deadline = session.timeout()});
  if (!dropped.ok()) return session.Fail(dropped.status());
  if (session.json) {
    session.PrintJson({{"namespace", session.name_space}, {"dropped", *dropped}});
  } else {
    std::printf("cleared namespace %s: %s entries dropped\n", session.name_space.c_str(),
                WithCommas(*dropped).c_str());
  }
  return kDone;
}

}  // namespace

void AddClear(CLI::App& app, Session& session) {
  auto yes = std::make_shared<bool>(false);
  CLI::App* clear = app.add_subcommand("clear", "Drops everything in the namespace that is named");
  clear->add_flag("--yes", *yes, "Do it: it cannot be undone");
  clear->callback([&session, &app, yes] {
    session.command = [&session, &app, yes] {
      if (app.count("--namespace") == 0) {
        std::fprintf(stderr,
                     "simmctl: say which namespace: simmctl clear --namespace NAME --yes\n");
        return static_cast<int>(kUsage);
      }
      if (!*yes) {
        std::fprintf(stderr,
                     "simmctl: this drops everything in namespace '%s' and cannot be undone; "
                     "add --yes to do it\n",
                     session.name_space.c_str());
        return static_cast<int>(kUsage);
      }
      return Clear(session);
    };
  });
}

}  // namespace simm::cli
