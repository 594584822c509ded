#pragma once

#include <atomic>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/base/clock.h"
#include "common/base/hash.h"
#include "common/protocol/messages.h"
#include "common/routing/map_holder.h"
#include "common/transport/transport.h"
#include "dataserver/data_metrics.h"
#include "dataserver/entry_lister.h"
#include "dataserver/one_sided_session.h"
#include "dataserver/pool.h"
#include "dataserver/session_table.h"
#include "dataserver/shard_check.h"

namespace simm::dataserver {

// What all connections of a data server share. Borrowed; outlives them.
struct DataContext {
  Pool& pool;
  SessionTable& sessions;
  MapHolder& map;
  DataMetrics& metrics;
  const Clock& clock;
  // Own id in the map; kNoServer until registered.
  const std::atomic<ServerId>& self;
  bool verify_puts = true;              // compare a put's checksum with its bytes before publishing
  bool verify_commits = false;          // the same for what peers have written by themselves
  OneSidedState* one_sided = nullptr;   // nullptr: leases, lookups and pins are refused
  Duration slow_op = Duration::zero();  // requests that take longer are logged; 0: none
};

// The server's end of one data connection: decodes requests, answers them from the pool in the
// order in which they come. One-thread. While an answer streams, no further request is begun, and
// at most kReplyWindowBytes (or one value) are pinned for it: a slow reader holds no more. Peers
// that write by themselves lease and commit through the OneSidedSession within.
class DataSession final : public transport::Receiver, private transport::Completion {
 public:
  // `wake`: called from any thread to have Progress called soon; empty where it is called again and
  // again anyhow.
  DataSession(DataContext& context, std::unique_ptr<transport::Connection> connection,
              std::function<void()> wake = {});
  ~DataSession() override;

  // Moves what can be moved; false when the connection is closed and the session can be destroyed.
  bool Progress();
  // Progress has more to do although the socket may not become ready again: call it soon.
  bool WantsProgress() const { return resumed_; }
  // Closes the connection if its session has ended or if it has been stuck within a message for too
  // long.
  void Tick(Instant now);
  // A request is being received or answered.
  bool Busy() const { return type_.has_value() || streaming_ || !window_.empty(); }
  transport::Connection& connection() { return *connection_; }

  transport::PayloadTarget OnMessage(uint64_t request_id, ByteSpan body,
                                     uint64_t payload_bytes) override;
  void OnPayload(ByteSpan landed) override;
  void OnMessageEnd(uint64_t request_id, std::optional<uint64_t> trailer) override;
  void OnClosed(const Status& why) override;

 private:
  // `keys`: how many it was for, 0 where that says nothing.
  void Observe(DataOp op, size_t keys);
  void ShowState(Instant now, bool moved);
  struct StreamedValue {
    std::optional<PinnedValue> pinned;  // none for a run of misses
    uint64_t bytes = 0;
  };
  struct PendingReply {
    uint64_t request_id = 0;
    std::vector<std::byte> body;  // keeps its capacity from reply to reply
    transport::ConstSegment payload;
    bool has_payload = false;
  };

  void OnComplete(const Status& status) override;  // of the oldest streamed record or reply

  bool Move();
  void End();
  void Refuse(const Status& why);
  transport::PayloadTarget BeginPut(ByteSpan body, uint64_t payload_bytes);
  void EndPut(std::optional<uint64_t> trailer);
  void BeginGet();
  void PumpGet();
  void AddGetRecord();
  void AnswerKeys();
  Status AnswerList();
  // What this reader is told of a key that is not here.
  Code Tell(Code code) const {
    const bool told = (keys_.flags & protocol::kTellRemoved) != 0;
    return code == Code::kRemoved && !told ? Code::kMiss : code;
  }
  Code AnswerKey(const protocol::KeyEntry& entry);
  void TouchInReverse(const std::vector<Code>& codes);
  void AnswerOneSided(protocol::MessageType type);
  void ResumeOneSided();
  void SendRecalls(Instant now);
  PendingReply& AddReply(uint64_t request_id, ByteSpan body);
  void ReplyWith(ByteSpan body);
  void Flush();
  void Pace();

  DataContext& context_;
  std::unique_ptr<transport::Connection> connection_;
  const DataRoad road_;
  ShardCheck shards_;
  std::unique_ptr<OneSidedSession> one_sided_;
  std::unique_ptr<EntryLister> lister_;
  uint64_t session_ = 0;

  // The message being received or answered.
  std::optional<protocol::MessageType> type_;
  uint64_t request_id_ = 0;
  std::vector<std::byte> body_;  // keys point in here
  protocol::KeysRequest keys_;
  Instant received_;

  // A put under way.
  protocol::PutRequest put_;
  Hash128 put_hash_;
  std::optional<Grant> grant_;
  Code put_code_ = Code::kOk;
  Xxh3Stream put_checksum_;

  // A get under way.
  bool streaming_ = false;
  size_t next_key_ = 0;
  std::vector<Code> get_codes_;
  std::deque<StreamedValue> window_;
  uint64_t window_bytes_ = 0;

  // Replies gathered for one Post.
  std::vector<std::unique_ptr<PendingReply>> replies_;
  std::vector<std::unique_ptr<PendingReply>> spare_;

  bool paused_ = false;
  bool resumed_ = false;

  // Stall detection.
  uint64_t last_bytes_ = 0;
  Instant last_moved_;

  // As shown to operators.
  ConnectionState state_ = ConnectionState::kIdle;
  std::optional<Instant> last_asked_;  // other than by a keepalive
};

}  // namespace simm::dataserver
