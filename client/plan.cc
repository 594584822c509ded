#include "client/plan.h"

#include <algorithm>

namespace simm::client {
namespace {

class Reading {
 public:
  Reading(std::span<const ShardOwner> owners, std::span<const Heard> heard, bool each_real)
      : heard_(heard), each_real_(each_real) {
    // Those without a source first; else as given.
    for (const bool with_source : {false, true}) {
      for (const ShardOwner& owner : owners) {
        if ((owner.source != kNoServer) == with_source) owners_[count_++] = owner;
      }
    }
  }

  ReadStep Next() {
    if (!Decided()) AskNext();
    return step_;
  }

 private:
  std::span<const ShardOwner> owners() const { return {owners_.data(), count_}; }

  Answer Of(ServerId server) const {
    for (const Heard& heard : heard_) {
      if (heard.server == server) return heard.answer;
    }
    return Answer::kNone;
  }
  bool Open(ServerId server) const {
    return server != kNoServer && (Of(server) == Answer::kNone || Of(server) == Answer::kAgain);
  }
  // Now the sources' word counts: no owner can say any more that the key was removed.
  bool OwnersHaveSpoken() const {
    return std::none_of(owners().begin(), owners().end(),
                        [&](const ShardOwner& owner) { return Open(owner.server); });
  }

  bool Decided() {
    for (const ShardOwner& owner : owners()) {
      if (Of(owner.server) == Answer::kRemoved) return true;
    }
    for (const ShardOwner& owner : owners()) {
      if (Of(owner.server) == Answer::kHit) return Hit(owner.server);
    }
    for (const ShardOwner& owner : owners()) {
      if (OwnersHaveSpoken() && Of(owner.source) == Answer::kHit) return Hit(owner.source);
    }
    return false;
  }
  bool Hit(ServerId server) {
    step_.hit = server;
    step_.code = Code::kOk;
    return true;
  }

  void AskNext() {
    if (AskWhereItIs()) return;
    const ShardOwner* const first = FirstOpenOwner();
    if (first == nullptr) {
      AskSources();
    } else {
      AskOwners(*first);
    }
    if (step_.count == 0) GiveUp();
  }

  // A probe has found it, and nobody's word is to be waited for.
  bool AskWhereItIs() {
    for (const ShardOwner& owner : owners()) {
      if (Of(owner.server) == Answer::kThere) return Add(owner.server, false, HasSource(owner));
    }
    for (const ShardOwner& owner : owners()) {
      if (OwnersHaveSpoken() && Of(owner.source) == Answer::kThere)
        return Add(owner.source, false, false);
    }
    return false;
  }

  // Whoever was not asked yet before those that have asked for patience.
  const ShardOwner* FirstOpenOwner() const {
    const ShardOwner* again = nullptr;
    for (const ShardOwner& owner : owners()) {
      if (Of(owner.server) == Answer::kNone) return &owner;
      if (again == nullptr && Of(owner.server) == Answer::kAgain) again = &owner;
    }
    return again;
  }

  void AskOwners(const ShardOwner& first) {
    const bool asked_before = std::any_of(owners().begin(), owners().end(), [&](const auto& o) {
      return Of(o.server) != Answer::kNone;
    });
    const bool repeats = Of(first.server) == Answer::kAgain;
    Add(first.server, false, HasSource(first));
    if (Open(first.source)) Add(first.source, true, false);
    if (!asked_before) return;
    for (const ShardOwner& owner : owners()) {
      // Who wants patience is asked again only when there is nobody else.
      const bool now = repeats || Of(owner.server) == Answer::kNone;
      if (Open(owner.server) && now) Add(owner.server, true, HasSource(owner));
      if (Open(owner.source) && (now || !Open(owner.server))) Add(owner.source, true, false);
    }
  }

  // Every owner has had its say: of the sources one may be asked for the value itself.
  void AskSources() {
    for (const ShardOwner& owner : owners()) {
      if (Open(owner.source)) Add(owner.source, step_.count > 0, false);
    }
  }

  void GiveUp() {
    for (const Heard& heard : heard_) {
      if (heard.answer == Answer::kFailed) step_.code = Code::kUnavailable;
    }
  }

  static bool HasSource(const ShardOwner& owner) { return owner.source != kNoServer; }

  bool Add(ServerId server, bool extra, bool tell_removed) {
    for (size_t i = 0; i < step_.count; ++i) {
      if (step_.questions[i].server != server) continue;
      step_.questions[i].tell_removed |= tell_removed;
      return true;
    }
    step_.questions[step_.count++] = {.server = server,
                                      .ask = extra && !each_real_ ? Ask::kProbe : Ask::kReal,
                                      .tell_removed = tell_removed,
                                      .extra = extra};
    return true;
  }

  const std::span<const Heard> heard_;
  const bool each_real_;
  std::array<ShardOwner, limits::kMaxReplicas> owners_;
  size_t count_ = 0;
  ReadStep step_;
};

// The worst is said: what can never work, then what may have happened or not, then what has not.
int Weight(Code code) {
  if (ReactionTo(code) == Reaction::kGiveUp) return 3;
  if (code == Code::kDeadlineExceeded) return 2;
  return ReactionTo(code) == Reaction::kFallBack ? 1 : 0;
}

bool HasTaken(Code code) {
  return code == Code::kOk || code == Code::kExists || code == Code::kMiss;
}

}  // namespace

ReadStep NextRead(std::span<const ShardOwner> owners, std::span<const Heard> heard,
                  bool each_real) {
  return Reading(owners, heard, each_real).Next();
}

Code WriteResult(std::span<const Code> codes, const WriteRule& rule) {
  const auto taken = static_cast<size_t>(std::count_if(codes.begin(), codes.end(), HasTaken));
  const size_t needed = rule.all ? codes.size() : rule.quorum;
  if (taken < needed || taken == 0) {
    Code worst = codes.size() < needed ? Code::kUnavailable : Code::kBusy;
    for (const Code code : codes) {
      if (!HasTaken(code) && Weight(code) > Weight(worst)) worst = code;
    }
    return worst;
  }
  for (const Code code : codes) {
    if (code == Code::kOk || code == Code::kExists) return code;
  }
  return Code::kMiss;
}

}  // namespace simm::client
