#include "manager/row_board.h"

#include <algorithm>
#include <array>
#include <functional>
#include <optional>
#include <tuple>
#include <utility>

#include "common/base/check.h"
#include "common/base/limits.h"

namespace simm::manager {
namespace {

// The preference of a shard for a server (highest random weight; Thaler, Ravishankar 1998), by the
// finalizer of MurmurHash3. Weights come in through the quotas. Part of no wire or disk format: it
// may change between versions and then moves nothing by itself.
uint64_t Score(uint32_t shard, ServerId server) {
  uint64_t x = (uint64_t{server} << 32 | shard) * 0x9e3779b97f4a7c15ULL;
  x = (x ^ (x >> 33)) * 0xff51afd7ed558ccdULL;
  x = (x ^ (x >> 33)) * 0xc4ceb9fe1a85ec53ULL;
  return x ^ (x >> 33);
}

// Exchanges that are looked at in one run, per place: more would take longer than a few shards too
// many on a server cost.
constexpr size_t kTriesPerPlace = 100;
constexpr size_t kFreshTries = 4096;

}  // namespace

// Of each zone: how many replicas its servers still want, and how many open places they may take.
// A zone that wants all that it may take must be served first, or places are left in the end that
// only full servers may take.
class RowBoard::Demand {
 public:
  explicit Demand(const RowBoard& board)
      : board_(board), wants_(board.zones_), less_(board.zones_) {
    for (uint32_t i = 0; i < board.shares_.ids.size(); ++i) {
      const int64_t room = int64_t{board.shares_.target[i]} - board.shares_.held[i];
      wants_[board.shares_.zones[i]] += std::max<int64_t>(room, 0);
    }
    for (size_t first = 0; first < board.rows_.size(); first += board.replicas_) CountRow(first, 1);
  }
  // Around every change of the row of `place`: with -1 before, with 1 after it.
  void CountRow(size_t place, int64_t sign) {
    const size_t first = place / board_.replicas_ * board_.replicas_;
    std::array<std::pair<uint32_t, int64_t>, limits::kMaxReplicas> in_zone{};
    size_t zones = 0;
    int64_t open = board_.in_row_;
    for (size_t other = first; other < first + board_.replicas_; ++other) {
      if (board_.rows_[other] == kNobody) continue;
      --open;
      const uint32_t zone = board_.shares_.zones[board_.rows_[other]];
      size_t k = 0;
      while (k < zones && in_zone[k].first != zone) ++k;
      if (k == zones) in_zone[zones++] = {zone, 0};
      ++in_zone[k].second;
    }
    const int64_t cap = board_.zone_cap_;
    const int64_t most = std::min(open, cap);
    open_ += sign * most;
    for (size_t k = 0; k < zones; ++k) {
      less_[in_zone[k].first] += sign * (most - std::min(open, cap - in_zone[k].second));
    }
  }
  void Served(uint32_t server) { --wants_[board_.shares_.zones[server]]; }
  bool IsTight(uint32_t server) const {
    const uint32_t zone = board_.shares_.zones[server];
    return wants_[zone] >= open_ - less_[zone];
  }

 private:
  const RowBoard& board_;
  std::vector<int64_t> wants_;
  int64_t open_ = 0;           // places that a zone may take that is in no row yet
  std::vector<int64_t> less_;  // how many fewer a zone may take
};

// Who is below its target, in the order of indices.
class RowBoard::Receivers {
 public:
  explicit Receivers(const RowBoard& board) : board_(board) {
    for (uint32_t i = 0; i < board.shares_.ids.size(); ++i) {
      if (board.shares_.held[i] < board.shares_.target[i]) open_.push_back(i);
    }
  }
  // Whom the shard prefers of those that may take `place`, with the score; kNobody: there is none.
  std::pair<uint32_t, uint64_t> Best(size_t place) const {
    const auto shard = static_cast<uint32_t>(place / board_.replicas_);
    std::pair<uint32_t, uint64_t> best{kNobody, 0};
    for (const uint32_t i : open_) {
      const uint64_t score = Score(shard, board_.shares_.ids[i]);
      if (score >= best.second && board_.Legal(place, i)) best = {i, score};
    }
    return best;
  }
  // Likewise, but of tight zones if one of them may take it.
  uint32_t Best(size_t place, const Demand& demand) const {
    const auto shard = static_cast<uint32_t>(place / board_.replicas_);
    std::tuple<bool, uint64_t, uint32_t> best{false, 0, kNobody};
    for (const uint32_t i : open_) {
      const uint64_t score = Score(shard, board_.shares_.ids[i]);
      const bool tight = demand.IsTight(i);
      if (std::pair(tight, score) < std::pair(std::get<0>(best), std::get<1>(best))) continue;
      if (board_.Legal(place, i)) best = {tight, score, i};
    }
    return std::get<2>(best);
  }
  // `server` has got one more.
  void Taken(uint32_t server) {
    if (board_.shares_.held[server] < board_.shares_.target[server]) return;
    std::erase(open_, server);
  }

 private:
  const RowBoard& board_;
  std::vector<uint32_t> open_;
};

RowBoard::RowBoard(Shares shares, std::vector<uint32_t> rows, uint32_t replicas,
                   std::vector<bool> pinned)
    : shares_(std::move(shares)),
      rows_(std::move(rows)),
      replicas_(replicas),
      pinned_(std::move(pinned)) {
  pinned_.resize(rows_.size());
  for (const uint32_t zone : shares_.zones) zones_ = std::max(zones_, zone + 1);
  in_row_ = std::min(replicas_, static_cast<uint32_t>(shares_.ids.size()));
  zone_cap_ = (in_row_ + zones_ - 1) / zones_;
  for (const uint32_t i : rows_) {
    if (i != kNobody) ++shares_.held[i];
  }
}

bool RowBoard::Legal(size_t place, uint32_t server) const {
  if (replicas_ == 1) return true;
  const size_t first = place / replicas_ * replicas_;
  uint32_t in_zone = 0;
  for (size_t other = first; other < first + replicas_; ++other) {
    if (other == place || rows_[other] == kNobody) continue;
    if (rows_[other] == server) return false;
    in_zone += shares_.zones[rows_[other]] == shares_.zones[server];
  }
  return in_zone < zone_cap_;
}

bool RowBoard::IsOpen(size_t place) const {
  if (rows_[place] != kNobody) return false;
  const auto row = rows_.begin() + static_cast<ptrdiff_t>(place / replicas_ * replicas_);
  return replicas_ - std::count(row, row + replicas_, kNobody) < in_row_;
}

void RowBoard::Put(size_t place, uint32_t server) {
  rows_[place] = server;
  ++shares_.held[server];
  fresh_.push_back(place);
}

void RowBoard::Free(size_t place) {
  --shares_.held[rows_[place]];
  rows_[place] = kNobody;
}

std::vector<uint32_t> RowBoard::Settle(const std::vector<uint32_t>& hints) {
  const auto rows = static_cast<uint32_t>(rows_.size() / replicas_);
  SetTargets(shares_, rows, in_row_, zone_cap_);
  // What is dropped changes who keeps the shard that rounding gives.
  if (DropUnlawful()) SetTargets(shares_, rows, in_row_, zone_cap_);
  FreeExcess();
  if (!hints.empty()) TakeHints(hints);
  AssignFreed();
  return std::move(rows_);
}

bool RowBoard::DropUnlawful() {
  bool dropped = false;
  if (replicas_ == 1) return dropped;
  for (size_t first = 0; first < rows_.size(); first += replicas_) {
    while (true) {
      // Of those that cannot stay together, who has most too much.
      std::optional<size_t> worst;
      int64_t too_much = 0;
      for (size_t place = first; place < first + replicas_; ++place) {
        const uint32_t i = rows_[place];
        if (i == kNobody || pinned_[place] || Legal(place, i)) continue;
        const int64_t over = int64_t{shares_.held[i]} - shares_.target[i];
        if (worst.has_value() && over <= too_much) continue;
        worst = place;
        too_much = over;
      }
      if (!worst.has_value()) break;
      Free(*worst);
      dropped = true;
    }
  }
  return dropped;
}

void RowBoard::FreeExcess() {
  const Receivers receivers(*this);
  std::vector<std::vector<std::pair<uint64_t, size_t>>> offers(shares_.ids.size());
  for (size_t place = 0; place < rows_.size(); ++place) {
    const uint32_t i = rows_[place];
    if (i == kNobody || pinned_[place] || shares_.held[i] <= shares_.target[i]) continue;
    offers[i].emplace_back(receivers.Best(place).second, place);
  }
  std::vector<bool> freed(rows_.size() / replicas_);
  for (size_t i = 0; i < offers.size(); ++i) {
    if (shares_.held[i] <= shares_.target[i]) continue;
    const uint32_t excess = shares_.held[i] - shares_.target[i];
    SIMM_CHECK(excess <= offers[i].size(), "a server must give up more shards than it may");
    // Two places of one row may have only one receiver.
    for (auto& [score, place] : offers[i]) {
      if (freed[place / replicas_]) score = 0;
    }
    std::nth_element(offers[i].begin(), offers[i].begin() + excess - 1, offers[i].end(),
                     std::greater<>());
    for (uint32_t k = 0; k < excess; ++k) {
      freed[offers[i][k].second / replicas_] = true;
      Free(offers[i][k].second);
    }
  }
}

void RowBoard::TakeHints(const std::vector<uint32_t>& hints) {
  const auto take = [&](size_t place, uint32_t wanted) {
    if (wanted == kNobody || !IsOpen(place) || !Legal(place, wanted)) return;
    if (shares_.held[wanted] < shares_.target[wanted]) Put(place, wanted);
  };
  for (size_t place = 0; place < rows_.size(); ++place) {
    take(place, hints[place]);
    const size_t first = place / replicas_ * replicas_;
    for (size_t other = first; other < first + replicas_; ++other) take(place, hints[other]);
  }
}

void RowBoard::AssignFreed() {
  Receivers receivers(*this);
  Demand demand(*this);
  std::vector<size_t> stuck;
  for (size_t place = 0; place < rows_.size(); ++place) {
    if (!IsOpen(place)) continue;
    const uint32_t best = receivers.Best(place, demand);
    if (best == kNobody) {
      stuck.push_back(place);
      continue;
    }
    demand.CountRow(place, -1);
    Put(place, best);
    demand.CountRow(place, 1);
    demand.Served(best);
    receivers.Taken(best);
  }
  tries_left_ = kTriesPerPlace * rows_.size();
  for (const size_t place : stuck) {
    if (!IsOpen(place)) continue;
    if (!Exchange(place, receivers)) Force(place);
  }
}

bool RowBoard::Exchange(size_t place, Receivers& receivers) {
  // Of places that were assigned just now: that costs no move.
  const size_t fresh = fresh_.size();
  for (size_t k = 0; k < std::min(fresh, kFreshTries) && tries_left_ > 0; ++k) {
    --tries_left_;
    const size_t other = fresh_[fresh_at_++ % fresh];
    if (TryExchange(place, other, receivers)) return true;
  }
  for (size_t k = 0; k < rows_.size() && tries_left_ > 0; ++k) {
    --tries_left_;
    if (TryExchange(place, any_at_++ % rows_.size(), receivers)) return true;
  }
  return false;
}

bool RowBoard::TryExchange(size_t place, size_t other, Receivers& receivers) {
  const uint32_t moves = rows_[other];
  if (moves == kNobody || pinned_[other] || place / replicas_ == other / replicas_) return false;
  if (!Legal(place, moves)) return false;
  const uint32_t taker = receivers.Best(other).first;
  if (taker == kNobody) return false;
  Free(other);
  Put(place, moves);
  Put(other, taker);
  receivers.Taken(taker);
  return true;
}

void RowBoard::Force(size_t place) {
  const auto shard = static_cast<uint32_t>(place / replicas_);
  uint32_t best = kNobody;
  const auto fuller = [&](uint32_t a, uint32_t b) {  // of what it should have
    const uint64_t of_a = uint64_t{shares_.held[a]} * shares_.target[b];
    const uint64_t of_b = uint64_t{shares_.held[b]} * shares_.target[a];
    if (of_a != of_b) return of_a > of_b;
    return Score(shard, shares_.ids[a]) < Score(shard, shares_.ids[b]);
  };
  for (uint32_t i = 0; i < shares_.ids.size(); ++i) {
    if (Legal(place, i) && (best == kNobody || fuller(best, i))) best = i;
  }
  if (best != kNobody) Put(place, best);
}

}  // namespace simm::manager
