#include <CLI/CLI.hpp>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "client/cli/session.h"
#include "client/cli/table.h"
#include "common/base/bytes.h"
#include "common/base/limits.h"

namespace simm::cli {
namespace {

struct Arguments {
  std::string prefix;
  std::string node;
  uint32_t limit = 100;
};

struct Found {
  std::string server;
  rpc::SampledKey key;
};

// The keys of all servers asked, and what is to be known about the look.
struct Scan {
  std::vector<Found> found;
  uint64_t scanned = 0;
  bool complete = true;
  std::vector<std::string> silent;  // servers that did not answer
};

int Collect(const Session& session, const Arguments& arguments, const rpc::ClusterStatus& status,
            Scan& scan) {
  rpc::SampleKeysRequest request;
  request.expected_cluster = status.map.cluster;
  request.name_space = session.name_space;
  if (!arguments.prefix.empty()) {
    if (const int code = session.ReadKey(arguments.prefix, &request.prefix); code != kDone) {
      return code;
    }
  }
  bool known = arguments.node.empty();
  for (const rpc::NodeStatus& node : status.nodes) {
    if (!arguments.node.empty() && node.record.name != arguments.node) continue;
    known = true;
    if (scan.found.size() >= arguments.limit) {
      scan.complete = false;
      break;
    }
    request.limit = arguments.limit - static_cast<uint32_t>(scan.found.size());
    Result<rpc::SampleKeysReply> reply = Admin::SampleKeys(node, request, session.timeout());
    if (!reply.ok() && reply.status().code() == Code::kMiss) return session.Fail(reply.status());
    if (!reply.ok()) {
      scan.silent.push_back(node.record.name);
      scan.complete = false;
      continue;
    }
    for (rpc::SampledKey& key : reply->keys) {
      scan.found.push_back({node.record.name, std::move(key)});
    }
    scan.scanned += reply->scanned;
    scan.complete = scan.complete && reply->complete;
  }
  if (known) return kDone;
  std::fprintf(stderr, "simmctl: no server is called '%s'; see simmctl nodes\n",
               arguments.node.c_str());
  return kNotThere;
}

void Print(const Session& session, const Scan& scan) {
  if (session.json) {
    nlohmann::json keys = nlohmann::json::array();
    for (const Found& entry : scan.found) {
      keys.push_back({{"key", session.ShowKey(entry.key.key)},
                      {"bytes", entry.key.value_bytes},
                      {"server", entry.server}});
    }
    session.PrintJson({{"keys", keys},
                       {"scanned", scan.scanned},
                       {"complete", scan.complete},
                       {"silent", scan.silent}});
    return;
  }
  Table table({"BYTES", "SERVER", "KEY"});
  for (const Found& entry : scan.found) {
    table.Add({WithCommas(entry.key.value_bytes), entry.server, session.ShowKey(entry.key.key)});
  }
  std::fputs(table.ToString().c_str(), stdout);
  std::printf("%zu keys; %s entries of all namespaces looked at, %s\n", scan.found.size(),
              WithCommas(scan.scanned).c_str(),
              scan.complete ? "all there are" : "there may be more (--limit, --node)");
}

int List(const Session& session, const Arguments& arguments) {
  std::unique_ptr<Admin> admin;
  if (const int code = session.OpenAdmin(&admin); code != kDone) return code;
  const Result<rpc::ClusterStatus> status = admin->GetStatus(session.timeout());
  if (!status.ok()) return session.Fail(status.status());
  Scan scan;
  if (const int code = Collect(session, arguments, *status, scan); code != kDone) return code;
  Print(session, scan);
  for (const std::string& name : scan.silent) {
    std::fprintf(stderr, "simmctl: %s does not answer: its keys are not listed\n", name.c_str());
  }
  return scan.silent.empty() ? kDone : kRefused;
}

}  // namespace

void AddKeyScan(CLI::App& app, Session& session) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App* keys = app.add_subcommand(
      "keys", "Some of the keys of the namespace: a bounded look at each data server");
  keys->add_option("--prefix", arguments->prefix, "Only keys that begin so");
  keys->add_option("--node", arguments->node, "Only of this data server");
  keys->add_option("--limit", arguments->limit, "At most so many keys")
      ->check(CLI::Range(size_t{1}, limits::kMaxSampledKeys))
      ->capture_default_str();
  keys->callback([&session, arguments] {
    session.command = [&session, arguments] { return List(session, *arguments); };
  });
}

}  // namespace simm::cli
