#pragma once

#include <sys/socket.h>
#include <sys/types.h>
#include <sys/un.h>

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "common/base/bytes.h"
#include "common/base/status.h"
#include "common/transport/shm/descriptor.h"
#include "common/transport/transport.h"

namespace simm::transport {

struct UnixAddress {
  sockaddr_un storage{};
  socklen_t length = 0;
  bool abstract = false;
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage); }
};

// A path, or "@name" for the abstract namespace. kInvalidArgument: empty or too long.
Result<UnixAddress> ParseUnixAddress(const std::string& endpoint);

// OK when the process at the other end runs as our user, as root, or as one of `allowed`; else
// kUnavailable, naming the user. By SO_PEERCRED: as it was when the connection was made.
Status CheckPeerUser(int fd, const std::vector<uid_t>& allowed);

// The process at the other end, held by a pidfd, so that its end can be proven whatever becomes of
// its number. kFailedPrecondition: this kernel or this pid namespace cannot tell.
Result<std::shared_ptr<PeerProcess>> OpenPeerProcess(int fd);

struct ReceivedPacket {
  ssize_t bytes = -1;  // as recvmsg(2)
  bool whole = true;   // neither the packet nor its descriptors were cut off
};

// Never wait, never raise SIGPIPE; errno as of the system call.
ssize_t SendPacket(int fd, ByteSpan header, ByteSpan body, std::span<const int> descriptors);
// Descriptors for which `descriptors` has no room (nullptr: none) never enter this process: the
// kernel drops them and the packet counts as cut off.
ReceivedPacket ReceivePacket(int fd, MutableByteSpan buffer, std::vector<Descriptor>* descriptors);

}  // namespace simm::transport
