#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "common/transport/verbs/verbs_connection.h"
#include "common/transport/verbs/verbs_transport.h"
#include "tests/contract/contract_fixture.h"

namespace simm::transport {

// A transport that is its own peer: the bootstrap calls the acceptor in this process.
inline Result<std::unique_ptr<VerbsTransport>> MakeLoopback(VerbsOptions options = {}) {
  auto self = std::make_shared<VerbsTransport*>(nullptr);
  options.bootstrap = [self](const std::string& endpoint, const std::string& offer, Duration) {
    return (*self)->Answer(endpoint, offer);
  };
  // Emulated, on a busy machine: long enough that a goodbye is not lost to bad luck.
  if (options.goodbye_wait == VerbsOptions().goodbye_wait) {
    options.goodbye_wait = std::chrono::milliseconds(300);
  }
  auto transport = VerbsTransport::Create(std::move(options));
  if (transport.ok()) *self = transport->get();
  return transport;
}

inline bool VerbsIsRequired() {
  const char* const required = std::getenv("SIMM_REQUIRE_TRANSPORTS");
  return ("," + std::string(required != nullptr ? required : "") + ",").find(",verbs,") !=
         std::string::npos;
}

// In SetUp of a test that needs a device.
#define SIMM_SKIP_WITHOUT_DEVICE(status)                                       \
  do {                                                                         \
    ASSERT_FALSE(::simm::transport::VerbsIsRequired()) << (status).ToString(); \
    GTEST_SKIP() << "NOT TESTED, verbs: " << (status).ToString();              \
  } while (0)

// Two ends of a lane and a region that the far end lends, with options of each test's choice.
class VerbsLane : public testing::Test {
 protected:
  struct Ends {
    RecordingReceiver near_receiver, far_receiver;
    std::unique_ptr<Connection> near, far;
  };

  void SetUp() override { Open({}); }

  void Open(VerbsOptions options) {
    auto transport = MakeLoopback(std::move(options));
    if (!transport.ok()) SIMM_SKIP_WITHOUT_DEVICE(transport.status());
    transport_ = std::move(*transport);
    acceptor_ =
        *transport_->Listen("server", "--data-listen", [](const SessionTag&) { return Status(); });
    remote_ = RandomBytes(4 << 20, 1);
    local_.assign(4 << 20, std::byte{0});
    remote_region_ = *transport_->Register(remote_, kRemoteRead | kRemoteWrite);
    local_region_ = *transport_->Register(local_, kLocalOnly);
    description_ = remote_region_->Describe();
    Join(ends_);
  }
  // In the order in which they were made, backwards; once more with other options.
  void Reopen(VerbsOptions options) {
    if (transport_ == nullptr) return;
    ends_.near.reset();
    ends_.far.reset();
    local_region_.reset();
    remote_region_.reset();
    acceptor_.reset();
    transport_.reset();
    ends_.near_receiver = RecordingReceiver();
    ends_.far_receiver = RecordingReceiver();
    Open(std::move(options));
  }

  void Join(Ends& ends) {
    auto near = transport_->Connect("server", kTag, std::chrono::seconds(5));
    ASSERT_TRUE(near.ok()) << near.status().ToString();
    ends.near = std::move(*near);
    ends.far = acceptor_->Accept();
    ASSERT_NE(ends.far, nullptr);
    ends.near->Start(&ends.near_receiver);
    ends.far->Start(&ends.far_receiver);
  }

  bool Pump(const std::function<bool()>& done, std::vector<Ends*> all = {},
            Duration limit = std::chrono::seconds(20)) {
    if (all.empty()) all = {&ends_};
    const Instant end = MonotonicClock::Get().Now() + limit;
    while (!done()) {
      if (MonotonicClock::Get().Now() > end) {
        // Completions of the test's own must not be told when they are no more.
        for (Ends* ends : all) ends->near.reset(), ends->far.reset();
        return false;
      }
      for (Ends* ends : all) {
        if (ends->near) ends->near->Progress();
        if (ends->far) ends->far->Progress();
      }
    }
    return true;
  }

  MutableSegment Local(size_t offset, size_t size) const {
    return {const_cast<std::byte*>(local_.data()) + offset, size, local_region_.get()};
  }
  WorkItem Make(Op op, uint64_t offset, std::span<const MutableSegment> local,
                Completion* completion) const {
    WorkItem item;
    item.op = op;
    item.local = local;
    item.remote = &description_;
    item.remote_offset = offset;
    item.completion = completion;
    return item;
  }
  static Status PostMessage(Connection& lane, uint64_t id, const std::string& body,
                            Completion* completion) {
    WorkItem item;
    item.message = {.request_id = id, .body = AsBytes(body), .payload = {}, .tap = nullptr};
    item.completion = completion;
    return lane.Post({&item, 1});
  }

  std::unique_ptr<VerbsTransport> transport_;
  std::unique_ptr<Acceptor> acceptor_;
  std::vector<std::byte> remote_, local_;
  std::unique_ptr<LocalRegion> remote_region_, local_region_;
  RemoteRegion description_;
  Ends ends_;
};

}  // namespace simm::transport
