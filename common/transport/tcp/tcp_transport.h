#pragma once

#include <memory>
#include <string>

#include "common/transport/transport.h"

namespace simm::transport {

// Sockets. An endpoint is "host:port"; port 0 to Listen takes a free one. Registration is
// bookkeeping only: the kernel copies from and to any memory.
class TcpTransport final : public Transport {
 public:
  std::string_view name() const override { return "tcp"; }
  const Capabilities& capabilities() const override;
  Result<std::unique_ptr<LocalRegion>> Register(MutableByteSpan memory, uint8_t access) override;
  Result<std::unique_ptr<Connection>> Connect(const std::string& endpoint, SessionTag tag,
                                              Duration timeout) override;
  Result<std::unique_ptr<Acceptor>> Listen(const std::string& endpoint, const std::string& flag,
                                           SessionCheck check) override;
};

extern const Capabilities kTcpCapabilities;

}  // namespace simm::transport
