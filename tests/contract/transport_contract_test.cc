// The contract of common/transport/transport.h, run on every transport of the shelf. A transport
// joins by a ShelfEntry; what it cannot do by its capabilities is not asked of it, everything else
// is.

#include "tests/contract/contract_fixture.h"

namespace simm::transport {
namespace {

class CarriesPayload : public TransportContract {};
class StreamsPayload : public TransportContract {};

TEST_P(TransportContract, NobodyWithACapabilityIsLeftOut) {
  EXPECT_EQ(shelf_->near().name(), GetParam());
  EXPECT_EQ(caps().one_sided, About().one_sided);
  EXPECT_EQ(caps().payload, About().payload);
  EXPECT_EQ(caps().max_message_bytes, limits::kMaxMessageBytes);
}

TEST_P(TransportContract, MessagesArriveInOrderBothWaysWithTheirIds) {
  std::deque<CountingCompletion> completions(200);
  if (far_->Tag().session == 0) {
    EXPECT_EQ(PostMessage(*far_, 1, "too early", &completions[0]).code(),
              Code::kFailedPrecondition);
  }
  for (uint64_t i = 0; i < 100; ++i) {
    ASSERT_TRUE(PostMessage(*near_, i, "to server " + std::to_string(i), &completions[i]).ok());
  }
  ASSERT_TRUE(Pump([&] { return !far_receiver_.messages.empty(); }));
  for (uint64_t i = 0; i < 100; ++i) {
    ASSERT_TRUE(
        PostMessage(*far_, 1000 + i, std::string(1 + i * 40, 'x'), &completions[100 + i]).ok());
  }
  ASSERT_TRUE(Pump([&] {
    return far_receiver_.messages.size() == 100 && near_receiver_.messages.size() == 100;
  }));
  for (uint64_t i = 0; i < 100; ++i) {
    EXPECT_EQ(far_receiver_.messages[i].id, i);
    EXPECT_EQ(far_receiver_.messages[i].body, "to server " + std::to_string(i));
    EXPECT_EQ(near_receiver_.messages[i].body.size(), 1 + i * 40);
  }
  ASSERT_TRUE(Pump([&] {
    return std::all_of(completions.begin(), completions.end(),
                       [](const auto& c) { return c.calls == 1; });
  }));
  EXPECT_EQ(seen_tag_.session, kTag.session);
}

TEST_P(TransportContract, OneDoorbellForABatchAndOneCompletionAnItem) {
  std::vector<WorkItem> items(5);
  std::deque<CountingCompletion> completions(5);
  const std::string body = "hello";
  for (size_t i = 0; i < items.size(); ++i) {
    items[i].message = {.request_id = i, .body = AsBytes(body), .payload = {}, .tap = nullptr};
    items[i].completion = &completions[i];
  }
  ASSERT_TRUE(near_->Post(items).ok());
  ASSERT_TRUE(Pump([&] { return far_receiver_.messages.size() == 5; }));
  ASSERT_TRUE(Pump([&] { return completions.back().calls == 1; }));
  EXPECT_EQ(near_->counters().doorbells, 1u);
  EXPECT_EQ(near_->counters().work_requests, 5u);
  for (const auto& c : completions) {
    EXPECT_EQ(c.calls, 1);
    EXPECT_TRUE(c.last.ok());
  }
}

TEST_P(TransportContract, UnsignalledItemsAreCoveredByTheNext) {
  std::vector<WorkItem> items(3);
  CountingCompletion last;
  const std::string body = "x";
  for (auto& item : items) item.message.body = AsBytes(body);
  EXPECT_EQ(near_->Post(items).code(), Code::kInvalidArgument) << "the last item must be signalled";
  items.back().completion = &last;
  ASSERT_TRUE(near_->Post(items).ok());
  ASSERT_TRUE(Pump([&] { return last.calls == 1 && far_receiver_.messages.size() == 3; }));
}

TEST_P(TransportContract, PostNeverCallsBackByItself) {
  CountingCompletion done;
  ASSERT_TRUE(PostMessage(*near_, 1, "x", &done).ok());
  EXPECT_EQ(done.calls, 0);
  ASSERT_TRUE(Pump([&] { return done.calls == 1; }));
}

TEST_P(TransportContract, TheBodyBelongsToTheCallerAfterPost) {
  CountingCompletion done;
  std::string body = "original";
  ASSERT_TRUE(PostMessage(*near_, 1, body, &done).ok());
  body = "scribble";
  ASSERT_TRUE(Pump([&] { return far_receiver_.messages.size() == 1 && done.calls == 1; }));
  EXPECT_EQ(far_receiver_.messages[0].body, "original");
}

TEST_P(TransportContract, RefusesWhatItCannotDoWithoutTakingAnything) {
  CountingCompletion done;
  EXPECT_EQ(PostMessage(*near_, 1, std::string(limits::kMaxMessageBytes + 1, 'x'), &done).code(),
            Code::kInvalidArgument);
  EXPECT_EQ(PostMessage(*near_, 1, "", &done).code(), Code::kInvalidArgument);
  if (!caps().payload) {
    const std::byte byte{1};
    EXPECT_EQ(PostMessage(*near_, 1, "x", &done, {{&byte, 1, nullptr}}).code(),
              Code::kInvalidArgument);
  }
  if (!caps().one_sided) {
    WorkItem read;
    read.op = Op::kRead;
    read.completion = &done;
    EXPECT_EQ(near_->Post({&read, 1}).code(), Code::kInvalidArgument);
  }
  EXPECT_EQ(near_->counters().work_requests, 0u);
  ASSERT_TRUE(PostMessage(*near_, 2, "y", &done).ok());
  ASSERT_TRUE(Pump([&] { return done.calls == 1; }));
  EXPECT_EQ(done.calls, 1);
}

TEST_P(CarriesPayload, PayloadLandsWhereTheReceiverSaysAndTheTrailerProvesIt) {
  for (const size_t size :
       {size_t{0}, size_t{1}, size_t{63}, size_t{4096}, size_t{300'000}, size_t{5'000'001}}) {
    const auto bytes = RandomBytes(size, size);
    std::vector<std::byte> head(100), rest(size > 100 ? size - 100 : 0);
    far_receiver_.target = {};
    far_receiver_.target.segments[0] = {head.data(), std::min<size_t>(100, size), nullptr};
    far_receiver_.target.segments[1] = {rest.data(), rest.size(), nullptr};
    far_receiver_.target.count = 2;
    HashTap tap;
    CountingCompletion done;
    const size_t before = far_receiver_.messages.size();
    ASSERT_TRUE(PostMessage(*near_, size, "payload follows", &done,
                            {{bytes.data(), size / 3, nullptr},
                             {bytes.data() + size / 3, size - size / 3, nullptr}},
                            &tap)
                    .ok());
    ASSERT_TRUE(Pump([&] {
      return far_receiver_.messages.size() == before + 1 &&
             far_receiver_.messages.back().complete && done.calls == 1;
    }));
    std::vector<std::byte> got(head.begin(),
                               head.begin() + static_cast<long>(std::min<size_t>(100, size)));
    got.insert(got.end(), rest.begin(), rest.end());
    EXPECT_EQ(got, bytes) << size;
    EXPECT_EQ(far_receiver_.landed, bytes) << "OnPayload shows every byte once, in order";
    EXPECT_EQ(far_receiver_.messages.back().payload_bytes, size);
    ASSERT_TRUE(far_receiver_.messages.back().trailer.has_value());
    EXPECT_EQ(*far_receiver_.messages.back().trailer, Xxh3_64(bytes));
  }
}

TEST_P(CarriesPayload, PayloadBeyondTheTargetIsDiscardedAndTheStreamStaysWhole) {
  const auto bytes = RandomBytes(1'000'000, 9);
  std::vector<std::byte> kept(1000, std::byte{0xee});
  far_receiver_.target.segments[0] = {kept.data(), 900, nullptr};
  far_receiver_.target.count = 1;
  CountingCompletion done;
  ASSERT_TRUE(PostMessage(*near_, 1, "a", &done, {{bytes.data(), bytes.size(), nullptr}}).ok());
  ASSERT_TRUE(PostMessage(*near_, 2, "b", &done).ok());
  ASSERT_TRUE(Pump(
      [&] { return far_receiver_.messages.size() == 2 && far_receiver_.messages[1].complete; }));
  EXPECT_TRUE(std::equal(kept.begin(), kept.begin() + 900, bytes.begin()));
  EXPECT_EQ(kept[900], std::byte{0xee});
  EXPECT_EQ(far_receiver_.messages[1].body, "b");
}

TEST_P(StreamsPayload, DiscardPayloadGivesTheMemoryBackInMidMessage) {
  const auto bytes = RandomBytes(20'000'000, 10);
  std::vector<std::byte> target(bytes.size());
  far_receiver_.target.segments[0] = {target.data(), target.size(), nullptr};
  far_receiver_.target.count = 1;
  CountingCompletion done;
  ASSERT_TRUE(PostMessage(*near_, 1, "a", &done, {{bytes.data(), bytes.size(), nullptr}}).ok());
  ASSERT_TRUE(Pump([&] { return far_receiver_.landed.size() > 1000; }));
  ASSERT_FALSE(far_receiver_.messages[0].complete);
  far_->DiscardPayload();
  std::fill(target.begin(), target.end(), std::byte{0x5a});
  ASSERT_TRUE(PostMessage(*near_, 2, "b", &done).ok());
  ASSERT_TRUE(Pump(
      [&] { return far_receiver_.messages.size() == 2 && far_receiver_.messages[1].complete; }));
  EXPECT_TRUE(std::all_of(target.begin(), target.end(), [](std::byte b) {
    return b == std::byte{0x5a};
  })) << "taken back memory was written";
}

TEST_P(TransportContract, APausedReceiverBeginsNoMessage) {
  CountingCompletion done;
  far_->PauseReceive(true);
  ASSERT_TRUE(PostMessage(*near_, 1, "a", &done).ok());
  for (int i = 0; i < 200; ++i) {
    near_->Progress();
    far_->Progress();
  }
  EXPECT_TRUE(far_receiver_.messages.empty());
  far_->PauseReceive(false);
  ASSERT_TRUE(Pump([&] { return far_receiver_.messages.size() == 1 && done.calls == 1; }));
}

TEST_P(TransportContract, PausingWithinAMessageStopsTheNextOne) {
  CountingCompletion done;
  far_receiver_.on_end = [&] { far_->PauseReceive(true); };
  ASSERT_TRUE(PostMessage(*near_, 1, "a", &done).ok());
  ASSERT_TRUE(PostMessage(*near_, 2, "b", &done).ok());
  ASSERT_TRUE(Pump([&] { return !far_receiver_.messages.empty(); }));
  for (int i = 0; i < 200; ++i) {
    near_->Progress();
    far_->Progress();
  }
  EXPECT_EQ(far_receiver_.messages.size(), 1u);
  far_->PauseReceive(false);
  ASSERT_TRUE(Pump([&] { return far_receiver_.messages.size() == 2 && done.calls == 2; }));
}

TEST_P(TransportContract, WhenThePeerGoesEachItemCompletesOnceAndClosedComesOnce) {
  const auto bytes = RandomBytes(30'000'000, 11);
  std::deque<CountingCompletion> completions(4);
  for (auto& c : completions) {
    ASSERT_TRUE(PostMessage(*near_, 1, "x", &c,
                            caps().payload
                                ? std::vector<ConstSegment>{{bytes.data(), bytes.size(), nullptr}}
                                : std::vector<ConstSegment>{})
                    .ok());
  }
  near_->Progress();
  far_->Progress();
  far_.reset();
  ASSERT_TRUE(Pump([&] { return near_receiver_.closed == 1; }));
  EXPECT_EQ(near_receiver_.closed_why.code(), Code::kUnavailable);
  EXPECT_TRUE(near_->closed());
  EXPECT_FALSE(near_->Progress());
  for (const auto& c : completions) EXPECT_EQ(c.calls, 1);
  CountingCompletion after;
  EXPECT_EQ(PostMessage(*near_, 9, "x", &after).code(), Code::kUnavailable);
  near_->Close();
  EXPECT_EQ(near_receiver_.closed, 1);
  EXPECT_EQ(after.calls, 0);
}

TEST_P(TransportContract, CloseCompletesWhatIsUnderWay) {
  CountingCompletion done;
  ASSERT_TRUE(PostMessage(*near_, 1, "x", &done).ok());
  near_->Close();
  EXPECT_EQ(done.calls, 1);
  EXPECT_EQ(done.last.code(), Code::kUnavailable);
  EXPECT_EQ(near_receiver_.closed, 1);
  ASSERT_TRUE(Pump([&] { return far_receiver_.closed == 1; }));
}

TEST_P(TransportContract, ARefusedSessionIsClosedBeforeItsFirstMessage) {
  const bool known_at_once = far_->Tag().session != 0;
  check_ = Status(Code::kUnavailable, "unknown session");
  if (known_at_once) {  // the peer spoke when it connected: it is refused there
    Join();
    EXPECT_EQ(joined_.code(), Code::kUnavailable);
    EXPECT_NE(joined_.message().find("unknown session"), std::string::npos);
    EXPECT_EQ(far_, nullptr);
    return;
  }
  CountingCompletion done;
  ASSERT_TRUE(PostMessage(*near_, 1, "x", &done).ok());
  ASSERT_TRUE(Pump([&] { return far_receiver_.closed == 1 && near_receiver_.closed == 1; }));
  EXPECT_TRUE(far_receiver_.messages.empty());
}

TEST_P(TransportContract, NobodyThereIsUnavailableAndATakenEndpointNamesItsFlag) {
  const std::string address = acceptor_->Address();
  const auto second =
      shelf_->far().Listen(address, "--data-listen", [](const SessionTag&) { return Status(); });
  ASSERT_FALSE(second.ok());
  EXPECT_NE(second.status().message().find("--data-listen"), std::string::npos);
  EXPECT_NE(second.status().message().find(address), std::string::npos);
  acceptor_.reset();
  EXPECT_EQ(shelf_->near().Connect(address, kTag, std::chrono::seconds(1)).code(),
            Code::kUnavailable);
}

TEST_P(TransportContract, RegistrationRefusesNothing) {
  EXPECT_EQ(shelf_->near().Register({}, kLocalOnly).code(), Code::kInvalidArgument);
  std::vector<std::byte> memory(4096);
  auto region = shelf_->near().Register(memory, kLocalOnly);
  ASSERT_TRUE(region.ok());
  EXPECT_EQ((*region)->memory().data(), memory.data());
}

TEST_P(TransportContract, WhoeverPollsIsWokenForEveryCompletionAndMessage) {
  if (near_->PollFd() < 0) return;  // nothing to poll, by contract
  CountingCompletion done;
  ASSERT_TRUE(PostMessage(*near_, 1, "x", &done).ok());
  const Instant end = MonotonicClock::Get().Now() + std::chrono::seconds(10);
  while (done.calls == 0 || far_receiver_.messages.empty()) {
    ASSERT_LT(MonotonicClock::Get().Now(), end);
    pollfd fds[] = {{near_->PollFd(), near_->PollEvents(), 0},
                    {far_->PollFd(), far_->PollEvents(), 0}};
    ASSERT_GT(poll(fds, 2, 5000), 0) << "asleep with work to do";
    if (fds[0].revents != 0) near_->Progress();
    if (fds[1].revents != 0) far_->Progress();
  }
}

// Which suites a transport takes part in follows from what its ShelfEntry says; the first test of
// each checks that.
const auto kName = [](const auto& param) { return param.param; };
const auto kAny = [](const ShelfEntry::About&) { return true; };
const auto kPayload = [](const ShelfEntry::About& about) { return about.payload; };
const auto kStreams = [](const ShelfEntry::About& about) { return about.streams_payload; };
INSTANTIATE_TEST_SUITE_P(Shelf, TransportContract, testing::ValuesIn(ShelfEntry::Names(kAny)),
                         kName);
INSTANTIATE_TEST_SUITE_P(Shelf, CarriesPayload, testing::ValuesIn(ShelfEntry::Names(kPayload)),
                         kName);
INSTANTIATE_TEST_SUITE_P(Shelf, StreamsPayload, testing::ValuesIn(ShelfEntry::Names(kStreams)),
                         kName);

}  // namespace
}  // namespace simm::transport
