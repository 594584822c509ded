// staged_page SCENE: the manager's status page over a cluster that does not exist, so that a
// browser can look at states that take long to reach. Prints {"http": "HOST:PORT"} and serves until
// its standard input ends.
#include <cmath>
#include <cstdio>
#include <iostream>
#include <map>

#include "common/base/limits.h"
#include "manager/status_page.h"

namespace simm::manager {
namespace {

using namespace std::chrono_literals;

constexpr double kPastSeconds = 600;  // of history that is there at the beginning
constexpr uint64_t kGiB = 1ULL << 30;

// A count that grows by `rate` a second and swings; never falls.
uint64_t Grown(double rate, double seconds, double phase) {
  return static_cast<uint64_t>(rate * (seconds + 20 - 18 * std::cos(seconds / 40 + phase)));
}

rpc::NodeStatus NodeAt(uint32_t number, const std::string& name, uint32_t shards, double seconds) {
  rpc::NodeStatus node;
  node.record.id = number + 1;
  node.record.name = name;
  node.record.boot_id = {3, number + 1};
  node.record.control_address = "10.0.0." + std::to_string(number + 1) + ":30001";
  node.record.data_address = "10.0.0." + std::to_string(number + 1) + ":30002";
  node.record.zone = "zone-" + std::to_string(number % 3);
  node.shards = shards;
  node.silent_ms = 300;
  node.version = "0.1.0";
  node.map = {{7, 7}, 2, 41};
  const double phase = number;
  rpc::ServerStats& stats = node.stats;
  stats.data_bytes = 64 * kGiB;
  stats.live_bytes = 40 * kGiB + (number * 7 % 20) * kGiB;
  stats.granted_bytes = kGiB / 2;
  stats.pinned_bytes = kGiB;
  stats.free_bytes = stats.data_bytes - stats.live_bytes - stats.granted_bytes - stats.pinned_bytes;
  stats.live_value_bytes = stats.live_bytes - kGiB / 4;
  stats.entries = stats.live_bytes >> 20;
  stats.hits = Grown(900, seconds, phase);
  stats.misses = Grown(300, seconds, phase / 2);
  stats.puts = Grown(310, seconds, phase);
  stats.evictions = Grown(250, seconds, phase);
  stats.bytes_read = stats.hits << 20;
  stats.bytes_written = stats.puts << 20;
  stats.transports = {{"tcp", true, "listens", 12}, {"verbs", true, "mlx5_0", 40}};
  return node;
}

void AddNodes(rpc::ClusterStatus& status, uint32_t count, double seconds) {
  for (uint32_t i = 0; i < count; ++i) {
    status.nodes.push_back(
        NodeAt(i, "server-" + std::to_string(i), limits::kShards / count, seconds));
  }
}

using Scene = void (*)(rpc::ClusterStatus& status, double seconds);

void Hundred(rpc::ClusterStatus& status, double seconds) {
  AddNodes(status, 100, seconds);
  status.nodes[17].record.state = ServerState::kDead;
  status.nodes[17].silent_ms = 754'000;
  status.nodes[17].shards = 0;
  status.nodes[42].record.state = ServerState::kSuspect;
  status.nodes[42].silent_ms = 4'200;
  status.nodes[55].record.state = ServerState::kDraining;
  status.nodes[55].shards = 0;
  status.nodes[55].shards_leaving = 312;
  for (uint32_t i = 60; i < 73; ++i) status.nodes[i].shards_coming = 24;
  status.nodes[80].version = "0.2.0";
}

void Frozen(rpc::ClusterStatus& status, double seconds) {
  AddNodes(status, 6, seconds);
  for (uint32_t i = 0; i < 3; ++i) {
    status.nodes[i].record.state = ServerState::kSuspect;
    status.nodes[i].silent_ms = 14'000;
  }
  status.frozen = "3 of 6 servers fell silent within 10.0 s: server-0, server-1, server-2";
}

void Hostile(rpc::ClusterStatus& status, double seconds) {
  AddNodes(status, 3, seconds);
  status.nodes[0].record.name = "<img src=x onerror=\"document.title='owned'\">";
  status.nodes[1].record.zone = "</td><script>document.title='owned'</script>";
  status.nodes[2].record.name = std::string(limits::kMaxServerNameBytes, 'w');
  status.nodes[2].version = "${document.title='owned'}";
}

void Down(rpc::ClusterStatus& status, double seconds) {
  AddNodes(status, 3, seconds);
  for (rpc::NodeStatus& node : status.nodes) node.record.state = ServerState::kDead;
}

const std::map<std::string, Scene>& Scenes() {
  static const std::map<std::string, Scene> scenes = {
      {"empty", [](rpc::ClusterStatus&, double) {}},
      {"three", [](rpc::ClusterStatus& status, double s) { AddNodes(status, 3, s); }},
      {"hundred", Hundred},
      {"frozen", Frozen},
      {"hostile", Hostile},
      {"down", Down},
      {"follower", nullptr},
  };
  return scenes;
}

class StagedManager final : public rpc::ManagerHandler {
 public:
  explicit StagedManager(Scene scene) : scene_(scene), start_(MonotonicClock::Get().Now()) {}

  // As it would be so long after the first sample of the history.
  rpc::ClusterStatus StatusAt(double seconds) const {
    rpc::ClusterStatus status;
    status.map = {{0x51a7e57a6ed0c0deULL, 7}, 2, 41};
    status.manager_version = "0.1.0";
    status.uptime_ms = static_cast<uint64_t>(seconds * 1000);
    status.watchers = 12;
    status.namespaces = {"default"};
    scene_(status, seconds);
    for (const rpc::NodeStatus& node : status.nodes) status.shards_moving += node.shards_coming;
    history.FillRates(status);
    return status;
  }
  Result<rpc::ClusterStatus> GetStatus() override {
    if (scene_ == nullptr) return Away();
    return StatusAt(kPastSeconds + ToSeconds(MonotonicClock::Get().Now() - start_));
  }
  Result<std::vector<rpc::Event>> ListEvents(uint64_t after, uint32_t) override {
    if (scene_ == nullptr) return Away();
    const rpc::ClusterStatus status = StatusAt(kPastSeconds);
    std::vector<rpc::Event> events;
    const auto add = [&](rpc::EventKind kind, const std::string& server, const std::string& text) {
      const uint64_t number = events.size() + 1;
      events.push_back({number, 1'790'000'000'000 + number * 1000, kind, server, status.map, text});
    };
    add(rpc::EventKind::kManagerStarted, "", "epoch 1");
    for (const rpc::NodeStatus& node : status.nodes) {
      add(rpc::EventKind::kJoined, node.record.name, "at " + node.record.control_address);
      add(rpc::EventKind::kEpoch, "", "epoch 2");
    }
    std::erase_if(events, [&](const rpc::Event& event) { return event.number <= after; });
    return events;
  }
  std::string LeaderElsewhere() const override { return scene_ == nullptr ? "10.0.0.9:30001" : ""; }

  Result<rpc::RegisterReply> Register(const rpc::RegisterRequest&) override { return Away(); }
  Result<rpc::HeartbeatReply> Heartbeat(const rpc::HeartbeatRequest&) override { return Away(); }
  Result<NamespaceId> CreateNamespace(const std::string&) override { return Away(); }
  Status RemoveNode(const std::string&) override { return Away(); }
  Status ReportMap(std::shared_ptr<const RouteTable>) override { return Away(); }
  Result<rpc::DrainReply> DrainNode(const std::string&, bool) override { return Away(); }

  ClusterHistory history;

 private:
  static Status Away() {
    return Status(Code::kUnavailable, "this manager does not lead; the leader is 10.0.0.9:30001");
  }
  const Scene scene_;
  const Instant start_;
};

int Serve(Scene scene) {
  StagedManager manager(scene);
  const Instant now = MonotonicClock::Get().Now();
  const auto unix_now = std::chrono::system_clock::now().time_since_epoch();
  const auto unix_ms = static_cast<uint64_t>(unix_now / 1ms);
  for (int ago = static_cast<int>(kPastSeconds); scene != nullptr && ago > 0; --ago) {
    manager.history.Add(now - ago * 1s, unix_ms - static_cast<uint64_t>(ago) * 1000,
                        manager.StatusAt(kPastSeconds - ago));
  }
  StatusPage page(manager, manager.history, MonotonicClock::Get());
  metrics::Registry registry;
  metrics::HttpOptions options;
  options.address = "127.0.0.1:0";
  auto http = metrics::HttpServer::Start(options, registry);
  if (!http.ok()) {
    std::fprintf(stderr, "staged_page: %s\n", http.status().message().c_str());
    return 1;
  }
  page.ServeOn(**http);
  std::printf("{\"http\": \"%s\"}\n", (*http)->address().c_str());
  std::fflush(stdout);
  while (std::cin.get() != std::char_traits<char>::eof()) {
  }
  http->reset();
  return 0;
}

}  // namespace
}  // namespace simm::manager

int main(int argc, char** argv) {
  const auto& scenes = simm::manager::Scenes();
  const auto scene = argc == 2 ? scenes.find(argv[1]) : scenes.end();
  if (scene == scenes.end()) {
    std::fprintf(stderr, "Usage: staged_page SCENE; one of:");
    for (const auto& [name, unused] : scenes) std::fprintf(stderr, " %s", name.c_str());
    std::fprintf(stderr, "\n");
    return 2;
  }
  return simm::manager::Serve(scene->second);
}
