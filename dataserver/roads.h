#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/ids.h"
#include "common/rpc/control_types.h"
#include "common/transport/open.h"
#include "common/transport/shm/shm_transport.h"
#include "dataserver/options.h"
#include "dataserver/pool.h"

namespace simm::dataserver {

// The roads besides tcp on which clients reach the pool without this process: shared memory for
// those on this host, RDMA for all. Opened once, at the start; then immutable and thread-safe. The
// pool's memory is registered for its lifetime: readers may read index and data, writers may write
// the data; nobody may write the index.
class Roads {
 public:
  Roads() = default;
  // Opens what `options.transport` asks for, and gives the acceptors of what can be had. A road
  // that was named and cannot be had is an error that says the mend; under "auto" it is logged and
  // kept as the reason.
  Status Open(const ServerOptions& options, Pool& pool, const Id128& boot_id,
              const transport::SessionCheck& check,
              std::vector<std::unique_ptr<transport::Acceptor>>* acceptors);

  // Adds what a client that speaks `wanted` may use. `control_address`: where it opens lanes whose
  // ends agree over gRPC.
  void Offer(const std::vector<std::string>& wanted, const std::string& control_address,
             rpc::HandshakeReply* reply) const;
  // The answer to a lane's offer. kFailedPrecondition: that transport is not offered here.
  Result<std::string> Answer(const rpc::OpenLaneRequest& request) const;
  // The pool's memory that is registered with each transport that is open.
  struct Registered {
    std::string_view transport;
    uint64_t bytes = 0;
  };
  std::vector<Registered> RegisteredMemory() const;
  // What is offered and what is not, with the reason; connections are left at zero.
  std::vector<rpc::TransportStatus> Describe() const;

 private:
  struct Road {
    std::unique_ptr<transport::Transport> transport;
    std::unique_ptr<transport::LocalRegion> index;
    std::unique_ptr<transport::LocalRegion> data;
    uint64_t registered_bytes = 0;
    std::string endpoint;  // empty: the control address
  };
  struct Closed {
    std::string name;
    std::string reason;
  };
  using Acceptors = std::vector<std::unique_ptr<transport::Acceptor>>;

  Status OpenShared(const ServerOptions& options, Pool& pool, const Id128& boot_id,
                    const transport::SessionCheck& check, Acceptors* acceptors);
  Status OpenRdma(const ServerOptions& options, Pool& pool, const transport::SessionCheck& check,
                  Acceptors* acceptors);
  static Status RegisterPool(Road* road, Pool& pool);

  std::vector<Road> open_;  // best first
  std::vector<Closed> closed_;
};

}  // namespace simm::dataserver
