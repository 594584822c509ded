#pragma once

#include <array>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "common/transport/chaos/chaos_transport.h"

namespace simm::transport {

extern const Capabilities kChaosCapabilities;

// One end of a lane of a ChaosNetwork. Registers with it for life.
class ChaosConnection final : public Connection {
 public:
  ChaosConnection(ChaosNetwork& network, std::string peer, SessionTag tag);
  ~ChaosConnection() override;

  void Join(ChaosConnection* other, SessionCheck check);

  const Capabilities& capabilities() const override { return kChaosCapabilities; }
  void Start(Receiver* receiver) override { receiver_ = receiver; }
  Status Post(std::span<const WorkItem> items) override;
  bool Progress() override;
  int PollFd() const override { return -1; }
  short PollEvents() const override { return 0; }
  void PauseReceive(bool paused) override { paused_ = paused; }
  void DiscardPayload() override {}  // messages have none
  void Close() override { Fail(Status(Code::kUnavailable, "connection closed")); }
  bool closed() const override { return closed_; }
  std::string PeerName() const override { return peer_name_; }
  SessionTag Tag() const override { return tag_; }
  const ConnectionCounters& counters() const override { return counters_; }

  bool HasWork() const;
  void StepOnce();

 private:
  static constexpr size_t kPieceBytes = 64;  // a cache line, as PCIe does it

  struct Piece {
    std::byte* local = nullptr;
    uint64_t key = 0;
    uint64_t offset = 0;  // in the registered memory
    size_t size = 0;
    bool on_the_wire = false;  // of a Write: `bytes` hold what it carries
    std::array<std::byte, kPieceBytes> bytes{};
  };
  struct Item {
    Op op = Op::kSend;
    std::vector<Piece> pending;
    std::vector<std::byte> body;
    uint64_t request_id = 0;
    Completion* completion = nullptr;
    uint64_t not_before = 0;
    bool early = false;
    bool begun = false;
    bool delivered = false;  // of a message
    bool completed = false;
    bool Done() const { return op == Op::kSend ? delivered : pending.empty(); }
  };
  struct Arrival {
    SessionTag tag;
    uint64_t request_id = 0;
    std::vector<std::byte> body;
  };

  Status CheckItem(const WorkItem& item) const;
  static void Split(const WorkItem& item, std::vector<Piece>* pieces);
  bool MayDeliver(size_t index) const;
  void StepPiece(Item& item);
  static void PutOnTheWire(Piece& piece);
  void StepLate();
  void CompleteInOrder();
  void Deliver(Arrival arrival);
  void Fail(const Status& why);
  void Leave(const Status& why);

  ChaosNetwork& network_;
  const std::string peer_name_;
  SessionTag tag_;
  SessionCheck check_;
  ChaosConnection* peer_ = nullptr;
  Receiver* receiver_ = nullptr;
  ConnectionCounters counters_;
  bool paused_ = false;
  bool closed_ = false;
  std::optional<Status> broken_;     // by an error of its own; told in Progress
  std::optional<Status> peer_left_;  // told behind what has arrived
  std::deque<Item> items_;           // in the order posted, until done and completed
  std::vector<size_t> runnable_;     // of the current step
  std::deque<std::pair<Completion*, Status>> completed_;
  std::deque<Arrival> arrivals_;
  std::vector<Piece> late_;  // Writes of the closed far end that still reach this end's memory
};

}  // namespace simm::transport
