#include "client/exchange.h"

#include <algorithm>

#include "client/message_exchange.h"
#include "client/one_sided_put.h"
#include "client/one_sided_read.h"

namespace simm::client {

using protocol::MessageType;

void Exchange::See(const protocol::MapStamp& map) {
  heard_ = true;
  if (map.term != server_map_.term ? map.term > server_map_.term : map.epoch > server_map_.epoch)
    server_map_ = map;
}

void Exchange::Finish(CallItem& item, Code code, uint64_t value_bytes) {
  item.result.code = code;
  item.result.value_bytes = value_bytes;
  item.road = road_;
  item.done = true;
}

bool Exchange::ShouldVerify(const CallItem& item) const {
  switch (shape_.verify) {
    case Verify::kAlways:
      return true;
    case Verify::kSampled:
      return item.hash.low % 16 == 0;
    case Verify::kOff:
      return false;
  }
  return true;
}

bool Exchange::HasBounce(const PoolAccess& pool, uint64_t size) {
  if (size > BouncePool::kBufferBytes) return false;
  if (bounce_ == nullptr) bounce_ = pool.bounce->Take();
  return bounce_ != nullptr;
}

// Left undone, for the call's next round.
void Exchange::GoByMessage(CallItem& item) {
  item.by_message = true;
  item.result.code = Code::kBusy;
  item.result.retry_after_ms = 0;
}

void Exchange::TakePutCode(CallItem& item, const protocol::PutReply& reply) {
  See(reply.map);
  item.result.retry_after_ms = reply.retry_after_ms;
  if (reply.code == Code::kWrongOwner || reply.code == Code::kBusy ||
      reply.code == Code::kCorrupt || reply.code == Code::kLeaseGone) {
    item.result.code = reply.code;  // to be repeated
    return;
  }
  Finish(item, reply.code, item.size);
  if (reply.code == Code::kOk) Add(stats_.bytes_written, item.size);
}

bool Exchange::in_doubt() const {
  return std::any_of(items_.begin(), items_.end(),
                     [](const CallItem* item) { return !item->done && item->doubt.session != 0; });
}

void SettleDoubts(const CallShape& shape, const Lane& lane, std::vector<CallItem*>* items) {
  std::erase_if(*items, [&](CallItem* item) {
    if (item->doubt.session == 0) return false;
    if (lane.pool() != nullptr && item->doubt.session == lane.session()) return false;
    item->doubt = {};
    if (!shape.replace) return false;  // the second of two COMMITs gets EXISTS
    item->result.code = Code::kUnavailable;
    item->done = true;
    return true;
  });
}

namespace {

std::unique_ptr<Exchange> ExchangeOf(const CallShape& shape, std::vector<CallItem*> items,
                                     StatsCounters& stats, const Lane& lane) {
  if (lane.pool() != nullptr) {
    switch (shape.type) {
      case MessageType::kGet:
      case MessageType::kExists:
        return std::make_unique<OneSidedRead>(shape, std::move(items), stats);
      case MessageType::kPut:
        return std::make_unique<OneSidedPut>(shape, std::move(items), stats);
      default:
        break;  // by message
    }
  }
  return std::make_unique<MessageExchange>(shape, std::move(items), stats);
}

}  // namespace

std::unique_ptr<Exchange> MakeExchange(const CallShape& shape, std::vector<CallItem*> items,
                                       StatsCounters& stats, Lane& lane) {
  SettleDoubts(shape, lane, &items);
  auto exchange = ExchangeOf(shape, std::move(items), stats, lane);
  exchange->SetRoad(RoadOf(lane.connection().capabilities().transport));
  return exchange;
}

}  // namespace simm::client
