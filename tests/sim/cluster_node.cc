// The data servers of a simulated cluster.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <utility>

#include "tests/sim/cluster_world.h"

namespace simm::sim {

using namespace std::chrono_literals;

namespace {

bool NamesAsOwnerOrSource(const RouteTable& table, ServerId self, uint32_t shard,
                          bool only_owners) {
  for (const ShardOwner& owner : table.Owners(shard)) {
    if (owner.server == self || (owner.source == self && !only_owners)) return true;
  }
  return false;
}

}  // namespace

Node::Node(World& world, int number)
    : name("s" + std::to_string(number)),
      place(number),
      feed(world, rpc::WatcherKind::kServer, number, world.random()),
      world_(world) {
  migrates = !world.older_servers || !world.random.OneIn(3);
}

Node::~Node() { Kill(); }

void Node::Start() {
  if (up()) return;
  ++life;
  auto pool = dataserver::Pool::Create({.memory_bytes = 1 << 20,
                                        .mean_value_bytes = 16 << 10,
                                        .path = folder_.pool(),
                                        .prefault = false,
                                        .boot_clock = &world_.clock},
                                       world_.clock);
  ASSERT_TRUE(pool.ok()) << pool.status().ToString();
  pool_ = std::move(*pool);
  EXPECT_EQ(pool_->recovery().cold_because, "");
  ++(pool_->recovery().warm ? world_.counts.warm : world_.counts.cold);
  boot = {world_.random(), world_.random()};
  self.store(kNoServer);
  registered_as_ = kNoServer;
  feed.Reset();
  if (migrates) puller_ = std::make_unique<Puller>(world_, *this, *pool_);
  sessions_ = std::make_unique<dataserver::SessionTable>(world_.clock, pool_->incarnation(),
                                                         limits::kSessionTimeout);
  state_ = std::make_unique<dataserver::OneSidedState>(*pool_, metrics_);
  map_.Set(nullptr);
  context_ =
      std::make_unique<dataserver::DataContext>(dataserver::DataContext{.pool = *pool_,
                                                                        .sessions = *sessions_,
                                                                        .map = map_,
                                                                        .metrics = metrics_,
                                                                        .clock = world_.clock,
                                                                        .self = self,
                                                                        .verify_puts = false,
                                                                        .one_sided = state_.get()});
  auto& transport = world_.transport;
  const auto index = pool_->index_memory();
  index_region_ = *transport.Register({const_cast<std::byte*>(index.data()), index.size()},
                                      transport::kRemoteRead);
  data_region_ =
      *transport.Register(pool_->data_memory(), transport::kRemoteRead | transport::kRemoteWrite);
  const auto check = [this](const transport::SessionTag& tag) { return sessions_->Check(tag); };
  acceptor_ = *transport.Listen(name, "--listen", check);
  tcp_acceptor_ = *world_.tcp.Listen(name, "--data-listen", check);
  last_tick_ = talk_at_ = world_.Now();
}

// The files are put back as they are now: what ends in good order below has not happened.
void Node::Kill() {
  if (!up()) return;
  ++life;
  ++world_.counts.kills;
  namespace fs = std::filesystem;
  for (const std::string& file : {folder_.index(), folder_.data()}) {
    fs::copy_file(file, file + ".killed", fs::copy_options::overwrite_existing);
  }
  puller_.reset();
  connections_.clear();
  clients_.clear();
  acceptor_.reset();
  tcp_acceptor_.reset();
  index_region_.reset();
  data_region_.reset();
  context_.reset();
  state_.reset();
  sessions_.reset();
  pool_.reset();
  for (const std::string& file : {folder_.index(), folder_.data()})
    fs::rename(file + ".killed", file);
  // Sometimes as in a container: the successor cannot see who had the pool.
  if (world_.random.OneIn(3)) std::ofstream(folder_.pool() + ".lock", std::ios::trunc);
  paused = false;
}

void Node::Wipe() {
  for (const std::string& file : {folder_.index(), folder_.data()}) std::filesystem::remove(file);
}

rpc::RegisterRequest Node::Request() const {
  rpc::RegisterRequest request;
  request.name = name;
  request.pool_id = pool_->pool_id();
  request.incarnation = pool_->incarnation();
  request.boot_id = boot;
  request.control_address = name + ":1";
  request.data_address = name + ":2";
  request.zone = "zone-" + std::to_string(zone());
  request.weight = 1 << 20;
  request.capabilities = kCapabilityReportMap | (migrates ? kCapabilityMigration : 0);
  if (const Table& held = feed.held()) {
    request.expected_cluster = held->version().cluster;
    request.held = held->version();
  }
  return request;
}

// As Registrar::Run: registers until it is let in, then heartbeats, at once after a new map.
void Node::Talk() {
  if (world_.Now() < talk_at_) return;
  talk_at_ = world_.Now() + (self.load() == kNoServer ? 100ms : 1000ms);
  if (!world_.Reaches(place, World::kManager)) return;
  if (world_.manager.members() != nullptr && world_.Now() < world_.manager.wakes_at) return;
  if (self.load() == kNoServer) return world_.manager.Register(*this);
  if (!world_.manager.up()) return;
  rpc::HeartbeatRequest request;
  request.id = self.load();
  request.boot_id = boot;
  if (const Table& held = feed.held()) {
    request.map = held->version();
    if (puller_) request.pulled_shards = puller_->Pulled(*held);
  }
  request.unanswered_ms = static_cast<uint64_t>((world_.Now() - answered_) / 1ms);
  const bool known = world_.manager.Heartbeat(request);
  if (!world_.Reaches(World::kManager, place)) return;
  answered_ = world_.Now();
  if (!known) {
    self.store(kNoServer);
    talk_at_ = world_.Now();
  }
}

void Node::TalkSoon() { talk_at_ = world_.Now(); }

// As Server::OnRegistered.
void Node::OnRegistered(ServerId id) {
  registered_as_ = id;
  answered_ = world_.Now();
  if (puller_ && feed.held()) puller_->OnTable(feed.held(), id);
  self.store(id);
  if (feed.held()) Housekeep();
}

// As Server::OnTable.
void Node::OnTable() {
  const Table& table = feed.held();
  pool_->BindTo(table->version().cluster);
  if (puller_) puller_->OnTable(table, registered_as_);
  map_.Set(table);
  TalkSoon();
  Housekeep();
}

// As Server::HousekeepLoop.
void Node::Housekeep() {
  const Table& table = feed.held();
  const ServerRecord* own = table->FindServer(self.load());
  if (own == nullptr || own->boot_id != boot) return;
  for (uint64_t cursor = 0; cursor != UINT64_MAX;) {
    cursor = pool_->DropShards(
        [&](uint32_t shard) {
          return NamesAsOwnerOrSource(*table, self.load(), shard,
                                      world_.mistakes.drop_sources_early);
        },
        cursor);
  }
}

void Node::Tick() {
  last_tick_ = world_.Now();
  if (!world_.mistakes.sessions_never_end && sessions_->Expire() > 0) state_->EndPins(*sessions_);
  state_->Tick(last_tick_);
  for (auto& connection : connections_) connection->Tick(last_tick_);
  std::erase_if(connections_, [](const auto& c) { return c->connection().closed(); });
  while (pool_->EvictSome()) {
  }
}

void Node::Step() {
  if (paused && world_.Now() >= wakes_at) paused = false;
  if (!up() || paused) return;
  if (feed.Poll()) OnTable();
  Talk();
  if (puller_) puller_->Step();
  for (transport::Acceptor* const acceptor : {acceptor_.get(), tcp_acceptor_.get()}) {
    while (auto connection = acceptor->Accept()) {
      connections_.push_back(
          std::make_unique<dataserver::DataSession>(*context_, std::move(connection)));
    }
  }
  if (world_.Now() - last_tick_ >= limits::kDataTick) Tick();
  for (size_t i = 0; i < connections_.size();) {
    const auto client = clients_.find(connections_[i]->connection().Tag().session);
    const bool heard = client == clients_.end() || world_.Reaches(client->second, place);
    if (heard && !connections_[i]->Progress()) {
      connections_.erase(connections_.begin() + static_cast<ptrdiff_t>(i));
    } else {
      ++i;
    }
  }
}

std::optional<uint64_t> Node::Shake(int client, const Id128& wanted) {
  if (!up() || paused || boot != wanted || !world_.Speak(client, place)) return std::nullopt;
  const uint64_t session = sessions_->Open("client " + std::to_string(client));
  clients_[session] = client;
  return session;
}

client::PoolAccess Node::Access() const {
  const auto& g = pool_->geometry();
  client::PoolAccess access;
  access.view = {.bucket_count = g.bucket_count,
                 .buckets_offset = g.buckets_offset,
                 .index_bytes = g.index_bytes,
                 .data_bytes = g.data_bytes};
  access.overflow_offset = g.overflow_offset;
  access.boot = boot;
  access.index = index_region_->Describe();
  access.data = data_region_->Describe();
  access.takes_reports = true;
  return access;
}

void Node::CheckBooks() {
  if (!up()) return;
  const uint64_t granted = pool_->Usage().granted_bytes, leased = state_->leases.totals().bytes;
  // What is being pulled lands in grants as well.
  EXPECT_TRUE(granted == leased || (granted > leased && puller_ && !puller_->idle()))
      << name << ": " << granted << " granted, " << leased << " leased";
  const Status audit = pool_->Audit();
  EXPECT_TRUE(audit.ok()) << name << ": " << audit.ToString();
}

void Node::ExpectNothingHeld() {
  CheckBooks();
  const auto usage = pool_->Usage();
  EXPECT_EQ(usage.granted_bytes, 0u) << name;
  EXPECT_EQ(usage.pinned_bytes, 0u) << name;
  EXPECT_EQ(usage.limbo_bytes, 0u) << name;
  EXPECT_EQ(sessions_->size(), 0u) << name;
  EXPECT_EQ(state_->lanes.size(), 0u) << name;
  EXPECT_TRUE(connections_.empty()) << name;
}

}  // namespace simm::sim
