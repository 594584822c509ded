#include "common/transport/tcp/tcp_transport.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "common/transport/address.h"
#include "common/transport/tcp/tcp_connection.h"

namespace simm::transport {
namespace {

// Client: next header, a get's record (48 B) and the extent header behind it (>= 64 B), never a
// value.
constexpr size_t kClientReadAhead = kFrameHeaderBytes + 48 + 64;
// Server: header and body of a put, or the start of a request; reaches at most that far into a
// put's value.
constexpr size_t kServerReadAhead = 512;

class TcpAcceptor final : public Acceptor {
 public:
  TcpAcceptor(int fd, SessionCheck check, std::string address)
      : fd_(fd), check_(std::move(check)), address_(std::move(address)) {}
  ~TcpAcceptor() override { close(fd_); }

  int PollFd() const override { return fd_; }
  std::string Address() const override { return address_; }
  std::unique_ptr<Connection> Accept() override {
    SocketAddress peer;
    peer.length = sizeof peer.storage;
    const int fd = accept4(fd_, reinterpret_cast<sockaddr*>(&peer.storage), &peer.length,
                           SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) return nullptr;
    return std::make_unique<TcpConnection>(
        fd, ToString(peer),
        TcpConnection::Options{.tag = {}, .check = check_, .read_ahead = kServerReadAhead});
  }

 private:
  const int fd_;
  const SessionCheck check_;
  const std::string address_;
};

// Waits for a started connect. kUnavailable with the kernel's reason.
Status AwaitConnect(int fd, const std::string& address, Duration timeout) {
  const auto deadline = std::chrono::steady_clock::now() + timeout;
  while (true) {
    const auto left =
        std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
    if (left.count() <= 0)
      return Status(Code::kUnavailable, "connecting to " + address + " timed out");
    pollfd p{fd, POLLOUT, 0};
    const int rc = poll(&p, 1, static_cast<int>(left.count()));
    if (rc < 0 && errno == EINTR) continue;
    if (rc == 0) continue;
    int error = 0;
    socklen_t length = sizeof error;
    getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length);
    if (error == 0) return Status::Ok();
    return Status(Code::kUnavailable,
                  "connecting to " + address + " failed: " + std::strerror(error));
  }
}

class TcpRegion final : public LocalRegion {
 public:
  explicit TcpRegion(MutableByteSpan memory) : memory_(memory) {}
  MutableByteSpan memory() const override { return memory_; }
  RemoteRegion Describe() const override { return {}; }

 private:
  const MutableByteSpan memory_;
};

}  // namespace

const Capabilities& TcpTransport::capabilities() const { return kTcpCapabilities; }

Result<std::unique_ptr<LocalRegion>> TcpTransport::Register(MutableByteSpan memory, uint8_t) {
  if (memory.empty()) return Status(Code::kInvalidArgument, "no memory to register");
  return std::unique_ptr<LocalRegion>(std::make_unique<TcpRegion>(memory));
}

Result<std::unique_ptr<Connection>> TcpTransport::Connect(const std::string& address,
                                                          SessionTag tag, Duration timeout) {
  const auto host_port = ParseHostPort(address);
  if (!host_port.ok()) return host_port.status();
  const auto resolved = Resolve(*host_port);
  if (!resolved.ok()) return resolved.status();
  const int fd = socket(resolved->storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) {
    return Status(Code::kUnavailable, std::string("no socket: ") + std::strerror(errno) +
                                          "; raise the limit of open files (ulimit -n)");
  }
  if (connect(fd, reinterpret_cast<const sockaddr*>(&resolved->storage), resolved->length) != 0) {
    Status status = errno == EINPROGRESS
                        ? AwaitConnect(fd, address, timeout)
                        : Status(Code::kUnavailable,
                                 "connecting to " + address + " failed: " + std::strerror(errno));
    if (!status.ok()) {
      close(fd);
      return status;
    }
  }
  return std::unique_ptr<Connection>(std::make_unique<TcpConnection>(
      fd, address,
      TcpConnection::Options{.tag = tag, .check = nullptr, .read_ahead = kClientReadAhead}));
}

Result<std::unique_ptr<Acceptor>> TcpTransport::Listen(const std::string& address,
                                                       const std::string& flag,
                                                       SessionCheck check) {
  const auto host_port = ParseHostPort(address);
  if (!host_port.ok()) return host_port.status();
  const auto resolved = Resolve(*host_port);
  if (!resolved.ok()) return resolved.status();
  const int fd = socket(resolved->storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return Status(Code::kUnavailable, std::string("no socket: ") + std::strerror(errno));
  const int one = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (bind(fd, reinterpret_cast<const sockaddr*>(&resolved->storage), resolved->length) != 0 ||
      listen(fd, 1024) != 0) {
    const std::string why = std::strerror(errno);
    close(fd);
    return Status(Code::kUnavailable,
                  "cannot listen on " + address + ": " + why +
                      "; stop the program that holds the port or choose another with " + flag);
  }
  SocketAddress bound;
  bound.length = sizeof bound.storage;
  getsockname(fd, reinterpret_cast<sockaddr*>(&bound.storage), &bound.length);
  return std::unique_ptr<Acceptor>(
      std::make_unique<TcpAcceptor>(fd, std::move(check), ToString(bound)));
}

}  // namespace simm::transport
