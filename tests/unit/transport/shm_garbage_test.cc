// What arrives on the socket of shared memory need not come from a client of ours, and what answers
// need not be a server.

#include "common/base/random.h"
#include "tests/unit/transport/shm_fixture.h"

namespace simm::transport {
namespace {

class ShmGarbage : public testing::Test {
 protected:
  // A client that says hello by hand; the server's end is far_.
  Descriptor Greeted() {
    Descriptor fd = RawClient(server_.endpoint);
    EXPECT_EQ(SendPacket(fd.get(), PacketOf(PacketKind::kHello, 0), {}, {}),
              static_cast<ssize_t>(kPacketHeaderBytes));
    far_ = server_.AcceptOne(&receiver_);
    return fd;
  }
  void ExpectProtocolError() {
    ASSERT_TRUE(Until([&] { return !far_->Progress(); }));
    ASSERT_TRUE(receiver_.why.has_value());
    EXPECT_EQ(receiver_.why->code(), Code::kProtocolError);
    EXPECT_TRUE(receiver_.bodies.empty());
  }

  ShmServer server_{UniqueName("@simm-shm-garbage-")};
  CollectingReceiver receiver_;
  std::unique_ptr<Connection> far_;
};

TEST_F(ShmGarbage, GarbageInsteadOfAHelloIsRefusedAndNobodyElseIsHeldUp) {
  const size_t before = OpenDescriptors();
  {
    std::vector<Descriptor> others;
    Random random(5);
    for (int i = 0; i < 40; ++i) {
      others.push_back(RawClient(server_.endpoint));
      std::vector<std::byte> noise(1 + random.Below(100));
      for (auto& b : noise) b = static_cast<std::byte>(random());
      if (i % 2 == 0) (void)SendPacket(others.back().get(), noise, {}, {});
    }
    ShmTransport client;
    ShmLane lane(server_, client);
    EXPECT_NE(lane.near, nullptr) << "held up by those that say nothing";
  }
  ASSERT_TRUE(Until([&] {
    EXPECT_EQ(server_.acceptor->Accept(), nullptr);
    return OpenDescriptors() == before;
  }));
}

TEST_F(ShmGarbage, WhoeverSaysNothingIsBoundedInNumberAndTime) {
  const size_t before = OpenDescriptors();
  std::vector<Descriptor> silent;
  for (int i = 0; i < 100; ++i) {
    silent.push_back(RawClient(server_.endpoint));
    EXPECT_EQ(server_.acceptor->Accept(), nullptr);
  }
  // Each silent one costs the server a socket and a pidfd.
  EXPECT_LE(OpenDescriptors(), before + 100 + 2 * 64);
  while (OpenDescriptors() > before + 100) {
    pollfd p{server_.acceptor->PollFd(), POLLIN, 0};
    ASSERT_EQ(poll(&p, 1, 5000), 1) << "the owner is not woken when their time is up";
    EXPECT_EQ(server_.acceptor->Accept(), nullptr);
  }
  pollfd p{server_.acceptor->PollFd(), POLLIN, 0};
  EXPECT_EQ(poll(&p, 1, 0), 0) << "awake without work";
}

TEST_F(ShmGarbage, AHelloInTwoHalvesIsNoHello) {
  const Descriptor fd = RawClient(server_.endpoint);
  const auto hello = PacketOf(PacketKind::kHello, 0);
  ASSERT_GT(SendPacket(fd.get(), ByteSpan(hello).first(16), {}, {}), 0);
  (void)SendPacket(fd.get(), ByteSpan(hello).subspan(16), {}, {});
  EXPECT_EQ(server_.acceptor->Accept(), nullptr);
  EXPECT_EQ(server_.acceptor->Accept(), nullptr);
}

TEST_F(ShmGarbage, PacketsThatLieAboutTheirLengthCloseTheLane) {
  for (const size_t sent : {size_t{0}, size_t{4}, size_t{6}, size_t{5000}}) {
    receiver_ = {};
    const Descriptor fd = Greeted();
    const std::vector<std::byte> body(sent);
    ASSERT_GT(SendPacket(fd.get(), PacketOf(PacketKind::kMessage, 5), body, {}), 0);
    ExpectProtocolError();
  }
}

TEST_F(ShmGarbage, PacketsOfAnotherSessionOrKindCloseTheLane) {
  for (const auto& header : {PacketOf(PacketKind::kMessage, 1, {.session = 10, .incarnation = 4}),
                             PacketOf(PacketKind::kMessage, 1, {.session = 9, .incarnation = 5}),
                             PacketOf(PacketKind::kHello, 1), PacketOf(PacketKind::kWelcome, 1),
                             PacketOf(static_cast<PacketKind>(77), 1)}) {
    receiver_ = {};
    const Descriptor fd = Greeted();
    const std::byte body{1};
    ASSERT_GT(SendPacket(fd.get(), header, {&body, 1}, {}), 0);
    ExpectProtocolError();
  }
}

TEST_F(ShmGarbage, DescriptorsFromAPeerNeverStay) {
  const Descriptor gift(dup(0));
  {
    const size_t before = OpenDescriptors();
    const int gifts[] = {gift.get(), gift.get(), gift.get()};
    const Descriptor fd = RawClient(server_.endpoint);
    ASSERT_GT(SendPacket(fd.get(), PacketOf(PacketKind::kHello, 0), {}, gifts), 0);
    EXPECT_EQ(server_.acceptor->Accept(), nullptr);
    EXPECT_EQ(OpenDescriptors(), before + 1);
  }
  const Descriptor fd = Greeted();
  const size_t before = OpenDescriptors();
  const int gifts[] = {gift.get()};
  const std::byte body{1};
  ASSERT_GT(SendPacket(fd.get(), PacketOf(PacketKind::kMessage, 1), {&body, 1}, gifts), 0);
  ExpectProtocolError();
  EXPECT_EQ(OpenDescriptors(), before - 1) << "the lane's own socket, and nothing else";
}

TEST_F(ShmGarbage, LanesThatComeAndGoLeaveNoDescriptor) {
  ShmTransport client;
  { ShmLane lane(server_, client); }
  const size_t before = OpenDescriptors();
  for (int i = 0; i < 20; ++i) ShmLane lane(server_, client);
  EXPECT_EQ(OpenDescriptors(), before);
}

// A server by hand, that answers one hello with `welcome` and one file of 4096 bytes.
Status ConnectTo(const Welcome& welcome, size_t files) {
  const std::string endpoint = UniqueName("@simm-shm-fake-");
  const auto address = ParseUnixAddress(endpoint);
  const Descriptor listener(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  EXPECT_EQ(bind(listener.get(), address->get(), address->length), 0);
  EXPECT_EQ(listen(listener.get(), 1), 0);
  ShmTransport client;
  Status status;
  std::thread connecting(
      [&] { status = client.Connect(endpoint, kShmTag, std::chrono::seconds(5)).status(); });
  const Descriptor lane(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  const Descriptor file(memfd_create("fake", MFD_CLOEXEC));
  EXPECT_EQ(ftruncate(file.get(), 4096), 0);
  const std::vector<int> fds(files, file.get());
  const auto body = EncodeWelcome(welcome);
  EXPECT_GT(SendPacket(lane.get(), PacketOf(PacketKind::kWelcome, body.size()), body, fds), 0);
  connecting.join();
  return status;
}

TEST_F(ShmGarbage, WhatAServerSaysOfItsFilesIsChecked) {
  const size_t before = OpenDescriptors();
  const auto region = [](uint64_t offset, uint64_t length, uint32_t file, uint8_t access) {
    return Welcome{{1, 2}, 1, {{7, offset, length, file, access}}};
  };
  EXPECT_TRUE(ConnectTo(region(0, 4096, 0, kRemoteRead), 1).ok());
  for (const Welcome& bad :
       {region(0, 4097, 0, kRemoteRead), region(4096, 1, 0, kRemoteRead),
        region(UINT64_MAX, 2, 0, kRemoteRead), region(1, UINT64_MAX, 0, kRemoteRead),
        region(0, 4096, 1, kRemoteRead), region(0, 4096, 0, 4), region(0, 4096, 0, 0),
        region(0, 0, 0, kRemoteRead)}) {
    EXPECT_EQ(ConnectTo(bad, 1).code(), Code::kProtocolError);
  }
  EXPECT_EQ(ConnectTo(region(0, 4096, 0, kRemoteRead), 0).code(), Code::kProtocolError);
  EXPECT_EQ(ConnectTo(region(0, 4096, 0, kRemoteRead), 3).code(), Code::kProtocolError);
  EXPECT_EQ(OpenDescriptors(), before);
}

TEST(ShmConnect, AServerThatDoesNotAnswerCostsTheTimeoutAndNoMore) {
  const std::string endpoint = UniqueName("@simm-shm-mute-");
  const auto address = ParseUnixAddress(endpoint);
  const Descriptor listener(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  ASSERT_EQ(bind(listener.get(), address->get(), address->length), 0);
  ASSERT_EQ(listen(listener.get(), 0), 0);
  ShmTransport client;
  for (int i = 0; i < 4; ++i) {  // the later ones find the queue full
    const Instant start = MonotonicClock::Get().Now();
    EXPECT_EQ(client.Connect(endpoint, kShmTag, std::chrono::milliseconds(50)).code(),
              Code::kUnavailable);
    EXPECT_LT(MonotonicClock::Get().Now() - start, std::chrono::seconds(2));
  }
  EXPECT_EQ(client.Connect("", kShmTag, std::chrono::seconds(1)).code(), Code::kInvalidArgument);
  EXPECT_EQ(client.Connect(std::string(200, 'x'), kShmTag, std::chrono::seconds(1)).code(),
            Code::kInvalidArgument);
}

}  // namespace
}  // namespace simm::transport
