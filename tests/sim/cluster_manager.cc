// The manager of a simulated cluster, and the map on its way.
#include <gtest/gtest.h>

#include <algorithm>
#include <utility>

#include "common/rpc/map_codec.h"
#include "tests/sim/cluster_world.h"

namespace simm::sim {

using namespace std::chrono_literals;
using manager::DurableState;
using manager::Membership;
using rpc::WatcherKind;

namespace {

constexpr Duration kTick = 250ms;
constexpr char kManagerAddress[] = "manager:1";

}  // namespace

SimManager::SimManager(World& world) : world_(world), saved_(manager::NewCluster({1, 2})) {}

void SimManager::Start() {
  if (up()) return;
  ++life;
  board_ = std::make_unique<rpc::MapBoard>(true);
  publication_ = std::make_unique<manager::ServersFirst>(*board_);
  next_tick_ = world_.Now();
  if (saved_.has_value()) return Begin(*saved_);
  adoption_ = std::make_unique<manager::Adoption>(world_.membership.dead, world_.Now());
}

void SimManager::Begin(DurableState state) {
  members_ = std::make_unique<Membership>(world_.membership, std::move(state), world_.Now());
  const Table table = *RouteTable::Create(members_->state().map);
  world_.SawMap(*table);
  if (!newest_.SameCluster(table->version()) || newest_.OlderThan(table->version()))
    newest_ = table->version();
  board_->Publish(table);
}

void SimManager::Kill() {
  ++life;
  members_.reset();
  adoption_.reset();
  publication_.reset();
  registering_.clear();
}

Table SimManager::Current(WatcherKind kind) const {
  return members_ ? board_->Current(kind) : nullptr;
}

void SimManager::Step() {
  if (!up() || world_.Now() < wakes_at) return;
  if (members_) {
    publication_->PublishIfDue(world_.Now(), [this] { return members_->AllApplied(world_.Now()); });
  }
  const bool tick = world_.Now() >= next_tick_;
  if (tick) next_tick_ = world_.Now() + kTick;
  if (adoption_ && tick) Learn();
  if (members_ && (tick || !registering_.empty())) Round();
}

void SimManager::Learn() {
  auto state = adoption_->Decide(world_.Now(), {1, world_.random() | 1});
  if (!state.has_value() || disk_fails) return;
  ++world_.counts.adoptions;
  const bool fresh = !state->map.version.SameCluster(newest_);
  saved_ = *state;
  adoption_.reset();
  Begin(*std::move(state));
  if (fresh) world_.BeginAnew();
}

// As ManagerService::Round.
void SimManager::Round() {
  const auto heard = std::exchange(registering_, {});
  const auto orders = std::exchange(orders_, {});
  std::vector<ServerId> ids;
  members_->Tick(world_.Now());
  Membership::Draft draft = members_->Begin();
  for (const Wish& wish : heard) {
    const auto outcome = members_->Register(world_.Now(), wish.request, draft);
    ids.push_back(outcome.ok() ? outcome->first : kNoServer);
  }
  for (const auto& [name, undrain] : orders) {
    (void)(undrain ? members_->Undrain(name, draft) : members_->Drain(name, draft));
  }
  members_->BuryTheDead(world_.Now(), draft);
  members_->SettleMoves(world_.Now(), draft);
  if (draft.changed) {
    Membership::Seal(draft);
    if (disk_fails) return;
    const bool die = !world_.calm && world_.random.OneIn(25);
    if (world_.mistakes.publish_before_save && die) {
      Publish(std::move(draft));
      return Kill();
    }
    saved_ = draft.next;
    if (die) return Kill();
  }
  Publish(std::move(draft));
  for (size_t i = 0; i < heard.size(); ++i) {
    Node& node = *heard[i].node;
    if (node.life != heard[i].life || !world_.Reaches(World::kManager, node.place)) continue;
    if (ids[i] != kNoServer) node.OnRegistered(ids[i]);
  }
}

void SimManager::Publish(Membership::Draft draft) {
  const bool changed = draft.changed;
  members_->Commit(world_.Now(), std::move(draft));
  world_.counts.frozen += !members_->frozen().empty();
  if (!changed) return;
  ++world_.counts.epochs;
  const Table table = *RouteTable::Create(members_->state().map);
  world_.SawMap(*table);
  newest_ = table->version();
  publication_->Publish(table, world_.Now());
}

void SimManager::Register(Node& node) {
  if (!up() || world_.Now() < wakes_at) return;
  const Table held = node.feed.held();
  const MapVersion version = held ? held->version() : MapVersion{};
  if (adoption_) {
    if (!adoption_->Offer(node.name, version)) return;
    EXPECT_TRUE(adoption_->Report(*held).ok());
    return;
  }
  if (members_->IsBehind(version)) {
    Membership::Draft draft = members_->Begin();
    if (disk_fails || !members_->Adopt(*held, draft).ok()) return;
    ++world_.counts.adoptions;
    Membership::Seal(draft);
    saved_ = draft.next;
    return Publish(std::move(draft));
  }
  registering_.push_back({&node, node.life, node.Request()});
}

bool SimManager::Heartbeat(const rpc::HeartbeatRequest& request) {
  if (!members_) return false;
  return !members_->Heartbeat(world_.Now(), request).register_again;
}

void SimManager::Drain(const std::string& name, bool undrain) {
  if (members_) orders_.emplace_back(name, undrain);
}

// ---- the map on its way

void MapFeed::Reset() {
  follower_ = {};
  backoff_ = {};
  held_ = nullptr;
  source_ = -1;
  under_way_.reset();
  retry_at_ = world_.Now();
}

// As MapWatcher::Impl::Run: the managers first, then data servers of the map in hand.
void MapFeed::Open() {
  const bool client = kind_ == WatcherKind::kClient;
  for (const std::string& address :
       rpc::WatchCandidates({kManagerAddress}, held_.get(), client, random_)) {
    const bool manager = address == kManagerAddress;
    int place = World::kManager;
    if (!manager) place = std::stoi(address.substr(1));
    if (!world_.Speak(self_, place)) continue;
    Node* const node = manager ? nullptr : world_.NodeAt(place);
    if (manager ? world_.manager.Current(kind_) == nullptr || world_.Now() < world_.manager.wakes_at
                : node == nullptr || !node->up() || node->paused || !node->feed.held()) {
      continue;
    }
    source_ = place;
    source_life_ = manager ? world_.manager.life : node->life;
    leave_at_ = manager ? kForever : world_.Now() + rpc::LookForManagerAfter(random_);
    const auto held = follower_.BeginStream();
    sent_ = held.has_value() ? held_ : nullptr;
    under_way_.reset();
    return;
  }
  retry_at_ = world_.Now() + backoff_.Next(false, random_);
}

bool MapFeed::Poll() {
  if (source_ < 0) {
    if (world_.Now() >= retry_at_) Open();
    return false;
  }
  const bool manager = source_ == World::kManager;
  Node* const node = manager ? nullptr : world_.NodeAt(source_);
  const uint64_t life = manager ? world_.manager.life : node->life;
  const bool breaks = !world_.calm && random_.OneIn(300);
  if (life != source_life_ || !world_.Speak(self_, source_) || world_.Now() >= leave_at_ ||
      breaks) {
    source_ = -1;
    under_way_.reset();
    retry_at_ = world_.Now() + backoff_.Next(true, random_);
    return false;
  }
  if (!under_way_.has_value()) {
    const Table newest = manager ? world_.manager.Current(kind_) : node->feed.held();
    if (newest == nullptr || newest == sent_) return false;
    if (sent_ != nullptr && sent_->version() == newest->version()) return false;
    const Duration time = !world_.calm && random_.OneIn(8) ? Duration(random_.Below(3'000'000'000))
                                                           : Duration(random_.Below(3'000'000));
    under_way_ = Message{world_.Now() + time, sent_, newest};
    sent_ = newest;
  }
  if (world_.Now() < under_way_->due) return false;
  const Message message = *std::exchange(under_way_, std::nullopt);
  if (Take(message)) return true;
  return false;
}

bool MapFeed::Take(const Message& message) {
  const Result<Table> table = world_.Decode(follower_, message.from, message.to);
  if (!table.ok()) {
    source_ = -1;
    retry_at_ = world_.Now() + backoff_.Next(true, random_);
    return false;
  }
  const auto newer = follower_.Take(*table, "source");
  if (world_.mistakes.take_older_maps && !newer.ok()) {
    follower_ = {};
    (void)follower_.Take(*table, "source");
  } else if (!newer.ok()) {
    source_ = -1;
    retry_at_ = world_.Now() + backoff_.Next(true, random_);
    return false;
  }
  const Table before = std::exchange(held_, follower_.held());
  if (before != nullptr) {
    EXPECT_TRUE(before->version().SameCluster(held_->version()));
    EXPECT_FALSE(held_->version().OlderThan(before->version())) << "maps only grow newer";
  }
  world_.SawMap(*held_);
  return before != held_;
}

}  // namespace simm::sim
