// What a client's one-sided reads have come to, as the data server counts it: the library's own
// Lane and OneSidedRead against a DataSession, and peers that say what they like.

#include <gtest/gtest.h>

#include "client/lane.h"
#include "client/one_sided_read.h"
#include "tests/support/one_sided_fixture.h"

namespace simm {
namespace {

using client::CallItem;
using dataserver::ConnectionState;
using dataserver::DataOp;
using dataserver::DataRoad;
using protocol::ReadTotals;

Instant Now() { return MonotonicClock::Get().Now(); }

class ReadReportTest : public OneSidedTest {
 protected:
  ReadReportTest() : memory_(64 << 10) {
    const ByteSpan index = pool_->index_memory();
    index_ = *wire_->transport.Register({const_cast<std::byte*>(index.data()), index.size()},
                                        transport::kRemoteRead);
    region_ = *wire_->transport.Register(memory_, transport::kLocalOnly);
    OpenLane(/*takes_reports=*/true);
  }
  void OpenLane(bool takes_reports) {
    lane_.reset();
    server_.reset();
    const auto& g = pool_->geometry();
    auto pool = std::make_shared<client::PoolAccess>();
    pool->view = {g.bucket_count, g.buckets_offset, g.index_bytes, g.data_bytes};
    pool->overflow_offset = g.overflow_offset;
    pool->index = index_->Describe();
    pool->data = wire_->data;
    pool->locations = std::make_shared<client::LocationCache>();
    pool->registrar = &wire_->transport;
    pool->takes_reports = takes_reports;
    auto near = wire_->transport.Connect("server", {session_, pool_->incarnation()}, 1s);
    lane_ = std::make_unique<client::Lane>(std::move(*near), session_, pool);
    ASSERT_TRUE(lane_->PrepareScratch().ok());
    server_ = std::make_unique<DataSession>(*context_, wire_->acceptor->Accept());
  }
  void Settle() {
    for (int i = 0; i < 4000; ++i) {
      if (lane_) lane_->connection().Progress();
      if (server_ && !server_->Progress()) server_.reset();
    }
  }
  // One call of the library; buffers of `size`.
  std::vector<Code> Read(protocol::MessageType type, const std::vector<std::string>& keys,
                         uint64_t size = kValue) {
    std::vector<CallItem> items(keys.size());
    std::vector<CallItem*> pointers;
    for (size_t i = 0; i < keys.size(); ++i) {
      items[i].key = keys[i];
      items[i].hash = HashOfKey(keys[i]);
      items[i].buffer = memory_.data() + i * size;
      items[i].size = size;
      items[i].region = region_.get();
      pointers.push_back(&items[i]);
    }
    client::CallShape shape;
    shape.type = type;
    client::OneSidedRead read(shape, pointers, stats_);
    lane_->Attach(&read);
    EXPECT_TRUE(read.Begin(*lane_).ok());
    for (int i = 0; i < 100'000 && !read.finished(); ++i) {
      lane_->connection().Progress();
      if (!server_->Progress()) break;
      read.Advance();
    }
    EXPECT_TRUE(read.finished());
    lane_->Detach();
    std::vector<Code> codes;
    for (const CallItem& item : items) codes.push_back(item.result.code);
    return codes;
  }
  uint64_t Keys(DataOp op, Code code) const { return metrics_.Keys(DataRoad::kOther, op, code); }

  std::vector<std::byte> memory_;
  std::unique_ptr<transport::LocalRegion> index_;
  std::unique_ptr<transport::LocalRegion> region_;
  client::StatsCounters stats_;
  std::unique_ptr<DataSession> server_;
  std::unique_ptr<client::Lane> lane_;
};

TEST_F(ReadReportTest, TheServerCountsWhatItHasNotSeen) {
  for (const char* key : {"a", "b", "c"}) PutLocally(key, kValue);
  using protocol::MessageType;
  EXPECT_EQ(Read(MessageType::kGet, {"a", "b", "no", "c", "none"}),
            (std::vector<Code>{Code::kOk, Code::kOk, Code::kMiss, Code::kOk, Code::kMiss}));
  EXPECT_EQ(Read(MessageType::kGet, {"a"}, 10)[0], Code::kLengthMismatch);
  EXPECT_EQ(Read(MessageType::kExists, {"a", "no", "none", "nothing"})[0], Code::kOk);
  const Instant now = Now();
  lane_->SendNews(now);
  lane_->SendNews(now + limits::kReadReport);
  Settle();
  EXPECT_EQ(metrics_.protocol_errors.load(), 0u);
  EXPECT_EQ(Keys(DataOp::kGet, Code::kOk), 3u);
  EXPECT_EQ(Keys(DataOp::kGet, Code::kMiss), 2u);
  EXPECT_EQ(Keys(DataOp::kGet, Code::kLengthMismatch), 1u);
  EXPECT_EQ(Keys(DataOp::kExists, Code::kOk), 1u);
  EXPECT_EQ(Keys(DataOp::kExists, Code::kMiss), 3u);
  EXPECT_EQ(metrics_.BytesOut(DataRoad::kOther), 3 * kValue);
  EXPECT_EQ(metrics_.BytesOut(), stats_.bytes_read.load());
  EXPECT_GT(metrics_.slot_touches.load(), 0u) << "in the same message";
  EXPECT_EQ(metrics_.read_reports_cut.load(), 0u);
  // What is left goes with the lane's close.
  EXPECT_EQ(Read(MessageType::kGet, {"no", "a"})[1], Code::kOk);
  EXPECT_EQ(Keys(DataOp::kGet, Code::kOk), 3u);
  lane_.reset();
  Settle();
  EXPECT_EQ(Keys(DataOp::kGet, Code::kOk), 4u);
  EXPECT_EQ(Keys(DataOp::kGet, Code::kMiss), 3u);
  EXPECT_EQ(metrics_.BytesOut(), 4 * kValue);
}

TEST_F(ReadReportTest, AnIdleLaneTellsOfMissesOnceASecondUnlessTheServerIsMute) {
  EXPECT_EQ(Read(protocol::MessageType::kGet, {"no"})[0], Code::kMiss);
  const Instant now = Now();
  lane_->TendIfDue(now, false);
  Settle();
  EXPECT_EQ(metrics_.read_reports.load(), 0u) << "too young";
  lane_->TendIfDue(now + 2s, true);
  Settle();
  EXPECT_EQ(metrics_.read_reports.load(), 0u) << "nobody takes it";
  lane_->TendIfDue(now + 3s, false);
  lane_->TendIfDue(now + 4s, false);
  lane_->TendIfDue(now + 5s, false);
  Settle();
  EXPECT_EQ(metrics_.read_reports.load(), 1u) << "once, then there is nothing";
  EXPECT_EQ(Keys(DataOp::kGet, Code::kMiss), 1u);
}

TEST_F(ReadReportTest, DamagedValuesAreToldOf) {
  PutLocally("k", kValue);
  dataserver::PinnedValue pinned;
  ASSERT_EQ(pool_->Acquire(HashOfKey("k"), 0, "k", &pinned), Code::kOk);
  const_cast<std::byte&>(pinned.value[17]) ^= std::byte{4};
  pool_->Release(pinned);
  EXPECT_EQ(Read(protocol::MessageType::kGet, {"k"})[0], Code::kMiss);
  lane_.reset();
  Settle();
  EXPECT_EQ(metrics_.validation_failures.load(), 1u);
  EXPECT_EQ(Keys(DataOp::kGet, Code::kMiss), 1u);
  EXPECT_EQ(metrics_.BytesOut(), 0u);
}

// An exists that the server has to be asked about is counted where it is answered, once.
TEST_F(ReadReportTest, WhatTheServerHasAnsweredIsNotReportedBesides) {
  const Hash128 hash = HashOfKey("no");
  const auto& g = pool_->geometry();
  const uint64_t at = g.buckets_offset + BucketOf(hash, g.bucket_count) * protocol::kBucketBytes;
  auto* const bucket = reinterpret_cast<protocol::Bucket*>(
      const_cast<std::byte*>(pool_->index_memory().data() + at));
  bucket->header.overflow = 1;
  EXPECT_EQ(Read(protocol::MessageType::kExists, {"no"})[0], Code::kMiss);
  EXPECT_EQ(stats_.lookups.load(), 1u) << "it was asked";
  lane_.reset();
  Settle();
  EXPECT_EQ(Keys(DataOp::kExists, Code::kMiss), 1u);
  bucket->header.overflow = 0;
}

TEST_F(ReadReportTest, AServerOfBeforeIsSentTouchesOnly) {
  OpenLane(/*takes_reports=*/false);
  PutLocally("k", kValue);
  EXPECT_EQ(Read(protocol::MessageType::kGet, {"k", "no"})[0], Code::kOk);
  const Instant now = Now();
  lane_->SendNews(now + limits::kReadReport);
  Settle();
  EXPECT_EQ(metrics_.slot_touches.load(), 1u);
  lane_.reset();
  Settle();
  EXPECT_EQ(metrics_.read_reports.load(), 0u);
  EXPECT_EQ(metrics_.protocol_errors.load(), 0u);
  EXPECT_EQ(Keys(DataOp::kGet, Code::kOk), 0u);
}

TEST_F(ReadReportTest, AClientOfBeforeIsCountedByItsTouchesAlone) {
  auto peer = Open();
  peer->Ask(protocol::TouchSlots{{{1, 2}, {3, 4}}});
  EXPECT_TRUE(peer->open());
  EXPECT_EQ(metrics_.slot_touches.load(), 2u);
  EXPECT_EQ(metrics_.read_reports.load(), 0u);
}

TEST_F(ReadReportTest, HostileReportsCannotDriveACounterToItsEnd) {
  auto peer = Open();
  protocol::ReadReport report;
  report.totals = {UINT64_MAX, UINT64_MAX, UINT64_MAX, UINT64_MAX,
                   UINT64_MAX, UINT64_MAX, UINT64_MAX, UINT64_MAX};
  uint64_t hits = 0, bytes = 0;
  for (uint64_t round = 0; round < 20; ++round) {
    for (int i = 0; i < 3; ++i) peer->Ask(report);
    ASSERT_TRUE(peer->open()) << "it may be a clock of ours";
    EXPECT_GE(Keys(DataOp::kGet, Code::kOk), hits) << "counters do not fall";
    EXPECT_GE(metrics_.BytesOut(), bytes);
    hits = Keys(DataOp::kGet, Code::kOk);
    bytes = metrics_.BytesOut();
    EXPECT_LE(hits, (round + 3) * limits::kLaneKeysPerSecond);
    EXPECT_LE(bytes, (round + 3) * limits::kLaneBytesPerSecond);
    clock_.Advance(1s);
    sessions_->Touch(session_);
  }
  EXPECT_GT(hits, 0u);
  EXPECT_EQ(metrics_.read_reports.load(), 60u);
  EXPECT_EQ(metrics_.read_reports_cut.load(), 60u);
  // Even where many have done so for long: it stays at the end.
  metrics_.CountBytesOut(DataRoad::kOther, UINT64_MAX - 5);
  metrics_.CountBytesOut(DataRoad::kOther, 100);
  metrics_.CountBytesOut(DataRoad::kTcp, 100);
  EXPECT_EQ(metrics_.BytesOut(DataRoad::kOther), UINT64_MAX);
  EXPECT_EQ(metrics_.BytesOut(), UINT64_MAX);
}

TEST_F(ReadReportTest, WhoseReadsComeByMessageHasNothingToReport) {
  Peer peer(*wire_, *context_, session_, false);
  protocol::ReadReport report;
  report.totals.get_hits = 1;
  peer.Ask(report);
  EXPECT_FALSE(peer.open());
  EXPECT_EQ(Keys(DataOp::kGet, Code::kOk), 0u);
}

// ---- what a connection shows besides

uint64_t Observed(const dataserver::DataMetrics& metrics, DataOp op) {
  uint64_t sum = 0;
  for (const auto& bucket : metrics.latency(op).buckets) sum += bucket.load();
  return sum;
}

TEST_F(ReadReportTest, TheTimesOfOneSidedCallsAreKept) {
  auto peer = Open();
  const auto lease = peer->Lease(BytesFor("k"), 2);
  const auto commit = peer->CommitOf(lease, "k");
  ASSERT_EQ(peer->Commit(commit).code, Code::kOk);
  peer->Ask(protocol::ReturnRequest{
      lease.lease,
      {{lease.ranges[0].offset + lease.ranges[0].extent_bytes, lease.ranges[0].first_generation + 1,
        lease.ranges[0].extent_bytes, 1}}});
  peer->AskKeys(protocol::MessageType::kLookup, {"k"});
  peer->AskKeys(protocol::MessageType::kPin, {"k", "no"});
  EXPECT_EQ(Observed(metrics_, DataOp::kLease), 1u);
  EXPECT_EQ(Observed(metrics_, DataOp::kCommit), 1u);
  EXPECT_EQ(Observed(metrics_, DataOp::kReturn), 1u);
  EXPECT_EQ(Observed(metrics_, DataOp::kLookup), 1u);
  EXPECT_EQ(Observed(metrics_, DataOp::kPin), 1u);
  EXPECT_EQ(Observed(metrics_, DataOp::kPut), 0u) << "of puts by message";
}

// The time in which the other lane is ended belongs to it.
TEST_F(ReadReportTest, TheTimeOfAResolveIsThatUntilItsAnswer) {
  auto doubtful = Open();
  auto asks = Open();
  const auto lease = doubtful->Lease(BytesFor("k"));
  (void)asks->Lease(BytesFor("k"));
  asks->Ask(protocol::ResolveRequest{lease.lane, lease.ranges[0].first_generation, 0, {}, "k"});
  EXPECT_EQ(Observed(metrics_, DataOp::kResolve), 0u);
  clock_.Advance(3s);
  sessions_->Touch(session_);
  doubtful->Settle();
  asks->Settle();
  ASSERT_EQ(asks->Last<protocol::PutReply>().code, Code::kLeaseGone);
  EXPECT_EQ(Observed(metrics_, DataOp::kResolve), 1u);
  EXPECT_EQ(metrics_.latency(DataOp::kResolve).nanos.load(), 3'000'000'000u);
}

TEST_F(ReadReportTest, ConnectionsAreShownByWhatTheyDo) {
  lane_.reset();
  server_.reset();
  const auto in = [&](ConnectionState state) {
    return metrics_.Connections(DataRoad::kOther, state);
  };
  auto peer = Open();
  EXPECT_EQ(in(ConnectionState::kIdle), 1u);
  peer->Ask(protocol::ReadReport{{.get_misses = 1}, {}});
  peer->Tick(clock_.Now());
  EXPECT_EQ(in(ConnectionState::kActive), 1u) << "a one-sided reader shows by its reports";
  EXPECT_EQ(in(ConnectionState::kIdle), 0u);
  clock_.Advance(limits::kActiveConnection);
  sessions_->Touch(session_);
  MessageBuffer buffer;
  peer->Send(protocol::EncodePing({1}, buffer));
  peer->Settle();
  peer->Tick(clock_.Now());
  EXPECT_EQ(in(ConnectionState::kIdle), 1u) << "keepalives do not count";
  // Its RESOLVE waits for another lane: nothing moves.
  auto other = Open();
  const auto lease = other->Lease(BytesFor("k"));
  peer->Ask(protocol::ResolveRequest{lease.lane, 1, 0, {}, "k"});
  peer->Tick(clock_.Now());
  peer->Tick(clock_.Now());
  EXPECT_EQ(in(ConnectionState::kStalled), 1u);
  other->Settle();
  other.reset();
  peer->Settle();
  peer->Tick(clock_.Now());
  EXPECT_EQ(in(ConnectionState::kStalled), 0u);
  EXPECT_EQ(in(ConnectionState::kActive), 1u);
  EXPECT_EQ(metrics_.Connections(), 1u);
  peer.reset();
  EXPECT_EQ(metrics_.Connections(), 0u);
}

}  // namespace
}  // namespace simm
