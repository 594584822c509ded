// The data server's side of the one-sided protocol, message by message: DataSessions over the
// simulated transport, a fake clock, one scripted peer per connection.

#include <gtest/gtest.h>

#include <thread>
#include <vector>

#include "tests/support/one_sided_fixture.h"

namespace simm {
namespace {

// ---- lease, commit, return

TEST_F(OneSidedTest, ALeaseIsGrantedAsRangesAndItsCommitIsReadable) {
  auto peer = Open();
  const auto lease = peer->Lease(BytesFor("k"), 5);
  ASSERT_EQ(lease.code, Code::kOk);
  EXPECT_NE(lease.lane, 0u);
  ASSERT_EQ(lease.ranges.size(), 1u) << "back to back in an empty pool";
  EXPECT_EQ(lease.ranges[0].count, 5u);
  EXPECT_EQ(lease.ranges[0].extent_bytes, BytesFor("k"));
  EXPECT_EQ(Granted(), 5 * BytesFor("k"));
  const auto reply = peer->Commit(peer->CommitOf(lease, "k", 3));
  EXPECT_EQ(reply.code, Code::kOk);
  EXPECT_EQ(reply.map.epoch, 5u);
  EXPECT_TRUE(Holds("k"));
  EXPECT_EQ(Granted(), 4 * BytesFor("k"));
  EXPECT_EQ(metrics_.leased_extents.load(), 5u);
}

TEST_F(OneSidedTest, LeasesThatCannotBeAreRefusedWithAReason) {
  auto peer = Open();
  EXPECT_EQ(peer->Lease(1 << 30).code, Code::kTooLarge);
  EXPECT_EQ(peer->Lease(100).code, Code::kInvalidArgument);
  const auto most = peer->Lease(64 << 10, 1000);
  EXPECT_EQ(most.code, Code::kOk) << "fewer than asked";
  const auto busy = peer->Lease(64 << 10, 1);
  EXPECT_EQ(busy.code, Code::kBusy);
  EXPECT_GT(busy.retry_after_ms, 0u);
  EXPECT_TRUE(peer->open());
}

TEST_F(OneSidedTest, ACommitIsIdempotentAndAStrangeOneIsGone) {
  auto peer = Open(), other = Open();
  const auto lease = peer->Lease(BytesFor("k"), 2);
  const auto commit = peer->CommitOf(lease, "k");
  ASSERT_EQ(peer->Commit(commit).code, Code::kOk);
  EXPECT_EQ(peer->Commit(commit).code, Code::kOk) << "already the live generation";
  EXPECT_EQ(pool_->Usage().entries, 1u);
  const auto second = peer->CommitOf(lease, "j", 1);
  other->Lease(64);
  other->Ask(second);
  EXPECT_EQ(other->Last<protocol::PutReply>().code, Code::kLeaseGone) << "of another lane";
  EXPECT_EQ(Granted(), BytesFor("j") + 64);
  EXPECT_EQ(peer->Commit(second).code, Code::kOk) << "still its own lane's";
  pool_->Remove(HashOfKey("k"), 0, "k");
  EXPECT_EQ(peer->Commit(commit).code, Code::kLeaseGone);
}

TEST_F(OneSidedTest, TheSecondPutOfAKeyExistsAndAReplacementWins) {
  auto peer = Open();
  const auto lease = peer->Lease(BytesFor("k"), 3);
  const auto first = peer->CommitOf(lease, "k", 0);
  ASSERT_EQ(peer->Commit(first).code, Code::kOk);
  EXPECT_EQ(peer->Commit(peer->CommitOf(lease, "k", 1)).code, Code::kExists);
  EXPECT_EQ(Granted(), BytesFor("k")) << "its extent is free again";
  auto replace = peer->CommitOf(lease, "k", 2);
  replace.mode = 1;
  EXPECT_EQ(peer->Commit(replace).code, Code::kOk);
  EXPECT_TRUE(pool_->IsLive(HashOfKey("k"), 0, "k", replace.generation));
  EXPECT_EQ(peer->Commit(first).code, Code::kLeaseGone) << "replaced";
}

TEST_F(OneSidedTest, ACommitOfWhatWasNotWrittenIsNotPublished) {
  auto peer = Open();
  const auto lease = peer->Lease(BytesFor("k"), 3);
  peer->Ask(peer->CommitOf(lease, "k", 0));  // no WRITE
  EXPECT_EQ(peer->Last<protocol::PutReply>().code, Code::kCorrupt);
  auto commit = peer->CommitOf(lease, "k", 1);
  commit.checksum ^= 1;
  EXPECT_EQ(peer->Commit(commit).code, Code::kCorrupt);
  commit = peer->CommitOf(lease, "k", 2);
  commit.value_bytes = 100;
  EXPECT_EQ(peer->Commit(commit).code, Code::kInvalidArgument) << "another size than leased";
  EXPECT_EQ(pool_->Usage().entries, 0u);
  EXPECT_EQ(Granted(), 0u);
  EXPECT_TRUE(peer->open());
}

TEST_F(OneSidedTest, AnotherOwnersKeyIsRefusedAndItsExtentFree) {
  auto peer = Open();
  const auto lease = peer->Lease(BytesFor("k"));
  map_.Set(MakeTable(false));
  EXPECT_EQ(peer->Commit(peer->CommitOf(lease, "k")).code, Code::kWrongOwner);
  EXPECT_EQ(Granted(), 0u);
  peer->AskKeys(protocol::MessageType::kLookup, {"k"});
  EXPECT_EQ(peer->Last<protocol::Location>().code, Code::kWrongOwner);
}

TEST_F(OneSidedTest, AReturnFreesAndIsNotAnswered) {
  auto peer = Open();
  const auto lease = peer->Lease(BytesFor("k"), 4);
  ASSERT_EQ(peer->Commit(peer->CommitOf(lease, "k", 1)).code, Code::kOk);
  const size_t before = peer->messages.size();
  peer->Ask(protocol::ReturnRequest{lease.lease, lease.ranges});
  EXPECT_EQ(peer->messages.size(), before);
  EXPECT_EQ(Granted(), 0u);
  EXPECT_TRUE(Holds("k")) << "what was committed stays";
  EXPECT_EQ(metrics_.returned_extents.load(), 3u);
}

TEST_F(OneSidedTest, GarbageClosesTheConnectionAndNothingElse) {
  auto good = Open();
  const auto theirs = good->Lease(BytesFor("k"));
  const auto closes = [&](const auto& act) {
    auto peer = Open();
    const auto lease = peer->Lease(BytesFor("k"));
    const uint64_t errors = metrics_.protocol_errors.load();
    act(*peer, lease);
    EXPECT_FALSE(peer->open());
    EXPECT_EQ(metrics_.protocol_errors.load(), errors + 1);
    EXPECT_EQ(Granted(), BytesFor("k")) << "only what the other lane holds";
  };
  closes([&](Peer& peer, const auto& lease) {
    auto ranges = lease.ranges;
    ranges[0].offset += 64;
    peer.Ask(protocol::ReturnRequest{lease.lease, ranges});
  });
  closes([&](Peer& peer, const auto&) {
    peer.Ask(protocol::ReturnRequest{theirs.lease, theirs.ranges});
  });
  closes([&](Peer& peer, const auto& lease) {
    auto commit = peer.CommitOf(lease, "k");
    commit.offset += 64;
    peer.Ask(commit);
  });
  closes([&](Peer& peer, const auto& lease) {  // the own lane
    peer.Ask(protocol::ResolveRequest{lease.lane, 1, 0, {}, "k"});
  });
  EXPECT_TRUE(good->open());
}

// ---- the end of lanes

TEST_F(OneSidedTest, NoTimeEndsALease) {
  auto peer = Open();
  const auto lease = peer->Lease(BytesFor("k"));
  Pass(100s, {peer.get()});
  EXPECT_EQ(Granted(), BytesFor("k"));
  EXPECT_EQ(peer->Commit(peer->CommitOf(lease, "k")).code, Code::kOk);
}

TEST_F(OneSidedTest, TheEndOfTheLaneFreesItsGrants) {
  auto peer = Open();
  peer->Lease(BytesFor("k"), 7);
  peer->near().Close();
  EXPECT_EQ(Granted(), 7 * BytesFor("k")) << "until the server has closed its end too";
  peer->Settle();
  EXPECT_FALSE(peer->open());
  EXPECT_EQ(Granted(), 0u);
  EXPECT_EQ(state_->lanes.size(), 0u);
}

TEST_F(OneSidedTest, ASilentClientCostsItsSessionsTimeoutAndTwoSeconds) {
  PutLocally("k", kValue);
  auto peer = Open();
  peer->Lease(BytesFor("k"), 7);
  peer->AskKeys(protocol::MessageType::kLookup, {"k"});
  pool_->Remove(HashOfKey("k"), 0, "k");
  EXPECT_GT(pool_->Usage().pinned_bytes, 0u);
  EXPECT_GT(Granted(), 0u);
  Pass(12s, {peer.get()}, true);
  const auto usage = pool_->Usage();
  EXPECT_EQ(usage.granted_bytes, 0u);
  EXPECT_EQ(usage.pinned_bytes, 0u);
  EXPECT_EQ(usage.limbo_bytes, 0u);
  EXPECT_FALSE(peer->open());
}

TEST_F(OneSidedTest, AProcessThatCannotBeCutOffKeepsItsGrantsUntilItHasEnded) {
  const auto process = std::make_shared<FakeProcess>("pid 4711");
  auto peer = Open(0, process);
  const auto lease = peer->Lease(BytesFor("k"), 2);
  ASSERT_EQ(lease.code, Code::kOk);
  peer->near().Close();
  peer->Settle();
  EXPECT_FALSE(peer->open());
  Pass(60s, {});
  EXPECT_EQ(Granted(), 2 * BytesFor("k")) << "it may still be writing";
  process->ended = true;
  Pass(limits::kDataTick, {});
  EXPECT_EQ(Granted(), 0u);
}

TEST_F(OneSidedTest, AProcessBeyondItsSharePutsOverAnotherTransport) {
  auto peer = Open(0, std::make_shared<FakeProcess>("pid 4711"));
  const uint64_t share = pool_->geometry().data_bytes / limits::kProcessShare;
  EXPECT_EQ(peer->Lease(RoundUp(share + 1, 64)).code, Code::kFailedPrecondition);
  EXPECT_EQ(peer->Lease(4096, 100).code, Code::kOk);
  EXPECT_LE(Granted(), share);
  EXPECT_EQ(peer->Lease(RoundUp(share / 2, 64)).code, Code::kFailedPrecondition);
}

// ---- recall

TEST_F(OneSidedTest, UnderPressureLeasesAreRecalledAndAnAnswerSuffices) {
  auto peer = Open();
  const auto lease = peer->Lease(64 << 10, 8);
  ASSERT_EQ(peer->Lease(64 << 10, 8).code, Code::kBusy);
  peer->messages.clear();
  Pass(6s, {peer.get()});
  ASSERT_EQ(peer->messages.size(), 1u);
  EXPECT_EQ(peer->Last<protocol::Recall>().lease, lease.lease);
  peer->Ask(protocol::ReturnRequest{lease.lease, lease.ranges});
  Pass(10s, {peer.get()});
  EXPECT_TRUE(peer->open());
  EXPECT_EQ(Granted(), 0u);
}

TEST_F(OneSidedTest, ALaneThatDoesNotAnswerARecallIsDestroyed) {
  auto peer = Open();
  peer->Lease(64 << 10, 8);
  peer->messages.clear();
  Pass(5s, {peer.get()});
  ASSERT_EQ(peer->messages.size(), 1u) << "beyond one percent, and idle";
  Pass(1750ms, {peer.get()});
  EXPECT_TRUE(peer->open());
  Pass(500ms, {peer.get()});
  EXPECT_FALSE(peer->open());
  EXPECT_EQ(Granted(), 0u);
  EXPECT_EQ(metrics_.recalls_unanswered.load(), 1u);
}

// ---- resolve

TEST_F(OneSidedTest, AResolveIsAnsweredOnceTheLaneIsDestroyed) {
  auto lost = Open(), peer = Open();
  const auto lease = lost->Lease(BytesFor("k"), 1);
  const auto commit = lost->CommitOf(lease, "k");
  peer->Ask(protocol::ResolveRequest{lease.lane, commit.generation, 0, {}, "k"});
  EXPECT_TRUE(peer->messages.empty()) << "the lane is still open";
  EXPECT_EQ(Granted(), BytesFor("k"));
  lost->Settle();
  EXPECT_FALSE(lost->open());
  EXPECT_EQ(Granted(), 0u);
  peer->Settle();
  EXPECT_EQ(peer->Last<protocol::PutReply>().code, Code::kLeaseGone);
  peer->Lease(64);
  EXPECT_TRUE(peer->open()) << "and goes on";
}

TEST_F(OneSidedTest, AResolveOfALaneThatIsGoneIsAnsweredFromTheKey) {
  auto lost = Open(), peer = Open();
  const auto lease = lost->Lease(BytesFor("k"), 1);
  const auto commit = lost->CommitOf(lease, "k");
  ASSERT_EQ(lost->Commit(commit).code, Code::kOk);
  lost.reset();
  peer->Ask(protocol::ResolveRequest{lease.lane, commit.generation, 0, {}, "k"});
  EXPECT_EQ(peer->Last<protocol::PutReply>().code, Code::kOk);
  EXPECT_EQ(peer->Last<protocol::PutReply>().generation, commit.generation);
  peer->Ask(protocol::ResolveRequest{lease.lane, commit.generation + 1, 0, {}, "k"});
  EXPECT_EQ(peer->Last<protocol::PutReply>().code, Code::kLeaseGone);
}

TEST_F(OneSidedTest, AResolveOfAnotherSessionsLaneIsRefused) {
  auto victim = Open();
  const auto lease = victim->Lease(64);
  auto peer = Open(sessions_->Open("other"));
  peer->Ask(protocol::ResolveRequest{lease.lane, 1, 0, {}, "k"});
  EXPECT_FALSE(peer->open());
  victim->Settle();
  EXPECT_TRUE(victim->open());
}

TEST_F(OneSidedTest, ALaneOfAnotherThreadIsClosedThereAndTheAnswerComes) {
  Wire second(*pool_, *sessions_);
  for (int round = 0; round < 50; ++round) {
    auto lost = Open();
    const auto lease = lost->Lease(BytesFor("k"), 1);
    std::thread theirs([&] {
      while (lost->open()) lost->Settle();
    });
    {
      Peer peer(second, *context_, session_);
      MessageBuffer buffer;
      peer.Send(protocol::Encode(protocol::ResolveRequest{lease.lane, 1, 0, {}, "k"}, buffer));
      while (peer.messages.empty()) peer.Settle();
      EXPECT_EQ(peer.Last<protocol::PutReply>().code, Code::kLeaseGone);
      EXPECT_EQ(Granted(), 0u);
    }
    theirs.join();
  }
}

// ---- lookup, pin, touch

TEST_F(OneSidedTest, ALookupNamesTheSlotAndHoldsTheValueForTwoSeconds) {
  PutLocally("k", kValue);
  auto peer = Open();
  peer->AskKeys(protocol::MessageType::kLookup, {"k"});
  const auto location = peer->Last<protocol::Location>();
  EXPECT_EQ(location.code, Code::kOk);
  EXPECT_EQ(location.pinned_ms, 2000u);
  EXPECT_EQ(std::memcmp(&location.slot, pool_->index_memory().data() + location.slot_offset,
                        sizeof location.slot),
            0);
  pool_->Remove(HashOfKey("k"), 0, "k");
  const uint64_t held = pool_->Usage().pinned_bytes;
  EXPECT_EQ(held, BytesFor("k"));
  Pass(1750ms, {peer.get()});
  EXPECT_EQ(pool_->Usage().pinned_bytes, held);
  Pass(500ms, {peer.get()});
  EXPECT_EQ(pool_->Usage().pinned_bytes, 0u);
  peer->AskKeys(protocol::MessageType::kLookup, {"k"});
  EXPECT_EQ(peer->Last<protocol::Location>().code, Code::kMiss);
}

TEST_F(OneSidedTest, PinsTakeAQuarterOfThePoolAtMost) {
  auto peer = Open();
  const uint64_t size = 200 << 10;
  std::vector<std::string> keys;
  for (int i = 0; i < 8; ++i) {
    keys.push_back("k" + std::to_string(i));
    PutLocally(keys.back(), size);
  }
  keys.push_back("absent");
  peer->AskKeys(protocol::MessageType::kPin, keys);
  const auto reply = peer->Last<protocol::PinReply>();
  ASSERT_EQ(reply.pinned_ms.size(), keys.size());
  EXPECT_EQ(reply.pinned_ms.back().first, Code::kMiss);
  size_t held = 0;
  for (size_t i = 0; i + 1 < keys.size(); ++i) {
    EXPECT_EQ(reply.pinned_ms[i].first, Code::kOk) << "present in any case";
    held += reply.pinned_ms[i].second > 0;
  }
  EXPECT_GT(held, 0u);
  EXPECT_LT(held, 8u);
  EXPECT_EQ(metrics_.pins.load(), held);
  EXPECT_EQ(metrics_.pins_refused.load(), 8 - held);
  EXPECT_LE(state_->pins.bytes(), pool_->geometry().data_bytes / limits::kPinShare);
  // What is held stays, whatever comes.
  for (int i = 0; i < 40; ++i) PutLocally("new" + std::to_string(i), size);
  for (size_t i = 0; i + 1 < keys.size(); ++i) {
    EXPECT_TRUE(reply.pinned_ms[i].second == 0 || Holds(keys[i])) << keys[i];
  }
}

TEST_F(OneSidedTest, ATouchedSlotOutlivesOthers) {
  const uint64_t size = 100 << 10;
  PutLocally("old", size);
  auto peer = Open();
  peer->AskKeys(protocol::MessageType::kLookup, {"old"});
  const auto location = peer->Last<protocol::Location>();
  const uint64_t in_buckets = location.slot_offset - pool_->geometry().buckets_offset;
  const protocol::SlotTouch touch = {
      static_cast<uint32_t>(in_buckets / protocol::kBucketBytes * protocol::kSlotsPerBucket +
                            in_buckets % protocol::kBucketBytes / protocol::kSlotBytes - 1),
      protocol::SlotWord{location.slot.word}.generation()};
  Pass(3s, {peer.get()});
  for (int i = 0; pool_->Counters().inline_evictions < 20; ++i) {
    PutLocally("n" + std::to_string(i), size);
    peer->Ask(protocol::TouchSlots{{touch, {UINT32_MAX, 1}, {0, 77}}});
  }
  EXPECT_TRUE(Holds("old"));
  EXPECT_TRUE(peer->open());
}

TEST_F(OneSidedTest, PeersThatDoNotWriteByThemselvesGetLookupsButNoLeases) {
  PutLocally("k", kValue);
  Peer peer(*wire_, *context_, session_, false);
  peer.AskKeys(protocol::MessageType::kLookup, {"k"});
  EXPECT_EQ(peer.Last<protocol::Location>().code, Code::kOk);
  peer.Ask(protocol::LeaseRequest{64, 1});
  EXPECT_FALSE(peer.open());
  EXPECT_EQ(Granted(), 0u);
}

}  // namespace
}  // namespace simm
