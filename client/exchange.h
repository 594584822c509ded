#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "client/client.h"
#include "client/lane.h"
#include "client/op_metrics.h"
#include "client/stage_times.h"
#include "client/stats.h"
#include "common/base/hash.h"
#include "common/protocol/messages.h"
#include "common/routing/route_table.h"

namespace simm::client {

// A put whose COMMIT left on a lane that broke before the answer came: asked about on another lane
// of the session (RESOLVE). session 0: there is none.
struct CommitInDoubt {
  uint64_t session = 0;
  uint64_t lane = 0;
  uint64_t generation = 0;
};

// One key of a call, from the caller's arguments to its result.
struct CallItem {
  std::string_view key;
  Hash128 hash;
  std::byte* buffer = nullptr;       // get: where the value goes
  const std::byte* value = nullptr;  // put: where it comes from
  uint64_t size = 0;
  const transport::LocalRegion* region = nullptr;  // of buffer or value, where it is registered
  KeyResult result;
  bool done = false;
  Road road = Road::kNone;  // over what it was answered
  bool by_message = false;  // put: the server has no room to lend; or: no bounce buffer is free
  Hash128 parent;           // put: hints
  uint32_t depth = 0;
  CommitInDoubt doubt;     // put
  uint32_t pinned_ms = 0;  // pin
};

struct CallShape {
  protocol::MessageType type = protocol::MessageType::kGet;
  bool allow_shorter = false;
  bool replace = false;
  uint32_t ttl_ms = 0;
  Verify verify = Verify::kAlways;
  uint32_t write_quorum = 1;            // put: owners that must have taken the value
  bool tell_removed = false;            // read: kRemoved is told apart from kMiss
  ServerId only = kNoServer;            // not the owner: this server is asked
  bool timed = false;                   // where its time goes is measured
  Duration slow_op = Duration::zero();  // for the log of slow calls; 0: none is kept
  bool server_mute = false;  // it answers no messages now: what would have to be asked is a miss
  NamespaceId namespace_id = 0;
  protocol::MapStamp map;
};

// A call that nothing but an answer is expected of: without one, for a cache, it is a miss.
inline bool IsRead(protocol::MessageType type) {
  return type == protocol::MessageType::kGet || type == protocol::MessageType::kExists ||
         type == protocol::MessageType::kTouch || type == protocol::MessageType::kPin;
}

// One server's part of a call, as a state machine over one lane: posts requests or reads, puts
// arriving values where they belong, fills the items' results. Items that it leaves undone are the
// caller's to repeat elsewhere or later. One-thread. Items, keys and memory are borrowed until
// finished(), or until the lane is detached with nothing unsent().
class Exchange : public LaneUser {
 public:
  // Posts the first step under one doorbell.
  virtual Status Begin(Lane& lane) = 0;
  // After the lane's Progress: posts the next step if the last one has ended. True: it did.
  virtual bool Advance() { return false; }
  // Every item is answered, or the lane has closed (failure() says why).
  virtual bool finished() const = 0;
  // The transport may still use the caller's memory and will call back here.
  virtual bool unsent() const = 0;
  // The caller has run out of time and will not come back: gives back what the server has granted.
  virtual void GiveUp() {}
  // What has become of some items can be asked over another lane of the session: worth one more
  // although this one was heard.
  bool in_doubt() const;

  bool failed() const { return closed_; }
  const Status& failure() const { return failure_; }
  // Where the time went so far.
  StageTimes times() const { return stages_.Read(); }
  // By which the server knows the first thing it was asked; 0: nothing, or by other ids.
  uint64_t first_request() const { return first_request_; }
  // Over what its keys are answered; before Begin.
  void SetRoad(Road road) { road_ = road; }
  const std::vector<CallItem*>& items() const { return items_; }
  // Newest map version that the server has shown; a WRONG_OWNER makes the caller wait for it.
  const protocol::MapStamp& server_map() const { return server_map_; }
  bool heard() const { return heard_; }  // any byte of an answer
  // Items whose bytes failed validation, for a scrub.
  const std::vector<const CallItem*>& corrupt_items() const { return corrupt_items_; }

  void OnLaneClosed(const Status& why) override {
    closed_ = true;
    failure_ = why;
  }

 protected:
  // `items` in the caller's order.
  Exchange(const CallShape& shape, std::vector<CallItem*> items, StatsCounters& stats)
      : shape_(shape), items_(std::move(items)), stats_(stats), stages_(shape.timed) {}

  void See(const protocol::MapStamp& map);
  void Finish(CallItem& item, Code code, uint64_t value_bytes);
  bool ShouldVerify(const CallItem& item) const;
  // The transport cannot reach this item's value where it lies.
  static bool NeedsBounce(const PoolAccess& pool, const CallItem& item) {
    return pool.registrar != nullptr && item.region == nullptr && item.size > 0;
  }
  // Whether there is a bounce buffer (taken now, if need be) that holds a value of this size.
  bool HasBounce(const PoolAccess& pool, uint64_t size);
  static void GoByMessage(CallItem& item);
  void TakePutCode(CallItem& item, const protocol::PutReply& reply);

  const CallShape shape_;
  std::vector<CallItem*> items_;
  StatsCounters& stats_;
  StageClock stages_;
  Road road_ = Road::kNone;
  uint64_t first_request_ = 0;
  bool closed_ = false;
  bool heard_ = false;
  Status failure_;
  protocol::MapStamp server_map_;
  std::vector<const CallItem*> corrupt_items_;
  std::unique_ptr<BounceBuffer> bounce_;
};

// Of puts in doubt that cannot be asked about over this lane (another session, or messages only):
// those that must not be written twice are answered kUnavailable and leave `items`, the others
// start anew.
void SettleDoubts(const CallShape& shape, const Lane& lane, std::vector<CallItem*>* items);

// The exchange for this call over a lane of this kind.
std::unique_ptr<Exchange> MakeExchange(const CallShape& shape, std::vector<CallItem*> items,
                                       StatsCounters& stats, Lane& lane);

}  // namespace simm::client
