#pragma once

#include <poll.h>

#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "common/base/clock.h"
#include "common/transport/transport.h"
#include "common/transport/verbs/queue_pair.h"
#include "common/transport/verbs/receive_pool.h"
#include "common/transport/verbs/send_queue.h"

namespace simm::transport {

// A lane over one reliable connected queue pair.
//
// It ends in steps, each of which Progress takes without waiting and Close takes at once: open ->
// parting (its goodbye is on the way) -> draining (queue pair in error, until everything posted has
// been flushed) -> closed (queue pair destroyed, then completions, then OnClosed).
class VerbsConnection final : public Connection {
 public:
  struct Options {
    std::string peer;
    SessionTag tag;
    SessionCheck check;        // server: made once more on the first message
    uint16_t own_window = 0;   // messages that the peer may send before we have consumed any
    uint16_t peer_window = 0;  // the same the other way
    Duration goodbye_wait{};   // longest time that Close waits for the peer to take the goodbye
    const Clock* clock = nullptr;
  };
  // `queue_pair` is ready to send.
  static Result<std::unique_ptr<VerbsConnection>> Create(std::shared_ptr<Device> device,
                                                         std::shared_ptr<ReceivePool> pool,
                                                         std::unique_ptr<QueuePair> queue_pair,
                                                         Options options);
  ~VerbsConnection() override;

  const Capabilities& capabilities() const override;
  void Start(Receiver* receiver) override { receiver_ = receiver; }
  Status Post(std::span<const WorkItem> items) override;
  size_t MessageCredit() const override { return sends_.Credit(); }
  bool Progress() override { return Move(/*may_sleep=*/true); }
  bool ProgressAwake() override { return Move(/*may_sleep=*/false); }
  int PollFd() const override;
  short PollEvents() const override { return POLLIN; }
  void PauseReceive(bool paused) override { paused_ = paused; }
  void DiscardPayload() override {}  // there is none
  void Close() override;
  bool closed() const override { return state_ == State::kClosed; }
  std::string PeerName() const override { return options_.peer; }
  SessionTag Tag() const override { return spoken_ ? options_.tag : SessionTag{}; }
  const ConnectionCounters& counters() const override { return counters_; }

  // Entries that the device has put into the completion queue of this lane, for tests and metrics:
  // each costs the device a write and this side a look.
  uint64_t completion_entries() const { return completion_entries_; }

 private:
  enum class State : uint8_t { kOpen, kParting, kDraining, kClosed };
  struct Arrival {  // a message in a buffer of the pool
    uint32_t buffer = 0;
    uint64_t request_id = 0;
    uint16_t body_bytes = 0;
  };
  VerbsConnection(std::shared_ptr<Device> device, std::shared_ptr<ReceivePool> pool,
                  std::unique_ptr<QueuePair> queue_pair, Options options);

  // Sending.
  Status AppendItem(const WorkItem& item, SendBatch& batch);
  Status AppendMessage(const WorkItem& item, SendBatch& batch) const;
  Status AppendOneSided(const WorkItem& item, SendBatch& batch);
  void FlushSends();

  // Taking completions off the queue; no callback is made here.
  bool Move(bool may_sleep);
  void PollAll(bool may_sleep);
  size_t PollSome(size_t most);
  void RearmAndPoll(bool anything);
  void OnEntry(const ibv_wc& entry);
  void OnReceive(uint32_t buffer, const ibv_wc& entry);
  Status OnFrame(uint32_t buffer, ByteSpan frame, bool* keep);

  // Callbacks.
  void RunCompletions();
  void Deliver();
  bool DeliverOne();
  void TellCredit();

  // The end.
  void BeginClose(Status why, bool say_goodbye);
  void BeginDrain();
  void Advance();
  void Finish();

  const std::shared_ptr<Device> device_;
  const std::shared_ptr<ReceivePool> pool_;
  const std::unique_ptr<QueuePair> queue_pair_;
  Options options_;
  SendQueue sends_;
  Receiver* receiver_ = nullptr;
  ConnectionCounters counters_;
  uint64_t completion_entries_ = 0;

  State state_ = State::kOpen;
  Status why_;
  Instant step_ends_;  // parting and draining end then at the latest
  bool paused_ = false;
  bool spoken_;  // the peer's first message has come, or we are the client
  bool peer_left_ = false;

  std::vector<ibv_wc> entries_;
  std::vector<LocalPiece> local_;                    // scratch of AppendOneSided
  std::vector<OneSidedRequest> one_sided_;           // scratch of AppendOneSided
  std::vector<Completion*> ended_;                   // scratch of OnEntry
  std::deque<Completion*> succeeded_;                // to be told so
  std::deque<Arrival> arrivals_;                     // to be delivered
  uint32_t received_ = 0, consumed_ = 0, told_ = 0;  // messages, modulo 2^32

  mutable bool wants_events_ = false;  // somebody sleeps on PollFd
  bool event_due_ = false;             // completions came since the queue was armed last
  uint32_t idle_ = 0;
};

}  // namespace simm::transport
