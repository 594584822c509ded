#include "tests/sim/cluster_client.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <utility>

namespace simm::sim {

using namespace std::chrono_literals;
using client::CallItem;
using protocol::MessageType;

namespace {

constexpr size_t kLanes = 2;
constexpr size_t kCalls = 2;
constexpr uint64_t kSharedKeys = 8;
constexpr std::byte kGrave{0xa5};

// A put that commits what it has not written: of each WRITE only the head leaves.
class HeadsOnly final : public WrappedConnection {
 public:
  HeadsOnly(std::unique_ptr<Connection> inner, transport::Capabilities capabilities)
      : WrappedConnection(std::move(inner), capabilities, nullptr) {}
  simm::Status Post(std::span<const transport::WorkItem> items) override {
    std::vector<transport::WorkItem> cut(items.begin(), items.end());
    for (transport::WorkItem& item : cut) {
      if (item.op == transport::Op::kWrite && item.local.size() > 1)
        item.local = item.local.first(1);
    }
    return inner().Post(cut);
  }
};

// It is large, so that all seeds share one for each client; boot ids keep them apart.
std::shared_ptr<client::LocationCache> LocationsOf(int number) {
  static std::map<int, std::shared_ptr<client::LocationCache>> caches;
  auto& cache = caches[number];
  if (!cache) cache = std::make_shared<client::LocationCache>();
  return cache;
}

}  // namespace

ClusterClient::ClusterClient(World& world, int number, int at, uint64_t seed)
    : place(at),
      feed(world, rpc::WatcherKind::kClient, at, seed),
      world_(world),
      number_(number),
      random_(seed),
      locations_(LocationsOf(number)) {}

ClusterClient::~ClusterClient() { Crash(); }

void ClusterClient::CountWork() {
  world_.counts.from_sources += stats_.source_hits.load();
  world_.counts.from_replicas += stats_.replica_hits.load();
}

// ---- servers and lanes

ClusterClient::Peer* ClusterClient::PeerFor(ServerId server) {
  const ServerRecord* record = feed.held()->FindServer(server);
  if (record == nullptr) return nullptr;
  Node* const node = world_.Find(*record);
  if (node == nullptr) return nullptr;
  Peer& peer = peers_[server];
  if (peer.boot != record->boot_id) {
    auto lost = peer.lost ? peer.lost : std::make_shared<client::LostLanes>();
    peer = Peer{};
    peer.lost = std::move(lost);
    peer.boot = record->boot_id;
    peer.node = node->place;
  }
  return &peer;
}

std::unique_ptr<client::Lane> ClusterClient::TakeLane(Peer& peer) {
  while (!peer.idle.empty()) {
    auto lane = std::move(peer.idle.back());
    peer.idle.pop_back();
    if (lane->connection().Progress()) return lane;
  }
  Node* const node = world_.NodeAt(peer.node);
  if (peer.session == 0) {
    const auto session = node->Shake(place, peer.boot);
    if (!session.has_value()) return nullptr;
    peer.session = *session;
    client::PoolAccess access = node->Access();
    access.locations = locations_;
    access.lost = peer.lost;
    peer.pool = std::make_shared<const client::PoolAccess>(std::move(access));
  }
  if (!node->up() || node->boot != peer.boot || !world_.Speak(place, peer.node)) return nullptr;
  auto connection =
      world_.transport.Connect(node->name, {peer.session, node->pool().incarnation()}, 1s);
  if (!connection.ok()) {
    peer.session = 0;
    return nullptr;
  }
  std::unique_ptr<transport::Connection> bare =
      std::make_unique<RegisteringConnection>(world_.transport, std::move(*connection));
  if (world_.mistakes.commit_unwritten) {
    const auto capabilities = bare->capabilities();
    bare = std::make_unique<HeadsOnly>(std::move(bare), capabilities);
  }
  auto lane = std::make_unique<client::Lane>(std::move(bare), peer.session, peer.pool);
  EXPECT_TRUE(lane->PrepareScratch().ok());
  return lane;
}

void ClusterClient::Release(ServerId server, std::unique_ptr<client::Lane> lane) {
  const auto it = peers_.find(server);
  if (lane->connection().closed() || it == peers_.end()) return;
  Peer& peer = it->second;
  if (lane->session() == peer.session && peer.idle.size() < kLanes)
    peer.idle.push_back(std::move(lane));
}

void ClusterClient::MoveLate() {
  for (Late& late : late_) {
    for (int i = 0; i < 3; ++i) late.lane->connection().Progress();
    --late.age;
  }
  while (!late_.empty() && late_.front().age <= 0) {
    auto [server, lane, age] = std::move(late_.front());
    late_.pop_front();
    if (random_.OneIn(2)) lane->Close();
    Release(server, std::move(lane));
  }
}

void ClusterClient::Crash() {
  for (auto& call : calls_) {
    for (auto& part : call->parts) {
      if (part->lane) part->lane->connection().Close();
    }
    for (const std::string& key : call->keys) busy_own_.erase(key);
  }
  calls_.clear();
  forgotten_.clear();
  for (auto& [server, peer] : peers_) {
    for (auto& lane : peer.idle) lane->connection().Close();
  }
  peers_.clear();
  for (Late& late : late_) late.lane->connection().Close();
  late_.clear();
  feed.Reset();
}

void ClusterClient::CloseLanes() {
  for (auto& call : calls_) {
    GiveUp(*call);
    Conclude(*call);
  }
  calls_.clear();
  forgotten_.clear();
  late_.clear();
  for (auto& [server, peer] : peers_) peer.idle.clear();
}

bool ClusterClient::Disown() {
  bool all = true;
  for (auto& [server, peer] : peers_) {
    if (peer.lost->empty()) continue;
    all = false;
    if (peer.idle.empty()) {
      auto lane = TakeLane(peer);
      if (lane == nullptr) {
        (void)peer.lost->Take();  // that start of the server is no more
        continue;
      }
      peer.idle.push_back(std::move(lane));
    }
    client::Lane& lane = *peer.idle.back();
    if (!lane.connection().Progress()) {
      peer.idle.pop_back();
    } else {
      lane.Tend(MonotonicClock::Get().Now());
    }
  }
  return all;
}

// ---- calls

std::unique_ptr<ClusterClient::Running> ClusterClient::Make(Kind kind,
                                                            std::vector<std::string> keys) {
  auto call = std::make_unique<Running>();
  call->kind = kind;
  constexpr MessageType kTypes[] = {MessageType::kPut, MessageType::kPut, MessageType::kGet,
                                    MessageType::kExists, MessageType::kRemove};
  call->shape.type = kTypes[static_cast<size_t>(kind)];
  call->shape.replace = kind == Kind::kReplace;
  call->shape.allow_shorter = true;
  call->shape.verify = Verify::kOff;
  call->keys = std::move(keys);
  call->items.resize(call->keys.size());
  call->settled = world_.settled();
  call->era = world_.era();
  for (size_t i = 0; i < call->keys.size(); ++i) {
    const std::string& key = call->keys[i];
    const bool put = call->shape.type == MessageType::kPut;
    const uint64_t size = put ? kValueSizes[random_.Below(3)] : kValueSizes[2];
    auto& memory = call->memory.emplace_back(size);
    call->versions.push_back(put ? ++world_.last_version : 0);
    call->superseded.push_back(world_.superseded[key]);
    CallItem& item = call->items[i];
    item.key = key;
    item.hash = HashOfKey(key);
    item.size = size;
    if (put) {
      dataserver::FillValue(memory, key, call->versions.back());
      world_.history.Posted(key, call->versions.back(), size);
      item.value = memory.data();
    } else {
      item.buffer = memory.data();
    }
  }
  call->began = world_.Now();
  call->plans.emplace(call->shape, call->items, stats_);
  ++world_.counts.calls;
  return call;
}

void ClusterClient::Begin() {
  const auto kind = static_cast<Kind>(random_.Below(5));
  const bool write_own = kind == Kind::kReplace || kind == Kind::kRemove;
  std::vector<std::string> keys;
  for (uint64_t n = 1 + random_.Below(4); n > 0; --n) {
    const bool own = write_own || (kind != Kind::kPut && random_.OneIn(2));
    const uint64_t whose =
        write_own ? static_cast<uint64_t>(number_) : random_.Below(world_.clients.size());
    std::string key =
        own ? "own-" + std::to_string(whose) + "-" + std::to_string(random_.Below(kOwnKeys))
            : "key-" + std::to_string(random_.Below(kSharedKeys));
    if (std::find(keys.begin(), keys.end(), key) != keys.end()) continue;
    if (write_own && !busy_own_.insert(key).second) continue;
    keys.push_back(std::move(key));
  }
  if (keys.empty()) return;
  auto call = Make(kind, std::move(keys));
  if (feed.held()) {
    call->shape.write_quorum = static_cast<uint32_t>(1 + random_.Below(feed.held()->replicas()));
  }
  call->deadline = world_.Now() + (random_.OneIn(5) ? Duration(random_.Below(30'000'000))
                                                    : Duration(200ms + random_.Below(10) * 200ms));
  calls_.push_back(std::move(call));
}

void ClusterClient::Step() {
  (void)feed.Poll();
  MoveLate();
  for (size_t i = 0; i < calls_.size();) {
    if (!Drive(*calls_[i])) {
      ++i;
      continue;
    }
    Conclude(*calls_[i]);
    if (!calls_[i]->parts.empty()) forgotten_.push_back(std::move(calls_[i]));
    calls_.erase(calls_.begin() + static_cast<ptrdiff_t>(i));
  }
  for (auto& call : forgotten_) {
    for (auto& part : call->parts) {
      if (part->lane) part->lane->connection().Progress();
    }
  }
  for (Buried& grave : buried_) ++grave.age;
  while (!buried_.empty() && buried_.front().age > 100) {
    for (const std::byte byte : buried_.front().memory) wrong_touches_ += byte != kGrave ? 1 : 0;
    buried_.pop_front();
  }
  if (!world_.calm && calls_.size() < kCalls && random_.OneIn(4)) Begin();
  for (auto& [server, peer] : peers_) {
    if (peer.idle.empty() || !random_.OneIn(60)) continue;
    peer.idle.front()->Tend(MonotonicClock::Get().Now() + (random_.OneIn(3) ? 6s : 0s));
  }
}

// ---- results

void ClusterClient::Bury(std::vector<std::byte> memory) {
  std::fill(memory.begin(), memory.end(), kGrave);
  buried_.push_back({std::move(memory), 0});
}

void ClusterClient::JudgeWrite(Running& call, size_t i) {
  const Code code = call.items[i].result.code;
  const std::string& key = call.keys[i];
  if (call.own()) busy_own_.erase(key);
  const bool removed = call.kind == Kind::kRemove && (code == Code::kOk || code == Code::kMiss);
  if (code != Code::kOk && !removed) {
    world_.counts.failed += code != Code::kExists;
    EXPECT_TRUE(code != Code::kExists || !call.own()) << "a replacement that kept what was there";
    return;
  }
  ++world_.counts.acknowledged;
  if (!call.own()) return;
  std::set<uint64_t>& acknowledged = world_.acknowledged[key];
  // On a settled map, what was acknowledged before lies behind this one and must not come again.
  if (call.settled && world_.settled() && call.era == world_.era())
    world_.superseded[key].insert(acknowledged.begin(), acknowledged.end());
  if (!removed) acknowledged.insert(call.versions[i]);
}

void ClusterClient::JudgeRead(Running& call, size_t i) {
  const CallItem& item = call.items[i];
  if (item.result.code != Code::kOk || call.kind == Kind::kExists) {
    ++world_.counts.misses;
    return;
  }
  ++world_.counts.hits;
  const std::string& key = call.keys[i];
  const ByteSpan bytes = ByteSpan(call.memory[i]).first(item.result.value_bytes);
  std::optional<uint64_t> seen;
  for (const History::Put& put : world_.history.Visible(key)) {
    if (put.size != bytes.size() || seen.has_value()) continue;
    std::byte first[8];
    dataserver::FillValue(first, key, put.version);
    if (std::memcmp(first, bytes.data(), sizeof first) != 0) continue;
    if (dataserver::IsValue(bytes, key, put.version)) seen = put.version;
  }
  EXPECT_TRUE(seen.has_value()) << key << ": " << bytes.size() << " bytes of no put of it";
  if (!seen.has_value() || !call.settled || !world_.settled() || call.era != world_.era()) return;
  // Where an owner cannot be asked, its source's word counts, older or not (client/README.md).
  for (const ShardOwner& owner : feed.held()->Owners(ShardOf(item.hash))) {
    if (owner.source != kNoServer && call.unheard.contains(owner.server)) return;
  }
  ++world_.counts.exact;
  EXPECT_FALSE(call.superseded[i].contains(*seen))
      << key << ": version " << *seen << " was replaced or removed before this get began";
}

void ClusterClient::Conclude(Running& call) {
  const bool read = client::IsRead(call.shape.type);
  for (size_t i = 0; i < call.keys.size(); ++i) {
    EXPECT_TRUE(call.items[i].done);
    read ? JudgeRead(call, i) : JudgeWrite(call, i);
    Bury(std::move(call.memory[i]));
  }
}

}  // namespace simm::sim
