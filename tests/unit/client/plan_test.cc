#include "client/plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "common/base/random.h"

namespace simm::client {
namespace {

constexpr auto kNone = Answer::kNone;
constexpr auto kAgain = Answer::kAgain;
constexpr auto kThere = Answer::kThere;
constexpr auto kHit = Answer::kHit;
constexpr auto kMiss = Answer::kMiss;
constexpr auto kRemoved = Answer::kRemoved;
constexpr auto kFailed = Answer::kFailed;

// "1r 2p": server 1 is asked for the value and 2 whether it is there; "t": to tell what was
// removed; "hit 2", "miss", "unavailable": the result.
std::string Said(const ReadStep& step) {
  if (step.count == 0) {
    if (step.hit != kNoServer) return "hit " + std::to_string(step.hit);
    return step.code == Code::kMiss ? "miss" : "unavailable";
  }
  std::string text;
  for (const Question& question : step.asked()) {
    if (!text.empty()) text += ' ';
    text += std::to_string(question.server) + (question.ask == Ask::kReal ? 'r' : 'p');
    if (question.tell_removed) text += 't';
  }
  return text;
}

struct Case {
  std::vector<ShardOwner> owners;
  std::vector<Heard> heard;
  std::string get;
  std::string exists;
};

void Check(const std::vector<Case>& cases) {
  for (const Case& c : cases) {
    std::string what;
    for (const ShardOwner& o : c.owners)
      what += std::to_string(o.server) + "<" + std::to_string(o.source) + " ";
    for (const Heard& h : c.heard)
      what += std::to_string(h.server) + ":" + std::to_string(static_cast<int>(h.answer)) + " ";
    EXPECT_EQ(Said(NextRead(c.owners, c.heard, false)), c.get) << what;
    if (c.exists.empty()) continue;
    EXPECT_EQ(Said(NextRead(c.owners, c.heard, true)), c.exists) << what;
  }
}

TEST(ReadPlan, OneOwnerIsAsked) {
  const std::vector<ShardOwner> row = {{1, kNoServer}};
  Check({{row, {}, "1r", "1r"},
         {row, {{1, kHit}}, "hit 1", "hit 1"},
         {row, {{1, kMiss}}, "miss", "miss"},
         {row, {{1, kAgain}}, "1r", "1r"},
         {row, {{1, kRemoved}}, "miss", "miss"},
         {row, {{1, kFailed}}, "unavailable", "unavailable"}});
}

TEST(ReadPlan, OwnerAndSourceAreAskedInOneRound) {
  const std::vector<ShardOwner> row = {{1, 2}};
  Check({
      {row, {}, "1rt 2p", "1rt 2r"},
      {row, {{1, kHit}, {2, kThere}}, "hit 1", ""},
      {row, {{1, kHit}, {2, kHit}}, "hit 1", "hit 1"},
      {row, {{1, kHit}, {2, kFailed}}, "hit 1", "hit 1"},
      // A true miss has cost no further round.
      {row, {{1, kMiss}, {2, kMiss}}, "miss", "miss"},
      {row, {{1, kMiss}, {2, kThere}}, "2r", ""},
      {row, {{1, kMiss}, {2, kHit}}, "hit 2", "hit 2"},
      // The owner's word stands: what was removed there does not come back.
      {row, {{1, kRemoved}, {2, kThere}}, "miss", ""},
      {row, {{1, kRemoved}, {2, kHit}}, "miss", "miss"},
      // Nobody knows what an owner that is away would say: what the source has is a hit.
      {row, {{1, kFailed}, {2, kThere}}, "2r", ""},
      {row, {{1, kFailed}, {2, kHit}}, "hit 2", "hit 2"},
      {row, {{1, kFailed}, {2, kMiss}}, "unavailable", "unavailable"},
      {row, {{1, kMiss}, {2, kFailed}}, "unavailable", "unavailable"},
      // The source's word waits for the owner's.
      {row, {{1, kAgain}, {2, kThere}}, "1rt", ""},
      {row, {{1, kAgain}, {2, kHit}}, "1rt", "1rt"},
      {row, {{1, kMiss}, {2, kAgain}}, "2r", "2r"},
      {row, {{1, kAgain}, {2, kAgain}}, "1rt 2p", "1rt 2r"},
  });
}

TEST(ReadPlan, OfReplicasOneIsAskedThenTheOthersInOneRound) {
  const std::vector<ShardOwner> row = {{1, kNoServer}, {2, kNoServer}, {3, kNoServer}};
  Check({
      {row, {}, "1r", "1r"},
      {row, {{1, kHit}}, "hit 1", "hit 1"},
      {row, {{1, kMiss}}, "2r 3p", "2r 3r"},
      {row, {{1, kFailed}}, "2r 3p", "2r 3r"},
      {row, {{1, kMiss}, {2, kHit}, {3, kThere}}, "hit 2", ""},
      {row, {{1, kMiss}, {2, kMiss}, {3, kThere}}, "3r", ""},
      {row, {{1, kMiss}, {2, kFailed}, {3, kThere}}, "3r", ""},
      {row, {{1, kMiss}, {2, kMiss}, {3, kMiss}}, "miss", "miss"},
      {row, {{1, kMiss}, {2, kMiss}, {3, kFailed}}, "unavailable", "unavailable"},
      // Who wants patience is asked last.
      {row, {{1, kAgain}}, "2r 3p", "2r 3r"},
      {row, {{1, kAgain}, {2, kMiss}, {3, kMiss}}, "1r", "1r"},
      {row, {{1, kAgain}, {2, kMiss}, {3, kAgain}}, "1r 3p", "1r 3r"},
      // No more than one server at a time may write to the caller's memory.
      {row, {{1, kNone}, {2, kThere}, {3, kThere}}, "2r", ""},
  });
}

TEST(ReadPlan, OwnersWithoutASourceComeFirst) {
  const std::vector<ShardOwner> moving = {{1, 3}, {2, kNoServer}};
  Check({
      {moving, {}, "2r", "2r"},
      {moving, {{2, kMiss}}, "1rt 3p", "1rt 3r"},
      {moving, {{2, kMiss}, {1, kMiss}, {3, kThere}}, "3r", ""},
      {moving, {{2, kMiss}, {1, kRemoved}, {3, kThere}}, "miss", ""},
      {moving, {{2, kFailed}, {1, kMiss}, {3, kMiss}}, "unavailable", "unavailable"},
  });
  // A replica that is made anew from the other owner.
  const std::vector<ShardOwner> repair = {{1, 2}, {2, kNoServer}};
  Check({
      {repair, {}, "2r", "2r"},
      {repair, {{2, kMiss}}, "1rt", "1rt"},
      {repair, {{2, kMiss}, {1, kMiss}}, "miss", "miss"},
      {repair, {{2, kFailed}}, "1rt", "1rt"},
      {repair, {{2, kFailed}, {1, kHit}}, "hit 1", "hit 1"},
  });
  const std::vector<ShardOwner> both = {{1, 3}, {2, 4}};
  Check({
      {both, {}, "1rt 3p", "1rt 3r"},
      {both, {{1, kMiss}, {3, kMiss}}, "2rt 4p", "2rt 4r"},
      // The other owner may have removed it.
      {both, {{1, kMiss}, {3, kThere}}, "2rt 4p", ""},
      {both, {{1, kMiss}, {3, kThere}, {2, kMiss}, {4, kMiss}}, "3r", ""},
  });
}

// What a server has of the key, and how it answers.
struct Server {
  enum class Has { kNothing, kValue, kTombstone } has = Has::kNothing;
  bool away = false;
  int busy = 0;  // so often it wants patience
  Answer Say(const Question& question) {
    if (away) return kFailed;
    if (busy > 0 && busy-- > 0) return kAgain;
    if (has == Has::kValue) return question.ask == Ask::kProbe ? kThere : kHit;
    return has == Has::kTombstone ? kRemoved : kMiss;
  }
};

struct World {
  explicit World(Random& random) {
    for (ServerId id = 1; id <= 8; ++id) {
      Server& server = servers[id];
      if (random.OneIn(2)) server.has = Server::Has::kValue;
      server.away = random.OneIn(4);
      server.busy = static_cast<int>(random.Below(3)) - 1;
    }
    std::vector<ServerId> ids = {1, 2, 3, 4, 5};
    for (size_t i = 1 + random.Below(3); i > 0; --i) {
      const auto at = ids.begin() + static_cast<ptrdiff_t>(random.Below(ids.size()));
      row.push_back({*at, kNoServer});
      ids.erase(at);
    }
    for (ShardOwner& owner : row) {
      const auto source = static_cast<ServerId>(1 + random.Below(8));
      if (random.OneIn(2) && source != owner.server) owner.source = source;
      // Only an owner to which values come from elsewhere keeps tombstones.
      if (owner.source != kNoServer && random.OneIn(3))
        servers[owner.server].has = Server::Has::kTombstone;
    }
  }
  bool AnyOwner(Server::Has has) const {
    return std::any_of(row.begin(), row.end(), [&](const ShardOwner& owner) {
      const Server& server = servers.at(owner.server);
      return !server.away && server.has == has;
    });
  }
  bool SourceOfAnOwnerHasIt() const {
    return std::any_of(row.begin(), row.end(), [&](const ShardOwner& owner) {
      const auto source = servers.find(owner.source);
      return source != servers.end() && !source->second.away &&
             source->second.has == Server::Has::kValue;
    });
  }
  bool AllAnswer() const {
    return std::none_of(row.begin(), row.end(), [&](const ShardOwner& owner) {
      const auto source = servers.find(owner.source);
      return servers.at(owner.server).away || (source != servers.end() && source->second.away);
    });
  }

  std::map<ServerId, Server> servers;
  std::vector<ShardOwner> row;
};

ReadStep Drive(World& world, bool each_real, size_t* rounds) {
  std::vector<Heard> heard;
  for (;; ++*rounds) {
    const ReadStep step = NextRead(world.row, heard, each_real);
    if (step.count == 0 || *rounds > 20) return step;
    size_t fetching = 0;
    for (const Question& question : step.asked()) {
      fetching += question.ask == Ask::kReal ? 1 : 0;
      const Heard said = {question.server, world.servers[question.server].Say(question)};
      const auto at = std::find_if(heard.begin(), heard.end(),
                                   [&](const Heard& h) { return h.server == question.server; });
      at == heard.end() ? heard.push_back(said) : void(*at = said);
    }
    EXPECT_TRUE(each_real || fetching <= 1) << "two servers would write to the same memory";
  }
}

TEST(ReadPlan, AnyRowLeadsToWhatItsServersHave) {
  for (uint64_t seed = 1; seed <= 20'000; ++seed) {
    for (const bool each_real : {false, true}) {
      Random random(seed);
      World world(random);
      size_t rounds = 0;
      const ReadStep step = Drive(world, each_real, &rounds);
      SCOPED_TRACE("seed " + std::to_string(seed));
      ASSERT_LE(rounds, 12u);
      const bool removed = world.AnyOwner(Server::Has::kTombstone);
      const bool hit = step.hit != kNoServer;
      if (hit) {
        ASSERT_EQ(world.servers[step.hit].has, Server::Has::kValue);
      }
      if (!removed) {
        ASSERT_EQ(hit, world.AnyOwner(Server::Has::kValue) || world.SourceOfAnOwnerHasIt());
        if (!hit && world.AllAnswer()) {
          ASSERT_EQ(step.code, Code::kMiss);
        }
      } else if (!world.AnyOwner(Server::Has::kValue)) {
        ASSERT_FALSE(hit) << "what was removed has come back";
      }
    }
  }
}

TEST(WriteResult, TheQuorumDecidesAndTheFirstOwnerSays) {
  const WriteRule one = {.all = false, .quorum = 1};
  const WriteRule two = {.all = false, .quorum = 2};
  const WriteRule all = {.all = true, .quorum = 1};
  using Codes = std::vector<Code>;
  const Code ok = Code::kOk, exists = Code::kExists, away = Code::kUnavailable,
             late = Code::kDeadlineExceeded, busy = Code::kBusy, large = Code::kTooLarge;
  EXPECT_EQ(WriteResult(Codes{ok, ok}, one), ok);
  EXPECT_EQ(WriteResult(Codes{away, ok}, one), ok);
  EXPECT_EQ(WriteResult(Codes{away, away}, one), away);
  EXPECT_EQ(WriteResult(Codes{away, ok}, two), away);
  EXPECT_EQ(WriteResult(Codes{ok, away, exists}, two), ok);
  EXPECT_EQ(WriteResult(Codes{away, exists, ok}, two), exists);
  EXPECT_EQ(WriteResult(Codes{ok}, two), away) << "an empty place in the row takes nothing";
  EXPECT_EQ(WriteResult(Codes{ok, ok, ok}, all), ok);
  EXPECT_EQ(WriteResult(Codes{ok, late, away}, all), late);
  EXPECT_EQ(WriteResult(Codes{ok, busy}, all), busy);
  EXPECT_EQ(WriteResult(Codes{late, large}, one), large);
}

TEST(WriteResult, ARemovedKeyWasThereIfAnyOwnerHadIt) {
  const WriteRule all = {.all = true, .quorum = 1};
  using Codes = std::vector<Code>;
  EXPECT_EQ(WriteResult(Codes{Code::kMiss, Code::kOk}, all), Code::kOk);
  EXPECT_EQ(WriteResult(Codes{Code::kMiss, Code::kMiss}, all), Code::kMiss);
  EXPECT_EQ(WriteResult(Codes{Code::kMiss, Code::kUnavailable}, all), Code::kUnavailable);
}

}  // namespace
}  // namespace simm::client
