#pragma once

#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "common/transport/shm/descriptor.h"
#include "common/transport/shm/packet.h"
#include "common/transport/shm/shared_files.h"
#include "common/transport/transport.h"

namespace simm::transport {

extern const Capabilities kShmCapabilities;

// A lane over mapped files of the peer and a Unix socket, after the handshake. Reads and Writes are
// copies made in Progress, in the order posted; messages are packets. The end that accepted has no
// regions of the peer and does not read or write.
class ShmConnection final : public Connection {
 public:
  struct Options {
    SessionTag tag;
    std::vector<MappedRegion> regions;        // client: what of the peer can be reached
    std::shared_ptr<PeerProcess> peer;        // server: who may go on writing
    std::shared_ptr<const Descriptor> ready;  // client: always readable and writable
  };
  ShmConnection(Descriptor socket, std::string peer_name, Options options);
  ~ShmConnection() override { Close(); }

  const Capabilities& capabilities() const override { return kShmCapabilities; }
  void Start(Receiver* receiver) override { receiver_ = receiver; }
  Status Post(std::span<const WorkItem> items) override;
  bool Progress() override;
  // The socket; but while there are copies to make, which no socket announces, a descriptor that is
  // always ready. (Room in the socket would not do: a peer that is stopped leaves none, and its
  // memory must stay readable.)
  int PollFd() const override { return HasCopies() ? options_.ready->get() : socket_.get(); }
  short PollEvents() const override;
  void PauseReceive(bool paused) override { paused_ = paused; }
  void DiscardPayload() override {}  // messages have none
  void Close() override;
  bool closed() const override { return closed_; }
  std::string PeerName() const override { return peer_name_; }
  SessionTag Tag() const override { return options_.tag; }
  const ConnectionCounters& counters() const override { return counters_; }
  std::shared_ptr<PeerProcess> peer_process() const override { return options_.peer; }

  // What this lane has mapped, for tests.
  const std::vector<MappedRegion>& regions() const { return options_.regions; }

 private:
  struct Work {
    Op op = Op::kSend;
    bool covers_send = false;  // its success must prove that of an unsignalled message before it
    std::vector<MutableSegment> local;
    const RemoteRegion* remote = nullptr;
    uint64_t remote_offset = 0;
    PayloadTap* tap = nullptr;
    uint64_t done = 0;
    uint64_t total = 0;
    std::vector<std::byte> body;
    uint64_t request_id = 0;
    Completion* completion = nullptr;
  };

  Status CheckItem(const WorkItem& item) const;
  const MappedRegion* Find(const RemoteChunk& chunk) const;
  bool Waits(const Work& work) const { return work.covers_send && !unsent_.empty(); }
  bool HasCopies() const { return options_.ready && !work_.empty() && !Waits(work_.front()); }

  void RunWork();
  bool Copy(Work& work, uint64_t* budget);
  static void Write(std::byte* remote, const std::byte* local, uint64_t n, PayloadTap* tap);
  void SendUnsent();
  void ReceiveSome();
  bool OnPacket(ByteSpan packet);
  void Complete(Completion* completion, const Status& status);
  void Fail(const Status& why);

  Descriptor socket_;
  const std::string peer_name_;
  Options options_;
  Receiver* receiver_ = nullptr;
  ConnectionCounters counters_;
  bool paused_ = false;
  bool closed_ = false;
  std::deque<Work> work_;    // not begun, but for the first
  std::deque<Work> unsent_;  // messages begun that the socket has no room for
  std::vector<std::byte> packet_;
};

}  // namespace simm::transport
