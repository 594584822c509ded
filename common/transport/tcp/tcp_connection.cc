#include "common/transport/tcp/tcp_connection.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "common/base/hash.h"

namespace simm::transport {
namespace {

// Payload is moved in pieces that stay in a core's second-level cache between the copy and the
// hash.
constexpr uint64_t kPieceBytes = 256 << 10;
// Work of one Progress call, so that a caller with several lanes looks at all of them.
constexpr uint64_t kProgressBytes = 2 << 20;
constexpr size_t kMaxIovecs = 64;
constexpr size_t kMaxHeldAnswers = 16;
constexpr size_t kStageBytes = limits::kMaxMessageBytes + kFrameHeaderBytes + 1024;

bool WouldBlock(int error) { return error == EAGAIN || error == EWOULDBLOCK; }

}  // namespace

const Capabilities kTcpCapabilities = {
    .transport = "tcp",
    .one_sided = false,
    .payload = true,
    .max_message_bytes = limits::kMaxMessageBytes,
    .needs_registration = false,
};

TcpConnection::TcpConnection(int fd, std::string peer, Options options)
    : fd_(fd), peer_(std::move(peer)), options_(std::move(options)), tag_known_(!options_.check) {
  stage_.resize(kStageBytes);
  const int one = 1;
  setsockopt(fd_, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

TcpConnection::~TcpConnection() { Close(); }

const Capabilities& TcpConnection::capabilities() const { return kTcpCapabilities; }

short TcpConnection::PollEvents() const {
  short events = 0;
  if (MayBegin()) events |= POLLIN;
  if (!outgoing_.empty()) events |= POLLOUT;
  return events;
}

Status TcpConnection::Post(std::span<const WorkItem> items) {
  if (closed()) return Status(Code::kUnavailable, "connection to " + peer_ + " is closed");
  if (!tag_known_) return Status(Code::kFailedPrecondition, "the peer has not spoken yet");
  if (items.empty()) return Status::Ok();
  for (const WorkItem& item : items) {
    if (item.op != Op::kSend) {
      return Status(Code::kInvalidArgument, "tcp has no one-sided reads and writes");
    }
    if (item.message.body.empty() || item.message.body.size() > limits::kMaxMessageBytes) {
      return Status(Code::kInvalidArgument, "message body must have 1 to 4096 bytes");
    }
    uint64_t payload = 0;
    for (const ConstSegment& s : item.message.payload) payload += s.size;
    if (payload > kMaxPayloadBytes) return Status(Code::kInvalidArgument, "payload too long");
  }
  if (items.back().completion == nullptr) {
    return Status(Code::kInvalidArgument, "the last item of a Post needs a completion");
  }
  for (const WorkItem& item : items) {
    Outgoing& out = outgoing_.emplace_back();
    out.body.assign(item.message.body.begin(), item.message.body.end());
    out.payload.assign(item.message.payload.begin(), item.message.payload.end());
    for (const ConstSegment& s : out.payload) out.payload_bytes += s.size;
    out.tap = item.message.tap;
    out.completion = item.completion;
    const FrameHeader header = {
        .body_bytes = static_cast<uint16_t>(out.body.size()),
        .has_trailer = out.tap != nullptr,
        .request_id = item.message.request_id,
        .session = options_.tag.session,
        .incarnation = static_cast<uint32_t>(options_.tag.incarnation),
        .payload_bytes = out.payload_bytes,
        .body_crc = Crc32c(out.body),
    };
    EncodeFrameHeader(header, out.header);
  }
  counters_.work_requests += items.size();
  ++counters_.doorbells;
  return Status::Ok();
}

bool TcpConnection::Progress() {
  if (closed()) return false;
  const uint64_t start = counters_.bytes_in + counters_.bytes_out;
  drained_ = false;
  bool more = true;
  if (!outgoing_.empty()) SendSome();
  while (more && !closed() && counters_.bytes_in + counters_.bytes_out - start < kProgressBytes) {
    const bool received = ReceiveSome();
    const bool hold = received && !drained_ && OnlySmallToSend();
    const bool sent = !closed() && !outgoing_.empty() && !hold && SendSome();
    more = sent || received;
  }
  if (!closed() && OnlySmallToSend()) SendSome();
  return !closed();
}

// Short answers to requests that came together leave together: each one alone would wake the peer.
bool TcpConnection::OnlySmallToSend() const {
  return !outgoing_.empty() && outgoing_.size() <= kMaxHeldAnswers &&
         outgoing_.back().payload_bytes == 0 && outgoing_.front().payload_bytes == 0;
}

// Shows the tap what will be sent next, at most a piece beyond what is sent.
void TcpConnection::TapAhead(Outgoing& item) {
  if (item.tap == nullptr || item.tapped == item.payload_bytes) return;
  const uint64_t payload_sent = item.sent > item.HeadBytes() ? item.sent - item.HeadBytes() : 0;
  if (item.tapped > payload_sent) return;  // what is tapped is still warm
  uint64_t skip = item.tapped;
  uint64_t want = std::min(kPieceBytes, item.payload_bytes - item.tapped);
  for (const ConstSegment& s : item.payload) {
    if (skip >= s.size) {
      skip -= s.size;
      continue;
    }
    const uint64_t n = std::min<uint64_t>(s.size - skip, want);
    item.tap->OnBytes({s.data + skip, n});
    item.tapped += n;
    want -= n;
    skip = 0;
    if (want == 0) break;
  }
}

// The unsent parts of the item up to frame offset `limit`.
void TcpConnection::AppendIovecs(const Outgoing& item, uint64_t limit, std::vector<iovec>& out) {
  uint64_t at = 0;
  const auto add = [&](const std::byte* data, uint64_t size) {
    const uint64_t from = std::max(at, item.sent);
    const uint64_t to = std::min(at + size, limit);
    if (from < to && out.size() < kMaxIovecs) {
      out.push_back({const_cast<std::byte*>(data) + (from - at), to - from});
    }
    at += size;
  };
  add(item.header.data(), item.header.size());
  add(item.body.data(), item.body.size());
  for (const ConstSegment& s : item.payload) add(s.data, s.size);
  if (item.tap != nullptr) add(reinterpret_cast<const std::byte*>(&item.trailer), kTrailerBytes);
}

bool TcpConnection::SendSome() {
  iovecs_.clear();
  uint64_t gathered = 0;
  for (Outgoing& item : outgoing_) {
    uint64_t limit = item.TotalBytes();
    if (item.tap != nullptr) {
      TapAhead(item);
      if (item.tapped == item.payload_bytes) {
        item.trailer =
            item.sent <= item.HeadBytes() + item.payload_bytes ? item.tap->Trailer() : item.trailer;
      } else {
        limit = item.HeadBytes() + item.tapped;
      }
    }
    AppendIovecs(item, limit, iovecs_);
    gathered += limit - item.sent;
    // What is hashed on its way goes out piece by piece, so that the peer works meanwhile.
    const uint64_t enough = item.tap != nullptr ? kPieceBytes : kProgressBytes;
    if (limit != item.TotalBytes() || iovecs_.size() >= kMaxIovecs - 8 || gathered >= enough) break;
  }
  msghdr message{};
  message.msg_iov = iovecs_.data();
  message.msg_iovlen = iovecs_.size();
  ++counters_.system_calls;
  const ssize_t n = sendmsg(fd_, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
  if (n < 0) {
    if (!WouldBlock(errno) && errno != EINTR) {
      Fail(Status(Code::kUnavailable, "sending to " + peer_ + " failed: " + std::strerror(errno)));
    }
    return false;
  }
  counters_.bytes_out += static_cast<uint64_t>(n);
  Advance(static_cast<uint64_t>(n));
  return n > 0;
}

void TcpConnection::Advance(uint64_t sent) {
  while (!outgoing_.empty() && !closed()) {
    Outgoing& item = outgoing_.front();
    const uint64_t n = std::min(sent, item.TotalBytes() - item.sent);
    item.sent += n;
    sent -= n;
    if (item.sent != item.TotalBytes()) return;
    Completion* const completion = item.completion;
    outgoing_.pop_front();
    ++counters_.messages_out;
    ++counters_.completions;
    if (completion != nullptr) completion->OnComplete(Status::Ok());
  }
}

void TcpConnection::CompactStage() {
  if (stage_begin_ == 0) return;
  std::memmove(stage_.data(), stage_.data() + stage_begin_, StagedBytes());
  stage_end_ -= stage_begin_;
  stage_begin_ = 0;
}

bool TcpConnection::OnHeader() {
  if (Status s = DecodeFrameHeader({stage_.data() + stage_begin_, kFrameHeaderBytes}, &header_);
      !s.ok()) {
    Fail(s);
    return false;
  }
  stage_begin_ += kFrameHeaderBytes;
  const SessionTag tag = {header_.session, header_.incarnation};
  if (!tag_known_) {
    if (Status s = options_.check(tag); !s.ok()) {
      Fail(s);
      return false;
    }
    options_.tag = tag;
    tag_known_ = true;
  }
  if (tag.session != options_.tag.session ||
      tag.incarnation != static_cast<uint32_t>(options_.tag.incarnation)) {
    Fail(Status(Code::kProtocolError, "frame of another session"));
    return false;
  }
  part_ = Part::kBody;
  return true;
}

bool TcpConnection::OnBody() {
  const ByteSpan body = {stage_.data() + stage_begin_, header_.body_bytes};
  if (Crc32c(body) != header_.body_crc) {
    Fail(Status(Code::kProtocolError, "frame body fails its checksum"));
    return false;
  }
  stage_begin_ += header_.body_bytes;
  target_ = receiver_->OnMessage(header_.request_id, body, header_.payload_bytes);
  if (closed()) return false;
  segment_ = 0;
  segment_filled_ = 0;
  payload_left_ = header_.payload_bytes;
  part_ = payload_left_ > 0 ? Part::kPayload : Part::kTrailer;
  return true;
}

void TcpConnection::FinishMessage(std::optional<uint64_t> trailer) {
  part_ = Part::kHeader;
  target_.count = 0;
  ++counters_.messages_in;
  receiver_->OnMessageEnd(header_.request_id, trailer);
}

// `bytes` of payload have arrived in the target (or were discarded behind it).
void TcpConnection::Land(uint64_t bytes) {
  payload_left_ -= bytes;
  while (bytes > 0 && segment_ < target_.count) {
    const MutableSegment& s = target_.segments[segment_];
    const uint64_t n = std::min<uint64_t>(bytes, s.size - segment_filled_);
    if (n > 0) receiver_->OnPayload({s.data + segment_filled_, n});
    segment_filled_ += n;
    bytes -= n;
    if (segment_filled_ == s.size) {
      ++segment_;
      segment_filled_ = 0;
    }
  }
  if (payload_left_ == 0) part_ = Part::kTrailer;
}

// Consumes what is staged. True when more input is wanted, false when paused or closed.
bool TcpConnection::ParseStage() {
  while (!closed()) {
    switch (part_) {
      case Part::kHeader:
        if (!MayBegin()) return false;
        if (StagedBytes() < kFrameHeaderBytes) return true;
        if (!OnHeader()) return false;
        break;
      case Part::kBody:
        if (StagedBytes() < header_.body_bytes) return true;
        if (!OnBody()) return false;
        break;
      case Part::kPayload: {
        uint64_t n = std::min<uint64_t>(StagedBytes(), payload_left_);
        if (n == 0) return true;
        if (segment_ < target_.count) {
          const MutableSegment& s = target_.segments[segment_];
          n = std::min<uint64_t>(n, s.size - segment_filled_);
          if (n > 0) std::memcpy(s.data + segment_filled_, stage_.data() + stage_begin_, n);
          counters_.bytes_copied += n;
        }
        stage_begin_ += n;
        Land(n);
        if (n == 0) ++segment_;  // an empty segment
        break;
      }
      case Part::kTrailer:
        if (!header_.has_trailer) {
          FinishMessage(std::nullopt);
        } else {
          if (StagedBytes() < kTrailerBytes) return true;
          uint64_t trailer;
          std::memcpy(&trailer, stage_.data() + stage_begin_, sizeof trailer);
          stage_begin_ += kTrailerBytes;
          FinishMessage(trailer);
        }
        break;
    }
  }
  return false;
}

bool TcpConnection::ReceiveSome() {
  if (!ParseStage() || drained_) return false;
  CompactStage();
  std::array<iovec, PayloadTarget::kMaxSegments + 1> iov;
  size_t count = 0;
  uint64_t wanted = 0;  // of payload
  size_t tail = options_.read_ahead;
  int flags = MSG_DONTWAIT;
  bool discarding = false;
  if (part_ == Part::kPayload) {
    for (size_t i = segment_; i < target_.count && wanted < std::min(kPieceBytes, payload_left_);
         ++i) {
      const uint64_t done = i == segment_ ? segment_filled_ : 0;
      const MutableSegment& s = target_.segments[i];
      const uint64_t n = std::min({s.size - done, payload_left_ - wanted, kPieceBytes - wanted});
      if (n == 0) continue;
      iov[count++] = {s.data + done, n};
      wanted += n;
    }
    if (wanted == 0) {  // nothing takes it: the kernel drops it without a copy
      discarding = true;
      flags |= MSG_TRUNC;
      wanted = std::min(payload_left_, kProgressBytes);
      iov[count++] = {nullptr, wanted};
    }
    if (wanted != payload_left_) tail = 0;
  } else if (part_ == Part::kBody) {
    tail =
        header_.body_bytes - StagedBytes() + (header_.payload_bytes == 0 ? options_.read_ahead : 0);
  }
  if (discarding) tail = 0;
  tail = std::min(tail, stage_.size() - stage_end_);
  if (tail > 0) iov[count++] = {stage_.data() + stage_end_, tail};

  ++counters_.system_calls;
  ssize_t n;
  if (discarding) {
    // Not recv(2): the sanitizers' wrapper takes the dropped bytes for written ones.
    n = syscall(SYS_recvfrom, fd_, nullptr, wanted, flags, nullptr, nullptr);
  } else {
    msghdr message{};
    message.msg_iov = iov.data();
    message.msg_iovlen = count;
    n = recvmsg(fd_, &message, flags);
  }
  if (n < 0) {
    if (!WouldBlock(errno) && errno != EINTR) {
      Fail(Status(Code::kUnavailable,
                  "receiving from " + peer_ + " failed: " + std::strerror(errno)));
    }
    return false;
  }
  if (n == 0) {
    Fail(Status(Code::kUnavailable, peer_ + " closed the connection"));
    return false;
  }
  counters_.bytes_in += static_cast<uint64_t>(n);
  drained_ = static_cast<uint64_t>(n) < wanted + tail;
  const uint64_t landed =
      part_ == Part::kPayload ? std::min<uint64_t>(static_cast<uint64_t>(n), wanted) : 0;
  stage_end_ += static_cast<size_t>(n) - landed;
  if (landed > 0) Land(landed);
  ParseStage();
  return true;
}

void TcpConnection::Fail(const Status& why) {
  if (closed()) return;
  close(fd_);
  fd_ = -1;
  std::deque<Outgoing> unsent;
  unsent.swap(outgoing_);
  for (const Outgoing& item : unsent) {
    ++counters_.completions;
    if (item.completion != nullptr) item.completion->OnComplete(why);
  }
  target_.count = 0;
  if (receiver_ != nullptr) receiver_->OnClosed(why);
}

}  // namespace simm::transport
