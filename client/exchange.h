#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "client/client.h"
#include "client/lane.h"
#include "client/stats.h"
#include "common/base/hash.h"
#include "common/protocol/messages.h"
#include "common/routing/route_table.h"

namespace simm::client {

// One key of a call, from the caller's arguments to its result.
struct CallItem {
  std::string_view key;
  Hash128 hash;
  std::byte* buffer = nullptr;       // get: where the value goes
  const std::byte* value = nullptr;  // put: where it comes from
  uint64_t size = 0;
  KeyResult result;
  bool done = false;
};

struct CallShape {
  protocol::MessageType type = protocol::MessageType::kGet;
  bool allow_shorter = false;
  bool replace = false;
  Verify verify = Verify::kAlways;
  NamespaceId namespace_id = 0;
  protocol::MapStamp map;
};

// One server's part of a call, as a state machine over one lane: posts the requests, puts arriving
// values where they belong, fills the items' results. Items that it leaves undone are the caller's
// to repeat elsewhere or later. One-thread. Items, keys and memory are borrowed until finished() or
// until the lane is detached with nothing unsent().
class Exchange final : public LaneUser, private transport::Completion {
 public:
  // `items` in the caller's order.
  Exchange(const CallShape& shape, std::vector<CallItem*> items, StatsCounters& stats);

  // Posts everything under one doorbell.
  Status Begin(Lane& lane);
  // Every request is answered, or the lane has closed (failure() says why).
  bool finished() const { return closed_ || answered_ == requests_.size(); }
  const Status& failure() const { return failure_; }
  bool failed() const { return closed_; }
  // The transport has not taken all requests yet: it may still read the caller's memory and will
  // call back here.
  bool unsent() const { return sends_pending_ > 0; }
  const std::vector<CallItem*>& items() const { return items_; }
  // Newest map version that the server has shown; a WRONG_OWNER makes the caller wait for it.
  const protocol::MapStamp& server_map() const { return server_map_; }
  bool heard() const { return heard_; }  // any byte of an answer
  // Items whose bytes failed validation, for a scrub.
  const std::vector<const CallItem*>& corrupt_items() const { return corrupt_items_; }

  Result<transport::PayloadTarget> OnReplyBegin(uint64_t request_id, ByteSpan body,
                                                uint64_t payload_bytes) override;
  void OnReplyPayload(ByteSpan landed) override;
  Status OnReplyEnd(uint64_t request_id) override;
  void OnLaneClosed(const Status& why) override;

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
  void Finish(CallItem& item, Code code, uint64_t value_bytes);
  bool ShouldVerify(const CallItem& item) const;
  void See(const protocol::MapStamp& map);

  const CallShape shape_;
  std::vector<CallItem*> items_;
  StatsCounters& stats_;
  std::vector<Request> requests_;  // in the order sent
  size_t answered_ = 0;
  size_t sends_pending_ = 0;
  bool closed_ = false;
  bool heard_ = false;
  Status failure_;
  protocol::MapStamp server_map_;
  std::vector<PutTap> taps_;
  std::vector<const CallItem*> corrupt_items_;

  // The reply under way.
  protocol::GetRecord record_;
  CallItem* landing_ = nullptr;  // item whose value is arriving
  uint64_t landed_ = 0;          // payload bytes so far, head included
  uint64_t head_bytes_ = 0;
  std::array<std::byte, sizeof(protocol::ExtentHeader) + limits::kMaxKeyBytes> head_;
  std::unique_ptr<Xxh3Stream> checksum_;
};

}  // namespace simm::client
