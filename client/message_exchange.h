#pragma once

#include <array>
#include <memory>
#include <vector>

#include "client/exchange.h"

namespace simm::client {

// An exchange by messages alone: requests by key, values as payload (tcp), answered in order.
class MessageExchange final : public Exchange, private transport::Completion {
 public:
  MessageExchange(const CallShape& shape, std::vector<CallItem*> items, StatsCounters& stats);

  Status Begin(Lane& lane) override;  // everything at once
  bool finished() const override { return closed_ || answered_ == requests_.size(); }
  bool unsent() const override { return sends_pending_ > 0; }

  Result<transport::PayloadTarget> OnReplyBegin(uint64_t request_id, ByteSpan body,
                                                uint64_t payload_bytes) override;
  void OnReplyPayload(ByteSpan landed) override;
  Status OnReplyEnd(uint64_t request_id) override;

 private:
  struct Request {
    uint64_t id = 0;
    size_t begin = 0;  // items_[begin, end)
    size_t end = 0;
    size_t next = 0;  // first not answered yet (get)
    bool answered = false;
  };
  // Computes a put's checksum while its bytes are on their way to the network.
  class PutTap final : public transport::PayloadTap {
   public:
    void Begin(uint64_t total) { total_ = total; }
    void OnBytes(ByteSpan bytes) override;
    uint64_t Trailer() override;

   private:
    uint64_t total_ = 0;
    uint64_t one_shot_ = 0;
    bool have_one_shot_ = false;
    std::unique_ptr<Xxh3Stream> stream_;
  };

  void OnComplete(const Status& status) override;  // a request has left
  void SplitIntoRequests();
  protocol::KeysRequest KeysOf(const Request& request) const;
  Status PostKeys(Lane& lane);
  Status PostPuts(Lane& lane);
  Request* Find(uint64_t id);
  Result<transport::PayloadTarget> BeginRecord(Request& request, ByteSpan body,
                                               uint64_t payload_bytes);
  Status EndRecord(Request& request);
  Status TakeKeysReply(Request& request, ByteSpan body);
  Status TakePutReply(Request& request, ByteSpan body);
  Status TakePinReply(Request& request, ByteSpan body);

  std::vector<Request> requests_;  // in the order sent
  size_t answered_ = 0;
  size_t sends_pending_ = 0;
  std::vector<PutTap> taps_;

  // The reply under way.
  protocol::GetRecord record_;
  CallItem* landing_ = nullptr;  // item whose value is arriving
  uint64_t landed_ = 0;          // payload bytes so far, head included
  uint64_t head_bytes_ = 0;
  std::array<std::byte, sizeof(protocol::ExtentHeader) + limits::kMaxKeyBytes> head_;
  std::unique_ptr<Xxh3Stream> checksum_;
};

}  // namespace simm::client
