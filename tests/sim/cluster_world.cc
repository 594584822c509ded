#include "tests/sim/cluster_world.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <tuple>
#include <utility>

#include "common/rpc/map_codec.h"
#include "dataserver/pool_lock.h"
#include "tests/sim/cluster_client.h"
#include "tests/sim/map_bytes.h"

namespace simm::sim {

using namespace std::chrono_literals;

namespace {

constexpr int kClients = 3;
constexpr size_t kMostNodes = 5;
constexpr int kTurns = 900;
constexpr int kFirstClient = 100;  // places in the network

// One owner a shard in most clusters: rows of several cost the manager more.
manager::MembershipOptions OptionsOf(Random& random) {
  manager::MembershipOptions options;
  options.replicas = random.OneIn(3) ? (random.OneIn(3) ? 3 : 2) : 1;
  return options;
}

bool Failed() { return testing::Test::HasFailure(); }

}  // namespace

void ClusterCounts::Add(const ClusterCounts& o) {
  calls += o.calls, acknowledged += o.acknowledged, hits += o.hits, misses += o.misses;
  failed += o.failed, exact += o.exact, late += o.late, broken += o.broken, epochs += o.epochs;
  adoptions += o.adoptions, warm += o.warm, cold += o.cold, kills += o.kills, frozen += o.frozen;
  settled_turns += o.settled_turns, turns += o.turns, pulled += o.pulled;
  from_sources += o.from_sources, from_replicas += o.from_replicas, deaths += o.deaths;
  deaf += o.deaf;
  drains += o.drains, losses += o.losses;
}

World::World(uint64_t seed, transport::Transport& on, transport::Transport& for_pulls,
             Mistakes wrong)
    : random(seed),
      transport(on),
      tcp(for_pulls),
      mistakes(wrong),
      membership(OptionsOf(random)),
      older_servers(random.OneIn(4)),
      manager(*this) {
  manager.Start();
  for (uint64_t n = 2 + random.Below(3); n > 0; --n) AddNode();
  for (int i = 0; i < kClients; ++i) {
    clients.push_back(std::make_unique<ClusterClient>(*this, i, kFirstClient + i, random()));
  }
}

World::~World() {
  clients.clear();
  nodes.clear();
}

void World::AddNode() {
  nodes.push_back(std::make_unique<Node>(*this, static_cast<int>(nodes.size()) + 1));
  nodes.back()->Start();
}

Node* World::NodeAt(int place) {
  const auto i = static_cast<size_t>(place - 1);
  return place >= 1 && i < nodes.size() ? nodes[i].get() : nullptr;
}

Node* World::Find(const ServerRecord& record) {
  for (const auto& node : nodes) {
    if (node->name == record.name) return node->boot == record.boot_id ? node.get() : nullptr;
  }
  return nullptr;
}

// ---- maps

void World::SawMap(const RouteTable& table) {
  if (&table == last_seen_) return;
  last_seen_ = &table;
  Xxh3Stream digest;
  const MapContents& map = table.contents();
  digest.Update(std::as_bytes(std::span(map.owners)));
  for (const ServerRecord& server : map.servers) {
    digest.Update(AsBytes(server.name));
    digest.Update(AsBytes(server.data_address));
    const auto add = [&](const auto& value) {
      digest.Update(ByteSpan(reinterpret_cast<const std::byte*>(&value), sizeof value));
    };
    add(server.id), add(server.boot_id), add(server.weight), add(server.state);
  }
  const auto [it, is_new] = digests_.try_emplace(
      {map.version.cluster, map.version.term, map.version.epoch}, digest.Digest());
  EXPECT_TRUE(is_new || it->second == digest.Digest())
      << ToString(map.version) << ": one epoch, two contents";
}

// The bytes are decoded once for all who hold the same table.
Result<Table> World::Decode(rpc::MapFollower& follower, const Table& from, const Table& to) {
  if (decoded_.size() > 64) decoded_.clear();
  auto& [kept, table] = decoded_[{from.get(), to.get()}];
  rpc::MapUpdate update;
  if (table != nullptr) {
    update.snapshot = table;
    return follower.Read(update, "source");
  }
  auto decoded = rpc::DecodeUpdate(BytesOf(cache_.Update(from.get(), *to)));
  if (!decoded.ok()) return decoded.status();
  Result<Table> result = follower.Read(*decoded, "source");
  if (result.ok()) {
    table = *result;
    kept = from;
    keep_.push_back(to);
    if (keep_.size() > 256) {
      decoded_.clear();
      keep_.clear();
    }
  }
  return result;
}

void World::BeginAnew() {
  for (const auto& node : nodes) {
    if (!node->up() || node->feed.held() == nullptr) continue;
    node->Kill();
    node->Start();
  }
  for (const auto& client : clients) client->Crash();
  superseded.clear();
}

// ---- what happens

void World::DisturbNode() {
  Node& node = *nodes[random.Below(nodes.size())];
  switch (random.Below(6)) {
    case 0:
    case 1:
      return node.Kill();
    case 2:
      if (!node.up() && random.OneIn(3)) node.Wipe();
      return node.Start();
    case 3:
      node.paused = node.up();
      node.wakes_at = Now() + Duration(random.Below(15'000'000'000));
      return;
    case 4:
      return manager.Drain(node.name, random.OneIn(2));
    default:
      if (nodes.size() < kMostNodes) AddNode();
  }
}

void World::DisturbManager() {
  switch (random.Below(6)) {
    case 0:
      return manager.Kill();
    case 1:
      if (!manager.up() && random.OneIn(3)) manager.LoseState();
      return manager.Start();
    case 3:
      manager.disk_fails = !manager.disk_fails;
      return;
    case 4:
      manager.wakes_at = Now() + Duration(random.Below(15'000'000'000));
      return;
    default:
      return manager.Start();
  }
}

void World::Disturb() {
  if (random.OneIn(60)) DisturbNode();
  if (random.OneIn(150)) DisturbManager();
  if (random.OneIn(60)) {  // one way, or both
    const auto place = [&] {
      const uint64_t i = random.Below(1 + nodes.size() + clients.size());
      if (i == 0) return kManager;
      return i <= nodes.size() ? static_cast<int>(i)
                               : kFirstClient + static_cast<int>(i - nodes.size() - 1);
    };
    const int a = place(), b = place();
    if (a != b) cuts.insert({a, b});
    if (a != b && random.OneIn(2)) cuts.insert({b, a});
  }
  if (random.OneIn(60)) cuts.clear();
  if (random.OneIn(150)) {
    clients[random.Below(clients.size())]->Crash();
  }
  if (random.OneIn(10)) {  // others put: values are evicted
    Node& node = *nodes[random.Below(nodes.size())];
    if (node.up() && !node.paused) {
      (void)dataserver::Put(node.pool(), "filler-" + std::to_string(++last_version),
                            5'000 + random.Below(60'000));
    }
  }
}

void World::LookWhetherSettled() {
  bool all = manager.up();
  const auto look = [&](const Table& held) {
    all &= held != nullptr && held->version() == manager.newest();
  };
  for (const auto& node : nodes) {
    if (node->up()) look(node->feed.held());
  }
  for (const auto& client : clients) look(client->feed.held());
  if (settled_ && !all) {
    ++era_;
    superseded.clear();
  }
  settled_ = all;
  ++counts.turns;
  counts.settled_turns += settled_;
}

void World::Turn() {
  if (!calm) Disturb();
  manager.Step();
  LookWhetherSettled();
  for (int i = 0; i < 2; ++i) {
    for (const auto& node : nodes) node->Step();
  }
  LookWhetherSettled();
  for (const auto& client : clients) client->Step();
  LookWhetherSettled();
  last_advance = Duration(random.Below(3'000'000));
  if (random.OneIn(long_steps_))
    last_advance = Duration(random.Below(static_cast<uint64_t>(longest_step_.count())));
  clock.Advance(last_advance);
}

ClusterCounts World::Run() {
  for (int i = 0; i < kTurns && !Failed(); ++i) {
    Turn();
    if (random.OneIn(300)) nodes[random.Below(nodes.size())]->CheckBooks();
  }
  if (!Failed()) Heal();
  if (!Failed()) ExpectServed();
  if (!Failed()) ExpectOneFault();
  if (!Failed()) End();
  return counts;
}

// Everybody is let run; within dead-time, a freeze and some heartbeats all is as it should be.
void World::Heal() {
  calm = true;
  cuts.clear();
  manager.disk_fails = false;
  manager.wakes_at = Now();
  manager.Start();
  for (const auto& node : nodes) {
    node->wakes_at = Now();
    node->Start();
    manager.Drain(node->name, /*undrain=*/true);
  }
  WaitUntilWhole();
}

void World::WaitUntilWhole() {
  const Instant end = Now() + 60s;
  size_t there = 0;
  bool moves = true;
  while (Now() < end && !Failed() && (there < nodes.size() || !settled_ || moves)) {
    Turn();
    there = 0;
    if (manager.members() == nullptr) continue;
    moves = manager.members()->shards_moving() > 0;
    if (!older_servers && membership.replicas <= nodes.size())
      moves |= manager.members()->shards_under_replicated() > 0;
    for (const ServerRecord& record : manager.members()->state().map.servers) {
      there += record.state == ServerState::kAlive && Find(record) != nullptr;
    }
    if (there < nodes.size()) {
      for (const auto& node : nodes) manager.Drain(node->name, true);
    }
  }
  EXPECT_EQ(there, nodes.size()) << "a server without a way back";
  EXPECT_FALSE(moves) << manager.members()->shards_moving() << " shards keep their sources";
  EXPECT_TRUE(settled_) << "somebody without the newest map";
}

void World::ExpectServed() {
  for (const auto& client : clients) client->ExpectExact([this] { Turn(); });
}

// Nothing stays behind.
void World::End() {
  for (int i = 0; i < 300; ++i) Turn();  // buried memory is looked at
  for (const auto& client : clients) client->CloseLanes();
  for (int i = 0; i < 200; ++i) {
    bool all = true;
    for (const auto& client : clients) all &= client->Disown();
    for (const auto& node : nodes) node->Step();
    clock.Advance(1ms);
    if (all) break;
  }
  for (const auto& client : clients) {
    EXPECT_EQ(client->wrong_touches(), 0u) << "memory was written to after its call had ended";
    client->CloseLanes();
  }
  const Duration rest = limits::kSessionTimeout + dataserver::kQuarantine + 2s;
  for (const Instant end = Now() + rest; Now() < end; clock.Advance(limits::kDataTick)) {
    manager.Step();
    for (const auto& node : nodes) node->Step();
  }
  for (const auto& node : nodes) node->ExpectNothingHeld();
  for (const auto& client : clients) client->CountWork();
}

}  // namespace simm::sim
