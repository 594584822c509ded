#include "common/transport/shm/shm_transport.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "common/base/clock.h"
#include "common/transport/shm/packet.h"
#include "common/transport/shm/shm_acceptor.h"
#include "common/transport/shm/shm_connection.h"
#include "common/transport/shm/unix_socket.h"

namespace simm::transport {
namespace {

class ShmRegion final : public LocalRegion {
 public:
  ShmRegion(SharedFiles* files, MutableByteSpan memory, uint64_t key)
      : files_(files), memory_(memory), key_(key) {}
  ~ShmRegion() override {
    if (files_ != nullptr) files_->Remove(key_, memory_.size());
  }
  MutableByteSpan memory() const override { return memory_; }
  RemoteRegion Describe() const override {
    if (files_ == nullptr) return {};
    return {{{0, memory_.size(), key_}}};
  }

 private:
  SharedFiles* const files_;  // nullptr: local only
  const MutableByteSpan memory_;
  const uint64_t key_;
};

Status Unreachable(const std::string& endpoint, const std::string& why) {
  return Status(Code::kUnavailable, "connecting to " + endpoint + " failed: " + why);
}

// A connected socket whose other end is a user that we accept.
Result<Descriptor> Dial(const std::string& endpoint, Instant deadline,
                        const std::vector<uid_t>& allowed_users) {
  const auto address = ParseUnixAddress(endpoint);
  if (!address.ok()) return address.status();
  Descriptor fd(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (!fd.open()) {
    return Status(Code::kUnavailable, std::string("no socket: ") + std::strerror(errno) +
                                          "; raise the limit of open files (ulimit -n)");
  }
  // connect(2) waits while the server's queue is full; there is nothing to poll for.
  const int64_t left = std::max<int64_t>((deadline - MonotonicClock::Get().Now()).count(), 1000);
  const timeval wait = {left / 1'000'000'000, left % 1'000'000'000 / 1000};
  (void)setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof wait);
  if (connect(fd.get(), address->get(), address->length) != 0) {
    return Unreachable(endpoint, errno == EAGAIN ? "timed out" : std::strerror(errno));
  }
  SIMM_RETURN_IF_ERROR(CheckPeerUser(fd.get(), allowed_users));
  return fd;
}

// Waits for the server's packet. Its descriptors are owned by `descriptors` in any case.
Result<size_t> AwaitAnswer(int fd, const std::string& endpoint, Instant deadline,
                           MutableByteSpan buffer, std::vector<Descriptor>* descriptors) {
  bool reset = false;
  while (true) {
    const ReceivedPacket received = ReceivePacket(fd, buffer, descriptors);
    if (received.bytes > 0 && received.whole) return static_cast<size_t>(received.bytes);
    if (received.bytes > 0) {
      return Status(Code::kProtocolError,
                    endpoint +
                        " sent an answer that is too long, or the limit of open files "
                        "(ulimit -n) is too low for its descriptors");
    }
    if (received.bytes == 0) return Unreachable(endpoint, "the server closed the connection");
    // A server that refuses before it has read the hello resets the connection; its reason lies
    // behind that error.
    if (errno == ECONNRESET && !std::exchange(reset, true)) continue;
    if (errno != EAGAIN && errno != EINTR) return Unreachable(endpoint, std::strerror(errno));
    const auto left =
        std::chrono::ceil<std::chrono::milliseconds>(deadline - MonotonicClock::Get().Now());
    if (left.count() <= 0) return Unreachable(endpoint, "the server did not answer in time");
    pollfd p{fd, POLLIN, 0};
    (void)poll(&p, 1, static_cast<int>(left.count()));
  }
}

}  // namespace

const Capabilities& ShmTransport::capabilities() const { return kShmCapabilities; }

Result<std::unique_ptr<LocalRegion>> ShmTransport::Register(MutableByteSpan memory,
                                                            uint8_t access) {
  if (memory.empty()) return Status(Code::kInvalidArgument, "no memory to register");
  if (access == kLocalOnly) {
    return std::unique_ptr<LocalRegion>(std::make_unique<ShmRegion>(nullptr, memory, 0));
  }
  const auto key = files_.Add(memory, access);
  if (!key.ok()) return key.status();
  return std::unique_ptr<LocalRegion>(std::make_unique<ShmRegion>(&files_, memory, *key));
}

Result<std::shared_ptr<const Descriptor>> ShmTransport::AlwaysReady() {
  MutexLock lock(mutex_);
  if (ready_ == nullptr) {
    Descriptor fd(eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!fd.open()) {
      return Status(Code::kUnavailable, std::string("no eventfd: ") + std::strerror(errno) +
                                            "; raise the limit of open files (ulimit -n)");
    }
    ready_ = std::make_shared<const Descriptor>(std::move(fd));
  }
  return ready_;
}

Result<std::unique_ptr<Connection>> ShmTransport::Connect(const std::string& endpoint,
                                                          SessionTag tag, Duration timeout) {
  const Instant deadline = MonotonicClock::Get().Now() + timeout;
  auto ready = AlwaysReady();
  if (!ready.ok()) return ready.status();
  auto fd = Dial(endpoint, deadline, options_.allowed_users);
  if (!fd.ok()) return fd.status();
  PacketHeaderBytes hello;
  EncodePacketHeader({.kind = PacketKind::kHello, .body_bytes = 0, .request_id = 0, .tag = tag},
                     hello);
  // A failure to send shows in what is received: the server's reason may lie there.
  (void)SendPacket(fd->get(), hello, {}, {});
  std::vector<std::byte> buffer(kMaxPacketBytes);
  std::vector<Descriptor> descriptors;
  const auto size = AwaitAnswer(fd->get(), endpoint, deadline, buffer, &descriptors);
  if (!size.ok()) return size.status();
  PacketHeader header;
  ByteSpan body;
  SIMM_RETURN_IF_ERROR(DecodePacket(ByteSpan(buffer).first(*size), &header, &body));
  if (header.kind == PacketKind::kRefusal) {
    const bool known = header.request_id > 0 && header.request_id <= kMaxCode;
    return Status(known ? static_cast<Code>(header.request_id) : Code::kUnavailable,
                  endpoint + " refused: " + std::string(AsText(body)));
  }
  Welcome welcome;
  if (header.kind != PacketKind::kWelcome || header.tag.session != tag.session ||
      header.tag.incarnation != tag.incarnation) {
    return Status(Code::kProtocolError, endpoint + " answered with another packet");
  }
  SIMM_RETURN_IF_ERROR(DecodeWelcome(body, &welcome));
  auto regions = mappings_.Map(welcome, descriptors);
  if (!regions.ok()) return regions.status();
  return std::unique_ptr<Connection>(std::make_unique<ShmConnection>(
      std::move(*fd), endpoint,
      ShmConnection::Options{
          .tag = tag, .regions = std::move(*regions), .peer = nullptr, .ready = *ready}));
}

Result<std::unique_ptr<Acceptor>> ShmTransport::Listen(const std::string& endpoint,
                                                       const std::string& flag,
                                                       SessionCheck check) {
  auto listener = UnixListener::Bind(endpoint, flag, options_.socket_mode);
  if (!listener.ok()) return listener.status();
  return ShmAcceptor::Create(
      std::move(*listener), files_,
      {.endpoint = endpoint, .check = std::move(check), .allowed_users = options_.allowed_users});
}

}  // namespace simm::transport
