#include <CLI/CLI.hpp>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <string_view>
#include <vector>

#include "client/cli/session.h"

namespace simm::cli {
namespace {

using BatchCall = std::vector<KeyResult> (Client::*)(std::span<const std::string_view>,
                                                     const CallOptions&);

// `yes` and `no`: what a key's line says when it was there and when it was not.
int Run(const Session& session, const std::vector<std::string>& texts, BatchCall call,
        const char* yes, const char* no) {
  std::vector<std::string> keys(texts.size());
  for (size_t i = 0; i < texts.size(); ++i) {
    if (const int code = session.ReadKey(texts[i], &keys[i]); code != kDone) return code;
  }
  std::unique_ptr<Client> client;
  if (const int code = session.Connect(&client); code != kDone) return code;
  const std::vector<std::string_view> views(keys.begin(), keys.end());
  CallOptions options;
  options.deadline = session.timeout();
  const std::vector<KeyResult> results = (client.get()->*call)(views, options);
  int code = kDone;
  nlohmann::json list = nlohmann::json::array();
  for (size_t i = 0; i < keys.size(); ++i) {
    std::string said = results[i].code == Code::kOk ? yes : no;
    if (results[i].code == Code::kMiss && code == kDone) code = kNotThere;
    if (results[i].code != Code::kOk && results[i].code != Code::kMiss) {
      said = CodeName(results[i].code);
      code = kRefused;
    }
    list.push_back({{"key", session.ShowKey(keys[i])}, {"result", said}});
    if (!session.json) std::printf("%s  %s\n", said.c_str(), session.ShowKey(keys[i]).c_str());
  }
  if (session.json) session.PrintJson({{"keys", list}});
  if (code == kRefused) {
    std::fprintf(stderr, "simmctl: not every key got an answer; see simmctl nodes\n");
  }
  return code;
}

}  // namespace

void AddKeys(CLI::App& app, Session& session) {
  auto keys = std::make_shared<std::vector<std::string>>();
  CLI::App* exists = app.add_subcommand("exists", "Which of the keys are there (exit 1: not all)");
  exists->add_option("KEY", *keys, "Keys")->required();
  exists->callback([&session, keys] {
    session.command = [&session, keys] {
      return Run(session, *keys, &Client::Exists, "there", "absent");
    };
  });
  CLI::App* rm = app.add_subcommand("rm", "Removes keys (exit 1: not all were there)");
  rm->add_option("KEY", *keys, "Keys")->required();
  rm->callback([&session, keys] {
    session.command = [&session, keys] {
      return Run(session, *keys, &Client::Remove, "removed", "absent");
    };
  });
}

}  // namespace simm::cli
