// The rounds of a simulated client's calls: as Call has them, on virtual time.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <tuple>
#include <utility>

#include "tests/sim/cluster_client.h"

namespace simm::sim {

using namespace std::chrono_literals;
using client::CallItem;
using client::Errand;
using protocol::MessageType;

namespace {
constexpr int kAttempts = 3;
}  // namespace

// As Call::BuildParts.
std::vector<Errand> ClusterClient::Errands(Running& call, const RouteTable& table) {
  std::vector<Errand> errands;
  const bool puts = call.shape.type == MessageType::kPut;
  const bool beyond = puts && call.shape.write_quorum > table.replicas();
  const auto standing_of = [this](ServerId id) {
    const auto peer = peers_.find(id);
    return client::Standing{.away =
                                peer != peers_.end() && world_.Now() < peer->second.shunned_until};
  };
  for (CallItem& item : call.items) {
    if (item.done) continue;
    const auto row = table.Owners(ShardOf(item.hash));
    if (call.plans->Wants(item, row) && !beyond && !world_.mistakes.ask_only_owner) {
      call.plans->Plan(item, row, standing_of, &errands);
      continue;
    }
    const ServerId owner = row.front().server;
    if (owner == kNoServer || beyond) {
      item.result.code = beyond ? Code::kInvalidArgument : Code::kUnavailable;
      item.done = true;
      continue;
    }
    errands.push_back({owner, item.by_message ? Errand::kByMessage : Errand::kPlain, &item});
  }
  return errands;
}

// As Call::BeginRound.
void ClusterClient::BeginRound(Running& call) {
  const Table& table = feed.held();
  if (table == nullptr) {
    call.next_round = world_.Now() + 10ms;
    return;
  }
  call.shape.map = {table->version().term, table->version().epoch};
  std::map<std::pair<ServerId, uint8_t>, std::vector<CallItem*>> shares;
  for (const Errand& errand : Errands(call, *table))
    shares[{errand.server, errand.way}].push_back(errand.item);
  for (auto& [share, items] : shares) {
    auto part = std::make_unique<Part>();
    std::tie(part->server, part->way) = share;
    part->items = std::move(items);
    part->began = world_.Now();
    call.parts.push_back(std::move(part));
  }
  for (auto& part : call.parts) Start(call, *part);
}

void ClusterClient::Start(Running& call, Part& part) {
  Peer* const peer = PeerFor(part.server);
  if (peer != nullptr && world_.Now() >= peer->shunned_until) part.lane = TakeLane(*peer);
  if (part.lane == nullptr) {
    if (peer != nullptr && world_.Now() >= peer->shunned_until)
      peer->shunned_until = world_.Now() + Duration(random_.Below(300'000'000));
    return EndPart(call, part, false);
  }
  client::CallShape shape = call.shape;
  shape.tell_removed = (part.way & Errand::kTellRemoved) != 0;
  if ((part.way & Errand::kProbe) != 0) shape.type = MessageType::kExists;
  part.exchange = client::MakeExchange(shape, part.items, stats_, *part.lane);
  part.lane->Attach(part.exchange.get());
  if (!part.exchange->Begin(*part.lane).ok()) OnFailed(call, part);
}

// As Call::OnExchangeFailed.
void ClusterClient::OnFailed(Running& call, Part& part) {
  ++world_.counts.broken;
  const bool in_doubt = part.exchange->in_doubt();
  const bool heard = part.exchange->heard() && !in_doubt;
  const bool fresh = part.lane->fresh() && !in_doubt;
  part.lane->Detach();
  if (fresh || part.attempts > 0) {
    if (const auto it = peers_.find(part.server);
        it != peers_.end() && it->second.session == part.lane->session())
      it->second.session = 0;
  }
  part.lane->Close();
  part.lane.reset();
  if (heard || ++part.attempts >= kAttempts) return EndPart(call, part, false);
  std::erase_if(part.items, [](const CallItem* item) { return item->done; });
  part.exchange.reset();
  Start(call, part);
}

// Undone items are repeated in the next round where the server has answered.
void ClusterClient::EndPart(Running& call, Part& part, bool answered) {
  part.over = true;
  if (!answered) call.unheard.insert(part.server);
  if (part.lane) {
    part.lane->Detach();
    Release(part.server, std::move(part.lane));
  }
  for (CallItem* const item : part.items) {
    if (item->done || answered) continue;
    item->result.code = Code::kUnavailable;
    item->done = true;
  }
}

void ClusterClient::DrivePart(Running& call, Part& part) {
  const auto peer = peers_.find(part.server);
  // Answers do not come through.
  if (peer != peers_.end() && !world_.Reaches(peer->second.node, place)) return;
  for (int i = 0; i < 4 && !part.over; ++i) {
    part.lane->connection().Progress();
    part.exchange->Advance();
    if (part.exchange->failed()) return OnFailed(call, part);
    if (part.exchange->finished() && !part.exchange->unsent()) EndPart(call, part, true);
  }
}

bool ClusterClient::Drive(Running& call) {
  const auto done = [&] {
    return std::all_of(call.items.begin(), call.items.end(),
                       [](const CallItem& item) { return item.done; });
  };
  if (world_.Now() >= call.deadline) {
    GiveUp(call);
    return true;
  }
  if (call.parts.empty()) {
    if (world_.Now() < call.next_round) return false;
    BeginRound(call);
  }
  bool running = false;
  for (auto& part : call.parts) {
    if (!part->over) DrivePart(call, *part);
    running |= !part->over;
  }
  if (running && !call.plans->empty()) SpareSilent(call);
  for (auto& part : call.parts) {
    if (!part->over) return false;
  }
  EndRound(call);
  return done();
}

// As Call::Step between two rounds.
void ClusterClient::EndRound(Running& call) {
  call.parts.clear();
  if (!call.plans->empty()) call.plans->Settle();
  call.next_round = world_.Now();
  if (!call.plans->MovesOn())
    call.next_round = world_.Now() + 10ms + Duration(random_.Below(40'000'000));
}

// As Call::SpareSilent: a server whose answers do not come is not waited for where others have
// some.
void ClusterClient::SpareSilent(Running& call) {
  for (auto& part : call.parts) {
    if (part->over || (part->way & Errand::kPlanned) == 0) continue;
    const auto peer = peers_.find(part->server);
    const bool silent = peer == peers_.end() || !world_.Speak(peer->second.node, place) ||
                        !world_.NodeAt(peer->second.node)->up() ||
                        world_.NodeAt(peer->second.node)->paused;
    const bool extra = (part->way & Errand::kExtra) != 0;
    const Duration patience =
        extra ? Duration(100ms) : std::max<Duration>((call.deadline - call.began) / 4, 100ms);
    if (!silent || world_.Now() - part->began < patience) continue;
    const bool spared = std::all_of(part->items.begin(), part->items.end(), [&](CallItem* item) {
      return item->done || call.plans->CanSpare(*static_cast<client::Target*>(item));
    });
    if (!spared) continue;
    auto lane = std::move(part->lane);
    const bool unsent = part->exchange->unsent();
    lane->Detach();
    if (unsent) lane->Close();
    EndPart(call, *part, false);
    late_.push_back({part->server, std::move(lane), static_cast<int>(random_.Below(60))});
  }
}

// As Call::GiveUpLate.
void ClusterClient::GiveUp(Running& call) {
  ++world_.counts.late;
  EXPECT_LE(world_.Now() - call.deadline, world_.last_advance + 50ms) << "a call without an end";
  for (auto& part : call.parts) {
    for (CallItem* const item : part->items) {
      if (!item->done) item->result.code = Code::kDeadlineExceeded;
      item->done = true;
    }
  }
  call.plans->Conclude();
  for (CallItem& item : call.items) {
    if (item.done) continue;
    item.result.code = Code::kDeadlineExceeded;
    item.done = true;
  }
  if (world_.mistakes.forget_late_lanes) return;
  for (auto& part : call.parts) {
    if (!part->lane) continue;
    if (!part->exchange->unsent()) part->exchange->GiveUp();
    part->lane->Detach();
    if (part->exchange->unsent() || random_.OneIn(3)) {
      part->lane->Close();
    } else {
      late_.push_back({part->server, std::move(part->lane), static_cast<int>(random_.Below(60))});
    }
  }
  call.parts.clear();
}

}  // namespace simm::sim
