#include "common/transport/shm/unix_socket.h"

#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <string>

#include "common/base/process.h"
#include "common/transport/shm/packet.h"

namespace simm::transport {
namespace {

#ifndef SO_PEERPIDFD
constexpr int kPeerPidfd = 77;  // SO_PEERPIDFD, Linux 6.5
#else
constexpr int kPeerPidfd = SO_PEERPIDFD;
#endif

class PidfdProcess final : public PeerProcess {
 public:
  PidfdProcess(int pidfd, pid_t pid)
      : process_(pidfd), pid_(pid), start_time_(Ended() ? 0 : StartTimeOf(pid)) {}
  bool Ended() const override { return process_.Ended(); }
  std::string Name() const override { return "pid " + std::to_string(pid_); }
  Identity identity() const override { return {static_cast<uint32_t>(pid_), start_time_}; }

 private:
  const WatchedProcess process_;
  const pid_t pid_;
  const uint64_t start_time_;
};

}  // namespace

Result<UnixAddress> ParseUnixAddress(const std::string& endpoint) {
  UnixAddress address;
  address.abstract = !endpoint.empty() && endpoint.front() == '@';
  const size_t least = address.abstract ? 2 : 1;
  if (endpoint.size() < least || endpoint.size() >= sizeof address.storage.sun_path) {
    return Status(Code::kInvalidArgument,
                  "'" + endpoint + "' is no Unix socket: a path or @name of at most " +
                      std::to_string(sizeof address.storage.sun_path - 1) + " bytes is wanted");
  }
  address.storage.sun_family = AF_UNIX;
  std::memcpy(address.storage.sun_path, endpoint.data(), endpoint.size());
  if (address.abstract) address.storage.sun_path[0] = '\0';
  address.length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + endpoint.size() +
                                          (address.abstract ? 0 : 1));
  return address;
}

Status CheckPeerUser(int fd, const std::vector<uid_t>& allowed) {
  ucred peer{};
  socklen_t length = sizeof peer;
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0) {
    return Status(Code::kUnavailable, std::string("no credentials: ") + std::strerror(errno));
  }
  if (peer.uid == geteuid() || peer.uid == 0 ||
      std::find(allowed.begin(), allowed.end(), peer.uid) != allowed.end()) {
    return Status::Ok();
  }
  return Status(Code::kUnavailable, "user " + std::to_string(peer.uid) +
                                        " is not among the users that may share memory here");
}

Result<std::shared_ptr<PeerProcess>> OpenPeerProcess(int fd) {
  ucred peer{};
  socklen_t length = sizeof peer;
  (void)getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length);
  // The socket's own pidfd names the very process that connected. Before Linux 6.5 there is only
  // its number, which is its own as long as the connection is up.
  int pidfd = -1;
  length = sizeof pidfd;
  if (getsockopt(fd, SOL_SOCKET, kPeerPidfd, &pidfd, &length) != 0) {
    pidfd = peer.pid > 0 ? static_cast<int>(syscall(SYS_pidfd_open, peer.pid, 0)) : -1;
    pollfd p{fd, 0, 0};
    if (pidfd >= 0 && (poll(&p, 1, 0) < 0 || (p.revents & (POLLHUP | POLLERR)) != 0)) {
      close(pidfd);
      pidfd = -1;
    }
  }
  if (pidfd < 0) {
    return Status(Code::kFailedPrecondition,
                  "the end of the peer's process could not be seen from here (another pid "
                  "namespace, or a kernel without pidfd): it has to use tcp");
  }
  return std::shared_ptr<PeerProcess>(std::make_shared<PidfdProcess>(pidfd, peer.pid));
}

ssize_t SendPacket(int fd, ByteSpan header, ByteSpan body, std::span<const int> descriptors) {
  iovec parts[2] = {{const_cast<std::byte*>(header.data()), header.size()},
                    {const_cast<std::byte*>(body.data()), body.size()}};
  alignas(cmsghdr) char control[CMSG_SPACE(kMaxSharedFiles * sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = parts;
  message.msg_iovlen = body.empty() ? 1 : 2;
  if (!descriptors.empty()) {
    SIMM_CHECK(descriptors.size() <= kMaxSharedFiles, "too many descriptors for one packet");
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(descriptors.size_bytes());
    cmsghdr* const head = CMSG_FIRSTHDR(&message);
    head->cmsg_level = SOL_SOCKET;
    head->cmsg_type = SCM_RIGHTS;
    head->cmsg_len = CMSG_LEN(descriptors.size_bytes());
    std::memcpy(CMSG_DATA(head), descriptors.data(), descriptors.size_bytes());
  }
  return sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
}

ReceivedPacket ReceivePacket(int fd, MutableByteSpan buffer, std::vector<Descriptor>* descriptors) {
  iovec part = {buffer.data(), buffer.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(kMaxSharedFiles * sizeof(int))];
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (descriptors != nullptr) {
    message.msg_control = control;
    message.msg_controllen = sizeof control;
  }
  ReceivedPacket packet;
  packet.bytes = recvmsg(fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  if (packet.bytes < 0) return packet;
  packet.whole = (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) == 0;
  if (descriptors == nullptr) return packet;
  for (cmsghdr* c = CMSG_FIRSTHDR(&message); c != nullptr; c = CMSG_NXTHDR(&message, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    for (size_t at = CMSG_LEN(0); at + sizeof(int) <= c->cmsg_len; at += sizeof(int)) {
      int received;
      std::memcpy(&received, reinterpret_cast<const char*>(c) + at, sizeof received);
      descriptors->emplace_back(received);
    }
  }
  return packet;
}

}  // namespace simm::transport
