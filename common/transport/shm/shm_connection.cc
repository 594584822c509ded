#include "common/transport/shm/shm_connection.h"

#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "common/transport/shm/copy.h"
#include "common/transport/shm/unix_socket.h"

namespace simm::transport {
namespace {

// Copies of one Progress call, so that an owner of several lanes looks at all of them: about 1 ms.
constexpr uint64_t kProgressBytes = 8 << 20;
// Messages received in one Progress call.
constexpr int kProgressPackets = 64;
// What a tap sees at a time: still in the first level of the cache when it is copied.
constexpr uint64_t kTapBytes = 4 << 10;
// Shorter copies leave it to the page faults.
constexpr uint64_t kPopulatedBytes = 64 << 10;

bool WouldBlock(int error) { return error == EAGAIN || error == EWOULDBLOCK || error == EINTR; }

}  // namespace

const Capabilities kShmCapabilities = {
    .transport = "shm",
    .one_sided = true,
    .payload = false,
    .max_message_bytes = limits::kMaxMessageBytes,
    .needs_registration = false,
    .write_taps = true,
};

ShmConnection::ShmConnection(Descriptor socket, std::string peer_name, Options options)
    : socket_(std::move(socket)),
      peer_name_(std::move(peer_name)),
      options_(std::move(options)),
      packet_(kMaxPacketBytes) {}

const MappedRegion* ShmConnection::Find(const RemoteChunk& chunk) const {
  for (const MappedRegion& mapped : options_.regions) {
    if (mapped.region.key == chunk.key && chunk.length <= mapped.region.length) return &mapped;
  }
  return nullptr;
}

Status ShmConnection::CheckItem(const WorkItem& item) const {
  if (item.op == Op::kSend) {
    if (item.message.body.empty() || item.message.body.size() > limits::kMaxMessageBytes) {
      return Status(Code::kInvalidArgument, "message body must have 1 to 4096 bytes");
    }
    if (!item.message.payload.empty() || item.message.tap != nullptr) {
      return Status(Code::kInvalidArgument, "messages over shm carry no payload");
    }
    return Status::Ok();
  }
  uint64_t left = 0;
  for (const MutableSegment& s : item.local) left += s.size;
  if (left == 0 || item.remote == nullptr) {
    return Status(Code::kInvalidArgument, "nothing to read or write");
  }
  if (item.tap != nullptr && item.op != Op::kWrite) {
    return Status(Code::kInvalidArgument, "only a write has a tap");
  }
  uint64_t at = item.remote_offset;
  for (const RemoteChunk& chunk : item.remote->chunks) {
    if (at < chunk.offset || at - chunk.offset >= chunk.length) continue;
    if (Find(chunk) == nullptr) {
      return Status(Code::kInvalidArgument, "the peer did not share this region with this lane");
    }
    const uint64_t n = std::min(left, chunk.length - (at - chunk.offset));
    at += n;
    left -= n;
    if (left == 0) return Status::Ok();
  }
  return Status(Code::kInvalidArgument, "outside the remote region");
}

Status ShmConnection::Post(std::span<const WorkItem> items) {
  if (closed_) return Status(Code::kUnavailable, "connection to " + peer_name_ + " is closed");
  if (items.empty()) return Status::Ok();
  for (const WorkItem& item : items) SIMM_RETURN_IF_ERROR(CheckItem(item));
  if (items.back().completion == nullptr) {
    return Status(Code::kInvalidArgument, "the last item of a Post needs a completion");
  }
  bool send_to_cover = false;
  for (const WorkItem& item : items) {
    Work& work = work_.emplace_back();
    work.op = item.op;
    work.completion = item.completion;
    if (item.op == Op::kSend) {
      work.body.assign(item.message.body.begin(), item.message.body.end());
      work.request_id = item.message.request_id;
    } else {
      work.local.assign(item.local.begin(), item.local.end());
      work.remote = item.remote;
      work.remote_offset = item.remote_offset;
      work.tap = item.tap;
      for (const MutableSegment& s : item.local) work.total += s.size;
      work.covers_send = send_to_cover && item.completion != nullptr;
    }
    if (item.completion != nullptr) {
      send_to_cover = false;
    } else if (item.op == Op::kSend) {
      send_to_cover = true;
    }
  }
  counters_.work_requests += items.size();
  ++counters_.doorbells;
  return Status::Ok();
}

short ShmConnection::PollEvents() const {
  short events = 0;
  if (!paused_) events |= POLLIN;
  if (!work_.empty() || !unsent_.empty()) events |= POLLOUT;
  return events;
}

bool ShmConnection::Progress() {
  if (closed_) return false;
  SendUnsent();
  RunWork();
  ReceiveSome();
  return !closed_;
}

void ShmConnection::Complete(Completion* completion, const Status& status) {
  ++counters_.completions;
  if (completion != nullptr) completion->OnComplete(status);
}

void ShmConnection::RunWork() {
  uint64_t budget = kProgressBytes;
  while (!closed_ && !work_.empty() && !Waits(work_.front())) {
    Work& work = work_.front();
    if (work.op == Op::kSend) {
      const bool first = unsent_.empty();
      unsent_.push_back(std::move(work));
      work_.pop_front();
      if (first) SendUnsent();
      continue;
    }
    if (budget == 0 || !Copy(work, &budget) || work.done < work.total) return;
    if (work.op == Op::kRead) ReadFence();
    Completion* const completion = work.completion;
    work_.pop_front();
    Complete(completion, Status::Ok());
  }
}

// Copies up to `budget` bytes of the item. False: refused by the region's rights, which breaks the
// lane, as it breaks a queue pair.
bool ShmConnection::Copy(Work& work, uint64_t* budget) {
  uint64_t skip = work.done;
  const bool read = work.op == Op::kRead;
  for (const MutableSegment& s : work.local) {
    if (skip >= s.size) {
      skip -= s.size;
      continue;
    }
    std::byte* local = s.data + skip;
    uint64_t left = s.size - skip;
    skip = 0;
    while (left > 0 && *budget > 0) {
      const uint64_t at = work.remote_offset + work.done;
      const auto& chunks = work.remote->chunks;
      const auto chunk = std::find_if(chunks.begin(), chunks.end(), [&](const RemoteChunk& c) {
        return at >= c.offset && at - c.offset < c.length;
      });
      const MappedRegion* const mapped = chunk == chunks.end() ? nullptr : Find(*chunk);
      if (mapped == nullptr || (mapped->region.access & (read ? kRemoteRead : kRemoteWrite)) == 0) {
        Fail(Status(Code::kFailedPrecondition, "remote access refused"));
        return false;
      }
      const uint64_t n = std::min({left, *budget, chunk->length - (at - chunk->offset)});
      const uint64_t in_file = mapped->region.offset + (at - chunk->offset);
      if (n >= kPopulatedBytes) mapped->mapping->Populate(in_file, n);
      std::byte* const remote = mapped->mapping->data() + in_file;
      if (read) {
        CopyFromShared(local, remote, n);
        counters_.bytes_in += n;
      } else {
        Write(remote, local, n, work.tap);
        counters_.bytes_out += n;
      }
      counters_.bytes_copied += n;
      *budget -= n;
      local += n;
      left -= n;
      work.done += n;
    }
    if (*budget == 0) break;
  }
  return true;
}

// While a piece is copied the next one is fetched from memory, for the tap.
void ShmConnection::Write(std::byte* remote, const std::byte* local, uint64_t n, PayloadTap* tap) {
  if (tap == nullptr) return CopyToShared(remote, local, n);
  const bool streamed = n >= kStreamedBytes;
  while (n > 0) {
    const uint64_t piece = std::min(n, kTapBytes);
    tap->OnBytes({local, piece});
    if (streamed) {
      StreamToShared(remote, local, piece, kTapBytes);
    } else {
      std::memcpy(remote, local, piece);
    }
    remote += piece;
    local += piece;
    n -= piece;
  }
  if (streamed) StreamFence();
}

void ShmConnection::SendUnsent() {
  if (!unsent_.empty()) WriteFence();
  while (!closed_ && !unsent_.empty()) {
    const Work& work = unsent_.front();
    PacketHeaderBytes header;
    EncodePacketHeader({.kind = PacketKind::kMessage,
                        .body_bytes = static_cast<uint16_t>(work.body.size()),
                        .request_id = work.request_id,
                        .tag = options_.tag},
                       header);
    ++counters_.system_calls;
    const ssize_t n = SendPacket(socket_.get(), header, work.body, {});
    if (n < 0) {
      if (!WouldBlock(errno)) {
        Fail(Status(Code::kUnavailable,
                    "sending to " + peer_name_ + " failed: " + std::strerror(errno)));
      }
      return;
    }
    counters_.bytes_out += static_cast<uint64_t>(n);
    ++counters_.messages_out;
    Completion* const completion = work.completion;
    unsent_.pop_front();
    Complete(completion, Status::Ok());
  }
}

void ShmConnection::ReceiveSome() {
  for (int i = 0; i < kProgressPackets && !closed_ && !paused_; ++i) {
    ++counters_.system_calls;
    const ReceivedPacket received = ReceivePacket(socket_.get(), packet_, nullptr);
    if (received.bytes < 0) {
      if (!WouldBlock(errno)) {
        Fail(Status(Code::kUnavailable,
                    "receiving from " + peer_name_ + " failed: " + std::strerror(errno)));
      }
      return;
    }
    if (received.bytes == 0) {
      Fail(Status(Code::kUnavailable, peer_name_ + " closed the connection"));
      return;
    }
    if (!received.whole) {
      Fail(Status(Code::kProtocolError, "packet too long or with descriptors"));
      return;
    }
    counters_.bytes_in += static_cast<uint64_t>(received.bytes);
    if (!OnPacket(ByteSpan(packet_).first(static_cast<size_t>(received.bytes)))) return;
  }
}

bool ShmConnection::OnPacket(ByteSpan packet) {
  PacketHeader header;
  ByteSpan body;
  if (Status s = DecodePacket(packet, &header, &body); !s.ok()) {
    Fail(s);
    return false;
  }
  if (header.kind != PacketKind::kMessage || header.tag.session != options_.tag.session ||
      header.tag.incarnation != options_.tag.incarnation) {
    Fail(Status(Code::kProtocolError, "packet of another session or out of order"));
    return false;
  }
  receiver_->OnMessage(header.request_id, body, 0);
  if (closed_) return false;
  ++counters_.messages_in;
  receiver_->OnMessageEnd(header.request_id, std::nullopt);
  return !closed_;
}

void ShmConnection::Close() { Fail(Status(Code::kUnavailable, "connection closed")); }

void ShmConnection::Fail(const Status& why) {
  if (closed_) return;
  closed_ = true;
  socket_.Reset();
  std::deque<Work> ended;
  ended.swap(unsent_);
  for (Work& work : work_) ended.push_back(std::move(work));
  work_.clear();
  options_.regions.clear();
  for (const Work& work : ended) Complete(work.completion, why);
  if (receiver_ != nullptr) receiver_->OnClosed(why);
}

}  // namespace simm::transport
