#include "client/key_plans.h"

#include <algorithm>

namespace simm::client {
namespace {

using protocol::MessageType;

constexpr uint32_t kMaxRestarts = 1;
// A source that refuses for so long has given the shard up, or never knew that it is one.
constexpr uint32_t kMaxRefusals = 3;

uint8_t WayOf(const Question& question, const Target& target) {
  uint8_t way = Errand::kPlanned;
  if (question.ask == Ask::kProbe) way |= Errand::kProbe;
  if (question.ask == Ask::kReal && target.by_message) way |= Errand::kByMessage;
  if (question.tell_removed) way |= Errand::kTellRemoved;
  if (question.extra) way |= Errand::kExtra;
  return way;
}

}  // namespace

// ---- one key

void KeyPlans::KeyPlan::TakeRow(std::span<const ShardOwner> row) {
  count = 0;
  for (const ShardOwner& owner : row) {
    if (owner.server != kNoServer) owners[count++] = owner;
  }
  standings = {};
  size_t kept = 0;
  for (size_t i = 0; i < target_count; ++i) {
    if (Names(targets[i]->server)) targets[kept++] = targets[i];
  }
  target_count = kept;
}

bool KeyPlans::KeyPlan::Names(ServerId server) const {
  return std::any_of(present().begin(), present().end(), [&](const ShardOwner& owner) {
    return owner.server == server || owner.source == server;
  });
}

Target* KeyPlans::KeyPlan::Find(ServerId server) const {
  for (size_t i = 0; i < target_count; ++i) {
    if (targets[i]->server == server) return targets[i];
  }
  return nullptr;
}

// Those that answer before those that are away, then those on this host and those not talked to
// yet; among equals each key has its own order, so that the owners share the load.
void KeyPlans::KeyPlan::Prefer(uint64_t hash) {
  const size_t first = count > 0 ? (hash >> 32) % count : 0;
  std::rotate(owners.begin(), owners.begin() + static_cast<ptrdiff_t>(first),
              owners.begin() + static_cast<ptrdiff_t>(count));
  std::rotate(standings.begin(), standings.begin() + static_cast<ptrdiff_t>(first),
              standings.begin() + static_cast<ptrdiff_t>(count));
  const auto worth = [](const Standing& s) { return (s.away ? 2 : 0) + (s.far ? 1 : 0); };
  for (size_t i = 1; i < count; ++i) {
    for (size_t j = i; j > 0 && worth(standings[j]) < worth(standings[j - 1]); --j) {
      std::swap(standings[j], standings[j - 1]);
      std::swap(owners[j], owners[j - 1]);
    }
  }
}

Answer KeyPlans::AnswerOf(const KeyPlan& plan, const Target& target) const {
  const Code code = target.result.code;
  if (!target.done) {
    const bool owns = std::any_of(plan.present().begin(), plan.present().end(),
                                  [&](const auto& owner) { return owner.server == target.server; });
    return !owns && target.repeats >= kMaxRefusals ? Answer::kMiss : Answer::kAgain;
  }
  if (code == Code::kMiss) return Answer::kMiss;
  if (code == Code::kRemoved) return Answer::kRemoved;
  if (ReactionTo(code) == Reaction::kFallBack) return Answer::kFailed;
  return target.ask == Ask::kProbe ? Answer::kThere : Answer::kHit;
}

ReadStep KeyPlans::StepOf(const KeyPlan& plan, const CallItem* spared) const {
  std::array<Heard, kMaxRowServers> heard;
  for (size_t i = 0; i < plan.target_count; ++i) {
    const Target& target = *plan.targets[i];
    heard[i] = {target.server, &target == spared ? Answer::kFailed : AnswerOf(plan, target)};
  }
  return NextRead(plan.present(), {heard.data(), plan.target_count}, each_real());
}

Target& KeyPlans::TargetOf(const CallItem& item, KeyPlan& plan, ServerId server) {
  if (Target* const found = plan.Find(server)) return *found;
  if (!targets_) targets_.emplace();
  Target& target = targets_->emplace_back();
  static_cast<CallItem&>(target) = item;
  target.server = server;
  target.of = static_cast<size_t>(&item - items_.data());
  plan.targets[plan.target_count++] = &target;
  return target;
}

// ---- a round

bool KeyPlans::Wants(const CallItem& item, std::span<const ShardOwner> row) const {
  if (shape_.only != kNoServer) return false;
  if (row.size() > 1 || (reads() && row.front().source != kNoServer)) return true;
  return !plans_.empty() && plans_[static_cast<size_t>(&item - items_.data())].begun;
}

KeyPlans::KeyPlan& KeyPlans::PlanOf(const CallItem& item) {
  if (plans_.empty()) plans_.resize(items_.size());
  const auto index = static_cast<size_t>(&item - items_.data());
  KeyPlan& plan = plans_[index];
  if (!plan.begun) active_.push_back(index);
  plan.begun = true;
  return plan;
}

void KeyPlans::PlanRound(CallItem& item, KeyPlan& plan, std::vector<Errand>* errands) {
  if (plan.count == 0) {
    item.result.code = Code::kUnavailable;
    item.done = true;
  } else if (reads()) {
    plan.Prefer(item.hash.low);
    PlanRead(item, plan, errands);
  } else {
    PlanWrite(item, plan, errands);
  }
}

void KeyPlans::PlanRead(CallItem& item, KeyPlan& plan, std::vector<Errand>* errands) {
  if (SettleRead(item, plan)) return;
  const ReadStep step = StepOf(plan, nullptr);
  for (const Question& question : step.asked()) {
    const bool asked = plan.Find(question.server) != nullptr;
    Target& target = TargetOf(item, plan, question.server);
    if (asked && target.done) {
      target.was_there |= AnswerOf(plan, target) == Answer::kThere;
      static_cast<CallItem&>(target) = item;
    } else if (asked) {
      ++target.repeats;
      Add(stats_.retries);
    }
    target.result = {};
    target.ask = question.ask;
    errands->push_back({target.server, WayOf(question, target), &target});
  }
}

void KeyPlans::PlanWrite(CallItem& item, KeyPlan& plan, std::vector<Errand>* errands) {
  const size_t before = errands->size();
  for (const ShardOwner& owner : plan.present()) {
    const bool asked = plan.Find(owner.server) != nullptr;
    Target& target = TargetOf(item, plan, owner.server);
    if (target.done) continue;
    if (asked) Add(stats_.retries);
    target.result = {};
    const uint8_t way = Errand::kPlanned | (target.by_message ? Errand::kByMessage : 0);
    errands->push_back({target.server, way, &target});
  }
  if (errands->size() == before) SettleWrite(item, plan, false);
}

void KeyPlans::Settle() {
  moves_on_ = false;
  std::erase_if(active_, [&](size_t index) {
    CallItem& item = items_[index];
    KeyPlan& plan = plans_[index];
    return item.done || (reads() ? SettleRead(item, plan) : SettleWrite(item, plan, false));
  });
}

void KeyPlans::Conclude() {
  if (reads()) return;
  for (const size_t index : active_) {
    if (!items_[index].done) SettleWrite(items_[index], plans_[index], true);
  }
}

bool KeyPlans::SettleRead(CallItem& item, KeyPlan& plan) {
  ReadStep step = StepOf(plan, nullptr);
  if (step.count == 0 && step.hit == kNoServer && step.code == Code::kMiss &&
      plan.restarts < kMaxRestarts) {
    // It was at its source, and when it was to be fetched it had gone on to its owner.
    const auto end = plan.targets.begin() + static_cast<ptrdiff_t>(plan.target_count);
    if (std::any_of(plan.targets.begin(), end, [](const Target* t) { return t->was_there; })) {
      ++plan.restarts;
      plan.target_count = 0;
      step = StepOf(plan, nullptr);
    }
  }
  if (step.count == 0) {
    Take(item, plan, step);
    return true;
  }
  for (const Question& question : step.asked()) {
    const Target* const target = plan.Find(question.server);
    moves_on_ |= target == nullptr || target->done;
    if (target != nullptr && !target->done) Delay(item, *target);
  }
  return false;
}

// The item's next round waits for as long as this server wants it to.
void KeyPlans::Delay(CallItem& item, const Target& target) {
  item.result.code = target.result.code;
  item.result.retry_after_ms = std::max(item.result.retry_after_ms, target.result.retry_after_ms);
}

void KeyPlans::Take(CallItem& item, const KeyPlan& plan, const ReadStep& step) {
  item.done = true;
  item.result = {.code = step.code};
  for (size_t i = 0; i < plan.target_count && item.road == Road::kNone; ++i)
    item.road = plan.targets[i]->road;
  const Target* const target = step.hit != kNoServer ? plan.Find(step.hit) : nullptr;
  if (target == nullptr) return;
  item.result = target->result;
  item.road = target->road;
  item.pinned_ms = target->pinned_ms;
  const bool owns = std::any_of(plan.present().begin(), plan.present().end(),
                                [&](const ShardOwner& o) { return o.server == step.hit; });
  if (!owns) {
    Add(stats_.source_hits);
  } else if (target != plan.targets.front()) {
    Add(stats_.replica_hits);
  }
}

bool KeyPlans::SettleWrite(CallItem& item, KeyPlan& plan, bool at_end) {
  std::array<Code, limits::kMaxReplicas> codes;
  item.result = {.value_bytes = item.size};
  bool open = false;
  for (size_t i = 0; i < plan.count; ++i) {
    const Target* const target = plan.Find(plan.owners[i].server);
    codes[i] = target != nullptr ? target->result.code : Code::kDeadlineExceeded;
    if (target != nullptr && item.road == Road::kNone) item.road = target->road;
    if (target != nullptr && target->done) continue;
    open = true;
    if (target != nullptr) Delay(item, *target);
    if (codes[i] != Code::kBusy) codes[i] = Code::kDeadlineExceeded;
  }
  if (open && !at_end) return false;
  const bool puts = shape_.type == MessageType::kPut;
  const WriteRule rule = {.all = !puts || shape_.replace, .quorum = shape_.write_quorum};
  const std::span<const Code> all = {codes.data(), plan.count};
  item.result.code = WriteResult(all, rule);
  item.done = true;
  const auto taken = [](Code code) { return code == Code::kOk || code == Code::kExists; };
  if (puts && taken(item.result.code) && !std::all_of(all.begin(), all.end(), taken))
    Add(stats_.partial_puts);
  return true;
}

bool KeyPlans::CanSpare(const Target& target) const {
  if (!reads()) return false;
  const KeyPlan& plan = plans_[target.of];
  const ReadStep step = StepOf(plan, &target);
  if (step.count == 0) return step.code != Code::kUnavailable;
  const Target* const next = plan.Find(step.questions[0].server);
  return next == nullptr || next->done;  // not one whose answer is under way as well
}

}  // namespace simm::client
