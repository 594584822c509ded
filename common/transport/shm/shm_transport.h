#pragma once

#include <sys/types.h>

#include <memory>
#include <string>
#include <vector>

#include "common/base/mutex.h"
#include "common/transport/shm/shared_files.h"
#include "common/transport/transport.h"

namespace simm::transport {

// Memory of a server on the same host, mapped. An endpoint is the path of a Unix socket, or "@name"
// in the abstract namespace. Connect waits for the server's answer: the lane that it returns has
// the server's files mapped and knows its regions, as they were at that moment; regions that are
// registered later are known to later lanes only, and one that is deregistered can still be reached
// by lanes that know it (a mapping cannot be revoked: see peer_process).
//
// Peers see all of a file of which any part is registered, and can write all of one of which any
// part is registered kRemoteWrite; the ranges of regions are kept by the peer's transport alone.
class ShmTransport final : public Transport {
 public:
  struct Options {
    mode_t socket_mode = 0600;         // of the socket's file
    std::vector<uid_t> allowed_users;  // besides our own and root; on both sides
  };
  ShmTransport() : ShmTransport(Options{}) {}
  explicit ShmTransport(Options options) : options_(std::move(options)) {}

  // Server: announces that `mapping` maps the file `fd` from offset 0 (memfd, tmpfs, hugetlbfs).
  // The mapping is borrowed for the life of this object, the descriptor for this call. The file
  // must never be truncated. kInvalidArgument: no such file. kUnavailable: it cannot be opened for
  // peers.
  Status ShareFile(int fd, MutableByteSpan mapping) { return files_.Share(fd, mapping); }

  std::string_view name() const override { return "shm"; }
  const Capabilities& capabilities() const override;
  // For peers (kRemoteRead, kRemoteWrite) only within a shared file, else kInvalidArgument.
  Result<std::unique_ptr<LocalRegion>> Register(MutableByteSpan memory, uint8_t access) override;
  // A server that refuses says why: kUnavailable, or the code of its session check.
  Result<std::unique_ptr<Connection>> Connect(const std::string& endpoint, SessionTag tag,
                                              Duration timeout) override;
  Result<std::unique_ptr<Acceptor>> Listen(const std::string& endpoint, const std::string& flag,
                                           SessionCheck check) override;

 private:
  Result<std::shared_ptr<const Descriptor>> AlwaysReady();

  const Options options_;
  SharedFiles files_;
  MappingCache mappings_;
  Mutex mutex_;
  std::shared_ptr<const Descriptor> ready_ SIMM_GUARDED_BY(mutex_);
};

}  // namespace simm::transport
