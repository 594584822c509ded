#include "common/transport/verbs/send_queue.h"

#include <algorithm>
#include <cerrno>

namespace simm::transport {
namespace {

constexpr size_t kSlotBytes = RoundUp(kMaxFrameBytes, 64);

ibv_wr_opcode OpcodeOf(Op op) {
  if (op == Op::kRead) return IBV_WR_RDMA_READ;
  return op == Op::kWrite ? IBV_WR_RDMA_WRITE : IBV_WR_SEND;
}

}  // namespace

SendQueue::SendQueue(QueuePair& queue_pair, const MessageHeader& template_header, uint32_t window)
    : queue_pair_(queue_pair),
      template_header_(template_header),
      window_(window),
      signal_every_(std::max(1u, queue_pair.send_depth() / 2)) {
  chain_.reserve(queue_pair.send_depth());
  frame_pieces_.reserve(queue_pair.send_depth());
}

SendQueue::~SendQueue() {
  if (registration_ != nullptr) ibv_dereg_mr(registration_);
}

Status SendQueue::Start(Device& device, uint32_t slots) {
  slot_count_ = slots;
  slots_ = std::make_unique<std::byte[]>(kSlotBytes * slots);
  registration_ = ibv_reg_mr(device.protection_domain(), slots_.get(), kSlotBytes * slots, 0);
  if (registration_ == nullptr) {
    return VerbsError("cannot register " + FormatSize(kSlotBytes * slots) + " to send from", errno);
  }
  return Status::Ok();
}

void SendQueue::Append(SendBatch batch) { waiting_.push_back(std::move(batch)); }

SendQueue::Flushed SendQueue::Flush(uint32_t consumed) {
  Flushed flushed;
  // Batches leave `waiting_` only after the chain, which points into them, is posted.
  bool fits = true;
  for (size_t i = 0; fits && i < waiting_.size(); ++i) {
    SendBatch& batch = waiting_[i];
    while (fits && batch.next < batch.requests.size()) {
      fits = HasRoom() && AppendToChain(batch, batch.requests[batch.next], consumed, flushed);
      if (fits) ++batch.next;
    }
  }
  flushed.requests = chain_.size();
  if (!chain_.empty()) flushed.status = PostChain();
  return flushed;
}

// False: a message that has no credit or no buffer now.
bool SendQueue::AppendToChain(SendBatch& batch, const SendBatch::Request& request,
                              uint32_t consumed, Flushed& flushed) {
  ibv_send_wr wr{};
  wr.opcode = OpcodeOf(request.op);
  if (request.op == Op::kSend) {
    if (!AppendFrame(batch, request, consumed, wr)) return false;
    ++flushed.messages;
  } else {
    wr.sg_list = batch.pieces.data() + request.one_sided.first_piece;
    wr.num_sge = static_cast<int>(request.one_sided.piece_count);
    wr.wr.rdma.remote_addr = request.one_sided.remote_address;
    wr.wr.rdma.rkey = request.one_sided.remote_key;
  }
  wr.wr_id = posted_ + chain_.size() + 1;
  (request.op == Op::kRead ? bytes_being_read_ : flushed.bytes_out) += request.bytes;
  if (request.completion != nullptr) {
    in_flight_.push_back({wr.wr_id, request.completion, bytes_being_read_});
    bytes_being_read_ = 0;
  }
  if (request.completion != nullptr || ++unsignalled_ >= signal_every_) {
    wr.send_flags |= IBV_SEND_SIGNALED;
    unsignalled_ = 0;
  }
  chain_.push_back(wr);
  return true;
}

bool SendQueue::AppendFrame(SendBatch& batch, const SendBatch::Request& request, uint32_t consumed,
                            ibv_send_wr& wr) {
  const bool is_inline = request.frame_bytes <= queue_pair_.max_inline();
  if (sent_ - peer_consumed_ >= window_) return false;
  if (!is_inline && slot_numbers_.size() == slot_count_) return false;
  std::byte* frame = batch.frames.data() + request.frame_begin;
  SetConsumed({frame, request.frame_bytes}, consumed);
  uint32_t key = 0;
  if (is_inline) {
    wr.send_flags |= IBV_SEND_INLINE;
  } else {
    std::byte* slot = Slot(slots_taken_++);
    std::memcpy(slot, frame, request.frame_bytes);
    frame = slot;
    key = registration_->lkey;
    slot_numbers_.push_back(posted_ + chain_.size() + 1);
  }
  frame_pieces_.push_back({reinterpret_cast<uintptr_t>(frame), request.frame_bytes, key});
  wr.sg_list = &frame_pieces_.back();
  wr.num_sge = 1;
  ++sent_;
  return true;
}

std::byte* SendQueue::Slot(uint64_t ticket) const {
  return slots_.get() + ticket % slot_count_ * kSlotBytes;
}

Status SendQueue::PostChain() {
  for (size_t i = 0; i + 1 < chain_.size(); ++i) chain_[i].next = &chain_[i + 1];
  chain_.back().send_flags |= IBV_SEND_SIGNALED;
  unsignalled_ = 0;
  ibv_send_wr* refused = nullptr;
  const int error = queue_pair_.PostSend(chain_.data(), &refused);
  if (error == 0) {
    posted_ += chain_.size();
  } else if (refused != nullptr) {
    posted_ += static_cast<size_t>(refused - chain_.data());
  }
  chain_.clear();
  frame_pieces_.clear();
  while (!waiting_.empty() && waiting_.front().next == waiting_.front().requests.size()) {
    waiting_.pop_front();
  }
  return error == 0 ? Status::Ok() : VerbsError("the device refuses work", error);
}

bool SendQueue::PostControl(FrameKind kind, uint32_t consumed, bool signalled) {
  MessageHeader header = template_header_;
  header.kind = kind;
  header.consumed = consumed;
  std::byte frame[kMessageHeaderBytes];
  EncodeMessageHeader(header, frame);
  ibv_sge piece{reinterpret_cast<uintptr_t>(frame), sizeof frame, 0};
  ibv_send_wr wr{};
  wr.wr_id = posted_ + 1;
  wr.opcode = IBV_WR_SEND;
  wr.sg_list = &piece;
  wr.num_sge = 1;
  wr.send_flags = IBV_SEND_INLINE;
  if (signalled) wr.send_flags |= IBV_SEND_SIGNALED;
  ibv_send_wr* refused = nullptr;
  if (queue_pair_.PostSend(&wr, &refused) != 0) return false;
  ++posted_;
  return true;
}

bool SendQueue::PostCredit(uint32_t consumed) {
  if (!HasRoom()) return false;
  const bool signalled = unsignalled_ + 1 >= signal_every_;
  if (!PostControl(FrameKind::kCredit, consumed, signalled)) return false;
  unsignalled_ = signalled ? 0 : unsignalled_ + 1;
  return true;
}

bool SendQueue::PostGoodbye(uint32_t consumed) {
  if (!PostControl(FrameKind::kGoodbye, consumed, true)) return false;
  goodbye_number_ = posted_;
  return true;
}

bool SendQueue::PostDrainMark() {
  ibv_send_wr wr{};
  wr.wr_id = posted_ + 1;
  wr.opcode = IBV_WR_SEND;
  wr.send_flags = IBV_SEND_SIGNALED;
  ibv_send_wr* refused = nullptr;
  if (queue_pair_.PostSend(&wr, &refused) != 0) return false;
  mark_number_ = ++posted_;
  return true;
}

void SendQueue::OnCompleted(uint64_t number, std::vector<Completion*>& ended) {
  completed_ = std::max(completed_, number);
  while (!slot_numbers_.empty() && slot_numbers_.front() <= completed_) slot_numbers_.pop_front();
  while (!frozen_ && !in_flight_.empty() && in_flight_.front().number <= completed_) {
    ended.push_back(in_flight_.front().completion);
    bytes_read_ += in_flight_.front().bytes_read;
    in_flight_.pop_front();
  }
}

std::vector<Completion*> SendQueue::TakeAll() {
  std::vector<Completion*> left;
  for (const InFlight& item : in_flight_) left.push_back(item.completion);
  in_flight_.clear();
  for (const SendBatch& batch : waiting_) {
    for (size_t i = batch.next; i < batch.requests.size(); ++i) {
      if (batch.requests[i].completion != nullptr) left.push_back(batch.requests[i].completion);
    }
  }
  waiting_.clear();
  return left;
}

bool SendQueue::OnConsumed(uint32_t consumed) {
  if (consumed - peer_consumed_ > sent_ - peer_consumed_) return false;
  peer_consumed_ = consumed;
  return true;
}

}  // namespace simm::transport
