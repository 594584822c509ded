#pragma once

#include <gtest/gtest.h>
#include <poll.h>

#include <atomic>
#include <cstdlib>
#include <deque>
#include <functional>
#include <memory>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "common/base/hash.h"
#include "common/base/limits.h"
#include "common/base/random.h"
#include "common/transport/transport.h"
#include "tests/contract/shelf.h"

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

class TransportContract : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    auto shelf = About().make();
    if (!shelf.ok()) {
      const char* const required = std::getenv("SIMM_REQUIRE_TRANSPORTS");
      const std::string list = "," + std::string(required != nullptr ? required : "") + ",";
      ASSERT_EQ(list.find("," + GetParam() + ","), std::string::npos) << shelf.status().ToString();
      GTEST_SKIP() << "NOT TESTED, " << GetParam() << ": " << shelf.status().ToString();
    }
    shelf_ = std::move(*shelf);
    Prepare();
    auto acceptor =
        shelf_->far().Listen(shelf_->endpoint(), "--data-listen", [this](const SessionTag& tag) {
          seen_tag_ = tag;
          return check_;
        });
    ASSERT_TRUE(acceptor.ok()) << acceptor.status().ToString();
    acceptor_ = std::move(*acceptor);
    Join();
    ASSERT_NE(far_, nullptr);
  }
  // What must be there before peers come: regions are known to lanes that are made after them.
  virtual void Prepare() {}

  // A new lane in place of the old one. Without one afterwards, joined_ says why.
  void Join() {
    near_.reset();
    far_.reset();
    std::atomic<bool> over{false};
    Result<std::unique_ptr<Connection>> near = Status(Code::kInternal, "not tried");
    const auto connect = [&] {
      near = shelf_->near().Connect(acceptor_->Address(), kTag, std::chrono::seconds(5));
      over = true;
    };
    std::thread connecting;
    if (shelf_->connect_waits_for_accept()) {
      connecting = std::thread(connect);
    } else {
      connect();
    }
    const Instant end = MonotonicClock::Get().Now() + std::chrono::seconds(5);
    while (far_ == nullptr && MonotonicClock::Get().Now() < end) {
      const bool last = over && (!near.ok() || shelf_->connect_waits_for_accept());
      far_ = acceptor_->Accept();
      if (last) break;
    }
    if (connecting.joinable()) connecting.join();
    joined_ = near.status();
    if (!near.ok()) return;
    near_ = std::move(*near);
    near_->Start(&near_receiver_);
    if (far_) far_->Start(&far_receiver_);
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

  static const ShelfEntry::About& About() { return ShelfEntry::Named(GetParam()); }
  const Capabilities& caps() const { return shelf_->near().capabilities(); }

  Status PostMessage(Connection& c, uint64_t id, const std::string& body, Completion* completion,
                     std::vector<ConstSegment> payload = {}, PayloadTap* tap = nullptr) {
    WorkItem item;
    item.message = {.request_id = id, .body = AsBytes(body), .payload = payload, .tap = tap};
    item.completion = completion;
    return c.Post({&item, 1});
  }

  std::unique_ptr<Shelf> shelf_;
  Status joined_;
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
