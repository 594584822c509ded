#include "client/call.h"

#include <algorithm>
#include <string>
#include <utility>

#include "common/base/limits.h"

namespace simm::client {
namespace {

using protocol::MessageType;

// A server that has sent nothing for so long within a call that timed out counts as gone.
constexpr auto kSilent = std::chrono::milliseconds(100);
constexpr int kAttemptsOnBrokenLanes = 3;
// Within the 50 ms that a call may take beyond its deadline.
constexpr auto kFinishWriting = std::chrono::milliseconds(20);
constexpr uint32_t kMaxCorruptRounds = 2;

}  // namespace

Call::Call(Engine& engine, CallShape shape, std::span<CallItem> items, Instant deadline)
    : engine_(engine),
      shape_(std::move(shape)),
      items_(items),
      deadline_(deadline),
      began_(Now()),
      plans_(shape_, items_, engine.stats()) {}

Call::~Call() = default;

void Call::Begin(int event_fd, bool short_steps) {
  event_fd_ = event_fd;
  short_steps_ = short_steps;
  if (shape_.timed) trace_.begun = Now();
}

bool Call::AllDone() const {
  return std::all_of(items_.begin(), items_.end(), [](const CallItem& item) { return item.done; });
}

bool Call::Step() {
  while (phase_ != Phase::kEnded) {
    if (phase_ == Phase::kRunning) {
      if (!StepRound()) return false;
      for (const auto& part : parts_) ScrubCorrupt(*part);
      parts_.clear();
      phase_ = Phase::kBetweenRounds;
      if (!plans_.empty()) plans_.Settle();
      if (!AllDone()) PlanNextRound();
    } else if (Now() >= deadline_ || AllDone()) {
      Conclude();
      phase_ = Phase::kEnded;
    } else if (!TimeForNextRound()) {
      return false;
    } else {
      BeginRound();
      phase_ = Phase::kRunning;
    }
  }
  return true;
}

void Call::Cancel() {
  cancelled_ = true;
  deadline_ = std::min(deadline_, Now());
}

void Call::BeginRound() {
  ++rounds_;
  round_began_ = Now();
  if (shape_.timed && rounds_ > 1) trace_.pauses += round_began_ - pauses_since_;
  trace_.rounds = rounds_;
  const auto table = engine_.Map();
  shape_.map = {table->version().term, table->version().epoch};
  wrong_owner_seen_ = false;
  BuildParts(*table);
  // Servers with a lane at hand get their requests before anything is waited for.
  for (const auto& part : parts_) {
    if (Now() < deadline_) TryStart(*part);
  }
}

void Call::BuildParts(const RouteTable& table) {
  std::vector<Errand> errands;
  errands.reserve(items_.size());
  const bool beyond = shape_.type == MessageType::kPut && shape_.write_quorum > table.replicas();
  for (CallItem& item : items_) {
    if (item.done) continue;
    const auto row = table.Owners(ShardOf(item.hash));
    if (plans_.Wants(item, row) && !beyond) {
      plans_.Plan(
          item, row, [this](ServerId id) { return engine_.StandingOf(id); }, &errands);
      continue;
    }
    const ServerId owner = shape_.only != kNoServer ? shape_.only : row.front().server;
    if (owner == kNoServer || beyond || table.FindServer(owner) == nullptr) {
      item.result.code = beyond ? Code::kInvalidArgument : Code::kUnavailable;
      item.done = true;
      continue;
    }
    const uint8_t way = item.by_message ? Errand::kByMessage : Errand::kPlain;
    errands.push_back({owner, way, &item});
    if (rounds_ > 1) Add(engine_.stats().retries);
  }
  const auto by_part = [](const Errand& a, const Errand& b) {
    return a.server != b.server ? a.server < b.server : a.way < b.way;
  };
  if (!std::is_sorted(errands.begin(), errands.end(), by_part))
    std::stable_sort(errands.begin(), errands.end(), by_part);
  for (auto at = errands.begin(); at != errands.end();) {
    const Errand& first = *at;
    auto part = std::make_unique<Part>();
    for (; at != errands.end() && !by_part(first, *at); ++at) part->items.push_back(at->item);
    part->peer = engine_.PeerFor(*table.FindServer(first.server));
    part->way = first.way;
    part->waiter.event_fd = event_fd_;
    parts_.push_back(std::move(part));
  }
}

bool Call::StepRound() {
  bool running = false;
  for (const auto& part : parts_) {
    // With many servers one round takes long enough to look at the clock in between.
    if (!part->over && Now() < deadline_) Look(*part);
    running |= !part->over;
  }
  if (running && !plans_.empty()) running = !SpareSilent();
  if (!running) return true;
  return Now() >= deadline_ && StepLate();
}

// How long a part may be silent before it is given up for what others have to say.
Duration Call::Patience(const Part& part) const {
  if ((part.way & Errand::kExtra) != 0) return kSilent;
  return std::max<Duration>((deadline_ - began_) / 4, kSilent);
}

// When that is over if nothing comes; later ones are looked at now and then.
Instant Call::SilentAt(const Part& part) const {
  if ((part.way & Errand::kPlanned) == 0) return kForever;
  const Instant at = std::max(part.last_moved, round_began_) + Patience(part);
  const Instant now = Now();
  return at > now ? at : now + kSilent;
}

// Gives up parts that nobody needs to wait for: servers that have been silent for long, while other
// servers have answered, or can, for each of their keys. True: no part runs any more.
bool Call::SpareSilent() {
  const Instant now = Now();
  bool running = false;
  for (const auto& part : parts_) {
    if (part->over) continue;
    const bool spared = (part->way & Errand::kPlanned) != 0 &&
                        now - std::max(part->began, round_began_) >= Patience(*part) &&
                        now < deadline_ &&
                        std::all_of(part->items.begin(), part->items.end(), [&](CallItem* item) {
                          return item->done || plans_.CanSpare(*static_cast<Target*>(item));
                        });
    if (spared && (!part->lane || IsSilent(*part, now, Patience(*part)))) {
      GiveUpSilent(*part);
    } else {
      running = true;
    }
  }
  return !running;
}

// The deadline has passed: ends what can be ended; true when that is all.
bool Call::StepLate() {
  const Instant now = Now();
  if (!late_) {
    late_ = true;
    late_since_ = now;
    finish_by_ = now + kFinishWriting;
  }
  bool finishing = false;
  for (const auto& part : parts_) {
    if (part->over) continue;
    // What is on its way into shared memory cannot be cut off: a lane that closes now would keep
    // its extents from everybody until this process ends.
    if (WritesOn(*part) && now < finish_by_) part->lane->connection().Progress();
    if (WritesOn(*part) && now < finish_by_) {
      finishing = true;
    } else {
      GiveUpLate(*part);
    }
  }
  return !finishing;
}

bool Call::WritesOn(const Part& part) const {
  return part.lane && part.lane->pool() != nullptr && part.exchange->unsent();
}

Peer::Need Call::NeedOf(const Part& part) const {
  if ((part.way & Errand::kByMessage) != 0) return Peer::Need::kPayload;
  const bool reads = shape_.type == MessageType::kGet || shape_.type == MessageType::kExists ||
                     (part.way & Errand::kProbe) != 0;
  return reads ? Peer::Need::kReads : Peer::Need::kAnything;
}

void Call::TryStart(Part& part) {
  switch (part.peer->Acquire(&part.waiter, NeedOf(part))) {
    case Peer::Acquired::kLane:
      part.lane = std::move(part.waiter.lane);
      part.mute = part.waiter.mute;
      BeginExchange(part);
      break;
    case Peer::Acquired::kWait:
      if (shape_.timed) part.waits_since = Now();
      break;
    case Peer::Acquired::kUnavailable:
      Add(engine_.stats().breaker_rejections, part.items.size());
      EndPart(part);
      break;
  }
}

void Call::BeginExchange(Part& part) {
  part.began = Now();
  part.last_moved = part.began;
  part.moved_bytes = 0;
  part.at_begin = part.lane->connection().counters();
  CallShape shape = shape_;
  shape.server_mute = part.mute;
  shape.tell_removed = (part.way & Errand::kTellRemoved) != 0;
  if ((part.way & Errand::kProbe) != 0) shape.type = MessageType::kExists;
  part.exchange = MakeExchange(shape, part.items, engine_.stats(), *part.lane);
  part.lane->Attach(part.exchange.get());
  if (!part.exchange->Begin(*part.lane).ok()) {
    part.refused = !part.lane->fresh();
    OnExchangeFailed(part);
    return;
  }
  if (part.lane) part.lane->connection().ProgressAwake();
}

// Moves one part on as far as it goes now.
void Call::Look(Part& part) {
  if (!part.lane) {
    switch (part.peer->Poll(&part.waiter)) {
      case Peer::Acquired::kLane:
        part.lane = std::move(part.waiter.lane);
        BeginExchange(part);
        break;
      case Peer::Acquired::kWait:
        return;
      case Peer::Acquired::kUnavailable:
        EndPart(part);
        return;
    }
    if (part.over || !part.lane) return;
  }
  // A transport that is done at once (shared memory) needs no sleep between the steps.
  do {
    part.lane->connection().ProgressAwake();
    part.more = part.exchange->Advance();
  } while (part.more && !short_steps_ && Now() < deadline_);
  const auto& counters = part.lane->connection().counters();
  if (counters.bytes_in + counters.bytes_out != part.moved_bytes) {
    part.moved_bytes = counters.bytes_in + counters.bytes_out;
    part.last_moved = Now();
  }
  if (part.exchange->failed()) {
    OnExchangeFailed(part);
  } else if (part.exchange->finished() && !part.exchange->unsent()) {
    EndPart(part);
  }
}

// The lane broke. If nothing had come back, it may have been a connection that died while idle, or
// a session that the server has forgotten: once more on a new lane before the server counts as
// gone.
void Call::OnExchangeFailed(Part& part) {
  const Status why = part.exchange->failure();
  // What is in doubt can be asked about over another lane of this session, and is worth one.
  const bool in_doubt = part.exchange->in_doubt();
  const bool heard = part.exchange->heard() && !in_doubt;
  const bool fresh = part.lane->fresh() && !in_doubt;
  part.lane->Detach();
  if (fresh || part.attempts > 0) part.peer->DropSession(part.lane->session());
  part.lane->Close();
  part.peer->Release(std::move(part.lane));
  // Each such lane is gone for good; the last of them leads to a new one.
  if (!std::exchange(part.refused, false)) ++part.attempts;
  if (heard || part.attempts >= kAttemptsOnBrokenLanes) {
    part.peer->ReportFailure(why.ok() ? Status(Code::kUnavailable, "connection lost") : why);
    EndPart(part);
    return;
  }
  std::erase_if(part.items, [](const CallItem* item) { return item->done; });
  Add(engine_.stats().retries, part.items.size());
  part.exchange.reset();
  TryStart(part);
}

// The part is over: by answers, by the breaker, or by failure; the undone items are sorted into
// "again" and "no".
void Call::EndPart(Part& part) {
  part.over = true;
  Trace(part);
  const bool answered =
      part.exchange != nullptr && part.exchange->finished() && !part.exchange->failed();
  if (part.lane) {
    CountWork(part);
    part.lane->Detach();
    part.peer->Release(std::move(part.lane));
    if (answered) part.peer->ReportSuccess();
  }
  SettleUndone(part, answered);
  if (part.exchange == nullptr) return;
  const protocol::MapStamp& seen = part.exchange->server_map();
  if (seen.term != newest_seen_.term ? seen.term > newest_seen_.term
                                     : seen.epoch > newest_seen_.epoch) {
    newest_seen_ = seen;
  }
}

void Call::CountWork(const Part& part) {
  const transport::ConnectionCounters& now = part.lane->connection().counters();
  Add(engine_.stats().payload_bytes_copied, now.bytes_copied - part.at_begin.bytes_copied);
  Add(engine_.stats().work_requests, now.work_requests - part.at_begin.work_requests);
  Add(engine_.stats().doorbells, now.doorbells - part.at_begin.doorbells);
  Add(engine_.stats().completions, now.completions - part.at_begin.completions);
}

void Call::SettleUndone(Part& part, bool answered) {
  for (CallItem* const item : part.items) {
    if (item->done) continue;
    const Code code = item->result.code;
    if (answered && code == Code::kCorrupt && rounds_ > kMaxCorruptRounds) {
      item->done = true;  // damaged on its way again and again: not a matter of luck
      continue;
    }
    if (answered) {
      wrong_owner_seen_ |=
          code != Code::kBusy && code != Code::kCorrupt && code != Code::kLeaseGone;
      continue;  // again in the next round
    }
    item->result.code = Code::kUnavailable;
    item->done = true;
  }
}

// Not a byte in either direction for a while: a slow server takes or gives one now and then.
bool Call::IsSilent(const Part& part, Instant now, Duration limit) const {
  if (now - part.last_moved < limit) return false;
  // Perhaps it was this side that did not look.
  part.lane->connection().Progress();
  const auto& counters = part.lane->connection().counters();
  return counters.bytes_in + counters.bytes_out == part.moved_bytes;
}

void Call::GiveUpLate(Part& part) {
  part.over = true;
  part.peer->Cancel(&part.waiter);
  const bool silent = part.lane && IsSilent(part, late_since_, kSilent);
  for (CallItem* const item : part.items) {
    if (item->done) continue;
    item->result.code = Code::kDeadlineExceeded;
    item->done = true;
  }
  Trace(part);
  if (!part.lane) return;
  CountWork(part);
  // A caller that goes away says nothing about the server.
  if (!cancelled_) part.peer->ReportTimeout(silent);
  if (!part.exchange->unsent()) part.exchange->GiveUp();
  part.lane->Detach();
  if (silent || part.exchange->unsent()) {
    // The rest of a half-sent put could only come from the caller's memory; a silent server is not
    // worth a thread that waits for it.
    part.lane->Close();
    part.peer->Release(std::move(part.lane));
  } else {
    part.peer->ReleaseLate(std::move(part.lane));
  }
}

// Keeps the part that took longest, of those that took long: the others cost one look at the clock.
void Call::Trace(const Part& part) {
  if (!shape_.timed) return;
  const Instant now = Now();
  const bool waited = part.waits_since != Instant{};
  const Instant begun = part.began != Instant{} ? part.began : now;
  const Duration connect = waited ? begun - part.waits_since : Duration::zero();
  const CallTrace::Part& most = trace_.slowest;
  const Duration took = now - begun;
  if (took + connect < shape_.slow_op / 4 || took + connect < most.took + most.connect) return;
  trace_.slowest = {};
  trace_.slowest.server = part.peer->record().name;
  trace_.slowest.address = part.peer->record().data_address;
  trace_.slowest.keys = part.items.size();
  trace_.slowest.connect = connect;
  trace_.slowest.took = took;
  if (part.exchange != nullptr) {
    trace_.slowest.stages = part.exchange->times();
    trace_.slowest.request = part.exchange->first_request();
  }
  if (!part.lane) return;
  trace_.slowest.session = part.lane->session();
  trace_.slowest.transport = part.lane->connection().capabilities().transport;
}

// Its keys have been answered by others, or will be. Whether the server is gone is for the
// background to find out: what was given up here may just have been slow.
void Call::GiveUpSilent(Part& part) {
  part.over = true;
  part.peer->Cancel(&part.waiter);
  for (CallItem* const item : part.items) {
    if (item->done) continue;
    item->result.code = Code::kUnavailable;
    item->done = true;
  }
  Trace(part);
  if (!part.lane) return;
  CountWork(part);
  const bool unsent = part.exchange->unsent();
  part.lane->Detach();
  if (unsent) part.lane->Close();
  part.peer->ReleaseSilent(std::move(part.lane));
}

// A value whose bytes are damaged would shadow its key until it is evicted: the server looks at it
// and drops it.
void Call::ScrubCorrupt(const Part& part) {
  if (part.exchange == nullptr) return;
  for (const CallItem* const item : part.exchange->corrupt_items()) {
    engine_.Scrub(std::string(item->key), item->hash, shape_.namespace_id, part.peer->record().id);
  }
}

void Call::PlanNextRound() {
  const Instant now = Now();
  pauses_since_ = now;
  const bool server_is_newer = newest_seen_.term != shape_.map.term
                                   ? newest_seen_.term > shape_.map.term
                                   : newest_seen_.epoch > shape_.map.epoch;
  waits_for_map_ = false;
  if (plans_.MovesOn()) {
    next_round_ = now;
    return;
  }
  waits_for_map_ = wrong_owner_seen_ && server_is_newer;
  if (wrong_owner_seen_) {
    next_round_ = now + limits::kStaleMapPause;
    return;
  }
  uint32_t retry_ms = 1;
  for (const CallItem& item : items_) {
    if (!item.done) retry_ms = std::max(retry_ms, item.result.retry_after_ms);
  }
  // Each repeat sends the values again: longer pauses, up to 20 times the first.
  next_round_ = now + std::chrono::milliseconds(retry_ms * std::min<uint32_t>(rounds_, 20));
}

bool Call::MapHasCome() const {
  const auto table = engine_.Map();
  const MapVersion& version = table->version();
  return version.term > newest_seen_.term ||
         (version.term == newest_seen_.term && version.epoch >= newest_seen_.epoch);
}

bool Call::TimeForNextRound() const {
  return Now() >= next_round_ || (waits_for_map_ && MapHasCome());
}

// Last words for every item: what was not answered is a miss for readers and an error for writers.
void Call::Conclude() {
  const bool read = IsRead(shape_.type);
  plans_.Conclude();
  for (CallItem& item : items_) {
    if (!item.done) {
      if (item.result.code != Code::kBusy) item.result.code = Code::kDeadlineExceeded;
      item.done = true;
    }
    const Code code = item.result.code;
    const bool missed = ReactionTo(code) == Reaction::kFallBack || code == Code::kRemoved;
    if (read && missed) item.result.code = Code::kMiss;
  }
}

}  // namespace simm::client
