#include "dataserver/server.h"

#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <utility>

#include "common/base/limits.h"
#include "common/base/log.h"
#include "common/base/signals.h"
#include "common/base/version.h"
#include "common/rpc/dataserver_stub.h"
#include "common/transport/address.h"

namespace simm::dataserver {
namespace {

constexpr auto kSweepPause = std::chrono::milliseconds(100);

std::string HostName() {
  std::array<char, 256> name{};
  gethostname(name.data(), name.size() - 1);
  return name.data();
}

bool IsWildcard(const std::string& host) { return host == "0.0.0.0" || host == "::"; }

// The local address that faces `peer`: that of a datagram socket connected to it (nothing is sent).
std::string AddressTowards(const std::string& peer) {
  const auto host_port = ParseHostPort(peer);
  if (!host_port.ok()) return {};
  const auto resolved = transport::Resolve(*host_port);
  if (!resolved.ok()) return {};
  const int fd = socket(resolved->storage.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return {};
  std::string host;
  if (connect(fd, reinterpret_cast<const sockaddr*>(&resolved->storage), resolved->length) == 0) {
    transport::SocketAddress local;
    local.length = sizeof local.storage;
    if (getsockname(fd, reinterpret_cast<sockaddr*>(&local.storage), &local.length) == 0) {
      const auto parsed = ParseHostPort(transport::ToString(local));
      if (parsed.ok()) host = parsed->host;
    }
  }
  close(fd);
  return host;
}

// One line, for people.
void LogRecovery(const PoolRecovery& recovery, const std::string& path) {
  if (!recovery.cold_because.empty()) {
    SIMM_LOG_WARN("cold start of the pool {}: {}; it is made anew, empty", path,
                  recovery.cold_because);
  }
  if (!recovery.warm) return;
  std::string dropped;
  for (size_t cause = 0; cause < kDropCauses; ++cause) {
    if (recovery.dropped[cause] == 0) continue;
    dropped += (dropped.empty() ? "" : ", ") + std::to_string(recovery.dropped[cause]) + " " +
               std::string(DropCauseName(static_cast<DropCause>(cause)));
  }
  SIMM_LOG_INFO(
      "warm start of the pool {}: {} entries kept ({}), dropped: {}; {} extents still granted; "
      "{:.3f} s",
      path, recovery.entries, FormatSize(recovery.value_bytes), dropped.empty() ? "none" : dropped,
      recovery.granted, ToSeconds(recovery.took));
}

bool OwnsAnyShard(const RouteTable& table, ServerId self, uint32_t shard) {
  const auto owners = table.Owners(shard);
  return std::any_of(owners.begin(), owners.end(),
                     [&](const ShardOwner& o) { return o.server == self || o.source == self; });
}

}  // namespace

Server::Server(ServerOptions options)
    : options_(std::move(options)), boot_id_(NewId128()), board_(false) {}

Result<std::unique_ptr<Server>> Server::Start(ServerOptions options) {
  std::unique_ptr<Server> server(new Server(std::move(options)));
  if (Status s = server->Open(); !s.ok()) return s;
  return server;
}

Server::~Server() { Stop(Duration::zero()); }

Status Server::Open() {
  auto pool = Pool::Create({.memory_bytes = options_.memory_bytes,
                            .mean_value_bytes = options_.mean_value_bytes,
                            .path = options_.pool,
                            .wait_for_lock = [] { return !StopSignalPending(); },
                            .prefault = options_.prefault,
                            .huge_pages = options_.huge_pages},
                           MonotonicClock::Get());
  if (!pool.ok()) return pool.status();
  pool_ = std::move(*pool);
  LogRecovery(pool_->recovery(), options_.pool);
  sessions_ = std::make_unique<SessionTable>(MonotonicClock::Get(), pool_->incarnation(),
                                             options_.session_timeout);
  one_sided_ = std::make_unique<OneSidedState>(*pool_, data_metrics_);
  context_ = std::make_unique<DataContext>(DataContext{.pool = *pool_,
                                                       .sessions = *sessions_,
                                                       .map = map_,
                                                       .metrics = data_metrics_,
                                                       .clock = MonotonicClock::Get(),
                                                       .self = self_,
                                                       .verify_puts = options_.verify_puts,
                                                       .verify_commits = options_.verify_commits,
                                                       .one_sided = one_sided_.get(),
                                                       .slow_op = options_.slow_op});
  migrator_ = std::make_unique<Migrator>(
      *pool_, Migrator::Options{
                  .bytes_per_s = options_.migration_bandwidth,
                  .connect = [this](const ServerRecord& source,
                                    const MapVersion& map) { return ConnectToSource(source, map); },
                  .on_pulled =
                      [this] {
                        if (started_.load()) registrar_->HeartbeatSoon();
                      }});
  SIMM_RETURN_IF_ERROR(OpenPorts());

  auto manager = rpc::ManagerStub::Create(options_.managers);
  if (!manager.ok()) return manager.status();
  registrar_ = std::make_unique<Registrar>(
      std::move(*manager),
      Registrar::Options{
          .request = Registration(),
          .stats = [this] { return Stats(); },
          .pulled = [this](const RouteTable& table) { return migrator_->Pulled(table); },
          .migration = [this] { return migrator_->Progress(); },
          .map = &map_,
          .self = &self_,
          .on_registered = [this](ServerId id) { OnRegistered(id); },
          .on_heartbeat = HeartbeatMeter()});
  auto watcher =
      rpc::MapWatcher::Start({.addresses = options_.managers,
                              .kind = rpc::WatcherKind::kServer,
                              .server = kNoServer,
                              .ask_servers = false,
                              .on_table = [this](auto table) { OnTable(std::move(table)); }});
  if (!watcher.ok()) return watcher.status();
  watcher_ = std::move(*watcher);
  started_.store(true);
  evictor_ = std::thread([this] { EvictLoop(); });
  sweeper_ = std::thread([this] { SweepLoop(); });
  housekeeper_ = std::thread([this] { HousekeepLoop(); });
  return Status::Ok();
}

rpc::RegisterRequest Server::Registration() const {
  rpc::RegisterRequest request;
  request.name = options_.name;
  request.pool_id = pool_->pool_id();
  request.incarnation = pool_->incarnation();
  request.boot_id = boot_id_;
  request.control_address = control_address_;
  request.data_address = data_address_;
  request.zone = options_.zone;
  request.weight = pool_->geometry().data_bytes;
  request.version = kVersion;
  return request;
}

std::function<void(Duration, bool)> Server::HeartbeatMeter() {
  const auto seconds = registry_.Histogram("simm_dataserver_heartbeat_seconds",
                                           "Time of one heartbeat to the manager, answered or not.",
                                           metrics::LatencyBuckets());
  const auto failures = registry_.Counter("simm_dataserver_heartbeat_failures_total",
                                          "Heartbeats that no manager has answered.");
  return [seconds, failures](Duration took, bool answered) {
    seconds.Observe(ToSeconds(took));
    if (!answered) failures.Add();
  };
}

Status Server::OpenPorts() {
  const transport::SessionCheck check = [this](const transport::SessionTag& tag) {
    return sessions_->Check(tag);
  };
  auto acceptor = tcp_.Listen(options_.data_listen, "--data-listen", check);
  if (!acceptor.ok()) return acceptor.status();
  const auto data_bound = ParseHostPort((*acceptor)->Address());
  if (!data_bound.ok()) return data_bound.status();
  std::vector<std::unique_ptr<transport::Acceptor>> acceptors;
  acceptors.push_back(std::move(*acceptor));
  SIMM_RETURN_IF_ERROR(roads_.Open(options_, *pool_, boot_id_, check, &acceptors));
  const size_t threads = options_.threads != 0
                             ? options_.threads
                             : std::clamp<size_t>(std::thread::hardware_concurrency(), 1, 16);
  data_ = std::make_unique<DataService>(*context_, std::move(acceptors), threads);

  auto control = rpc::ControlServer::Start({.listen = options_.listen,
                                            .manager = nullptr,
                                            .data_server = this,
                                            .maps = &board_,
                                            .describe = [this] { return Describe(); },
                                            .observer = {}});
  if (!control.ok()) return control.status();
  control_ = std::move(*control);

  const std::string host = AdvertisedHost();
  data_address_ = simm::ToString(HostPort{host, data_bound->port});
  control_address_ = simm::ToString(HostPort{host, control_->port()});
  if (options_.name.empty()) options_.name = HostName() + "-" + std::to_string(data_bound->port);

  SetLogField("server", options_.name);
  SetLogField("boot", simm::ToString(boot_id_));

  metrics::AddProcessMetrics(registry_, "simm-dataserver", kVersion);
  registry_.AddCollector([this](metrics::Sink& sink) { Collect(sink); });
  if (options_.http != "off") {
    auto http = metrics::HttpServer::Start(
        {.address = options_.http, .ready = [this] { return Ready(); }, .idle_seconds = 3},
        registry_);
    if (!http.ok()) return http.status();
    http_ = std::move(*http);
  }
  return Status::Ok();
}

std::string Server::AdvertisedHost() const {
  if (!options_.advertise.empty()) return options_.advertise;
  const auto listen = ParseHostPort(options_.data_listen);
  if (listen.ok() && !IsWildcard(listen->host)) return listen->host;
  for (const std::string& manager : options_.managers) {
    if (std::string host = AddressTowards(manager); !host.empty() && !IsWildcard(host)) return host;
  }
  return HostName();
}

void Server::Stop(Duration grace) {
  if (stopping_.exchange(true)) return;
  if (watcher_) watcher_->Stop();
  if (migrator_) migrator_->Stop();
  if (registrar_) registrar_->Stop();
  if (data_) data_->Stop(grace);
  if (control_) control_->Shutdown(std::chrono::milliseconds(200));
  http_.reset();
  {
    MutexLock lock(mutex_);
    table_changed_.NotifyAll();
    stop_.NotifyAll();
  }
  if (evictor_.joinable()) evictor_.join();
  if (sweeper_.joinable()) sweeper_.join();
  if (housekeeper_.joinable()) housekeeper_.join();
}

void Server::OnTable(std::shared_ptr<const RouteTable> table) {
  SIMM_LOG_INFO("map {} in force, {} shards here", ToString(table->version()),
                table->ShardsOf(self_.load()));
  if (const uint64_t dropped = pool_->BindTo(table->version().cluster); dropped > 0) {
    SIMM_LOG_WARN("the pool held {} entries of another cluster: they are dropped", dropped);
  }
  SetLogField("cluster", simm::ToString(table->version().cluster));
  {
    MutexLock lock(rows_mutex_);
    migrator_->OnTable(table, registered_as_);
    map_.Set(table);
  }
  board_.Publish(std::move(table));
  if (registrar_) registrar_->HeartbeatSoon();
  MutexLock lock(mutex_);
  ++table_changes_;
  table_changed_.NotifyAll();
}

// The map that says which shards are this server's may be here before it knows its own id.
void Server::OnRegistered(ServerId id) {
  {
    MutexLock lock(rows_mutex_);
    registered_as_ = id;
    if (auto table = map_.Get()) migrator_->OnTable(std::move(table), id);
    self_.store(id, std::memory_order_release);
  }
  MutexLock lock(mutex_);
  ++table_changes_;
  table_changed_.NotifyAll();
}

// A session of its own for each lane, as a client of that server.
Result<std::unique_ptr<transport::Connection>> Server::ConnectToSource(const ServerRecord& source,
                                                                       const MapVersion& map) {
  rpc::HandshakeRequest request;
  request.expected_cluster = map.cluster;
  request.expected_server = source.id;
  request.client_name = "migration to " + options_.name;
  request.transports = {"tcp"};
  const auto reply = rpc::Handshake(source.control_address, request, limits::kConnectTimeout);
  if (!reply.ok()) return reply.status();
  return tcp_.Connect(reply->endpoint, {reply->session, reply->incarnation},
                      limits::kConnectTimeout);
}

void Server::EvictLoop() {
  while (!stopping_.load()) {
    pool_->WaitForEvictionWork(std::chrono::milliseconds(100));
    while (!stopping_.load() && pool_->EvictSome()) {
    }
  }
}

// Ends entries whose time is over. Before that, after a warm start, maps the pool ahead of its use.
void Server::SweepLoop() {
  uint64_t populated = pool_->recovery().warm && options_.prefault ? 0 : UINT64_MAX;
  while (!stopping_.load()) {
    while (!stopping_.load() && pool_->ExpireSome()) {
    }
    if (populated != UINT64_MAX) {
      populated = pool_->PopulateSome(populated);
      continue;
    }
    MutexLock lock(mutex_);
    if (!stopping_.load()) stop_.WaitFor(mutex_, kSweepPause);
  }
}

// Lets go of shards that a new map has given to others, and of what was removed while they came.
void Server::HousekeepLoop() {
  uint64_t seen = 0;
  bool is_member = false;
  while (true) {
    {
      MutexLock lock(mutex_);
      while (!stopping_.load() && table_changes_ == seen) {
        const Instant due = is_member ? pool_->NextTombstoneEnd() : kForever;
        const Duration left = due - MonotonicClock::Get().Now();
        if (left <= Duration::zero()) break;
        if (due == kForever) table_changed_.Wait(mutex_);
        if (due != kForever) table_changed_.WaitFor(mutex_, left);
      }
      seen = table_changes_;
    }
    if (stopping_.load()) return;
    for (uint64_t cursor = 0; cursor != UINT64_MAX && !stopping_.load();) {
      // The newest at each step: it may have given a shard back that is being written again.
      const auto table = map_.Get();
      const ServerId self = self_.load();
      // Of this very start: an older map may say what was given away while this server was down.
      const ServerRecord* const own =
          table == nullptr || self == kNoServer ? nullptr : table->FindServer(self);
      is_member = own != nullptr && own->boot_id == boot_id_;
      if (!is_member) break;
      cursor = pool_->DropShards([&](uint32_t shard) { return OwnsAnyShard(*table, self, shard); },
                                 cursor);
    }
  }
}

Status Server::Ready() const {
  if (stopping_.load()) return Status(Code::kUnavailable, "stopping");
  if (!started_.load()) return Status(Code::kUnavailable, "starting");
  SIMM_RETURN_IF_ERROR(registrar_->Ready());
  const auto table = map_.Get();
  if (table == nullptr || table->FindServer(self_.load()) == nullptr) {
    return Status(Code::kUnavailable, "waiting for a map that holds this server");
  }
  return Status::Ok();
}

rpc::ServerStats Server::Stats() const {
  const PoolUsage usage = pool_->Usage();
  const PoolCounters counters = pool_->Counters();
  rpc::ServerStats stats;
  stats.data_bytes = usage.data_bytes;
  stats.free_bytes = usage.free_bytes;
  stats.granted_bytes = usage.granted_bytes;
  stats.live_bytes = usage.live_bytes;
  stats.limbo_bytes = usage.limbo_bytes;
  stats.pinned_bytes = usage.pinned_bytes;
  stats.live_value_bytes = usage.live_value_bytes;
  stats.entries = usage.entries;
  stats.hits = data_metrics_.Keys(DataOp::kGet, Code::kOk);
  stats.misses = data_metrics_.Keys(DataOp::kGet, Code::kMiss);
  stats.puts = data_metrics_.Keys(DataOp::kPut, Code::kOk);
  for (const uint64_t n : counters.evictions) stats.evictions += n;
  stats.bytes_read = data_metrics_.BytesOut();
  stats.bytes_written = data_metrics_.value_bytes_in.load();
  stats.transports = roads_.Describe();
  for (rpc::TransportStatus& entry : stats.transports) {
    entry.connections = data_metrics_.Connections(DataRoadOf(entry.name));
    stats.connections += entry.connections;
  }
  return stats;
}

// It is this server, in this cluster, whom the request is for.
Status Server::CheckAddressee(const Id128& cluster, ServerId server) const {
  if (!started_.load()) return Status(Code::kUnavailable, "starting");
  const auto table = map_.Get();
  const ServerId self = self_.load();
  if (table == nullptr || self == kNoServer) {
    return Status(Code::kUnavailable, "server " + options_.name + " is not in a cluster yet");
  }
  if (!cluster.IsZero() && cluster != table->version().cluster) {
    return Status(Code::kWrongCluster, "server " + options_.name + " belongs to cluster " +
                                           simm::ToString(table->version().cluster));
  }
  if (server != kNoServer && server != self) {
    return Status(Code::kWrongOwner, "this is server " + std::to_string(self) + " (" +
                                         options_.name + "), not " + std::to_string(server));
  }
  return Status::Ok();
}

Result<rpc::HandshakeReply> Server::Handshake(const rpc::HandshakeRequest& request,
                                              const std::string& peer) {
  SIMM_RETURN_IF_ERROR(CheckAddressee(request.expected_cluster, request.expected_server));
  const auto table = map_.Get();
  const ServerId self = self_.load();
  if (std::find(request.transports.begin(), request.transports.end(), "tcp") ==
      request.transports.end()) {
    return Status(Code::kFailedPrecondition,
                  "server " + options_.name + " serves no client that does not speak tcp as well");
  }
  rpc::HandshakeReply reply;
  reply.server = self;
  reply.server_name = options_.name;
  reply.map = table->version();
  reply.incarnation = pool_->incarnation();
  reply.boot_id = boot_id_;
  const std::string& client = request.client_name.empty() ? peer : request.client_name;
  reply.session = sessions_->Open(client);
  SIMM_LOG_INFO("session {:016x} of client {} begins, from {}", reply.session, client, peer);
  reply.transport = "tcp";
  reply.endpoint = data_address_;
  reply.layout = protocol::LayoutFingerprint();
  const protocol::PoolGeometry& geometry = pool_->geometry();
  reply.pool = {.bucket_count = geometry.bucket_count,
                .buckets_offset = geometry.buckets_offset,
                .overflow_offset = geometry.overflow_offset,
                .index_bytes = geometry.index_bytes,
                .data_bytes = geometry.data_bytes};
  roads_.Offer(request.transports, control_address_, &reply);
  reply.takes_read_reports = true;
  reply.max_value_bytes = pool_->MaxValueBytes(limits::kMaxKeyBytes);
  reply.session_timeout_ms = static_cast<uint32_t>(
      std::chrono::duration_cast<std::chrono::milliseconds>(sessions_->timeout()).count());
  return reply;
}

Result<std::string> Server::OpenLane(const rpc::OpenLaneRequest& request) {
  if (!started_.load()) return Status(Code::kUnavailable, "starting");
  return roads_.Answer(request);
}

Result<uint64_t> Server::ClearNamespace(const rpc::ClearNamespaceRequest& request,
                                        const std::function<bool()>& cancelled) {
  SIMM_RETURN_IF_ERROR(CheckAddressee(request.expected_cluster, request.expected_server));
  // Cut short, a longer id would name another namespace.
  if (request.namespace_id >= limits::kMaxNamespaces) {
    return Status(Code::kInvalidArgument,
                  "no namespace has the id " + std::to_string(request.namespace_id));
  }
  const auto ns = static_cast<NamespaceId>(request.namespace_id);
  uint64_t dropped = 0;
  for (uint64_t cursor = 0; cursor != UINT64_MAX;) {
    if (stopping_.load()) return Status(Code::kUnavailable, "stopping");
    if (cancelled()) return Status(Code::kDeadlineExceeded, "not all is cleared yet");
    cursor = pool_->DropNamespace(ns, cursor, &dropped);
    std::this_thread::yield();  // to whoever waits for the pool's lock
  }
  SIMM_LOG_INFO("cleared namespace {}: {} entries dropped", request.namespace_id, dropped);
  return dropped;
}

Result<rpc::NodeStatus> Server::GetStatus() {
  if (!started_.load()) return Status(Code::kUnavailable, "starting");
  rpc::NodeStatus status;
  const auto table = map_.Get();
  status.record.id = self_.load();
  status.record.name = options_.name;
  status.record.pool_id = pool_->pool_id();
  status.record.incarnation = pool_->incarnation();
  status.record.boot_id = boot_id_;
  status.record.control_address = control_address_;
  status.record.data_address = data_address_;
  status.record.zone = options_.zone;
  status.record.weight = pool_->geometry().data_bytes;
  if (table != nullptr) {
    status.map = table->version();
    status.shards = table->ShardsOf(status.record.id);
  }
  status.stats = Stats();
  status.migration = migrator_->Progress();
  status.version = kVersion;
  return status;
}

}  // namespace simm::dataserver
