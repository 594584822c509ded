#include <poll.h>
#include <termios.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "client/admin_json.h"
#include "client/cli/session.h"
#include "client/cli/status.h"
#include "client/cli/table.h"
#include "common/base/bytes.h"

namespace simm::cli {
namespace {

// Keys one by one and unseen while it lives; as it was afterwards. A terminal that cannot is left.
class RawTerminal {
 public:
  RawTerminal() : changed_(isatty(STDIN_FILENO) != 0 && tcgetattr(STDIN_FILENO, &before_) == 0) {
    if (!changed_) return;
    termios raw = before_;
    raw.c_lflag &= ~static_cast<tcflag_t>(ICANON | ECHO);
    tcsetattr(STDIN_FILENO, TCSANOW, &raw);
  }
  ~RawTerminal() {
    if (changed_) tcsetattr(STDIN_FILENO, TCSANOW, &before_);
  }
  RawTerminal(const RawTerminal&) = delete;
  RawTerminal& operator=(const RawTerminal&) = delete;
  bool changed() const { return changed_; }

 private:
  termios before_{};
  const bool changed_;
};

std::vector<rpc::NodeStatus> BusiestFirst(const rpc::ClusterStatus& status) {
  std::vector<rpc::NodeStatus> nodes = status.nodes;
  const auto load = [](const rpc::NodeStatus& node) {
    return node.rates.bytes_read + node.rates.bytes_written;
  };
  std::stable_sort(nodes.begin(), nodes.end(),
                   [&](const auto& a, const auto& b) { return load(a) > load(b); });
  return nodes;
}

std::string Servers(const rpc::ClusterStatus& status) {
  Table table(
      {"NAME", "STATE", "USED", "OUT", "IN", "GETS", "HITS", "PUTS", "EVICTIONS", "MOVING"});
  for (const rpc::NodeStatus& node : BusiestFirst(status)) {
    const rpc::Rates& rates = node.rates;
    table.Add({node.record.name, std::string(ServerStateName(node.record.state)),
               Percent(node.stats.live_bytes, node.stats.data_bytes),
               FormatByteRate(rates.bytes_read), FormatByteRate(rates.bytes_written),
               FormatRate(rates.hits + rates.misses),
               PercentOfRates(rates.hits, rates.hits + rates.misses), FormatRate(rates.puts),
               FormatRate(rates.evictions), WithCommas(node.shards_coming + node.shards_leaving)});
  }
  return table.ToString();
}

nlohmann::json ToJson(const rpc::ClusterStatus& status) {
  nlohmann::json nodes = nlohmann::json::array();
  for (const rpc::NodeStatus& node : BusiestFirst(status)) {
    nodes.push_back({{"name", node.record.name},
                     {"state", ServerStateName(node.record.state)},
                     {"rates", rpc::ToJson(node.rates)}});
  }
  return {{"health", rpc::HealthName(rpc::AssessHealth(status).word)},
          {"rates", rpc::ToJson(status.rates)},
          {"nodes", nodes}};
}

// Waits so long, or until q is typed or the terminal is gone: false.
bool GoOn(const RawTerminal& terminal, int milliseconds) {
  if (!terminal.changed()) {
    poll(nullptr, 0, milliseconds);
    return true;
  }
  pollfd input{STDIN_FILENO, POLLIN, 0};
  if (poll(&input, 1, milliseconds) <= 0) return true;
  char key = 0;
  return read(STDIN_FILENO, &key, 1) == 1 && key != 'q' && key != 'Q';
}

int Watch(const Session& session, int interval_ms, uint64_t rounds) {
  std::unique_ptr<Admin> admin;
  if (const int code = session.OpenAdmin(&admin); code != kDone) return code;
  const RawTerminal terminal;
  const bool clear = !session.json && rounds != 1 && isatty(STDOUT_FILENO) != 0;
  for (uint64_t round = 1;; ++round) {
    const Result<rpc::ClusterStatus> status = admin->GetStatus(session.timeout());
    if (!status.ok() && round == 1) return session.Fail(status.status());
    if (!status.ok()) {
      std::fprintf(stderr, "simmctl: %s\n", status.status().message().c_str());
    } else if (session.json) {
      session.PrintJson(ToJson(*status));
    } else {
      // To the upper left corner, and nothing below what follows: no flicker of a cleared screen.
      if (clear) std::fputs("\x1b[H\x1b[J", stdout);
      std::printf("%s\n%s", StatusText(session, *status).c_str(), Servers(*status).c_str());
      if (clear) std::fputs("\nq ends this\n", stdout);
    }
    if (std::fflush(stdout) != 0) return kRefused;
    if (round == rounds || !GoOn(terminal, interval_ms)) return kDone;
  }
}

}  // namespace

void AddTop(CLI::App& app, Session& session) {
  struct Arguments {
    int interval_ms = 2000;
    uint64_t rounds = 0;
    bool once = false;
  };
  auto arguments = std::make_shared<Arguments>();
  CLI::App* top = app.add_subcommand("top", "The cluster and its data servers, live; q ends it");
  top->add_option("--interval-ms", arguments->interval_ms, "Between two looks")
      ->check(CLI::Range(100, 3'600'000))
      ->capture_default_str();
  top->add_option("--rounds", arguments->rounds, "Ends after so many looks; 0: never");
  top->add_flag("--once", arguments->once, "One look");
  top->callback([&session, arguments] {
    session.command = [&session, arguments] {
      return Watch(session, arguments->interval_ms, arguments->once ? 1 : arguments->rounds);
    };
  });
}

}  // namespace simm::cli
