#include <unistd.h>

#include <cstdio>
#include <vector>

#include "common/base/bytes.h"
#include "common/base/log.h"
#include "common/base/ready_file.h"
#include "common/base/signals.h"
#include "common/base/version.h"
#include "dataserver/server.h"

int main(int argc, char** argv) {
  using namespace simm;  // NOLINT
  dataserver::ServerOptions options;
  config::ConfigSpec spec = dataserver::MakeSpec(&options);
  std::vector<std::string> warnings;
  if (const auto code = spec.LoadOrExit(argc, argv, environ, &warnings)) return *code;
  BlockStopSignals();
  InitLog("dataserver", options.log_level, options.log_json);
  for (const std::string& warning : warnings) SIMM_LOG_WARN("{}", warning);

  options.effective = spec.Effective();
  const std::string ready_file = options.ready_file;
  const uint64_t memory = options.memory_bytes;
  auto server = dataserver::Server::Start(std::move(options));
  if (!server.ok() && StopSignalPending()) return 0;  // while it waited for the pool
  if (!server.ok()) {
    std::fprintf(stderr, "simm-dataserver: %s\n", server.status().message().c_str());
    return 1;
  }
  SIMM_LOG_INFO("simm-dataserver {} '{}': {} lent, gRPC {}, data {}, http {}", kVersion,
                (*server)->name(), FormatSize(memory), (*server)->control_address(),
                (*server)->data_address(), (*server)->http_address());
  if (Status s = WriteReadyFile(ready_file, {{"listen", (*server)->control_address()},
                                             {"data_listen", (*server)->data_address()},
                                             {"http", (*server)->http_address()}});
      !s.ok()) {
    std::fprintf(stderr, "simm-dataserver: %s\n", s.message().c_str());
    return 1;
  }
  const int signal = WaitForStopSignal();
  SIMM_LOG_INFO("signal {}: finishing what clients have asked for", signal);
  (*server)->Stop(std::chrono::seconds(5));
  SIMM_LOG_INFO("stopped");
  return 0;
}
