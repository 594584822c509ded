#pragma once

#include <memory>
#include <vector>

#include "client/exchange.h"

namespace simm::client {

// Puts by one-sided writes (DESIGN 6), in waves: LEASE for those of the wave that find no extent at
// hand; then all WRITEs, each with head and value, and behind them all COMMITs and a LEASE for what
// comes next, under one doorbell; then the answers. Puts in doubt come first: RESOLVE, and those
// whose lease is gone start anew.
class OneSidedPut final : public Exchange, private transport::Completion {
 public:
  OneSidedPut(const CallShape& shape, std::vector<CallItem*> items, StatsCounters& stats);

  Status Begin(Lane& lane) override;
  bool Advance() override;
  bool finished() const override { return closed_ || step_ == Step::kDone; }
  bool unsent() const override { return writing_ > 0; }
  void GiveUp() override;
  void OnLaneClosed(const Status& why) override;

  Result<transport::PayloadTarget> OnReplyBegin(uint64_t request_id, ByteSpan body,
                                                uint64_t payload_bytes) override;
  void OnReplyPayload(ByteSpan) override {}
  Status OnReplyEnd(uint64_t) override { return Status::Ok(); }

 private:
  // kAwaiting: a LEASE that an earlier wave has sent ahead is about to be answered.
  enum class Step : uint8_t { kResolving, kAwaiting, kLeasing, kCommitting, kDone };
  struct Value {
    CallItem* item = nullptr;
    uint64_t extent_bytes = 0;
    uint64_t request = 0;  // of its RESOLVE or LEASE, then of its COMMIT; 0: answered
    GrantedExtent extent = {};
    uint64_t checksum = 0;
    std::byte* bounce = nullptr;  // where the value leaves from, if not from the caller's memory
    bool granted = false;
    bool committing = false;
  };

  void OnComplete(const Status& status) override;
  Status StartNext();
  Status PostResolves();
  void FormWave();
  bool MustAwait() const;
  Status StartWave();
  Status PostLeases();
  Status PostCommits();
  void AddWrite(Value& value, size_t place, std::vector<transport::WorkItem>& work);
  void AddRefills(std::vector<transport::WorkItem>& work,
                  std::vector<protocol::MessageBuffer>& buffers);
  void AddTouches(std::vector<transport::WorkItem>& work,
                  std::vector<protocol::MessageBuffer>& buffers);
  uint32_t WantedNext(uint64_t extent_bytes) const;
  Status Post(std::vector<transport::WorkItem>& work);
  Status WriteNow(std::vector<transport::WorkItem>& work);
  void WriteHead(const Value& value, std::byte* head) const;
  ByteSpan Commit(const Value& value, protocol::MessageBuffer& buffer) const;
  Status TakeLease(uint64_t request, ByteSpan body);
  void NotGranted(Value& value, const protocol::LeaseReply& reply, bool others);
  Status TakePut(uint64_t request, ByteSpan body);

  Lane* lane_ = nullptr;
  Step step_ = Step::kLeasing;
  // To be written, the next one last; items of a wave that got no extent come back.
  std::vector<CallItem*> waiting_;
  std::vector<CallItem*> doubtful_;
  std::vector<Value> wave_;
  std::vector<std::array<transport::MutableSegment, 2>> segments_;
  size_t asking_ = 0;
  size_t writing_ = 0;  // posted and not completed
};

}  // namespace simm::client
