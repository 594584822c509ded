#include <gtest/gtest.h>

#include <algorithm>
#include <utility>

#include "common/routing/key_hash.h"
#include "tests/sim/scale_parts.h"

namespace simm::sim {

using namespace std::chrono_literals;
using manager::Membership;
using manager::MembershipOptions;
using rpc::WatcherKind;

namespace {

constexpr Duration kRound = 25ms;  // placing and saving
constexpr Duration kTick = 250ms;  // as the committer's
constexpr Duration kRetryLearning = 300ms;
constexpr size_t kByItself = 100;

}  // namespace

void VirtualTime::RunUntil(Instant end) {
  while (!events_.empty() && events_.top().when <= end) {
    const Instant when = events_.top().when;
    const std::function<void()> what = std::move(events_.top().what);
    events_.pop();
    clock_.Advance(when - Now());
    what();
  }
  clock_.Advance(end - Now());
}

ScaleWorld::ScaleWorld(uint64_t seed, size_t servers, size_t clients, size_t zones)
    : random_(seed), zones_(zones), saved_(manager::NewCluster({1, seed + 1})) {
  StartManager(/*lost_state=*/false);
  Tick();
  for (size_t i = 0; i < servers; ++i) AddServer();
  for (size_t i = 0; i < clients; ++i) {
    auto& client = *clients_.emplace_back(std::make_unique<Watcher>(random_()));
    client.by_itself = i % kByItself == 0;
    time_.After(Duration(random_.Below(uint64_t{1'000'000'000})),
                [this, &client] { Connect(client, {kManagerAddress}, 0); });
  }
}

ScaleWorld::~ScaleWorld() = default;

ScaleFigures ScaleWorld::Run(Duration time) {
  figures_ = {};
  const Instant start = time_.Now();
  last_change_ = start;
  time_.RunUntil(start + time);
  figures_.calm_after = last_change_ - start;
  return figures_;
}

// ---- processes

void ScaleWorld::AddServer() {
  const size_t number = servers_.size();
  Server& server = *servers_.emplace_back(std::make_unique<Server>(number, random_()));
  server.request.zone = "zone-" + std::to_string(zone_of(number));
  server.watcher.by_itself = number % kByItself == 0;
  // A cluster that begins: all within a second.
  time_.After(Duration(random_.Below(uint64_t{1'000'000'000})),
              [this, number] { StartServer(number); });
}

void ScaleWorld::StartServer(size_t number) {
  Server& server = *servers_[number];
  if (server.running) return;
  server.running = true;
  ++server.watcher.life;
  ++server.request.incarnation;
  server.request.boot_id = {number + 1, server.request.incarnation};
  server.id = kNoServer;
  server.pause = 50ms;
  server.soon = false;
  server.watcher.follower = {};
  server.watcher.backoff = {};
  server.board = std::make_unique<rpc::MapBoard>(false);
  server.source = std::make_unique<Source>(*server.board, server_cache_);
  Register(server);
  Connect(server.watcher, {kManagerAddress}, 0);
}

void ScaleWorld::KillServer(size_t number) {
  Server& server = *servers_[number];
  if (!server.running) return;
  server.running = false;
  ++server.watcher.life;
  ++server.beat;
  if (server.watcher.stream) Break(server.watcher.stream);
  EndStreams(*server.source);
}

void ScaleWorld::CutOff(size_t number, bool cut) {
  Server& server = *servers_[number];
  server.cut_off = cut;
  if (!cut || !server.watcher.stream) return;
  Break(server.watcher.stream);
  Retry(server.watcher, true);
}

void ScaleWorld::KillManager() {
  ++manager_life_;
  in_round_ = false;
  registering_.clear();
  if (source_) EndStreams(*source_);
  source_.reset();
  publication_.reset();
  members_.reset();
  adoption_.reset();
}

void ScaleWorld::StartManager(bool lost_state) {
  if (lost_state) saved_.reset();
  // It may still be named by streams that have ended.
  board_ = std::make_unique<rpc::MapBoard>(true);
  publication_ = std::make_unique<manager::ServersFirst>(*board_);
  cache_ = std::make_unique<rpc::UpdateCache>(true);
  source_ = std::make_unique<Source>(*board_, *cache_);
  if (!saved_.has_value()) {
    adoption_ = std::make_unique<manager::Adoption>(MembershipOptions{}.dead, time_.Now());
    return;
  }
  adoption_.reset();
  members_ = std::make_unique<Membership>(MembershipOptions{}, *saved_, time_.Now());
  manager_began_ = time_.Now();
  const Table table = *RouteTable::Create(saved_->map);
  NoteEpoch(table);
  Cpu cpu(figures_.stream_cpu);
  board_->Publish(table);
}

// ---- the manager

void ScaleWorld::Tick() {
  time_.After(kTick, [this] { Tick(); });
  if (adoption_) Learn();
  if (members_ && !in_round_) Round();
}

void ScaleWorld::Learn() {
  auto state = adoption_->Decide(time_.Now(), {7, 7});
  if (!state.has_value()) return;
  saved_ = *std::move(state);
  adoption_.reset();
  members_ = std::make_unique<Membership>(MembershipOptions{}, *saved_, time_.Now());
  manager_began_ = time_.Now();
  const Table table = *RouteTable::Create(saved_->map);
  NoteEpoch(table);
  Cpu cpu(figures_.stream_cpu);
  board_->Publish(table);
}

// As ManagerService::Round: what has gathered becomes one epoch, is saved, then published.
void ScaleWorld::Round() {
  std::vector<std::pair<Server*, uint64_t>> heard;
  std::vector<ServerId> answers;
  heard.swap(registering_);
  Membership::Draft draft;
  Table table;
  {
    Cpu cpu(figures_.round_cpu);
    members_->Tick(time_.Now());
    draft = members_->Begin();
    for (const auto& [server, life] : heard) {
      const auto outcome = members_->Register(time_.Now(), server->request, draft);
      answers.push_back(outcome.ok() ? outcome->first : kNoServer);
    }
    members_->BuryTheDead(time_.Now(), draft);
    members_->SettleMoves(time_.Now(), draft);
    if (draft.changed) {
      Membership::Seal(draft);
      table = *RouteTable::Create(draft.next.map);
    }
  }
  in_round_ = true;
  const auto finish = [this, life = manager_life_, heard, answers, table,
                       sealed = std::make_shared<Membership::Draft>(std::move(draft))] {
    if (life != manager_life_) return;
    in_round_ = false;
    if (table != nullptr) saved_ = sealed->next;
    Publish(std::move(*sealed), table);
    for (size_t i = 0; i < heard.size(); ++i) {
      Server& server = *heard[i].first;
      const ServerId id = answers[i];
      if (server.watcher.life != heard[i].second) continue;
      time_.After(Latency(), [this, &server, id, its = heard[i].second] {
        if (server.watcher.life != its) return;
        server.id = id;
        if (id == kNoServer) return Register(server);
        if (!std::exchange(server.soon, false)) return Hear(server);
        Heartbeat(server, ++server.beat);
      });
    }
    if (!registering_.empty()) Round();
  };
  table != nullptr ? time_.After(kRound, finish) : finish();
}

void ScaleWorld::Publish(Membership::Draft draft, const Table& table) {
  {
    Cpu cpu(figures_.round_cpu);
    members_->Commit(time_.Now(), std::move(draft));
  }
  if (table == nullptr) return;
  NoteEpoch(table);
  Cpu cpu(figures_.stream_cpu);
  publication_->Publish(table, time_.Now());
  publication_->PublishIfDue(time_.Now(), [this] { return members_->AllApplied(time_.Now()); });
  if (publication_->clients_at() == kForever) return;
  time_.At(publication_->clients_at(), [this, life = manager_life_] {
    if (life != manager_life_ || !members_) return;
    Cpu inner(figures_.stream_cpu);
    publication_->PublishIfDue(time_.Now(), [this] { return members_->AllApplied(time_.Now()); });
  });
}

void ScaleWorld::NoteEpoch(const Table& table) {
  const auto& version = table->version();
  if (!published_.emplace(std::pair(version.term, version.epoch), std::pair(table, time_.Now()))
           .second) {
    return;
  }
  ++figures_.epochs;
  last_change_ = time_.Now();
  if (published_.size() > 100) published_.erase(published_.begin());
}

// ---- data servers towards the manager

void ScaleWorld::Register(Server& server) {
  const uint64_t life = server.watcher.life;
  const bool hears = (members_ || adoption_) && !server.cut_off;
  server.pause = std::min<Duration>(2 * server.pause, 1s);
  Duration pause = Duration(random_.Below(static_cast<uint64_t>(server.pause.count()))) + 50ms;
  if (hears && members_) {
    ++figures_.registrations;
    registering_.emplace_back(&server, life);
    if (!in_round_) Round();
    return;
  }
  if (hears) {
    ++figures_.registrations;
    const Table held = server.watcher.follower.held();
    if (adoption_->Offer(server.request.name, held ? held->version() : MapVersion{})) {
      EXPECT_TRUE(adoption_->Report(*held).ok());
    }
    pause = kRetryLearning;
  }
  time_.After(pause, [this, &server, life] {
    if (server.watcher.life == life) Register(server);
  });
}

// The registrar sleeps for a heartbeat.
void ScaleWorld::Hear(Server& server) {
  time_.After(1s, [this, &server, beat = ++server.beat] { Heartbeat(server, beat); });
}

void ScaleWorld::Heartbeat(Server& server, uint64_t beat) {
  if (beat != server.beat || server.id == kNoServer) return;
  if ((members_ || adoption_) && !server.cut_off) {
    ++figures_.heartbeats;
    rpc::HeartbeatRequest request;
    request.id = server.id;
    request.boot_id = server.request.boot_id;
    if (const Table& held = server.watcher.follower.held()) request.map = held->version();
    ReportPulled(server, request);
    Cpu cpu(figures_.heartbeat_cpu);
    if (!members_ || members_->Heartbeat(time_.Now(), request).register_again) {
      server.id = kNoServer;
      return Register(server);
    }
    publication_->PublishIfDue(time_.Now(), [this] { return members_->AllApplied(time_.Now()); });
  }
  Hear(server);
}

// A pull takes one to three seconds.
void ScaleWorld::ReportPulled(Server& server, rpc::HeartbeatRequest& request) {
  const Table held = server.watcher.follower.held();
  if (held == nullptr || members_ == nullptr || members_->shards_moving() == 0) return;
  if (pull_table_ == nullptr || pull_table_->version().OlderThan(held->version())) {
    pull_table_ = held;
    pulls_.clear();
    for (uint32_t shard = 0; shard < limits::kShards; ++shard) {
      const ShardOwner& row = held->Owners(shard).front();
      if (row.source != kNoServer) pulls_[row.server].push_back(shard);
    }
  }
  if (held->version() != pull_table_->version()) return;
  const auto it = pulls_.find(server.id);
  if (it == pulls_.end()) {
    server.pulled_at = kForever;
    return;
  }
  if (server.pulled_at == kForever || server.pulled_at.nanos == 0)
    server.pulled_at = time_.Now() + 1s + Duration(random_.Below(uint64_t{2'000'000'000}));
  if (time_.Now() >= server.pulled_at) request.pulled_shards = it->second;
}

// ---- what must hold

void ScaleWorld::Check(const RouteTable& table) const {
  const auto it = published_.find({table.version().term, table.version().epoch});
  if (it == published_.end()) return;
  const MapContents& right = it->second.first->contents();
  EXPECT_TRUE(table.contents().owners == right.owners &&
              table.contents().servers == right.servers &&
              table.contents().namespaces == right.namespaces)
      << ToString(table.version()) << " came out otherwise than it was published";
}

void ScaleWorld::ExpectAllHaveTheNewest() const {
  std::set<Table> held;
  size_t behind = 0;
  const auto look = [&](const Watcher& watcher) {
    const Table& table = watcher.follower.held();
    behind += table == nullptr || table->version() != version();
    if (table != nullptr) held.insert(table);
  };
  for (const auto& client : clients_) look(*client);
  for (const auto& server : servers_) {
    if (server->running && !server->cut_off) look(server->watcher);
  }
  EXPECT_EQ(behind, 0u) << "processes without the newest map";
  const MapContents& map = members_->state().map;
  std::map<ServerId, std::string> addresses;
  for (const ServerRecord& server : map.servers) addresses[server.id] = server.data_address;
  for (const Table& table : held) {
    Check(*table);
    for (int i = 0; i < 200; ++i) {
      const std::string key = "key-" + std::to_string(i);
      const uint32_t shard = ShardOf(HashKey(key, NamespaceSeed("default")));
      const ServerRecord* owner = table->FindServer(table->Owners(shard).front().server);
      ASSERT_NE(owner, nullptr);
      EXPECT_EQ(owner->data_address, addresses[map.owners[shard * map.replicas].server]);
    }
  }
}

}  // namespace simm::sim
