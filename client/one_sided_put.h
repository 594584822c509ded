#pragma once

#include <memory>
#include <vector>

#include "client/exchange.h"

namespace simm::client {

// Puts by one-sided writes (DESIGN 6), in waves: LEASE for the wave's sizes; then all WRITEs, each
// with head and value, and behind them all COMMITs under one doorbell; then the answers.
class OneSidedPut final : public Exchange, private transport::Completion {
 public:
  OneSidedPut(const CallShape& shape, std::vector<CallItem*> items, StatsCounters& stats);

  Status Begin(Lane& lane) override;
  bool Advance() override;
  bool finished() const override { return closed_ || step_ == Step::kDone; }
  bool unsent() const override { return writing_; }
  void GiveUp() override;

  Result<transport::PayloadTarget> OnReplyBegin(uint64_t request_id, ByteSpan body,
                                                uint64_t payload_bytes) override;
  void OnReplyPayload(ByteSpan) override {}
  Status OnReplyEnd(uint64_t) override { return Status::Ok(); }

 private:
  enum class Step : uint8_t { kLeasing, kCommitting, kDone };
  struct Value {
    CallItem* item = nullptr;
    uint64_t extent_bytes = 0;
    uint64_t request = 0;  // of its LEASE, then of its COMMIT; 0: answered
    // Granted:
    uint64_t lease = 0;
    uint64_t offset = 0;
    uint64_t generation = 0;
    uint64_t checksum = 0;
    std::byte* bounce = nullptr;  // where the value leaves from, if not from the caller's memory
    bool granted = false;
    bool committing = false;
  };

  void OnComplete(const Status& status) override;
  Status StartWave();
  Status PostLeases();
  Status PostCommits();
  void WriteHead(const Value& value, std::byte* head) const;
  ByteSpan Commit(const Value& value, protocol::MessageBuffer& buffer) const;
  Status TakeLease(uint64_t request, ByteSpan body);
  void NotGranted(Value& value, const protocol::LeaseReply& reply, bool others);
  Status TakeCommit(uint64_t request, ByteSpan body);

  Lane* lane_ = nullptr;
  Step step_ = Step::kLeasing;
  // To be written, the next one last; items of a wave that got no extent come back.
  std::vector<CallItem*> waiting_;
  std::vector<Value> wave_;
  std::vector<std::array<transport::MutableSegment, 2>> segments_;
  size_t asking_ = 0;
  bool writing_ = false;
};

}  // namespace simm::client
