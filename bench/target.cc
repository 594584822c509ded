#include "bench/target.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "common/base/bytes.h"
#include "common/base/check.h"
#include "common/base/host_port.h"

namespace simm::bench {
namespace {

Verify VerifyOf(const std::string& checksum) {
  if (checksum == "off") return Verify::kOff;
  return checksum == "sampled" ? Verify::kSampled : Verify::kAlways;
}

}  // namespace

Result<std::unique_ptr<Target>> Target::Open(const Options& options) {
  std::unique_ptr<Target> target(new Target(options));
  std::string address = options.manager;
  if (options.embedded > 0) {
    EmbeddedOptions embedded;
    embedded.servers = options.embedded;
    embedded.memory_bytes = options.memory_bytes;
    embedded.mean_value_bytes = std::max<uint64_t>(64, options.value_bytes);
    Result<std::unique_ptr<EmbeddedCluster>> cluster = EmbeddedCluster::Start(embedded);
    if (!cluster.ok()) return cluster.status();
    target->cluster_ = std::move(*cluster);
    address = target->cluster_->manager_address();
  }
  Result<std::vector<std::string>> addresses = ParsePeerList(address);
  if (!addresses.ok()) return addresses.status();
  target->admin_ = std::make_unique<Admin>(*addresses);
  ClientOptions client_options;
  client_options.addresses = std::move(*addresses);
  client_options.name_space = options.name_space;
  client_options.transport = options.transport;
  client_options.rdma_devices = options.rdma_devices;
  client_options.metrics_listen = options.http;
  client_options.verify = VerifyOf(options.checksum);
  Result<std::unique_ptr<Client>> client = Client::Connect(client_options);
  if (!client.ok()) return client.status();
  target->client_ = std::move(*client);
  return target;
}

Result<rpc::ClusterStatus> Target::Status() const {
  return admin_->GetStatus(std::chrono::milliseconds(2000));
}

uint64_t Target::DataBytes() const {
  const Result<rpc::ClusterStatus> status = Status();
  if (!status.ok()) return 0;
  uint64_t bytes = 0;
  for (const rpc::NodeStatus& node : status->nodes) {
    if (node.record.state != ServerState::kDead) bytes += node.stats.data_bytes;
  }
  return bytes;
}

std::vector<pid_t> Target::ServerPids() const {
  std::vector<pid_t> pids;
  if (cluster_ == nullptr) return pids;
  for (size_t i = 0; i < cluster_->server_count(); ++i) pids.push_back(cluster_->server(i)->pid());
  return pids;
}

std::string Target::Transport() const {
  for (const ServerHealth& server : client_->Servers()) {
    if (!server.transport.empty()) return server.transport;
  }
  return options_.transport;
}

Arena::Arena(Client& client, size_t bytes)
    : client_(client), size_(RoundUp(std::max<size_t>(bytes, 1), 4096)) {
  void* const memory =
      mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  SIMM_CHECK(memory != MAP_FAILED, "no memory for the benchmark's buffers; see --arena");
  data_ = static_cast<std::byte*>(memory);
  std::memset(data_, 0, size_);
  const Result<MemoryHandle> handle = client_.RegisterMemory(data_, size_);
  if (handle.ok()) {
    handle_ = *handle;
    registered_ = true;
  }
}

Arena::~Arena() {
  if (registered_) {
    const simm::Status status = client_.DeregisterMemory(handle_);
    SIMM_CHECK(status.ok(),
               "a buffer is still in use after its call has returned: " + status.message());
  }
  munmap(data_, size_);
}

}  // namespace simm::bench
