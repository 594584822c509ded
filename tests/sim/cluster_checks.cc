// What one fault may cost a cluster that is well otherwise (DESIGN 3 and 10): a server that dies, a
// drain, the loss of a whole failure domain.
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/sim/cluster_client.h"
#include "tests/sim/cluster_world.h"

namespace simm::sim {

using namespace std::chrono_literals;

namespace {
constexpr int kKeys = 6;
bool Failed() { return testing::Test::HasFailure(); }
}  // namespace

void World::ExpectOneFault() {
  // After a start of the manager nobody is declared dead for one dead-time.
  Rest(membership.dead + 1s);
  const bool movable = !older_servers;
  switch (random.Below(3)) {
    case 0:
      return ExpectNewOwnerInTime();
    case 1:
      if (movable && membership.replicas > 1) return ExpectLossOfAZoneIsRepaired();
      [[fallthrough]];
    default:
      if (movable) ExpectDrainLosesNothing();
  }
}

// Time passes in long steps: nothing is measured.
void World::Rest(Duration time) {
  long_steps_ = 1;
  for (const Instant end = Now() + time; Now() < end && !Failed();) Turn();
  long_steps_ = 40;
}

std::map<std::string, uint64_t> World::PutSome(const std::string& prefix) {
  std::map<std::string, uint64_t> versions;
  for (int i = 0; i < kKeys; ++i) {
    const std::string key = prefix + std::to_string(i);
    const Code code = clients[0]->Replace(key, &versions[key], [this] { Turn(); });
    EXPECT_EQ(code, Code::kOk) << key;
  }
  return versions;
}

bool World::ExpectHits(const std::map<std::string, uint64_t>& versions, const char* after) {
  for (const auto& [key, version] : versions) {
    const Code code = clients[0]->Get(key, version, [this] { Turn(); });
    EXPECT_EQ(code, Code::kOk) << key << " is lost " << after;
    if (code != Code::kOk || Failed()) return false;
  }
  return true;
}

// In that place of the key's row.
Node* World::OwnerOf(const std::string& key, size_t place) const {
  const auto row = clients[0]->feed.held()->Owners(ShardOf(HashOfKey(key)));
  for (const auto& node : nodes) {
    if (node->self.load() == row[std::min(place, row.size() - 1)].server) return node.get();
  }
  return nodes[0].get();  // the place is empty
}

// ---- a server dies

// Its keys have a new owner, and a client can use it, within the dead-time and a second. A server
// that still speaks, but hears nothing, is as good as dead one heartbeat later.
void World::ExpectNewOwnerInTime() {
  if (nodes.size() < 2) return;
  Node& victim = *nodes[random.Below(nodes.size())];
  const ServerId id = victim.self.load();
  const auto is_its = [&](const std::string& key) {
    const Table& table = clients[0]->feed.held();
    const auto row = table->Owners(ShardOf(HashOfKey(key)));
    return std::any_of(row.begin(), row.end(), [&](const auto& o) { return o.server == id; });
  };
  std::string key;
  for (int i = 0; i < 1000 && (key.empty() || !is_its(key)); ++i) key = "of-" + std::to_string(i);
  if (!is_its(key)) return;
  ++counts.deaths;
  const Instant died = Now();
  const bool deaf = random.OneIn(3);
  const Instant bound = died + membership.dead + 1s + (deaf ? membership.heartbeat : 0s);
  deaf ? Deafen(victim) : victim.Kill();
  longest_step_ = 100ms;
  long_steps_ = 4;
  while (Now() < died + membership.dead - 1500ms && !Failed()) Turn();
  longest_step_ = 10ms;
  Code code = Code::kUnavailable;
  while (Now() < bound && !Failed()) {
    Turn();
    if (is_its(key)) continue;
    code = clients[0]->TryReplace(key, bound, [this] { Turn(); });
    if (code == Code::kOk) break;
  }
  EXPECT_EQ(code, Code::kOk) << key << " has no new owner a second after the dead-time";
  longest_step_ = 1s;
  long_steps_ = 40;
  cuts.clear();
  victim.Start();
  WaitUntilWhole();
}

void World::Deafen(const Node& node) {
  ++counts.deaf;
  cuts.insert({kManager, node.place});
  for (const auto& other : nodes) cuts.insert({other->place, node.place});
  for (const auto& client : clients) cuts.insert({client->place, node.place});
}

// ---- a drain

void World::ExpectDrainLosesNothing() {
  if (nodes.size() < 2) return;
  ++counts.drains;
  auto versions = PutSome("drained-");
  if (Failed()) return;
  pull_pace = 20;  // so that much happens while shards are on their way
  Node& leaving = *OwnerOf(versions.begin()->first, 0);
  manager.Drain(leaving.name, /*undrain=*/false);
  const auto turn = [this] { Turn(); };
  const Instant end = Now() + 60s;
  while (!manager.members()->IsDrained(leaving.name) && Now() < end && !Failed()) {
    Turn();
    auto one = versions.begin();  // that one moves
    if (random.OneIn(2)) std::advance(one, random.Below(versions.size()));
    if (random.OneIn(4)) {
      EXPECT_EQ(clients[0]->Replace(one->first, &one->second, turn), Code::kOk) << one->first;
    }
    ExpectHits({*one}, "by a drain");
  }
  pull_pace = 1;
  EXPECT_TRUE(manager.members()->IsDrained(leaving.name)) << "a drain without an end";
  if (!Failed()) ExpectHits(versions, "by a drain");
  for (const Instant soon = Now() + 3s; Now() < soon && !Failed();) Turn();
  EXPECT_EQ(leaving.pool().Usage().entries, 0u) << leaving.name << " is drained and not empty";
  manager.Drain(leaving.name, /*undrain=*/true);
  WaitUntilWhole();
  if (!Failed()) ExpectHits(versions, "by an undrain");
}

// ---- a failure domain is lost

// By the map, some server outside the zone has all there is of the key's shard.
bool World::IsWhole(const std::string& key, int without_zone) const {
  const RouteTable& table = *clients[0]->feed.held();
  for (const ShardOwner& owner : table.Owners(ShardOf(HashOfKey(key)))) {
    if (owner.server == kNoServer || owner.source != kNoServer) continue;
    for (const auto& node : nodes) {
      if (node->self.load() == owner.server && node->zone() != without_zone) return true;
    }
  }
  return false;
}

// The zones of a key's owners forget everything, one after the other. What was put to all owners is
// there all the time, and once each loss is repaired the next one does no harm.
void World::ExpectLossOfAZoneIsRepaired() {
  auto versions = PutSome("kept-");
  if (Failed()) return;
  const std::string& one = versions.begin()->first;
  for (const int zone : {OwnerOf(one, 0)->zone(), OwnerOf(one, 1)->zone()}) {
    if (Failed()) return;
    std::erase_if(versions, [&](const auto& one) { return !IsWhole(one.first, zone); });
    std::vector<Node*> lost;
    for (const auto& node : nodes) {
      if (node->zone() == zone) lost.push_back(node.get());
    }
    if (lost.empty() || lost.size() == nodes.size() || versions.empty()) continue;
    ++counts.losses;
    for (Node* const node : lost) {
      node->Kill();
      node->Wipe();
    }
    bool kept = ExpectHits(versions, "with its zone");
    // Long enough that the others repair it, where the map does not freeze; or at once.
    if (random.OneIn(2)) Rest(membership.dead + 5s);
    kept = kept && ExpectHits(versions, "with its zone");
    for (Node* const node : lost) node->Start();
    WaitUntilWhole();
    if (!kept || !ExpectHits(versions, "though its zone is back")) return;
  }
}

}  // namespace simm::sim
