// What arrives on a tcp port need not come from a client of ours.

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <functional>

#include "common/base/hash.h"
#include "common/base/random.h"
#include "common/transport/address.h"
#include "common/transport/tcp/frame.h"
#include "common/transport/tcp/tcp_transport.h"

namespace simm::transport {
namespace {

class CountingReceiver : public Receiver {
 public:
  PayloadTarget OnMessage(uint64_t, ByteSpan, uint64_t) override {
    ++begun;
    return {};
  }
  void OnMessageEnd(uint64_t, std::optional<uint64_t>) override { ++ended; }
  void OnClosed(const Status& status) override { why = status; }
  int begun = 0, ended = 0;
  std::optional<Status> why;
};

class TcpGarbage : public testing::Test {
 protected:
  void SetUp() override {
    acceptor_ = std::move(*transport_.Listen("127.0.0.1:0", "--data-listen",
                                             [](const SessionTag&) { return Status(); }));
    const auto address = Resolve(*ParseHostPort(acceptor_->Address()));
    fd_ = socket(AF_INET, SOCK_STREAM, 0);
    ASSERT_EQ(connect(fd_, reinterpret_cast<const sockaddr*>(&address->storage), address->length),
              0);
    while ((connection_ = acceptor_->Accept()) == nullptr) {
    }
    connection_->Start(&receiver_);
  }
  void TearDown() override {
    if (fd_ >= 0) close(fd_);
  }
  void Send(ByteSpan bytes) {
    ASSERT_EQ(write(fd_, bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
  }
  bool PumpUntil(const std::function<bool()>& done) {
    const Instant end = MonotonicClock::Get().Now() + std::chrono::seconds(5);
    while (!done() && MonotonicClock::Get().Now() < end) connection_->Progress();
    return done();
  }
  static std::vector<std::byte> Frame(std::string_view body, uint64_t payload_bytes, bool trailer) {
    FrameHeaderBytes header;
    EncodeFrameHeader({.body_bytes = static_cast<uint16_t>(body.size()),
                       .has_trailer = trailer,
                       .request_id = 1,
                       .session = 5,
                       .incarnation = 1,
                       .payload_bytes = payload_bytes,
                       .body_crc = Crc32c(AsBytes(body))},
                      header);
    std::vector<std::byte> frame(header.begin(), header.end());
    frame.insert(frame.end(), AsBytes(body).begin(), AsBytes(body).end());
    return frame;
  }

  TcpTransport transport_;
  std::unique_ptr<Acceptor> acceptor_;
  CountingReceiver receiver_;  // outlives the connection
  std::unique_ptr<Connection> connection_;
  int fd_ = -1;
};

TEST_F(TcpGarbage, NoiseClosesTheConnectionAndNothingElse) {
  Random random(3);
  std::vector<std::byte> noise(100'000);
  for (auto& b : noise) b = static_cast<std::byte>(random());
  Send(ByteSpan(noise).first(1000));
  ASSERT_TRUE(PumpUntil([&] { return receiver_.why.has_value(); }));
  EXPECT_EQ(receiver_.why->code(), Code::kProtocolError);
  EXPECT_EQ(receiver_.begun, 0);
}

TEST_F(TcpGarbage, AnHttpRequestIsRefused) {
  Send(AsBytes("GET / HTTP/1.1\r\nHost: localhost\r\nUser-Agent: a browser\r\n\r\n"));
  ASSERT_TRUE(PumpUntil([&] { return receiver_.why.has_value(); }));
  EXPECT_EQ(receiver_.why->code(), Code::kProtocolError);
}

TEST_F(TcpGarbage, AFrameByteByByteIsOneMessage) {
  const auto frame = Frame("hello", 0, false);
  for (const std::byte b : frame) {
    Send({&b, 1});
    connection_->Progress();
  }
  EXPECT_TRUE(PumpUntil([&] { return receiver_.ended == 1; }));
  EXPECT_FALSE(receiver_.why.has_value());
}

TEST_F(TcpGarbage, HalfAFrameThenTheEndIsNoMessage) {
  const auto frame = Frame("hello", 1000, true);
  Send(ByteSpan(frame).first(frame.size() - 2));
  close(fd_);
  fd_ = -1;
  ASSERT_TRUE(PumpUntil([&] { return receiver_.why.has_value(); }));
  EXPECT_EQ(receiver_.begun, 0);
}

TEST_F(TcpGarbage, ADamagedBodyIsRefusedBeforeAnybodySeesIt) {
  auto frame = Frame("hello", 0, false);
  frame.back() ^= std::byte{1};
  Send(frame);
  ASSERT_TRUE(PumpUntil([&] { return receiver_.why.has_value(); }));
  EXPECT_EQ(receiver_.why->code(), Code::kProtocolError);
  EXPECT_EQ(receiver_.begun, 0);
}

TEST_F(TcpGarbage, AFrameOfAnotherSessionClosesTheLane) {
  Send(Frame("one", 0, false));
  ASSERT_TRUE(PumpUntil([&] { return receiver_.ended == 1; }));
  FrameHeaderBytes other;
  EncodeFrameHeader({.body_bytes = 3,
                     .has_trailer = false,
                     .request_id = 2,
                     .session = 6,
                     .incarnation = 1,
                     .payload_bytes = 0,
                     .body_crc = Crc32c(AsBytes("two"))},
                    other);
  Send(other);
  Send(AsBytes("two"));
  ASSERT_TRUE(PumpUntil([&] { return receiver_.why.has_value(); }));
  EXPECT_EQ(receiver_.ended, 1);
}

}  // namespace
}  // namespace simm::transport
