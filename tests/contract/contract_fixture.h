#pragma once

#include <gtest/gtest.h>
#include <poll.h>

#include <deque>
#include <functional>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "common/base/hash.h"
#include "common/base/limits.h"
#include "common/base/random.h"
#include "common/transport/sim/sim_transport.h"
#include "common/transport/tcp/tcp_transport.h"
#include "common/transport/transport.h"

namespace simm::transport {

inline constexpr SessionTag kTag = {.session = 77, .incarnation = 3};

struct Arrived {
  uint64_t id = 0;
  std::string body;
  uint64_t payload_bytes = 0;
  std::optional<uint64_t> trailer;
  bool complete = false;
};

// Records everything; lends `target` to the payload of each message.
class RecordingReceiver : public Receiver {
 public:
  PayloadTarget OnMessage(uint64_t id, ByteSpan body, uint64_t payload_bytes) override {
    EXPECT_TRUE(messages.empty() || messages.back().complete)
        << "a message begins before the last has ended";
    messages.push_back({id, std::string(AsText(body)), payload_bytes, std::nullopt, false});
    landed.clear();
    return target;
  }
  void OnPayload(ByteSpan bytes) override {
    landed.insert(landed.end(), bytes.begin(), bytes.end());
  }
  void OnMessageEnd(uint64_t id, std::optional<uint64_t> trailer) override {
    ASSERT_FALSE(messages.empty());
    EXPECT_EQ(messages.back().id, id);
    messages.back().trailer = trailer;
    messages.back().complete = true;
    if (on_end) on_end();
  }
  void OnClosed(const Status& why) override {
    ++closed;
    closed_why = why;
  }

  std::vector<Arrived> messages;
  std::vector<std::byte> landed;  // of the newest message, in the order of OnPayload
  PayloadTarget target;
  std::function<void()> on_end;
  int closed = 0;
  Status closed_why;
};

class CountingCompletion : public Completion {
 public:
  void OnComplete(const Status& status) override {
    ++calls;
    last = status;
  }
  int calls = 0;
  Status last;
};

class HashTap : public PayloadTap {
 public:
  void OnBytes(ByteSpan bytes) override { stream.Update(bytes); }
  uint64_t Trailer() override { return stream.Digest(); }
  Xxh3Stream stream;
};

struct Shelf {
  std::unique_ptr<SimNetwork> network;
  std::unique_ptr<Transport> transport;
  std::string listen;
};

class TransportContract : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (GetParam() == "sim") {
      shelf_.network = std::make_unique<SimNetwork>(42);
      shelf_.transport = std::make_unique<SimTransport>(*shelf_.network);
      shelf_.listen = "server";
    } else {
      shelf_.transport = std::make_unique<TcpTransport>();
      shelf_.listen = "127.0.0.1:0";
    }
    auto acceptor =
        shelf_.transport->Listen(shelf_.listen, "--data-listen", [this](const SessionTag& tag) {
          seen_tag_ = tag;
          return check_;
        });
    ASSERT_TRUE(acceptor.ok()) << acceptor.status().ToString();
    acceptor_ = std::move(*acceptor);
    Join();
  }

  void Join() {
    auto near = shelf_.transport->Connect(acceptor_->Address(), kTag, std::chrono::seconds(5));
    ASSERT_TRUE(near.ok()) << near.status().ToString();
    near_ = std::move(*near);
    near_->Start(&near_receiver_);
    const Instant end = MonotonicClock::Get().Now() + std::chrono::seconds(5);
    while ((far_ = acceptor_->Accept()) == nullptr && MonotonicClock::Get().Now() < end) {
    }
    ASSERT_NE(far_, nullptr);
    far_->Start(&far_receiver_);
  }

  // Drives both ends until `done` or 10 s are over.
  bool Pump(const std::function<bool()>& done) {
    const Instant end = MonotonicClock::Get().Now() + std::chrono::seconds(10);
    while (!done()) {
      if (MonotonicClock::Get().Now() > end) return false;
      if (near_) near_->Progress();
      if (far_) far_->Progress();
    }
    return true;
  }

  const Capabilities& caps() const { return shelf_.transport->capabilities(); }

  Status PostMessage(Connection& c, uint64_t id, const std::string& body, Completion* completion,
                     std::vector<ConstSegment> payload = {}, PayloadTap* tap = nullptr) {
    WorkItem item;
    item.message = {.request_id = id, .body = AsBytes(body), .payload = payload, .tap = tap};
    item.completion = completion;
    return c.Post({&item, 1});
  }

  Shelf shelf_;
  Status check_;
  SessionTag seen_tag_;
  std::unique_ptr<Acceptor> acceptor_;
  RecordingReceiver near_receiver_, far_receiver_;
  std::unique_ptr<Connection> near_, far_;
};

inline std::vector<std::byte> RandomBytes(size_t n, uint64_t seed) {
  Random random(seed);
  std::vector<std::byte> bytes(n);
  for (auto& b : bytes) b = static_cast<std::byte>(random());
  return bytes;
}

}  // namespace simm::transport
