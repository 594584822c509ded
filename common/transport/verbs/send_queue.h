#pragma once

#include <infiniband/verbs.h>

#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "common/transport/verbs/device.h"
#include "common/transport/verbs/message_header.h"
#include "common/transport/verbs/queue_pair.h"
#include "common/transport/verbs/split_work.h"

namespace simm::transport {

// The work of one Post, cut into work requests, on its way to the device.
struct SendBatch {
  struct Request {
    Op op = Op::kSend;
    OneSidedRequest one_sided;         // kRead, kWrite: piece numbers are those of `pieces`
    uint32_t frame_begin = 0;          // kSend: header (its credit not yet filled in) and body
    uint32_t frame_bytes = 0;          // in `frames`
    uint64_t bytes = 0;                // of the body or of memory
    Completion* completion = nullptr;  // of an item that ends with this request
  };
  std::vector<Request> requests;
  std::vector<ibv_sge> pieces;
  std::vector<std::byte> frames;
  size_t next = 0;  // of requests: the first that the device does not have yet
};

// The sending half of a lane: keeps what does not fit into the send queue, in order; asks for as
// few completions as it can; keeps to the window that the peer grants. Thread-compatible.
//
// Requests are numbered from 1 in the order that the device gets them, and end in that order, so
// the completion of number n ends all up to n. At least every half queue one is signalled, and
// always the last one of a chain: a full queue can not fall silent.
class SendQueue {
 public:
  SendQueue(QueuePair& queue_pair, const MessageHeader& template_header, uint32_t window);
  ~SendQueue();

  // Registers the buffers for messages that are too long to go inline.
  Status Start(Device& device, uint32_t slots);

  // Takes the batch; Flush sends it.
  void Append(SendBatch batch);
  struct Flushed {
    size_t requests = 0;  // handed to the device by this call
    size_t messages = 0;  // of these
    uint64_t bytes_out = 0;
    Status status;  // kUnavailable: refused; the lane is broken
  };
  // Hands over what fits, under one doorbell. `consumed` goes into each message.
  Flushed Flush(uint32_t consumed);
  // Tells the peer its credit. False: no room now, try again after a completion.
  bool PostCredit(uint32_t consumed);
  // Each at most once; each has its place reserved. False: refused by the device.
  bool PostGoodbye(uint32_t consumed);
  bool PostDrainMark();

  // Number n and all before it have ended. Appends the completions of items that ended by it.
  void OnCompleted(uint64_t number, std::vector<Completion*>& ended);
  // From now on nothing counts as ended: what is left comes out of TakeAll.
  void Freeze() { frozen_ = true; }
  // The completions of all items that have not ended, in order.
  std::vector<Completion*> TakeAll();

  // The peer has consumed so many messages. False: it claims what was not sent, or takes back.
  bool OnConsumed(uint32_t consumed);
  uint32_t peer_consumed() const { return peer_consumed_; }
  // Messages that may still be sent; none while earlier work waits.
  uint32_t Credit() const { return waiting_.empty() ? window_ - (sent_ - peer_consumed_) : 0; }

  uint64_t bytes_read() const { return bytes_read_; }  // by items that have ended

  bool goodbye_gone() const { return goodbye_number_ != 0 && completed_ >= goodbye_number_; }
  bool drained() const { return mark_number_ != 0 && completed_ >= mark_number_; }

 private:
  struct InFlight {
    uint64_t number;
    Completion* completion;
    uint64_t bytes_read;  // by this item and those that it covers
  };
  bool HasRoom() const { return posted_ - completed_ + chain_.size() < queue_pair_.send_depth(); }
  bool AppendToChain(SendBatch& batch, const SendBatch::Request& request, uint32_t consumed,
                     Flushed& flushed);
  bool AppendFrame(SendBatch& batch, const SendBatch::Request& request, uint32_t consumed,
                   ibv_send_wr& wr);
  Status PostChain();
  bool PostControl(FrameKind kind, uint32_t consumed, bool signalled);
  std::byte* Slot(uint64_t ticket) const;

  QueuePair& queue_pair_;
  const MessageHeader template_header_;  // what all frames of the lane have in common
  const uint32_t window_;
  const uint32_t signal_every_;

  std::deque<SendBatch> waiting_;
  std::vector<ibv_send_wr> chain_;
  std::vector<ibv_sge> frame_pieces_;  // of the chain; reserved once, so that it never moves
  std::deque<InFlight> in_flight_;
  uint64_t posted_ = 0;     // number of the newest request that the device has
  uint64_t completed_ = 0;  // all up to this number have ended
  uint32_t unsignalled_ = 0;
  uint64_t goodbye_number_ = 0;
  uint64_t mark_number_ = 0;
  bool frozen_ = false;
  uint64_t bytes_read_ = 0;
  uint64_t bytes_being_read_ = 0;  // since the newest item in flight

  uint32_t sent_ = 0;  // messages, modulo 2^32
  uint32_t peer_consumed_ = 0;

  std::unique_ptr<std::byte[]> slots_;
  ibv_mr* registration_ = nullptr;
  uint64_t slot_count_ = 0;
  uint64_t slots_taken_ = 0;
  std::deque<uint64_t> slot_numbers_;  // of the request that holds each taken slot, in order
};

}  // namespace simm::transport
