#include <unistd.h>

#include <array>
#include <chrono>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "common/base/host_port.h"
#include "common/base/log.h"
#include "common/base/ready_file.h"
#include "common/base/signals.h"
#include "common/base/version.h"
#include "common/config/config.h"
#include "common/metrics/http_server.h"
#include "common/rpc/control_services.h"
#include "common/rpc/etcd_stub.h"
#include "manager/cluster_history.h"
#include "manager/elected_manager.h"
#include "manager/service.h"
#include "manager/status_page.h"
#include "manager/store/file_store.h"

namespace simm::manager {
namespace {

using namespace std::chrono_literals;

constexpr Duration kShutdownGrace = 2s;

struct Settings {
  std::string listen = "0.0.0.0:30001";
  std::string http = "0.0.0.0:30080";
  std::string state = "/var/lib/simm/manager";
  std::chrono::milliseconds heartbeat = limits::kHeartbeat;
  std::chrono::milliseconds suspect = limits::kSuspectAfter;
  std::chrono::milliseconds dead = limits::kDeadAfter;
  bool new_cluster = false;
  uint32_t replicas = 0;
  std::vector<std::string> etcd;
  std::string etcd_prefix = "/simm";
  std::chrono::milliseconds lease = 5s;
  std::string advertise;
  std::string log_level = "info";
  bool log_json = false;
  std::string ready_file;
};

config::ConfigSpec SpecOf(Settings& settings) {
  config::ConfigSpec spec("simm-manager", "decides who is alive and who holds which keys",
                          kVersion);
  spec.ListenAddress("listen", &settings.listen, false, "where data servers and clients call");
  spec.ListenAddress("http", &settings.http, true,
                     "where the status page, /metrics, /healthz and /readyz are");
  spec.String("state", &settings.state, "directory of the durable state; unused with --etcd");
  spec.Bool("new-cluster", &settings.new_cluster,
            "without a state: begin at once, do not wait for maps that data servers hold");
  spec.Integer<uint32_t>("replicas", &settings.replicas, 0, limits::kMaxReplicas,
                         "owners of each shard, in different zones if there are enough; may be "
                         "changed at a restart; 0: as the state says, 1 in a new cluster");
  spec.Names("etcd", &settings.etcd,
             "endpoints of etcd, http://HOST:PORT, for several managers that elect a leader");
  spec.String("etcd-prefix", &settings.etcd_prefix,
              "beginning of the keys in etcd; a cluster's own");
  spec.DurationMs("lease-ms", &settings.lease, 2s, 60s,
                  "with --etcd: silence after which another manager leads; whole seconds");
  spec.String("advertise", &settings.advertise,
              "with --etcd: host under which others reach this manager");
  spec.DurationMs("heartbeat-ms", &settings.heartbeat, 10ms, 60s, "how often data servers report");
  spec.DurationMs("suspect-ms", &settings.suspect, 30ms, 10min,
                  "silence after which a name may be taken over");
  spec.DurationMs("dead-ms", &settings.dead, 100ms, 60min,
                  "silence after which a server's shards move");
  spec.Choice("log-level", &settings.log_level, {"debug", "info", "warn", "error"},
              "least severity that is logged");
  spec.Bool("log-json", &settings.log_json, "log one JSON object a line");
  spec.String("ready-file", &settings.ready_file,
              "file to write with the bound addresses once serving");
  spec.Check([&settings] {
    if (settings.lease % 1s != 0ms) {
      return Status(Code::kInvalidArgument, "--lease-ms must be whole seconds, such as 5000, not " +
                                                std::to_string(settings.lease.count()));
    }
    if (settings.etcd_prefix.empty() || settings.etcd_prefix[0] != '/') {
      return Status(Code::kInvalidArgument, "--etcd-prefix '" + settings.etcd_prefix +
                                                "' must begin with /, such as /simm");
    }
    if (settings.etcd.empty()) return Status::Ok();
    const Status etcd = rpc::EtcdStub::Create(settings.etcd).status();
    return etcd.ok() ? etcd : Status(etcd.code(), "--etcd: " + etcd.message());
  });
  spec.Check([&settings] {
    if (settings.heartbeat * 2 <= settings.suspect && settings.suspect < settings.dead) {
      return Status::Ok();
    }
    const auto text = [](std::chrono::milliseconds ms) { return std::to_string(ms.count()); };
    return Status(Code::kInvalidArgument, "--suspect-ms " + text(settings.suspect) +
                                              " must be at least twice --heartbeat-ms " +
                                              text(settings.heartbeat) +
                                              ", and less than --dead-ms " + text(settings.dead));
  });
  return spec;
}

// The part that decides: alone on a file, or elected among several on etcd.
struct Role {
  std::unique_ptr<FileStore> file;
  std::unique_ptr<ManagerService> alone;
  std::unique_ptr<rpc::EtcdStub> etcd;
  std::unique_ptr<ElectedManager> elected;

  rpc::ManagerHandler* handler() const {
    if (elected != nullptr) return elected.get();
    return alone.get();
  }
  Status Ready() const { return elected != nullptr ? elected->Ready() : alone->Ready(); }
  std::string Note() const { return elected != nullptr ? elected->Note() : alone->Note(); }
  void Stop() const {
    if (elected != nullptr) elected->Stop();
    if (alone != nullptr) alone->Stop();
  }
};

Status Open(const Settings& settings, const ClusterHistory& history, rpc::MapBoard& board,
            metrics::Registry& registry, Role& role) {
  ManagerService::Options options;
  options.membership = {settings.heartbeat, settings.suspect, settings.dead, settings.replicas};
  options.version = kVersion;
  options.new_cluster = settings.new_cluster;
  options.add_rates = [&history](rpc::ClusterStatus& status) { history.FillRates(status); };
  if (settings.etcd.empty()) {
    Result<std::unique_ptr<FileStore>> store = FileStore::Open(settings.state);
    if (!store.ok()) return store.status();
    role.file = *std::move(store);
    auto service = ManagerService::Start(std::move(options), *role.file, MonotonicClock::Get(),
                                         board, registry);
    if (!service.ok()) return service.status();
    role.alone = *std::move(service);
    return Status::Ok();
  }
  Result<std::unique_ptr<rpc::EtcdStub>> etcd = rpc::EtcdStub::Create(settings.etcd);
  if (!etcd.ok()) return etcd.status();
  role.etcd = *std::move(etcd);
  ElectedManager::Options elected;
  elected.service = std::move(options);
  elected.prefix = settings.etcd_prefix;
  elected.lease = std::chrono::duration_cast<std::chrono::seconds>(settings.lease);
  role.elected = std::make_unique<ElectedManager>(std::move(elected), *role.etcd,
                                                  MonotonicClock::Get(), board, registry);
  return Status::Ok();
}

// Where others call this manager.
std::string AdvertisedAddress(const Settings& settings, uint16_t port) {
  std::string host = settings.advertise;
  if (host.empty()) {
    const auto listen = ParseHostPort(settings.listen);
    if (listen.ok() && listen->host != "0.0.0.0" && listen->host != "::") host = listen->host;
  }
  if (host.empty()) {
    std::array<char, 256> name{};
    gethostname(name.data(), name.size() - 1);
    host = name.data();
  }
  return ToString(HostPort{host, port});
}

rpc::NodeDescription Describe(const config::ConfigSpec& spec) {
  rpc::NodeDescription node;
  node.program = "simm-manager";
  node.version = kVersion;
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  node.unix_ms = static_cast<uint64_t>(now / 1ms);
  for (config::OptionValue& option : spec.Effective()) {
    node.options.push_back({option.name, option.value, option.source});
  }
  node.host = ReadHostFacts();
  return node;
}

Status Run(const Settings& settings, const config::ConfigSpec& spec) {
  metrics::Registry registry;
  metrics::AddProcessMetrics(registry, "simm-manager", kVersion);
  rpc::MapBoard board(/*from_manager=*/true);
  ClusterHistory history;
  Role role;
  SIMM_RETURN_IF_ERROR(Open(settings, history, board, registry, role));

  rpc::ControlServerOptions serving;
  serving.listen = settings.listen;
  serving.manager = role.handler();
  serving.maps = &board;
  serving.describe = [&spec] { return Describe(spec); };
  serving.observer = [&registry](std::string_view method, Code, Duration took) {
    registry
        .Histogram("simm_rpc_seconds", "Time of control-plane calls on the server",
                   metrics::LatencyBuckets(), {{"method", std::string(method)}})
        .Observe(ToSeconds(took));
  };
  Result<std::unique_ptr<rpc::ControlServer>> server =
      rpc::ControlServer::Start(std::move(serving));
  if (!server.ok()) return server.status();
  const uint16_t port = server.value()->port();
  if (role.elected != nullptr) role.elected->Begin(AdvertisedAddress(settings, port));

  StatusPage page(*role.handler(), history, MonotonicClock::Get());
  std::unique_ptr<metrics::HttpServer> http;
  if (settings.http != "off") {
    metrics::HttpOptions http_options;
    http_options.address = settings.http;
    http_options.ready = [&role] { return role.Ready(); };
    http_options.note = [&role] { return role.Note(); };
    auto started = metrics::HttpServer::Start(http_options, registry);
    if (!started.ok()) return started.status();
    http = *std::move(started);
    page.ServeOn(*http);
  }
  SIMM_LOG_INFO("simm-manager {} listens on port {}, http {}, state in {}", kVersion, port,
                http == nullptr ? "off" : http->address(),
                settings.etcd.empty() ? settings.state : "etcd under " + settings.etcd_prefix);

  const size_t colon = settings.listen.rfind(':');
  const std::string bound = settings.listen.substr(0, colon + 1) + std::to_string(port);
  SIMM_RETURN_IF_ERROR(
      WriteReadyFile(settings.ready_file,
                     {{"listen", bound}, {"http", http == nullptr ? "off" : http->address()}}));

  const int signal = WaitForStopSignal();
  SIMM_LOG_INFO("signal {}: shutting down", signal);
  http.reset();
  server.value()->Shutdown(kShutdownGrace);
  role.Stop();
  return Status::Ok();
}

}  // namespace
}  // namespace simm::manager

int main(int argc, char** argv) {
  using namespace simm;
  manager::Settings settings;
  config::ConfigSpec spec = manager::SpecOf(settings);
  std::vector<std::string> warnings;
  if (const auto code = spec.LoadOrExit(argc, argv, environ, &warnings)) return *code;
  InitLog("manager", settings.log_level, settings.log_json);
  for (const std::string& warning : warnings) SIMM_LOG_WARN("{}", warning);

  BlockStopSignals();  // before any thread starts: all inherit the mask
  const Status status = manager::Run(settings, spec);
  if (status.ok()) return 0;
  SIMM_LOG_ERROR("simm-manager cannot run: {}", status.message());
  return 1;
}
