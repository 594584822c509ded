#pragma once

#include <array>
#include <deque>
#include <memory>
#include <vector>

#include "client/exchange.h"

namespace simm::client {

// Puts by one-sided writes (DESIGN 6), in waves: LEASE for those of the wave that find no extent at
// hand; then all WRITEs, each with head and value, and behind them all COMMITs and a LEASE for what
// comes next, under one doorbell; then the answers. Where the processor copies, the WRITEs are a
// step of their own, in which the values are hashed. Puts in doubt come first: RESOLVE, and those
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
  enum class Step : uint8_t { kResolving, kAwaiting, kLeasing, kWriting, kCommitting, kDone };
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

  // Hashes a value, behind its head, while it is copied. The values of a wave share the stream:
  // they are copied one after the other.
  class HashingTap final : public transport::PayloadTap {
   public:
    HashingTap(Value& value, Xxh3Stream& stream);
    void OnBytes(ByteSpan bytes) override;
    uint64_t Trailer() override { return value_.checksum; }

   private:
    Value& value_;
    Xxh3Stream& stream_;
    uint64_t head_left_;
    uint64_t left_;
  };

  void OnComplete(const Status& status) override;
  Status StartNext();
  Status PostResolves();
  void FormWave();
  bool MustAwait() const;
  Status StartWave();
  Status PostLeases();
  Status PostWrites();
  Status PostCommits(std::vector<transport::WorkItem> work);
  void AddWrite(Value& value, size_t place, std::vector<transport::WorkItem>& work);
  void AddRefills(std::vector<transport::WorkItem>& work,
                  std::vector<protocol::MessageBuffer>& buffers);
  void AddTouches(std::vector<transport::WorkItem>& work,
                  std::vector<protocol::MessageBuffer>& buffers);
  uint32_t WantedNext(uint64_t extent_bytes) const;
  Status Post(std::vector<transport::WorkItem>& work);
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
  std::deque<HashingTap> taps_;  // of the wave's WRITEs; they stay where they are
  std::unique_ptr<Xxh3Stream> stream_;
  bool hash_while_copying_ = false;  // this wave
  size_t asking_ = 0;
  size_t writing_ = 0;  // posted and not completed
};

}  // namespace simm::client
