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

class ChaosConnection;

// How often each thing happens that the standards allow (0 to 1).
struct ChaosOptions {
  double overtake = 0.9;         // a step takes any piece of any item, else the oldest one
  double replay = 0.05;          // a piece of a Read that has landed is read again later
  double duplicate_write = 0.1;  // a placed piece of a Write is placed again later
  double early_write = 0.3;      // a Write completes before all of it is placed
  double hold = 0.1;             // an item rests first, while later ones go on
  double lost_completion = 0;    // an item is done, but its completion is lost: the lane breaks
};

// A network inside one thread that gives one-sided semantics and nothing more: what Soft-RoCE never
// shows, but PCIe and the InfiniBand transports allow. Under one seed; work moves only in Step, by
// one piece of at most 64 bytes, so that the owner of remote memory can act between any two.
//
// - Pieces of a Read are executed in any order, among those of all other items of the lane, later
//   Reads included (PCIe reads may pass each other), and again later, from newer memory, until the
//   item completes (a lost response is read again).
// - Pieces of a Write are placed in any order, perhaps twice, perhaps after the Write has
//   completed; but all of them before a later message of the lane is delivered.
// - Messages arrive in order, exactly once, or the lane breaks. Completions come in order.
// - When the near end of a lane has closed, its Writes may still be placed (from copies: lent
//   memory is not touched) until the far end has closed too. A closed far end cuts off everything.
class ChaosNetwork {
 public:
  explicit ChaosNetwork(uint64_t seed, ChaosOptions options = {})
      : random_(seed), options_(options) {}

  // Does one piece of work somewhere; false when there is none.
  bool Step();
  Random& random() { return random_; }

 private:
  friend class ChaosConnection;
  friend class ChaosTransport;
  friend class ChaosRegion;
  friend class ChaosAcceptor;

  struct Registered {
    MutableByteSpan memory;
    uint8_t access = 0;
  };
  struct Listener {
    SessionCheck check;
    std::deque<std::unique_ptr<Connection>> waiting;
  };

  bool Chance(double p) { return p > 0 && random_.Unit() < p; }
  // nullptr: no such memory, or not with this right.
  std::byte* Find(uint64_t key, uint64_t offset, size_t size, uint8_t access) const;

  Random random_;
  const ChaosOptions options_;
  uint64_t now_ = 0;  // steps so far
  uint64_t next_key_ = 1;
  std::map<uint64_t, Registered> regions_;
  std::map<std::string, Listener*> listeners_;
  std::vector<ChaosConnection*> lanes_;
  std::vector<ChaosConnection*> ready_;  // of the current step
};

// The shelf's view of a ChaosNetwork; for tests only. Endpoints are names.
class ChaosTransport final : public Transport {
 public:
  explicit ChaosTransport(ChaosNetwork& network) : network_(network) {}
  std::string_view name() const override { return "chaos"; }
  const Capabilities& capabilities() const override;
  Result<std::unique_ptr<LocalRegion>> Register(MutableByteSpan memory, uint8_t access) override;
  Result<std::unique_ptr<Connection>> Connect(const std::string& endpoint, SessionTag tag,
                                              Duration timeout) override;
  Result<std::unique_ptr<Acceptor>> Listen(const std::string& endpoint, const std::string& flag,
                                           SessionCheck check) override;

 private:
  ChaosNetwork& network_;
};

}  // namespace simm::transport
