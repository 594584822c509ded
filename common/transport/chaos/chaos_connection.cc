#include "common/transport/chaos/chaos_connection.h"

#include <algorithm>
#include <cstring>

#include "common/base/limits.h"

namespace simm::transport {
namespace {

// Items whose pieces are under way at once, as a queue pair bounds its outstanding reads.
constexpr size_t kWindow = 16;
constexpr uint64_t kMaxHold = 200;  // steps

}  // namespace

const Capabilities kChaosCapabilities = {
    .transport = "chaos",
    .one_sided = true,
    .payload = false,
    .max_message_bytes = limits::kMaxMessageBytes,
    .needs_registration = true,
};

ChaosConnection::ChaosConnection(ChaosNetwork& network, std::string peer, SessionTag tag)
    : network_(network), peer_name_(std::move(peer)), tag_(tag) {
  network_.lanes_.push_back(this);
}

ChaosConnection::~ChaosConnection() {
  Close();
  std::erase(network_.lanes_, this);
}

void ChaosConnection::Join(ChaosConnection* other, SessionCheck check) {
  peer_ = other;
  check_ = std::move(check);
}

Status ChaosConnection::CheckItem(const WorkItem& item) const {
  if (item.op == Op::kSend) {
    if (item.message.body.empty() || item.message.body.size() > limits::kMaxMessageBytes) {
      return Status(Code::kInvalidArgument, "message body must have 1 to 4096 bytes");
    }
    if (!item.message.payload.empty() || item.message.tap != nullptr) {
      return Status(Code::kInvalidArgument, "messages carry no payload");
    }
    return Status::Ok();
  }
  if (item.tap != nullptr) return Status(Code::kInvalidArgument, "a tap would see nothing");
  uint64_t size = 0;
  for (const MutableSegment& s : item.local) {
    const auto whole = s.region == nullptr ? MutableByteSpan() : s.region->memory();
    if (s.data < whole.data() || s.data + s.size > whole.data() + whole.size()) {
      return Status(Code::kInvalidArgument, "local memory is not registered");
    }
    size += s.size;
  }
  uint64_t total = 0;
  if (item.remote != nullptr) {
    for (const RemoteChunk& c : item.remote->chunks) total = std::max(total, c.offset + c.length);
  }
  if (size == 0 || item.remote_offset > total || size > total - item.remote_offset) {
    return Status(Code::kInvalidArgument, "outside the remote region");
  }
  return Status::Ok();
}

// Cuts an item where a segment, a chunk or a cache line of the remote memory ends.
void ChaosConnection::Split(const WorkItem& item, std::vector<Piece>* pieces) {
  uint64_t at = item.remote_offset;
  auto chunk = item.remote->chunks.begin();
  for (const MutableSegment& s : item.local) {
    for (size_t done = 0; done < s.size;) {
      while (at >= chunk->offset + chunk->length) ++chunk;
      const uint64_t offset = at - chunk->offset;
      const size_t n = std::min<uint64_t>(
          {s.size - done, kPieceBytes - offset % kPieceBytes, chunk->length - offset});
      pieces->push_back({s.data + done, chunk->key, offset, n, false, false, {}});
      done += n;
      at += n;
    }
  }
}

Status ChaosConnection::Post(std::span<const WorkItem> items) {
  if (closed_ || peer_left_ || broken_) return Status(Code::kUnavailable, "connection is closed");
  if (check_) return Status(Code::kFailedPrecondition, "the peer has not spoken yet");
  if (items.empty()) return Status::Ok();
  for (const WorkItem& item : items) SIMM_RETURN_IF_ERROR(CheckItem(item));
  if (items.back().completion == nullptr) {
    return Status(Code::kInvalidArgument, "the last item of a Post needs a completion");
  }
  for (const WorkItem& posted : items) {
    Item& item = items_.emplace_back();
    item.op = posted.op;
    item.completion = posted.completion;
    if (posted.op == Op::kSend) {
      item.body.assign(posted.message.body.begin(), posted.message.body.end());
      item.request_id = posted.message.request_id;
    } else {
      Split(posted, &item.pending);
    }
    if (network_.Chance(network_.options_.hold)) {
      item.not_before = network_.now_ + network_.random_.Below(kMaxHold);
    }
    item.early = posted.op == Op::kWrite && network_.Chance(network_.options_.early_write);
  }
  counters_.work_requests += items.size();
  ++counters_.doorbells;
  return Status::Ok();
}

// A lane whose far end has gone reaches nothing any more.
bool ChaosConnection::HasWork() const {
  return !closed_ && (!late_.empty() || (!broken_ && peer_ != nullptr && !items_.empty()));
}

// A message proves that the Writes before it are placed, and comes behind the messages before it.
bool ChaosConnection::MayDeliver(size_t index) const {
  for (size_t i = 0; i < index; ++i) {
    if (items_[i].op != Op::kRead && !items_[i].Done()) return false;
  }
  return true;
}

void ChaosConnection::StepOnce() {
  if (!late_.empty() && network_.random_.OneIn(2)) StepLate();
  if (broken_ || peer_ == nullptr) return;
  runnable_.clear();
  for (size_t i = 0; i < std::min(items_.size(), kWindow); ++i) {
    const Item& item = items_[i];
    if (item.Done() || item.not_before > network_.now_) continue;
    if (item.op == Op::kSend && !MayDeliver(i)) continue;
    runnable_.push_back(i);
  }
  if (runnable_.empty()) return;
  Item& item = items_[PickRunnable()];
  item.begun = true;
  if (item.op == Op::kSend) {
    peer_->arrivals_.push_back({tag_, item.request_id, std::move(item.body)});
    item.delivered = true;
    ++counters_.messages_out;
  } else {
    StepPiece(item);
  }
  if (!broken_) CompleteInOrder();
}

// Any, or the oldest. What is to be executed again does not hold up what comes behind it: a lost
// response is noticed late.
size_t ChaosConnection::PickRunnable() {
  Random& random = network_.random_;
  if (network_.Chance(network_.options_.overtake)) return runnable_[random.Below(runnable_.size())];
  for (const size_t index : runnable_) {
    const Item& item = items_[index];
    if (item.op == Op::kSend || !item.pending.front().again || random.OneIn(8)) return index;
  }
  return runnable_.front();
}

void ChaosConnection::PutOnTheWire(Piece& piece) {
  if (piece.on_the_wire) return;
  std::memcpy(piece.bytes.data(), piece.local, piece.size);
  piece.on_the_wire = true;
}

void ChaosConnection::StepPiece(Item& item) {
  const bool any = network_.Chance(network_.options_.overtake);
  const size_t index = any ? network_.random_.Below(item.pending.size()) : 0;
  Piece piece = item.pending[index];
  const bool read = item.op == Op::kRead;
  std::byte* const remote =
      network_.Find(piece.key, piece.offset, piece.size, read ? kRemoteRead : kRemoteWrite);
  if (remote == nullptr) {
    broken_ = Status(Code::kFailedPrecondition, "remote access refused");
    return;
  }
  item.pending.erase(item.pending.begin() + static_cast<std::ptrdiff_t>(index));
  piece.again = true;
  if (read) {
    std::memcpy(piece.local, remote, piece.size);
    counters_.bytes_in += piece.size;
    if (network_.Chance(network_.options_.replay)) item.pending.push_back(piece);
  } else {
    PutOnTheWire(piece);
    std::memcpy(remote, piece.bytes.data(), piece.size);
    counters_.bytes_out += piece.size;
    if (network_.Chance(network_.options_.duplicate_write)) item.pending.push_back(piece);
  }
}

// One Write of an end that has gone: it takes the memory as it finds it.
void ChaosConnection::StepLate() {
  const size_t index = network_.random_.Below(late_.size());
  const Piece piece = late_[index];
  late_.erase(late_.begin() + static_cast<std::ptrdiff_t>(index));
  std::byte* const at = network_.Find(piece.key, piece.offset, piece.size, kRemoteWrite);
  if (at != nullptr) std::memcpy(at, piece.bytes.data(), piece.size);
}

void ChaosConnection::CompleteInOrder() {
  for (Item& item : items_) {
    if (item.completed) continue;
    if (!item.Done() && !(item.early && item.begun)) break;
    if (network_.Chance(network_.options_.lost_completion)) {
      broken_ = Status(Code::kUnavailable, "completion lost: the lane has failed");
      return;
    }
    for (Piece& piece : item.pending) PutOnTheWire(piece);
    item.completed = true;
    completed_.emplace_back(item.completion, Status::Ok());
  }
  std::erase_if(items_, [](const Item& item) { return item.completed && item.Done(); });
}

void ChaosConnection::Deliver(Arrival arrival) {
  if (check_) {
    if (Status s = check_(arrival.tag); !s.ok()) {
      Fail(s);
      return;
    }
    tag_ = arrival.tag;
    check_ = nullptr;
  }
  receiver_->OnMessage(arrival.request_id, arrival.body, 0);
  if (closed_) return;
  counters_.bytes_in += arrival.body.size();
  ++counters_.messages_in;
  receiver_->OnMessageEnd(arrival.request_id, std::nullopt);
}

bool ChaosConnection::Progress() {
  network_.Step();
  while (!closed_ && !completed_.empty()) {
    const auto [completion, status] = completed_.front();
    completed_.pop_front();
    ++counters_.completions;
    if (completion != nullptr) completion->OnComplete(status);
  }
  if (!closed_ && !paused_ && !arrivals_.empty()) {
    Arrival arrival = std::move(arrivals_.front());
    arrivals_.pop_front();
    Deliver(std::move(arrival));
  }
  if (!closed_ && broken_) Fail(*broken_);
  if (!closed_ && peer_left_ && arrivals_.empty()) Fail(*peer_left_);
  return !closed_;
}

// The far end hears of it behind what has arrived, and what is on the wire may still reach its
// memory.
void ChaosConnection::Leave(const Status& why) {
  if (peer_ == nullptr) return;
  for (Item& item : items_) {
    if (item.op != Op::kWrite) continue;
    for (Piece& piece : item.pending) {
      if (!network_.random_.OneIn(2)) continue;
      PutOnTheWire(piece);
      peer_->late_.push_back(piece);
    }
  }
  peer_->peer_left_ = Status(Code::kUnavailable, peer_name_ + ": " + why.message());
  peer_->peer_ = nullptr;
  peer_ = nullptr;
}

void ChaosConnection::Fail(const Status& why) {
  if (closed_) return;
  closed_ = true;
  late_.clear();
  Leave(why);
  std::deque<std::pair<Completion*, Status>> completed;
  completed.swap(completed_);
  for (const Item& item : items_) {
    if (!item.completed) completed.emplace_back(item.completion, why);
  }
  items_.clear();
  arrivals_.clear();
  for (const auto& [completion, status] : completed) {
    ++counters_.completions;
    if (completion != nullptr) completion->OnComplete(status);
  }
  if (receiver_ != nullptr) receiver_->OnClosed(why);
}

}  // namespace simm::transport
