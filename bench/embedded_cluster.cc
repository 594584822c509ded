#include "bench/embedded_cluster.h"

#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>
#include <utility>

#include "client/admin.h"

namespace simm::bench {
namespace {

namespace fs = std::filesystem;
constexpr auto kPoll = std::chrono::milliseconds(10);

Status MakeFolder(std::string* folder) {
  const char* const base = std::getenv("TMPDIR");
  std::string pattern =
      std::string(base != nullptr && *base != '\0' ? base : "/tmp") + "/simm-XXXXXX";
  if (mkdtemp(pattern.data()) == nullptr) {
    return Status(Code::kUnavailable,
                  "no temporary folder " + pattern + ": " + std::strerror(errno));
  }
  *folder = pattern;
  return Status::Ok();
}

// False while the file is not there.
bool ReadReady(const std::string& path, ReadyAddresses* ready) {
  std::ifstream in(path);
  if (!in) return false;
  const nlohmann::json json = nlohmann::json::parse(in, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return false;
  ready->listen = json.value("listen", "");
  ready->data_listen = json.value("data_listen", "");
  ready->http = json.value("http", "");
  return true;
}

std::string OrAnyPort(const std::string& address) {
  return address.empty() ? "127.0.0.1:0" : address;
}

}  // namespace

EmbeddedCluster::EmbeddedCluster(EmbeddedOptions options)
    : options_(std::move(options)), servers_(options_.servers) {}

Result<std::unique_ptr<EmbeddedCluster>> EmbeddedCluster::Create(const EmbeddedOptions& options) {
  std::unique_ptr<EmbeddedCluster> cluster(new EmbeddedCluster(options));
  if (cluster->options_.bin_dir.empty()) {
    cluster->options_.bin_dir = fs::read_symlink("/proc/self/exe").parent_path().string();
  }
  if (const Status status = MakeFolder(&cluster->folder_); !status.ok()) return status;
  return cluster;
}

Result<std::unique_ptr<EmbeddedCluster>> EmbeddedCluster::Start(const EmbeddedOptions& options) {
  Result<std::unique_ptr<EmbeddedCluster>> cluster = Create(options);
  if (!cluster.ok()) return cluster.status();
  if (const Status status = (*cluster)->StartManager(); !status.ok()) return status;
  for (size_t i = 0; i < options.servers; ++i) {
    if (const Status status = (*cluster)->StartServer(i); !status.ok()) return status;
  }
  const Status alive = (*cluster)->WaitAlive(options.servers, options.start_timeout);
  if (!alive.ok()) return alive;
  return cluster;
}

EmbeddedCluster::~EmbeddedCluster() {
  for (Program& server : servers_) {
    if (server.process != nullptr) server.process->Signal(SIGTERM);
  }
  servers_.clear();
  manager_.process.reset();
  std::error_code ignored;
  if (!folder_.empty()) fs::remove_all(folder_, ignored);
}

Status EmbeddedCluster::StartManager() {
  if (!options_.manager_address.empty()) {
    manager_.ready.listen = options_.manager_address;
    return Status::Ok();
  }
  std::vector<std::string> argv = {options_.bin_dir + "/simm-manager",
                                   "--listen",
                                   OrAnyPort(manager_.ready.listen),
                                   "--http",
                                   OrAnyPort(manager_.ready.http),
                                   "--state",
                                   folder_ + "/manager"};
  // Whose state is lost later is to learn it from the servers, not to begin a new cluster.
  if (!manager_started_ || options_.always_new_cluster) argv.emplace_back("--new-cluster");
  manager_started_ = true;
  argv.insert(argv.end(), options_.manager_flags.begin(), options_.manager_flags.end());
  return Launch("manager", std::move(argv), &manager_);
}

Status EmbeddedCluster::StartServer(size_t index) {
  const std::string name = "server-" + std::to_string(index);
  const ReadyAddresses& before = servers_[index].ready;
  std::vector<std::string> argv = {options_.bin_dir + "/simm-dataserver",
                                   "--manager",
                                   manager_address(),
                                   "--name",
                                   name,
                                   "--memory",
                                   std::to_string(options_.memory_bytes),
                                   "--mean-value",
                                   std::to_string(options_.mean_value_bytes),
                                   "--listen",
                                   OrAnyPort(before.listen),
                                   "--data-listen",
                                   OrAnyPort(before.data_listen),
                                   "--http",
                                   OrAnyPort(before.http),
                                   "--advertise",
                                   "127.0.0.1"};
  if (!options_.pool_folder.empty())
    argv.insert(argv.end(), {"--pool", options_.pool_folder + "/" + name});
  if (index < options_.zones.size()) argv.insert(argv.end(), {"--zone", options_.zones[index]});
  argv.insert(argv.end(), options_.server_flags.begin(), options_.server_flags.end());
  return Launch(name, std::move(argv), &servers_[index]);
}

Status EmbeddedCluster::Launch(const std::string& name, std::vector<std::string> argv,
                               Program* program) const {
  program->process.reset();
  const std::string ready_file = folder_ + "/" + name + ".ready";
  std::error_code ignored;
  fs::remove(ready_file, ignored);
  argv.insert(argv.end(), {"--ready-file", ready_file});
  Result<std::unique_ptr<ChildProcess>> started =
      ChildProcess::Start(argv, folder_ + "/" + name + ".log");
  if (!started.ok()) return started.status();
  program->process = std::move(*started);
  const auto end = std::chrono::steady_clock::now() + options_.start_timeout;
  while (!ReadReady(ready_file, &program->ready)) {
    if (const std::optional<int> code = program->process->Ended(); code.has_value()) {
      return Status(Code::kUnavailable, name + " ended with exit code " + std::to_string(*code) +
                                            "; it said:\n" + LogTail(name));
    }
    if (std::chrono::steady_clock::now() > end) {
      return Status(Code::kUnavailable,
                    name + " was not ready in time; it said:\n" + LogTail(name));
    }
    std::this_thread::sleep_for(kPoll);
  }
  return Status::Ok();
}

std::string EmbeddedCluster::LogTail(const std::string& name) const {
  constexpr size_t kTailBytes = 2000;
  std::ifstream in(folder_ + "/" + name + ".log");
  std::ostringstream text;
  text << in.rdbuf();
  std::string all = text.str();
  if (all.empty()) return "(nothing)";
  return all.size() > kTailBytes ? all.substr(all.size() - kTailBytes) : all;
}

Status EmbeddedCluster::WaitAlive(size_t alive, std::chrono::milliseconds timeout) const {
  const Admin admin({manager_address()});
  const auto end = std::chrono::steady_clock::now() + timeout;
  std::string last = "no answer yet";
  for (;;) {
    const Result<rpc::ClusterStatus> status = admin.GetStatus(std::chrono::milliseconds(1000));
    if (status.ok()) {
      size_t settled = 0;
      for (const rpc::NodeStatus& node : status->nodes) {
        settled += node.record.state == ServerState::kAlive && node.map == status->map ? 1 : 0;
      }
      if (settled == alive && status->shards_moving == 0) return Status::Ok();
      last = std::to_string(settled) + " of " + std::to_string(alive) +
             " data servers are there, " + std::to_string(status->shards_moving) +
             " shards are on their way";
    } else {
      last = status.status().message();
    }
    if (std::chrono::steady_clock::now() > end) {
      return Status(Code::kUnavailable, "the cluster did not come up in time: " + last);
    }
    std::this_thread::sleep_for(kPoll * 5);
  }
}

}  // namespace simm::bench
