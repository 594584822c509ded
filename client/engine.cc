#include "client/engine.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <map>
#include <utility>

#include "client/call.h"
#include "client/process_totals.h"
#include "common/base/limits.h"
#include "common/base/log.h"
#include "common/rpc/dataserver_stub.h"
#include "common/transport/open.h"
#include "common/transport/shm/shm_transport.h"
#include "common/transport/tcp/tcp_transport.h"

namespace simm::client {
namespace {

constexpr size_t kBackgroundThreads = 8;
constexpr int kMaxScrubs = 4;
constexpr auto kMaintainInterval = std::chrono::milliseconds(20);

std::string ClientName() {
  std::array<char, 256> host{};
  gethostname(host.data(), host.size() - 1);
  return std::string(host.data()) + ":" + std::to_string(getpid());
}

// Half the cores, since the program has work of its own: at least two, so that a callback which
// takes long holds up half of the calls at most.
size_t AsyncThreads() {
  return std::clamp<size_t>(std::thread::hardware_concurrency() / 2, 2, limits::kMaxAsyncThreads);
}

std::string Joined(const std::vector<std::string>& addresses) {
  std::string text;
  for (const std::string& address : addresses) text += (text.empty() ? "" : ", ") + address;
  return text;
}

}  // namespace

Result<std::shared_ptr<Engine>> Engine::Open(const ClientOptions& options) {
  static Mutex mutex;
  static std::map<std::string, std::weak_ptr<Engine>> engines;
  std::vector<std::string> addresses = options.addresses;
  std::sort(addresses.begin(), addresses.end());
  const std::string identity =
      Joined(addresses) + "|" + options.transport + "|" +
      std::to_string(options.max_lanes_per_server) + "|" + std::to_string(options.max_rdma_lanes) +
      "|" + Joined(options.rdma_devices) + "|" + std::to_string(options.rdma_port) + "|" +
      std::to_string(options.rdma_gid_index) + "|" + std::to_string(options.numa_node);
  MutexLock lock(mutex);
  std::erase_if(engines, [](const auto& entry) { return entry.second.expired(); });
  if (auto engine = engines[identity].lock()) return engine;
  std::shared_ptr<Engine> engine(new Engine(options));
  if (Status s = engine->Start(); !s.ok()) return s;
  engines[identity] = engine;
  return engine;
}

Engine::Engine(const ClientOptions& options)
    : options_(options),
      connects_(kBackgroundThreads),
      tasks_(kBackgroundThreads),
      messages_(std::make_unique<transport::TcpTransport>()),
      client_name_(ClientName()),
      async_({.threads = AsyncThreads()}) {}

// What was asked for by its name must be there; of "auto" what is.
Status Engine::OpenTransports() {
  const bool all = options_.transport == "auto";
  if (all || options_.transport == "shm") {
    one_sided_.push_back(std::make_unique<transport::ShmTransport>());
  }
  transport::Transport* registrar = nullptr;
  if (all || options_.transport == "verbs") {
    auto verbs = transport::OpenVerbs(
        {.devices = options_.rdma_devices,
         .port = options_.rdma_port,
         .gid_index = options_.rdma_gid_index,
         .numa_node = options_.numa_node,
         .bootstrap = [](const std::string& endpoint, const std::string& offer, Duration timeout) {
           return rpc::OpenLane(endpoint, {"verbs", offer}, timeout);
         }});
    if (!verbs.ok() && !all) return verbs.status();
    if (verbs.ok()) {
      registrar = verbs->get();
      bounce_ = std::make_unique<BouncePool>(*registrar);
      one_sided_.push_back(std::move(*verbs));
    } else {
      one_sided_missing_ = "verbs: " + verbs.status().message();
    }
  }
  memory_ = std::make_unique<MemoryRegistry>(registrar, !all);
  if (!one_sided_.empty()) locations_ = std::make_shared<LocationCache>();
  return Status::Ok();
}

Status Engine::Start() {
  SIMM_RETURN_IF_ERROR(OpenTransports());
  auto managers = rpc::ManagerStub::Create(options_.addresses);
  if (!managers.ok()) return managers.status();
  managers_ = std::move(*managers);
  auto watcher =
      rpc::MapWatcher::Start({.addresses = options_.addresses,
                              .kind = rpc::WatcherKind::kClient,
                              .server = kNoServer,
                              .ask_servers = true,
                              .on_table = [this](const std::shared_ptr<const RouteTable>&) {
                                MutexLock lock(map_mutex_);
                                map_changed_.NotifyAll();
                                async_.SignalAll();
                              }});
  if (!watcher.ok()) return watcher.status();
  watcher_ = std::move(*watcher);
  maintainer_ = std::thread([this] { MaintainLoop(); });
  ProcessTotals::Get().Add(this);
  return Status::Ok();
}

Engine::~Engine() {
  ProcessTotals::Get().Remove(this);
  {
    MutexLock lock(stop_mutex_);
    stopping_ = true;
    stop_signal_.NotifyAll();
  }
  if (maintainer_.joinable()) maintainer_.join();
  if (watcher_) watcher_->Stop();
  {
    MutexLock lock(peers_mutex_);
    for (auto& [id, peer] : peers_) peer->Retire();
  }
  tasks_.Stop();
  connects_.Stop();
}

Result<std::shared_ptr<const RouteTable>> Engine::WaitForServers(Duration timeout) const {
  const Instant end = MonotonicClock::Get().Now() + timeout;
  const auto first = watcher_->WaitForMap(timeout);
  if (!first.ok()) {
    return Status(Code::kUnavailable,
                  first.status().message() +
                      "; check that the manager runs and that --manager or SIMM_CLUSTER_MANAGER "
                      "names its gRPC port (default 30001)");
  }
  while (true) {
    const auto table = watcher_->Current();
    if (!table->contents().servers.empty()) return table;
    const Duration left = end - MonotonicClock::Get().Now();
    if (left <= Duration::zero()) {
      return Status(
          Code::kUnavailable,
          "the manager answers, but no data server has registered with it yet; start one: "
          "simm-dataserver --manager " +
              options_.addresses.front() + " --memory 1GiB");
    }
    MutexLock lock(map_mutex_);
    map_changed_.WaitFor(map_mutex_, std::min<Duration>(left, std::chrono::milliseconds(50)));
  }
}

void Engine::WaitForMap(uint64_t term, uint64_t epoch, Duration timeout) const {
  const Instant end = MonotonicClock::Get().Now() + timeout;
  while (true) {
    const auto table = watcher_->Current();
    const MapVersion& version = table->version();
    if (version.term > term || (version.term == term && version.epoch >= epoch)) return;
    const Duration left = end - MonotonicClock::Get().Now();
    if (left <= Duration::zero()) return;
    MutexLock lock(map_mutex_);
    map_changed_.WaitFor(map_mutex_, std::min<Duration>(left, std::chrono::milliseconds(10)));
  }
}

Result<NamespaceId> Engine::NamespaceOf(const std::string& name, Duration timeout) {
  if (const auto table = watcher_->Current()) {
    if (const auto id = table->FindNamespace(name)) return *id;
  }
  return managers_->CreateNamespace(name, timeout);
}

std::shared_ptr<Peer> Engine::PeerFor(const ServerRecord& record) {
  std::shared_ptr<Peer> old;
  std::shared_ptr<Peer> peer;
  {
    MutexLock lock(peers_mutex_);
    auto& entry = peers_[record.id];
    const auto table = watcher_->Current();
    const ServerRecord* const newest = table->FindServer(record.id);
    // A caller with an older map must not retire the peer of a newer start.
    const bool outdated = entry != nullptr && newest != nullptr && entry->Is(*newest);
    if (entry == nullptr || (!entry->Is(record) && !outdated)) {
      old = std::move(entry);
      Peer::Environment environment{.messages = *messages_,
                                    .one_sided = {},
                                    .locations = locations_,
                                    .bounce = bounce_.get(),
                                    .one_sided_missing = one_sided_missing_,
                                    .connects = connects_,
                                    .tasks = tasks_,
                                    .stats = stats_,
                                    .client_name = client_name_,
                                    .max_lanes = options_.max_lanes_per_server,
                                    .lost = lost_lanes_[record.id]};
      for (const auto& transport : one_sided_) environment.one_sided.push_back(transport.get());
      entry = std::make_shared<Peer>(environment, record, table->version().cluster);
      lost_lanes_[record.id] = entry->lost_lanes();
    }
    peer = entry;
  }
  if (old) old->Retire();
  return peer;
}

std::vector<ServerHealth> Engine::Servers() const {
  std::vector<ServerHealth> list;
  for (const auto& peer : Peers()) list.push_back(peer->Health());
  return list;
}

std::vector<std::shared_ptr<Peer>> Engine::Peers() const {
  std::vector<std::shared_ptr<Peer>> list;
  MutexLock lock(peers_mutex_);
  list.reserve(peers_.size());
  for (const auto& [id, peer] : peers_) list.push_back(peer);
  return list;
}

Standing Engine::StandingOf(ServerId id) const {
  MutexLock lock(peers_mutex_);
  const auto it = peers_.find(id);
  return it != peers_.end() ? it->second->standing() : Standing{};
}

void Engine::Scrub(const std::string& key, const Hash128& hash, NamespaceId namespace_id,
                   ServerId server) {
  // A storm of damaged values needs no storm of scrubs: what is left out is seen again at its next
  // read.
  if (scrubs_.fetch_add(1) >= kMaxScrubs) {
    scrubs_.fetch_sub(1);
    return;
  }
  tasks_.Run([this, key, hash, namespace_id, server] {
    CallItem item;
    item.key = key;
    item.hash = hash;
    CallShape shape;
    shape.type = protocol::MessageType::kScrub;
    shape.namespace_id = namespace_id;
    shape.only = server;
    Call(*this, shape, {&item, 1}, MonotonicClock::Get().Now() + std::chrono::seconds(1)).Run();
    scrubs_.fetch_sub(1);
  });
}

void Engine::MaintainLoop() {
  while (true) {
    {
      MutexLock lock(stop_mutex_);
      if (!stopping_) stop_signal_.WaitFor(stop_mutex_, kMaintainInterval);
      if (stopping_) return;
    }
    const auto table = watcher_->Current();
    std::vector<std::shared_ptr<Peer>> peers;
    std::vector<std::shared_ptr<Peer>> gone;
    {
      MutexLock lock(peers_mutex_);
      for (auto it = peers_.begin(); it != peers_.end();) {
        const ServerRecord* const record = table ? table->FindServer(it->first) : nullptr;
        if (table && (record == nullptr || !it->second->Is(*record))) {
          gone.push_back(it->second);
          it = peers_.erase(it);
        } else {
          peers.push_back(it->second);
          ++it;
        }
      }
    }
    for (const auto& peer : gone) peer->Retire();
    const Instant now = MonotonicClock::Get().Now();
    for (const auto& peer : peers) peer->Maintain(now);
    CloseUnusedLanes(peers);
  }
}

// Of all servers' queue pairs no more than the cap stay open: those longest unused close.
void Engine::CloseUnusedLanes(const std::vector<std::shared_ptr<Peer>>& peers) {
  if (bounce_ == nullptr) return;  // no transport with queue pairs
  size_t open = 0;
  for (const auto& peer : peers) open += peer->OneSidedLanes();
  while (open > options_.max_rdma_lanes) {
    Peer* longest = nullptr;
    Instant oldest = kForever;
    for (const auto& peer : peers) {
      const auto used = peer->LongestUnused();
      if (used && *used < oldest) {
        oldest = *used;
        longest = peer.get();
      }
    }
    if (longest == nullptr || !longest->CloseLongestUnused()) return;  // all are in use
    --open;
  }
}

}  // namespace simm::client
