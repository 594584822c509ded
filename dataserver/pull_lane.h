#pragma once

#include <array>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "common/base/hash.h"
#include "common/protocol/messages.h"
#include "common/transport/transport.h"
#include "dataserver/pool.h"

namespace simm::dataserver {

// The destination's connection to a source: asks one thing at a time and waits for the answer. What
// is fetched lands in extents of this server's pool, checked against its checksum on the way.
// One-thread.
class PullLane final : private transport::Receiver, private transport::Completion {
 public:
  struct Fetched {
    Code code = Code::kMiss;  // kOk, kCorrupt, kBusy (no extent to be had), or the source's answer
    uint64_t checksum = 0;
    PutHints hints;              // without ttl
    std::optional<Grant> grant;  // kOk: to commit or to abandon
  };

  // `stopping` is asked while it waits. `pool` is borrowed.
  PullLane(Pool& pool, std::unique_ptr<transport::Connection> connection,
           std::function<bool()> stopping);
  ~PullLane() override;

  // kUnavailable, kDeadlineExceeded (no byte for limits::kPullStalled), kProtocolError; then the
  // lane is closed. Keys of the answer are valid until the next call.
  Status List(const protocol::ListRequest& request, protocol::ListReply* reply);
  // All of one namespace and within a message. One answer an entry, in this order; the grants of a
  // failed call are abandoned.
  Status Fetch(std::span<const EntryFacts> entries, const protocol::MapStamp& map,
               std::vector<Fetched>* out);
  // The session is not to end while this side rests.
  Status Ping();

 private:
  transport::PayloadTarget OnMessage(uint64_t request_id, ByteSpan body,
                                     uint64_t payload_bytes) override;
  void OnPayload(ByteSpan landed) override;
  void OnMessageEnd(uint64_t request_id, std::optional<uint64_t> trailer) override;
  void OnClosed(const Status& why) override;
  void OnComplete(const Status& status) override;

  Status Ask(ByteSpan body);
  void Refuse(const char* what);
  transport::PayloadTarget BeginRecord(uint64_t payload_bytes);
  void EndValue();

  Pool& pool_;
  const std::unique_ptr<transport::Connection> connection_;
  const std::function<bool()> stopping_;
  uint64_t request_id_ = 0;
  bool answered_ = false;
  bool sending_ = false;
  Status failure_;
  std::vector<std::byte> body_;

  // A fetch under way.
  std::span<const EntryFacts> entries_;
  std::vector<Fetched>* out_ = nullptr;
  protocol::GetRecord record_;
  std::optional<Grant> landing_;
  size_t head_bytes_ = 0;
  size_t landed_ = 0;
  std::array<std::byte, sizeof(protocol::ExtentHeader) + limits::kMaxKeyBytes> head_;
  Xxh3Stream checksum_;
};

}  // namespace simm::dataserver
