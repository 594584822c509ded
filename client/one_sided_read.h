#pragma once

#include <list>
#include <memory>
#include <vector>

#include "client/exchange.h"
#include "common/protocol/validated_read.h"

namespace simm::client {

// Get and exists without the server's CPU (DESIGN 5): in waves of at most 16 MiB or
// Lane::kWaveKeys keys; the reads of one step of a wave leave under one doorbell, and the next step
// is posted when all of them have completed.
class OneSidedRead final : public Exchange, private transport::Completion {
 public:
  OneSidedRead(const CallShape& shape, std::vector<CallItem*> items, StatsCounters& stats);

  Status Begin(Lane& lane) override;
  bool Advance() override;
  bool finished() const override { return closed_ || done_; }
  bool unsent() const override { return reading_; }

  Result<transport::PayloadTarget> OnReplyBegin(uint64_t request_id, ByteSpan body,
                                                uint64_t payload_bytes) override;
  void OnReplyPayload(ByteSpan) override {}
  Status OnReplyEnd(uint64_t request_id) override;

 private:
  using Next = protocol::ValidatedRead::Next;
  struct Key {
    Key(CallItem& item_in, const protocol::PoolView& view,
        const protocol::ValidatedRead::Request& request, protocol::ReadScratch& scratch_in)
        : item(item_in), scratch(scratch_in), read(view, request, scratch_in) {}
    CallItem& item;
    protocol::ReadScratch& scratch;
    protocol::ValidatedRead read;
    Next next = Next::kDone;
    uint64_t question = 0;  // request id of what the server was asked, 0: nothing
    bool answered = false;
    uint32_t looks = 0;           // exists: buckets read
    std::byte* bounce = nullptr;  // where the value lands, if not in the caller's buffer
  };

  void OnComplete(const Status& status) override;
  void StartWave();
  Next StartKey(Key& key);
  transport::MutableSegment ValueSegment(const Key& key) const;
  Next TakeStep(Key& key);
  Next LookForKey(Key& key);
  Next MissUnasked(Key& key);
  void FinishExists(Key& key, Code code);
  void EndKey(Key& key);
  Status PostStep();
  void AddNews(std::vector<transport::WorkItem>& work, std::list<protocol::MessageBuffer>& buffers);
  void AddRead(Key& key, std::vector<transport::WorkItem>& work);
  ByteSpan Question(Key& key, protocol::MessageBuffer& buffer);
  Status TakeAnswer(Key& key, ByteSpan body);
  void Touch();

  Lane* lane_ = nullptr;
  size_t next_item_ = 0;
  std::vector<Key> wave_;  // reserved at its start, so that nothing moves
  std::vector<std::array<transport::MutableSegment, 2>> segments_;
  bool reading_ = false;
  size_t asking_ = 0;
  bool done_ = false;
  std::vector<protocol::SlotTouch> seen_;  // in the order of the items
};

}  // namespace simm::client
