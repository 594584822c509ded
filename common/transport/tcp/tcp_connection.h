#pragma once

#include <sys/uio.h>

#include <deque>
#include <optional>
#include <string>
#include <vector>

#include "common/transport/tcp/frame.h"
#include "common/transport/tcp/tcp_transport.h"
#include "common/transport/transport.h"

namespace simm::transport {

// A lane over a non-blocking socket. Payload is received straight into the receiver's memory and
// sent straight from the caller's. Behind the payload that is being received, `read_ahead` bytes of
// what follows are taken in the same system call: enough for the next frame's header and body, too
// few to reach into its value.
class TcpConnection final : public Connection {
 public:
  struct Options {
    SessionTag tag;      // client: of all frames
    SessionCheck check;  // server: of the first frame; then `tag` is what it carried
    size_t read_ahead = 0;
  };
  // Owns the descriptor.
  TcpConnection(int fd, std::string peer, Options options);
  ~TcpConnection() override;

  const Capabilities& capabilities() const override;
  void Start(Receiver* receiver) override { receiver_ = receiver; }
  Status Post(std::span<const WorkItem> items) override;
  bool Progress() override;
  int PollFd() const override { return fd_; }
  short PollEvents() const override;
  void PauseReceive(bool paused) override { paused_ = paused; }
  void DiscardPayload() override { target_.count = 0; }
  void Close() override { Fail(Status(Code::kUnavailable, "connection closed")); }
  bool closed() const override { return fd_ < 0; }
  std::string PeerName() const override { return peer_; }
  SessionTag Tag() const override { return options_.tag; }
  const ConnectionCounters& counters() const override { return counters_; }

 private:
  struct Outgoing {
    FrameHeaderBytes header;
    std::vector<std::byte> body;
    std::vector<ConstSegment> payload;
    PayloadTap* tap = nullptr;
    uint64_t trailer = 0;
    uint64_t payload_bytes = 0;
    uint64_t tapped = 0;  // payload bytes shown to the tap
    uint64_t sent = 0;    // bytes of the whole frame handed to the kernel
    Completion* completion = nullptr;
    uint64_t HeadBytes() const { return kFrameHeaderBytes + body.size(); }
    uint64_t TotalBytes() const {
      return HeadBytes() + payload_bytes + (tap != nullptr ? kTrailerBytes : 0);
    }
  };
  enum class Part : uint8_t { kHeader, kBody, kPayload, kTrailer };

  // Sending. False: the socket takes no more now, or the connection failed.
  bool SendSome();
  bool OnlySmallToSend() const;
  void TapAhead(Outgoing& item);
  static void AppendIovecs(const Outgoing& item, uint64_t limit, std::vector<iovec>& out);
  void Advance(uint64_t sent);

  // Receiving.
  bool ReceiveSome();
  bool ParseStage();
  bool OnHeader();
  bool OnBody();
  void FinishMessage(std::optional<uint64_t> trailer);
  void Land(uint64_t bytes);
  size_t StagedBytes() const { return stage_end_ - stage_begin_; }
  void CompactStage();
  bool MayBegin() const { return !(paused_ && part_ == Part::kHeader); }

  void Fail(const Status& why);

  int fd_;
  const std::string peer_;
  Options options_;
  bool tag_known_;
  Receiver* receiver_ = nullptr;
  ConnectionCounters counters_;
  bool paused_ = false;

  std::deque<Outgoing> outgoing_;
  bool drained_ = false;  // the last receive took all that was there
  std::vector<iovec> iovecs_;

  Part part_ = Part::kHeader;
  FrameHeader header_;
  PayloadTarget target_;
  size_t segment_ = 0;  // of target_ being filled
  uint64_t segment_filled_ = 0;
  uint64_t payload_left_ = 0;
  std::vector<std::byte> stage_;
  size_t stage_begin_ = 0;
  size_t stage_end_ = 0;
};

}  // namespace simm::transport
