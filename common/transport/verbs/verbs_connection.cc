#include "common/transport/verbs/verbs_connection.h"

#include <sched.h>

#include <algorithm>

#include "common/base/limits.h"
#include "common/transport/verbs/split_work.h"
#include "common/transport/verbs/verbs_region.h"
#include "common/transport/verbs/verbs_transport.h"

namespace simm::transport {
namespace {

constexpr size_t kPollAtOnce = 32;
// Of one Progress, so that an owner with many lanes and deadlines gets its turn.
constexpr size_t kEntriesPerProgress = 256;
// A late event makes PollFd readable with nothing behind it; looking for one costs a system call.
constexpr uint32_t kLookForEventsEvery = 16;
// A flush takes microseconds. A device that does not answer is cut off by destroying the queue
// pair.
constexpr int kLooksAtFlush = 64;
constexpr auto kDrainWait = std::chrono::seconds(1);
// A MiB of a value and what may stand in front of it.
constexpr uint64_t kMaxRequestBytes = (1 << 20) + 4096;

MessageHeader HeaderOf(const SessionTag& tag) {
  MessageHeader header;
  header.tag = tag;
  return header;
}

// Slots for messages that do not go inline: as many as can be on the way at a time.
constexpr uint32_t kMaxSlots = 64;

}  // namespace

const Capabilities kVerbsCapabilities = {
    .transport = "verbs",
    .one_sided = true,
    .payload = false,
    .max_message_bytes = limits::kMaxMessageBytes,
    .needs_registration = true,
};

VerbsConnection::VerbsConnection(std::shared_ptr<Device> device, std::shared_ptr<ReceivePool> pool,
                                 std::unique_ptr<QueuePair> queue_pair, Options options)
    : device_(std::move(device)),
      pool_(std::move(pool)),
      queue_pair_(std::move(queue_pair)),
      options_(std::move(options)),
      sends_(*queue_pair_, HeaderOf(options_.tag), options_.peer_window),
      spoken_(options_.check == nullptr),
      entries_(kPollAtOnce) {}

Result<std::unique_ptr<VerbsConnection>> VerbsConnection::Create(
    std::shared_ptr<Device> device, std::shared_ptr<ReceivePool> pool,
    std::unique_ptr<QueuePair> queue_pair, Options options) {
  std::unique_ptr<VerbsConnection> connection(new VerbsConnection(
      std::move(device), std::move(pool), std::move(queue_pair), std::move(options)));
  const uint32_t slots = std::min<uint32_t>(connection->options_.peer_window, kMaxSlots);
  SIMM_RETURN_IF_ERROR(connection->sends_.Start(*connection->device_, slots));
  return connection;
}

VerbsConnection::~VerbsConnection() { Close(); }

const Capabilities& VerbsConnection::capabilities() const { return kVerbsCapabilities; }

int VerbsConnection::PollFd() const {
  // Until now nobody slept: the one event that was armed at the start wakes the first sleeper as
  // soon as anything has ever completed; Progress keeps the queue armed from there on.
  wants_events_ = true;
  return queue_pair_->fd();
}

Status VerbsConnection::Post(std::span<const WorkItem> items) {
  if (state_ != State::kOpen || peer_left_) {
    return Status(Code::kUnavailable, "connection is closed");
  }
  if (!spoken_) return Status(Code::kFailedPrecondition, "the peer has not spoken yet");
  if (items.empty()) return Status::Ok();
  if (items.back().completion == nullptr) {
    return Status(Code::kInvalidArgument, "the last item of a Post needs a completion");
  }
  SendBatch batch;
  for (const WorkItem& item : items) SIMM_RETURN_IF_ERROR(AppendItem(item, batch));
  for (const WorkItem& item : items) {
    if (item.op == Op::kSend) ++counters_.messages_out;
  }
  sends_.Append(std::move(batch));
  FlushSends();
  return Status::Ok();
}

Status VerbsConnection::AppendItem(const WorkItem& item, SendBatch& batch) {
  SIMM_RETURN_IF_ERROR(item.op == Op::kSend ? AppendMessage(item, batch)
                                            : AppendOneSided(item, batch));
  batch.requests.back().completion = item.completion;
  return Status::Ok();
}

Status VerbsConnection::AppendMessage(const WorkItem& item, SendBatch& batch) const {
  const Message& message = item.message;
  if (message.body.empty() || message.body.size() > limits::kMaxMessageBytes) {
    return Status(Code::kInvalidArgument, "message body must have 1 to 4096 bytes");
  }
  if (!message.payload.empty() || message.tap != nullptr) {
    return Status(Code::kInvalidArgument, "verbs messages carry no payload: write it");
  }
  SendBatch::Request request;
  request.frame_begin = static_cast<uint32_t>(batch.frames.size());
  request.frame_bytes = static_cast<uint32_t>(kMessageHeaderBytes + message.body.size());
  request.bytes = message.body.size();
  batch.frames.resize(batch.frames.size() + request.frame_bytes);
  std::byte* frame = batch.frames.data() + request.frame_begin;
  MessageHeader header = HeaderOf(options_.tag);
  header.body_bytes = static_cast<uint16_t>(message.body.size());
  header.request_id = message.request_id;
  EncodeMessageHeader(header, {frame, kMessageHeaderBytes});
  std::memcpy(frame + kMessageHeaderBytes, message.body.data(), message.body.size());
  batch.requests.push_back(request);
  return Status::Ok();
}

Status VerbsConnection::AppendOneSided(const WorkItem& item, SendBatch& batch) {
  if (item.tap != nullptr) {
    return Status(Code::kInvalidArgument, "the device writes: a tap would see nothing");
  }
  local_.clear();
  one_sided_.clear();
  for (const MutableSegment& segment : item.local) {
    const auto* region = dynamic_cast<const VerbsRegion*>(segment.region);
    if (region == nullptr || &region->device() != device_.get() ||
        !region->Resolve(segment, local_)) {
      return Status(Code::kInvalidArgument, "local memory is not registered");
    }
  }
  if (item.remote == nullptr) return Status(Code::kInvalidArgument, "no remote region");
  const SplitLimits split_limits = {.max_bytes = kMaxRequestBytes,
                                    .max_pieces = queue_pair_->max_pieces()};
  SIMM_RETURN_IF_ERROR(
      SplitWork(local_, *item.remote, item.remote_offset, split_limits, one_sided_, batch.pieces));
  for (const OneSidedRequest& one_sided : one_sided_) {
    SendBatch::Request& request = batch.requests.emplace_back();
    request.op = item.op;
    request.one_sided = one_sided;
    for (uint32_t i = 0; i < one_sided.piece_count; ++i) {
      request.bytes += batch.pieces[one_sided.first_piece + i].length;
    }
  }
  return Status::Ok();
}

void VerbsConnection::FlushSends() {
  const SendQueue::Flushed flushed = sends_.Flush(consumed_);
  counters_.work_requests += flushed.requests;
  if (flushed.requests > 0) {
    ++counters_.doorbells;
    counters_.bytes_out += flushed.bytes_out;
  }
  if (flushed.messages > 0) told_ = consumed_;
  if (!flushed.status.ok()) BeginClose(flushed.status, false);
}

bool VerbsConnection::Move(bool may_sleep) {
  if (state_ == State::kClosed) return false;
  PollAll(may_sleep);
  RunCompletions();
  Deliver();
  if (state_ == State::kOpen) FlushSends();
  if (state_ == State::kOpen) TellCredit();
  Advance();
  // A flush takes microseconds: whoever asks whether the lane is open should not be told yes for
  // it.
  for (int i = 0; i < kLooksAtFlush && state_ == State::kDraining; ++i) {
    PollSome(kEntriesPerProgress);
    Advance();
  }
  return state_ != State::kClosed;
}

void VerbsConnection::PollAll(bool may_sleep) {
  const size_t found = PollSome(kEntriesPerProgress);
  // Not empty yet: an event that lies in PollFd stays there, so that a sleeper comes back.
  if (found == kEntriesPerProgress) return;
  if (may_sleep || found > 0) RearmAndPoll(found > 0);
}

// The queue has just been seen empty. Makes sure that what comes from now on makes PollFd readable.
// While something was found the queue is left as it is: the event for it lies in PollFd or comes,
// and spares whoever works on without a sleep the system calls to take it and to arm again.
void VerbsConnection::RearmAndPoll(bool anything) {
  if (!wants_events_) return;
  if (anything) {
    event_due_ = true;
    idle_ = 0;
    return;
  }
  if (!event_due_ && ++idle_ % kLookForEventsEvery != 0) return;
  if (!queue_pair_->TakeEvent()) return;
  event_due_ = false;
  queue_pair_->Arm();
  // What came between the last look and Arm brings no event: at most a full queue of it.
  PollSome(queue_pair_->completion_depth());
}

size_t VerbsConnection::PollSome(size_t most) {
  size_t found = 0;
  while (found < most) {
    const size_t want = std::min(entries_.size(), most - found);
    const size_t count = queue_pair_->Poll({entries_.data(), want});
    for (size_t i = 0; i < count; ++i) OnEntry(entries_[i]);
    found += count;
    if (count < want) break;
  }
  completion_entries_ += found;
  return found;
}

void VerbsConnection::OnEntry(const ibv_wc& entry) {
  // Of a failed entry only work request id, status and queue pair are defined.
  if ((entry.wr_id & kReceiveMark) != 0) {
    OnReceive(static_cast<uint32_t>(entry.wr_id), entry);
    return;
  }
  if (entry.status != IBV_WC_SUCCESS) {
    // The first failure says why; all others are only flushed after it.
    BeginClose(Status(Code::kUnavailable, options_.peer + ": " + ibv_wc_status_str(entry.status)),
               false);
  }
  ended_.clear();
  const uint64_t before = sends_.bytes_read();
  sends_.OnCompleted(entry.wr_id, ended_);
  counters_.bytes_in += sends_.bytes_read() - before;
  succeeded_.insert(succeeded_.end(), ended_.begin(), ended_.end());
}

void VerbsConnection::OnReceive(uint32_t buffer, const ibv_wc& entry) {
  bool keep = false;
  if (entry.status != IBV_WC_SUCCESS) {
    BeginClose(Status(Code::kUnavailable,
                      options_.peer + ": receiving: " + ibv_wc_status_str(entry.status)),
               false);
  } else if (state_ == State::kOpen) {
    const Status status = OnFrame(buffer, pool_->Buffer(buffer).first(entry.byte_len), &keep);
    if (!status.ok()) BeginClose(status, true);
  }
  if (!keep) pool_->Repost(buffer);
}

Status VerbsConnection::OnFrame(uint32_t buffer, ByteSpan frame, bool* keep) {
  const auto header = DecodeMessageHeader(frame);
  if (!header.ok()) return header.status();
  if (header->tag.session != options_.tag.session ||
      header->tag.incarnation != options_.tag.incarnation) {
    return Status(Code::kProtocolError, "a frame of another session");
  }
  // A credit that says nothing new is refused: the number of frames stays bounded by the messages.
  const bool news = header->consumed != sends_.peer_consumed();
  if (!sends_.OnConsumed(header->consumed) || (header->kind == FrameKind::kCredit && !news)) {
    return Status(Code::kProtocolError, "a credit that does not add up");
  }
  if (header->kind == FrameKind::kGoodbye) peer_left_ = true;
  if (header->kind != FrameKind::kMessage) return Status::Ok();
  if (received_ - consumed_ >= options_.own_window) {
    return Status(Code::kProtocolError, "more messages than were granted");
  }
  ++received_;
  arrivals_.push_back({buffer, header->request_id, header->body_bytes});
  *keep = true;
  return Status::Ok();
}

void VerbsConnection::RunCompletions() {
  while (state_ != State::kClosed && !succeeded_.empty()) {
    Completion* completion = succeeded_.front();
    succeeded_.pop_front();
    ++counters_.completions;
    completion->OnComplete(Status::Ok());
  }
}

void VerbsConnection::Deliver() {
  while (state_ == State::kOpen && !paused_ && receiver_ != nullptr && !arrivals_.empty()) {
    if (!DeliverOne()) return;
  }
  if (state_ == State::kOpen && peer_left_ && arrivals_.empty()) {
    BeginClose(Status(Code::kUnavailable, options_.peer + " closed the connection"), false);
  }
}

bool VerbsConnection::DeliverOne() {
  const Arrival arrival = arrivals_.front();
  if (!spoken_) {
    if (const Status status = options_.check(options_.tag); !status.ok()) {
      BeginClose(status, true);
      return false;
    }
    spoken_ = true;
  }
  arrivals_.pop_front();
  ++counters_.messages_in;
  counters_.bytes_in += arrival.body_bytes;
  const ByteSpan body =
      pool_->Buffer(arrival.buffer).subspan(kMessageHeaderBytes, arrival.body_bytes);
  receiver_->OnMessage(arrival.request_id, body, 0);
  if (state_ != State::kClosed) receiver_->OnMessageEnd(arrival.request_id, std::nullopt);
  pool_->Repost(arrival.buffer);
  ++consumed_;
  return true;
}

// At half the window, so that the peer's next messages need not wait for it.
void VerbsConnection::TellCredit() {
  const uint32_t due = std::max<uint32_t>(1, options_.own_window / 2);
  if (spoken_ && !peer_left_ && consumed_ - told_ >= due && sends_.PostCredit(consumed_)) {
    told_ = consumed_;
  }
}

void VerbsConnection::BeginClose(Status why, bool say_goodbye) {
  if (state_ != State::kOpen) return;
  why_ = std::move(why);
  sends_.Freeze();
  // Without a receiver: never taken up by an owner, the peer need not be told.
  if (say_goodbye && !peer_left_ && receiver_ != nullptr && sends_.PostGoodbye(consumed_)) {
    state_ = State::kParting;
    step_ends_ = options_.clock->Now() + options_.goodbye_wait;
  } else {
    BeginDrain();
  }
}

void VerbsConnection::BeginDrain() {
  state_ = State::kDraining;
  step_ends_ = options_.clock->Now() + kDrainWait;
  queue_pair_->ToError();
  // Flushed behind everything else. Work that succeeded without a signal never shows otherwise.
  if (!sends_.PostDrainMark()) step_ends_ = options_.clock->Now();
}

void VerbsConnection::Advance() {
  if (state_ == State::kParting && (sends_.goodbye_gone() || options_.clock->Now() >= step_ends_)) {
    BeginDrain();
  }
  if (state_ == State::kDraining && (sends_.drained() || options_.clock->Now() >= step_ends_)) {
    Finish();
  }
}

void VerbsConnection::Finish() {
  // Receives that were flushed give their buffers back before the queue pair's entries are lost.
  PollSome(queue_pair_->completion_depth());
  queue_pair_->Destroy();
  // From here on the device touches nothing of this lane.
  state_ = State::kClosed;
  for (const Arrival& arrival : arrivals_) pool_->Repost(arrival.buffer);
  arrivals_.clear();
  std::deque<Completion*> succeeded;
  succeeded.swap(succeeded_);
  const std::vector<Completion*> failed = sends_.TakeAll();
  const Status status(Code::kUnavailable, why_.message());
  counters_.completions += succeeded.size() + failed.size();
  for (Completion* completion : succeeded) completion->OnComplete(Status::Ok());
  for (Completion* completion : failed) completion->OnComplete(status);
  if (receiver_ != nullptr) receiver_->OnClosed(why_);
}

void VerbsConnection::Close() {
  if (state_ == State::kClosed) return;
  // What has not been told by now fails; but a goodbye that lies here already spares ours, which
  // nobody would take.
  sends_.Freeze();
  PollSome(kEntriesPerProgress);
  BeginClose(Status(Code::kUnavailable, "connection closed"), true);
  while (state_ != State::kClosed) {
    PollSome(kEntriesPerProgress);
    Advance();
    if (state_ != State::kClosed) sched_yield();
  }
}

}  // namespace simm::transport
