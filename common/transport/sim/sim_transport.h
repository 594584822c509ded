#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "common/base/random.h"
#include "common/transport/transport.h"

namespace simm::transport {

class SimConnection;

// A network inside one thread, for tests and simulations: one-sided reads and writes, messages and
// payload, all under one seed. Work moves only in Step: each call picks one lane with work at
// random and does one piece of it, so that whatever the owner of remote memory does between two
// steps falls between two pieces of a read. Within a lane work is done in order, as Soft-RoCE does
// it; what hardware may do beyond that is the chaos transport's business.
class SimNetwork {
 public:
  explicit SimNetwork(uint64_t seed) : random_(seed) {}

  // Does one piece of work somewhere; false when there is none.
  bool Step();
  Random& random() { return random_; }

 private:
  friend class SimConnection;
  friend class SimTransport;
  friend class SimRegion;
  friend class SimAcceptor;

  struct Registered {
    MutableByteSpan memory;
    uint8_t access = 0;
  };
  struct Listener {
    SessionCheck check;
    std::deque<std::unique_ptr<Connection>> waiting;
  };

  Random random_;
  uint64_t next_key_ = 1;
  std::map<uint64_t, Registered> regions_;
  std::map<std::string, Listener*> listeners_;
  std::vector<SimConnection*> lanes_;
};

// The shelf's view of a SimNetwork. Endpoints are names.
class SimTransport final : public Transport {
 public:
  explicit SimTransport(SimNetwork& network) : network_(network) {}
  std::string_view name() const override { return "sim"; }
  const Capabilities& capabilities() const override;
  Result<std::unique_ptr<LocalRegion>> Register(MutableByteSpan memory, uint8_t access) override;
  Result<std::unique_ptr<Connection>> Connect(const std::string& endpoint, SessionTag tag,
                                              Duration timeout) override;
  Result<std::unique_ptr<Acceptor>> Listen(const std::string& endpoint, const std::string& flag,
                                           SessionCheck check) override;

 private:
  SimNetwork& network_;
};

}  // namespace simm::transport
