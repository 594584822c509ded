#include "common/transport/open.h"

#ifdef SIMM_HAS_VERBS
#include "common/transport/verbs/verbs_transport.h"
#endif

namespace simm::transport {

#ifdef SIMM_HAS_VERBS
Result<std::unique_ptr<Transport>> OpenVerbs(const RdmaOptions& options) {
  VerbsOptions verbs;
  verbs.bootstrap = options.bootstrap;
  verbs.device.names = options.devices;
  verbs.device.port = options.port;
  verbs.device.gid_index = options.gid_index;
  verbs.device.numa_node = options.numa_node;
  auto transport = VerbsTransport::Create(std::move(verbs));
  if (!transport.ok()) return transport.status();
  return std::unique_ptr<Transport>(std::move(*transport));
}
#else
Result<std::unique_ptr<Transport>> OpenVerbs(const RdmaOptions&) {
  return Status(Code::kUnavailable,
                "this program was built without RDMA: install libibverbs-dev and build again");
}
#endif

}  // namespace simm::transport
