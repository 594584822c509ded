// What verbs promises beyond the contract: how few requests, doorbells and completions it needs,
// what its bounds do, and that a lane which ends leaves memory alone.

#include <poll.h>

#include <atomic>
#include <thread>

#include "tests/rdma/rdma_fixture.h"

namespace simm::transport {
namespace {

uint64_t Entries(const Connection& lane) {
  return dynamic_cast<const VerbsConnection&>(lane).completion_entries();
}

TEST_F(VerbsLane, ABatchIsOneDoorbellAndOneCompletion) {
  std::vector<MutableSegment> segments;
  for (size_t i = 0; i < 32; ++i) segments.push_back(Local(i * 4096, 4096));
  std::vector<WorkItem> items;
  CountingCompletion done;
  for (size_t i = 0; i < 32; ++i)
    items.push_back(Make(Op::kRead, i * 5000, {&segments[i], 1}, nullptr));
  items.back().completion = &done;
  ASSERT_TRUE(ends_.near->Post(items).ok());
  ASSERT_TRUE(Pump([&] { return done.calls == 1; }));
  EXPECT_TRUE(done.last.ok()) << done.last.ToString();
  EXPECT_EQ(ends_.near->counters().doorbells, 1u);
  EXPECT_EQ(ends_.near->counters().work_requests, 32u);
  EXPECT_EQ(Entries(*ends_.near), 1u);
  EXPECT_EQ(ends_.near->counters().bytes_in, 32u * 4096);
  for (size_t i = 0; i < 32; ++i) {
    EXPECT_EQ(std::memcmp(local_.data() + i * 4096, remote_.data() + i * 5000, 4096), 0) << i;
  }
}

TEST_F(VerbsLane, ALargeReadIsARequestPerMebibyteAndOneCompletion) {
  const MutableSegment all = Local(0, 5 << 19);
  CountingCompletion done;
  const WorkItem item = Make(Op::kRead, 1000, {&all, 1}, &done);
  ASSERT_TRUE(ends_.near->Post({&item, 1}).ok());
  ASSERT_TRUE(Pump([&] { return done.calls == 1; }));
  EXPECT_EQ(ends_.near->counters().work_requests, 3u);
  EXPECT_EQ(ends_.near->counters().doorbells, 1u);
  EXPECT_EQ(Entries(*ends_.near), 1u);
  EXPECT_EQ(std::memcmp(local_.data(), remote_.data() + 1000, all.size), 0);
}

TEST_F(VerbsLane, ManyMoreItemsThanTheSendQueueHolds) {
  VerbsOptions options;
  options.queue_pair.send_depth = 4;
  options.receive_depth = 8;
  options.message_window = 2;
  Reopen(std::move(options));
  if (transport_ == nullptr) return;
  std::deque<CountingCompletion> reads(100), sends(100);
  std::vector<MutableSegment> segments;
  for (size_t i = 0; i < 100; ++i) segments.push_back(Local(i * 1000, 1000));
  std::vector<WorkItem> items;
  const std::string body(1000, 'm');
  for (size_t i = 0; i < 100; ++i) {
    items.push_back(Make(Op::kRead, i * 2000, {&segments[i], 1}, i % 3 == 0 ? nullptr : &reads[i]));
    WorkItem& message = items.emplace_back();
    message.message.request_id = i;
    message.message.body = AsBytes(body);
    message.completion = &sends[i];
  }
  ASSERT_TRUE(ends_.near->Post(items).ok());
  ASSERT_TRUE(
      Pump([&] { return sends.back().calls == 1 && ends_.far_receiver.messages.size() == 100; }));
  for (size_t i = 0; i < 100; ++i) {
    EXPECT_EQ(reads[i].calls, i % 3 == 0 ? 0 : 1);
    EXPECT_EQ(sends[i].calls, 1);
    EXPECT_EQ(ends_.far_receiver.messages[i].id, i);
    EXPECT_EQ(std::memcmp(local_.data() + i * 1000, remote_.data() + i * 2000, 1000), 0) << i;
  }
  EXPECT_EQ(ends_.near->counters().work_requests, 200u);
}

TEST_F(VerbsLane, RegionsOfManyChunksOnBothSides) {
  VerbsOptions options;
  options.registration_chunk_bytes = 2 << 20;
  Reopen(std::move(options));
  if (transport_ == nullptr) return;
  ASSERT_EQ(description_.chunks.size(), 2u);
  const MutableSegment parts[] = {Local((2 << 20) - 700, 1000), Local(0, 1 << 20)};
  CountingCompletion done;
  const WorkItem item = Make(Op::kRead, (2 << 20) - 300, parts, &done);
  ASSERT_TRUE(ends_.near->Post({&item, 1}).ok());
  ASSERT_TRUE(Pump([&] { return done.calls == 1; }));
  EXPECT_TRUE(done.last.ok()) << done.last.ToString();
  const std::byte* from = remote_.data() + (2 << 20) - 300;
  EXPECT_EQ(std::memcmp(local_.data() + (2 << 20) - 700, from, 1000), 0);
  EXPECT_EQ(std::memcmp(local_.data(), from + 1000, 1 << 20), 0);
}

TEST_F(VerbsLane, AWrongKeyBreaksTheLaneAndEachItemEndsOnce) {
  RemoteRegion wrong = description_;
  wrong.chunks[0].key ^= 0x100;
  const MutableSegment part = Local(0, 4096);
  std::deque<CountingCompletion> done(5);
  std::vector<WorkItem> items;
  for (size_t i = 0; i < 5; ++i) items.push_back(Make(Op::kRead, 0, {&part, 1}, &done[i]));
  items[2].remote = &wrong;
  ASSERT_TRUE(ends_.near->Post(items).ok());
  ASSERT_TRUE(Pump([&] { return ends_.near_receiver.closed == 1; }));
  for (size_t i = 0; i < 5; ++i) {
    EXPECT_EQ(done[i].calls, 1);
    EXPECT_EQ(done[i].last.code(), i < 2 ? Code::kOk : Code::kUnavailable);
  }
  EXPECT_NE(done[2].last.message().find("remote access error"), std::string::npos)
      << done[2].last.ToString();
  EXPECT_EQ(ends_.near->Post({&items[0], 1}).code(), Code::kUnavailable);
}

TEST_F(VerbsLane, OnlyWhatWasGrantedMayBeDone) {
  EXPECT_TRUE(local_region_->Describe().chunks.empty());
  const std::vector<std::byte> before = remote_;
  const MutableSegment part = Local(0, 4096);
  for (const auto& [access, op] :
       std::vector<std::pair<Access, Op>>{{kRemoteRead, Op::kWrite}, {kRemoteWrite, Op::kRead}}) {
    const auto region = *transport_->Register(remote_, access);
    const RemoteRegion described = region->Describe();
    CountingCompletion done;
    WorkItem item = Make(op, 0, {&part, 1}, &done);
    item.remote = &described;
    Ends ends;
    Join(ends);
    ASSERT_TRUE(ends.near->Post({&item, 1}).ok());
    ASSERT_TRUE(Pump([&] { return done.calls == 1; }, {&ends}));
    EXPECT_EQ(done.last.code(), Code::kUnavailable);
    EXPECT_TRUE(ends.near->closed());
  }
  EXPECT_EQ(remote_, before);
}

// The read waits behind a message for which the peer has no buffer, so that it is surely under way
// when Close comes; the buffers come back afterwards, and would let it go on.
TEST_F(VerbsLane, CloseLeavesMemoryAlone) {
  VerbsOptions options;
  options.receive_depth = 4;
  options.message_window = 4;
  options.goodbye_wait = Duration(0);
  Reopen(std::move(options));
  if (transport_ == nullptr) return;
  Ends closing;
  Join(closing);
  std::deque<CountingCompletion> held(4);
  ends_.far->PauseReceive(true);
  for (CountingCompletion& completion : held) {
    ASSERT_TRUE(PostMessage(*ends_.near, 1, "takes a buffer", &completion).ok());
  }
  ASSERT_TRUE(Pump([&] { return held.back().calls == 1; }));
  CountingCompletion sent, read;
  const MutableSegment all = Local(0, local_.size());
  const WorkItem item = Make(Op::kRead, 0, {&all, 1}, &read);
  ASSERT_TRUE(PostMessage(*closing.near, 1, "finds no buffer", &sent).ok());
  ASSERT_TRUE(closing.near->Post({&item, 1}).ok());
  const Instant before = MonotonicClock::Get().Now();
  closing.near->Close();
  EXPECT_LT(MonotonicClock::Get().Now() - before, std::chrono::seconds(1));
  std::fill(local_.begin(), local_.end(), std::byte{0x5a});
  for (const CountingCompletion* completion : {&sent, &read}) {
    EXPECT_EQ(completion->calls, 1);
    EXPECT_EQ(completion->last.code(), Code::kUnavailable);
  }
  EXPECT_EQ(closing.near_receiver.closed, 1);
  ends_.far->PauseReceive(false);
  const Instant end = MonotonicClock::Get().Now() + std::chrono::milliseconds(500);
  Pump([&] { return MonotonicClock::Get().Now() > end; });
  EXPECT_EQ(ends_.far_receiver.messages.size(), 4u);
  EXPECT_TRUE(std::all_of(local_.begin(), local_.end(), [](std::byte b) {
    return b == std::byte{0x5a};
  })) << "memory was written after Close";
  closing.near.reset();
  EXPECT_EQ(sent.calls + read.calls, 2);
}

// Two lanes on a shared receive queue of four buffers: a paused one holds them all, the other's
// peer finds none (RNR) and goes on when they come back.
TEST_F(VerbsLane, AReceiverWithoutBuffersIsSlowNotDead) {
  VerbsOptions options;
  options.receive_depth = 4;
  options.message_window = 4;
  Reopen(std::move(options));
  if (transport_ == nullptr) return;
  Ends other;
  Join(other);
  std::deque<CountingCompletion> done(20);
  ends_.far->PauseReceive(true);
  for (uint64_t i = 0; i < 10; ++i) {
    ASSERT_TRUE(PostMessage(*ends_.near, i, "to the paused one", &done[i]).ok());
  }
  ASSERT_TRUE(Pump([&] { return done[3].calls == 1; }, {&ends_, &other}));
  for (uint64_t i = 10; i < 20; ++i) {
    ASSERT_TRUE(PostMessage(*other.near, i, "to the other", &done[i]).ok());
  }
  const Instant pause_ends = MonotonicClock::Get().Now() + std::chrono::milliseconds(300);
  Pump([&] { return MonotonicClock::Get().Now() > pause_ends; }, {&ends_, &other});
  EXPECT_TRUE(ends_.far_receiver.messages.empty());
  EXPECT_TRUE(other.far_receiver.messages.empty()) << "there is no buffer left";
  EXPECT_EQ(done[4].calls, 0) << "beyond the window: not even sent";
  ends_.far->PauseReceive(false);
  ASSERT_TRUE(Pump(
      [&] {
        return ends_.far_receiver.messages.size() == 10 &&
               other.far_receiver.messages.size() == 10 &&
               std::all_of(done.begin(), done.end(), [](const auto& c) { return c.calls == 1; });
      },
      {&ends_, &other}));
}

TEST_F(VerbsLane, LongMessagesBothWaysAtOnce) {
  constexpr size_t kMessages = 300;
  std::deque<CountingCompletion> done(2 * kMessages + 1);
  ASSERT_TRUE(PostMessage(*ends_.near, 0, "first", &done.back()).ok());
  ASSERT_TRUE(Pump([&] { return ends_.far_receiver.messages.size() == 1; }));
  for (size_t i = 0; i < kMessages; ++i) {
    const std::string body(1 + i * 13 % 4096, static_cast<char>('a' + i % 26));
    ASSERT_TRUE(PostMessage(*ends_.near, i, body, &done[2 * i]).ok());
    ASSERT_TRUE(PostMessage(*ends_.far, i, body, &done[2 * i + 1]).ok());
  }
  ASSERT_TRUE(Pump([&] {
    return std::all_of(done.begin(), done.end(), [](const auto& c) { return c.calls == 1; }) &&
           ends_.near_receiver.messages.size() == kMessages &&
           ends_.far_receiver.messages.size() == kMessages + 1;
  }));
  for (size_t i = 0; i < kMessages; ++i) {
    const std::string body(1 + i * 13 % 4096, static_cast<char>('a' + i % 26));
    ASSERT_EQ(ends_.near_receiver.messages[i].body, body) << i;
    ASSERT_EQ(ends_.far_receiver.messages[i + 1].body, body) << i;
  }
}

// Each side sleeps in poll(2) and does nothing but what wakes it.
void SleepUntil(Connection& lane, const std::function<bool()>& done, std::atomic<int>& overslept) {
  while (!done() && overslept == 0) {
    pollfd p{lane.PollFd(), lane.PollEvents(), 0};
    if (poll(&p, 1, 10'000) == 0) ++overslept;
    lane.Progress();
  }
}

TEST_F(VerbsLane, SleepersAreWokenEveryTime) {
  constexpr size_t kRounds = 300;
  std::atomic<int> overslept{0};
  std::thread far([&] {
    std::deque<CountingCompletion> answered(kRounds);
    for (size_t i = 0; i < kRounds; ++i) {
      SleepUntil(
          *ends_.far, [&] { return ends_.far_receiver.messages.size() > i; }, overslept);
      if (overslept != 0 || !PostMessage(*ends_.far, i, "pong", &answered[i]).ok()) return;
    }
    SleepUntil(
        *ends_.far, [&] { return answered.back().calls == 1; }, overslept);
  });
  std::deque<CountingCompletion> asked(kRounds), read(kRounds);
  const MutableSegment part = Local(0, 8192);
  for (size_t i = 0; i < kRounds && overslept == 0; ++i) {
    const WorkItem item = Make(Op::kRead, i, {&part, 1}, &read[i]);
    EXPECT_TRUE(ends_.near->Post({&item, 1}).ok());
    SleepUntil(
        *ends_.near, [&] { return read[i].calls == 1; }, overslept);
    EXPECT_TRUE(PostMessage(*ends_.near, i, "ping", &asked[i]).ok());
    SleepUntil(
        *ends_.near, [&] { return ends_.near_receiver.messages.size() > i; }, overslept);
  }
  SleepUntil(
      *ends_.near, [&] { return asked.back().calls == 1; }, overslept);
  far.join();
  EXPECT_EQ(overslept, 0) << "a sleeper was not woken";
  EXPECT_EQ(ends_.near_receiver.messages.size(), kRounds);
}

TEST_F(VerbsLane, AnIdleSleeperIsLeftInPeace) {
  CountingCompletion done;
  ASSERT_TRUE(PostMessage(*ends_.near, 1, "x", &done).ok());
  ASSERT_TRUE(Pump([&] { return done.calls == 1 && ends_.far_receiver.messages.size() == 1; }));
  int woken = 0;
  const Instant end = MonotonicClock::Get().Now() + std::chrono::milliseconds(500);
  while (MonotonicClock::Get().Now() < end) {
    pollfd p{ends_.near->PollFd(), ends_.near->PollEvents(), 0};
    if (poll(&p, 1, 500) > 0) ++woken;
    ends_.near->Progress();
  }
  EXPECT_LE(woken, 40) << "PollFd stays readable with nothing behind it";
}

// A peer that speaks the handshake but not the protocol.
class VerbsStranger : public VerbsLane {
 protected:
  void SetUp() override {
    VerbsLane::SetUp();
    if (transport_ == nullptr) return;
    device_ = *Device::Open({});
    pool_ = *ReceivePool::Create(device_, 8);
    pair_ = *QueuePair::Create(device_, pool_, {});
    Handshake own;
    pair_->Describe(own);
    own.window = 4;
    own.tag = kTag;
    const auto answer = transport_->Answer("server", EncodeHandshake(own));
    ASSERT_TRUE(answer.ok());
    const auto peer = DecodeHandshake(*answer, Handshake::Kind::kAnswer);
    ASSERT_TRUE(peer.ok() && pair_->Join(own, *peer).ok());
    lane_ = acceptor_->Accept();
    ASSERT_NE(lane_, nullptr);
    lane_->Start(&receiver_);
  }
  void TearDown() override { lane_.reset(); }
  void Send(ByteSpan frame) {
    ASSERT_LE(frame.size(), pair_->max_inline());
    ibv_sge piece{reinterpret_cast<uintptr_t>(frame.data()), static_cast<uint32_t>(frame.size()),
                  0};
    ibv_send_wr request{}, *refused = nullptr;
    request.opcode = IBV_WR_SEND;
    request.sg_list = &piece;
    request.num_sge = 1;
    request.send_flags = IBV_SEND_INLINE | IBV_SEND_SIGNALED;
    ASSERT_EQ(pair_->PostSend(&request, &refused), 0);
  }
  static std::vector<std::byte> Frame(SessionTag tag, FrameKind kind, uint16_t body_bytes = 0,
                                      uint32_t consumed = 0) {
    std::vector<std::byte> frame(kMessageHeaderBytes + body_bytes);
    MessageHeader header;
    header.kind = kind;
    header.body_bytes = body_bytes;
    header.tag = tag;
    header.consumed = consumed;
    EncodeMessageHeader(header, frame);
    return frame;
  }
  void ExpectRefused() {
    const Instant end = MonotonicClock::Get().Now() + std::chrono::seconds(10);
    while (lane_->Progress() && MonotonicClock::Get().Now() < end) {
    }
    EXPECT_EQ(receiver_.closed, 1);
    EXPECT_EQ(receiver_.closed_why.code(), Code::kProtocolError) << receiver_.closed_why.ToString();
  }

  std::shared_ptr<Device> device_;
  std::shared_ptr<ReceivePool> pool_;
  std::unique_ptr<QueuePair> pair_;
  RecordingReceiver receiver_;
  std::unique_ptr<Connection> lane_;
};

TEST_F(VerbsStranger, GarbageClosesTheLane) {
  if (lane_ == nullptr) return;
  Send(RandomBytes(100, 3));
  ExpectRefused();
  EXPECT_TRUE(receiver_.messages.empty());
}

TEST_F(VerbsStranger, AnotherIncarnationClosesTheLane) {
  if (lane_ == nullptr) return;
  Send(Frame({kTag.session, kTag.incarnation + 1}, FrameKind::kMessage, 10));
  ExpectRefused();
  EXPECT_TRUE(receiver_.messages.empty());
}

TEST_F(VerbsStranger, ACreditForWhatWasNotSentClosesTheLane) {
  if (lane_ == nullptr) return;
  Send(Frame(kTag, FrameKind::kCredit, 0, 1));
  ExpectRefused();
}

TEST_F(VerbsStranger, ACreditWithoutNewsClosesTheLane) {
  if (lane_ == nullptr) return;
  Send(Frame(kTag, FrameKind::kCredit, 0, 0));
  ExpectRefused();
}

TEST_F(VerbsStranger, MoreMessagesThanGrantedCloseTheLane) {
  if (lane_ == nullptr) return;
  lane_->PauseReceive(true);
  for (int i = 0; i < 17; ++i) Send(Frame(kTag, FrameKind::kMessage, 10));
  ExpectRefused();
}

TEST_F(VerbsStranger, AnOfferThatIsNoneIsRefused) {
  if (lane_ == nullptr) return;
  EXPECT_EQ(transport_->Answer("server", "garbage").code(), Code::kProtocolError);
  EXPECT_EQ(transport_->Answer("nowhere", "garbage").code(), Code::kUnavailable);
  EXPECT_EQ(acceptor_->Accept(), nullptr);
}

TEST_F(VerbsLane, TheAcceptorWakesWhoeverPolls) {
  pollfd p{acceptor_->PollFd(), POLLIN, 0};
  EXPECT_EQ(poll(&p, 1, 0), 0);
  const auto near = *transport_->Connect("server", kTag, std::chrono::seconds(5));
  EXPECT_EQ(poll(&p, 1, 0), 1);
  EXPECT_NE(acceptor_->Accept(), nullptr);
  EXPECT_EQ(poll(&p, 1, 0), 0);
}

TEST_F(VerbsLane, OptionsBeyondTheDeviceAreRefused) {
  VerbsOptions options;
  options.queue_pair.send_depth = 1 << 30;
  const auto refused = VerbsTransport::Create(options);
  EXPECT_EQ(refused.code(), Code::kInvalidArgument);
  EXPECT_NE(refused.status().message().find("send depth"), std::string::npos);
}

}  // namespace
}  // namespace simm::transport
