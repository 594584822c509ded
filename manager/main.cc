#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <memory>
#include <string>

#include "common/base/log.h"
#include "common/base/ready_file.h"
#include "common/base/signals.h"
#include "common/base/version.h"
#include "common/config/config.h"
#include "common/metrics/http_server.h"
#include "common/rpc/control_services.h"
#include "manager/service.h"
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
  std::string log_level = "info";
  bool log_json = false;
  std::string ready_file;
};

config::ConfigSpec SpecOf(Settings& settings) {
  config::ConfigSpec spec("simm-manager", "decides who is alive and who holds which keys",
                          kVersion);
  spec.ListenAddress("listen", &settings.listen, false, "where data servers and clients call");
  spec.ListenAddress("http", &settings.http, true, "where /metrics, /healthz and /readyz are");
  spec.String("state", &settings.state, "directory of the durable state");
  spec.Bool("new-cluster", &settings.new_cluster,
            "with an empty --state: begin at once, do not wait for maps that data servers hold");
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
    if (settings.heartbeat * 2 <= settings.suspect && settings.suspect < settings.dead) {
      return Status::Ok();
    }
    return Status(Code::kInvalidArgument,
                  "--suspect-ms must be at least twice --heartbeat-ms, and less than --dead-ms");
  });
  return spec;
}

Status Run(const Settings& settings) {
  Result<std::unique_ptr<FileStore>> store = FileStore::Open(settings.state);
  if (!store.ok()) return store.status();
  metrics::Registry registry;
  metrics::AddProcessMetrics(registry, "simm-manager", kVersion);
  rpc::MapBoard board(/*from_manager=*/true);

  ManagerService::Options options;
  options.membership = {settings.heartbeat, settings.suspect, settings.dead};
  options.version = kVersion;
  options.new_cluster = settings.new_cluster;
  Result<std::unique_ptr<ManagerService>> service = ManagerService::Start(
      std::move(options), *store.value(), MonotonicClock::Get(), board, registry);
  if (!service.ok()) return service.status();

  rpc::ControlServerOptions serving;
  serving.listen = settings.listen;
  serving.manager = service->get();
  serving.maps = &board;
  serving.observer = [&registry](std::string_view method, Code, Duration took) {
    registry
        .Histogram("simm_rpc_seconds", "Time of control-plane calls on the server",
                   metrics::LatencyBuckets(), {{"method", std::string(method)}})
        .Observe(ToSeconds(took));
  };
  Result<std::unique_ptr<rpc::ControlServer>> server =
      rpc::ControlServer::Start(std::move(serving));
  if (!server.ok()) return server.status();

  std::unique_ptr<metrics::HttpServer> http;
  if (settings.http != "off") {
    metrics::HttpOptions http_options;
    http_options.address = settings.http;
    http_options.ready = [&service] { return service.value()->Ready(); };
    http_options.note = [&service] { return service.value()->Note(); };
    auto started = metrics::HttpServer::Start(http_options, registry);
    if (!started.ok()) return started.status();
    http = *std::move(started);
  }
  SIMM_LOG_INFO("simm-manager {} listens on port {}, http {}, state in {}", kVersion,
                server.value()->port(), http == nullptr ? "off" : http->address(), settings.state);

  const size_t colon = settings.listen.rfind(':');
  const std::string bound =
      settings.listen.substr(0, colon + 1) + std::to_string(server.value()->port());
  SIMM_RETURN_IF_ERROR(
      WriteReadyFile(settings.ready_file,
                     {{"listen", bound}, {"http", http == nullptr ? "off" : http->address()}}));

  const int signal = WaitForStopSignal();
  SIMM_LOG_INFO("signal {}: shutting down", signal);
  http.reset();
  server.value()->Shutdown(kShutdownGrace);
  service.value()->Stop();
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
  const Status status = manager::Run(settings);
  if (status.ok()) return 0;
  SIMM_LOG_ERROR("simm-manager cannot run: {}", status.message());
  return 1;
}
