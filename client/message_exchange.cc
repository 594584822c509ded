#include "client/message_exchange.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "common/base/limits.h"

namespace simm::client {
namespace {

using protocol::MessageType;

// Values up to here are hashed in one go when complete (they are still in the second-level cache);
// longer ones piece by piece as they land.
constexpr uint64_t kOneShotBytes = 256 << 10;

Status Refused(const char* what) {
  return Status(Code::kProtocolError, std::string("data server answered with ") + what);
}

}  // namespace

void MessageExchange::PutTap::OnBytes(ByteSpan bytes) {
  if (bytes.size() == total_) {
    one_shot_ = Xxh3_64(bytes);
    have_one_shot_ = true;
    return;
  }
  if (!stream_) stream_ = std::make_unique<Xxh3Stream>();
  stream_->Update(bytes);
}

uint64_t MessageExchange::PutTap::Trailer() {
  if (have_one_shot_) return one_shot_;
  if (stream_) return stream_->Digest();
  return Xxh3_64({});  // a value of 0 bytes shows the tap nothing
}

MessageExchange::MessageExchange(const CallShape& shape, std::vector<CallItem*> items,
                                 StatsCounters& stats)
    : Exchange(shape, std::move(items), stats) {
  SplitIntoRequests();
}

void MessageExchange::SplitIntoRequests() {
  size_t begin = 0;
  size_t bytes = protocol::kKeysRequestHeadBytes;
  for (size_t i = 0; i < items_.size(); ++i) {
    const size_t need = protocol::KeyEntryBytes(items_[i]->key.size());
    const bool full = shape_.type == MessageType::kPut || bytes + need > limits::kMaxMessageBytes ||
                      i - begin == limits::kMaxKeysPerMessage;
    if (i > begin && full) {
      requests_.push_back({.begin = begin, .end = i, .next = begin});
      begin = i;
      bytes = protocol::kKeysRequestHeadBytes;
    }
    bytes += need;
  }
  if (begin < items_.size())
    requests_.push_back({.begin = begin, .end = items_.size(), .next = begin});
  // The deepest keys of a chain first, so that its root is used last and is the last to be evicted.
  // Not so for replacements: of two of one key the later must win.
  if (!shape_.replace) std::reverse(requests_.begin(), requests_.end());
}

protocol::KeysRequest MessageExchange::KeysOf(const Request& request) const {
  protocol::KeysRequest message;
  message.type = shape_.type;
  message.flags = shape_.allow_shorter ? protocol::kGetAllowShorter : 0;
  if (shape_.tell_removed) message.flags |= protocol::kTellRemoved;
  message.namespace_id = shape_.namespace_id;
  message.map = shape_.map;
  message.keys.reserve(request.end - request.begin);
  for (size_t i = request.begin; i < request.end; ++i) {
    const uint64_t capacity = std::min<uint64_t>(items_[i]->size, UINT32_MAX);
    message.keys.push_back({items_[i]->key, static_cast<uint32_t>(capacity)});
  }
  return message;
}

Status MessageExchange::Begin(Lane& lane) {
  if (requests_.empty()) return Status::Ok();
  stages_.Enter(Stage::kPost);
  for (Request& request : requests_) request.id = lane.NextRequestId();
  Add(stats_.requests, requests_.size());
  Add(stats_.round_trips);
  sends_pending_ = requests_.size();
  const Status posted = shape_.type == MessageType::kPut ? PostPuts(lane) : PostKeys(lane);
  if (!posted.ok()) sends_pending_ = 0;
  first_request_ = requests_.front().id;
  stages_.Enter(Stage::kWire);
  return posted;
}

Status MessageExchange::PostKeys(Lane& lane) {
  std::vector<protocol::MessageBuffer> buffers(requests_.size());
  std::vector<transport::WorkItem> work(requests_.size());
  for (size_t i = 0; i < requests_.size(); ++i) {
    work[i].message.request_id = requests_[i].id;
    work[i].message.body = protocol::Encode(KeysOf(requests_[i]), buffers[i]);
    work[i].completion = this;
  }
  return lane.connection().Post(work);
}

Status MessageExchange::PostPuts(Lane& lane) {
  taps_.resize(requests_.size());
  std::vector<transport::ConstSegment> segments(requests_.size());
  std::vector<transport::WorkItem> work(requests_.size());
  std::vector<std::vector<std::byte>> bodies(requests_.size());
  protocol::MessageBuffer buffer;
  for (size_t i = 0; i < requests_.size(); ++i) {
    const CallItem& item = *items_[requests_[i].begin];
    protocol::PutRequest message;
    message.mode = shape_.replace ? 1 : 0;
    message.ttl_ms = shape_.ttl_ms;
    message.namespace_id = shape_.namespace_id;
    message.value_bytes = static_cast<uint32_t>(item.size);
    message.depth = item.depth;
    message.parent = item.parent;
    message.map = shape_.map;
    message.key = item.key;
    const ByteSpan body = protocol::Encode(message, buffer);
    bodies[i].assign(body.begin(), body.end());
    segments[i] = {item.value, item.size, nullptr};
    taps_[i].Begin(item.size);
    work[i].message = {.request_id = requests_[i].id,
                       .body = bodies[i],
                       .payload = {&segments[i], 1},
                       .tap = &taps_[i]};
    work[i].completion = this;
  }
  return lane.connection().Post(work);
}

void MessageExchange::OnComplete(const Status&) { --sends_pending_; }

MessageExchange::Request* MessageExchange::Find(uint64_t id) {
  // Ids are consecutive.
  if (requests_.empty() || id < requests_.front().id ||
      id - requests_.front().id >= requests_.size())
    return nullptr;
  Request* const request = &requests_[id - requests_.front().id];
  return request->answered ? nullptr : request;
}

Result<transport::PayloadTarget> MessageExchange::OnReplyBegin(uint64_t request_id, ByteSpan body,
                                                               uint64_t payload_bytes) {
  Request* const request = Find(request_id);
  if (request == nullptr) return Refused("a reply to no request of ours");
  landing_ = nullptr;
  if (shape_.type == MessageType::kGet) return BeginRecord(*request, body, payload_bytes);
  if (payload_bytes != 0) return Refused("payload where none belongs");
  const Status taken = shape_.type == MessageType::kPut   ? TakePutReply(*request, body)
                       : shape_.type == MessageType::kPin ? TakePinReply(*request, body)
                                                          : TakeKeysReply(*request, body);
  if (!taken.ok()) return taken;
  return transport::PayloadTarget{};
}

Result<transport::PayloadTarget> MessageExchange::BeginRecord(Request& request, ByteSpan body,
                                                              uint64_t payload_bytes) {
  if (Status s = protocol::Decode(body, &record_); !s.ok()) return s;
  See(record_.map);
  const size_t first = request.begin + record_.index;
  if (first != request.next || record_.run > request.end - first)
    return Refused("a record out of order");
  if (record_.code != Code::kOk) {
    if (payload_bytes != 0) return Refused("payload without a value");
    for (size_t i = first; i < first + record_.run; ++i) {
      // A stale map is the call's to mend; every other code is this key's answer.
      if (record_.code != Code::kWrongOwner) Finish(*items_[i], record_.code, record_.value_bytes);
    }
    return transport::PayloadTarget{};
  }
  CallItem& item = *items_[first];
  head_bytes_ = protocol::ExtentHeadBytes(record_.key_bytes);
  const bool fits =
      shape_.allow_shorter ? record_.value_bytes <= item.size : record_.value_bytes == item.size;
  if (record_.key_bytes != item.key.size() || payload_bytes != head_bytes_ + record_.value_bytes ||
      !fits) {
    return Refused("a value of a length that was not asked for");
  }
  landing_ = &item;
  landed_ = 0;
  if (record_.value_bytes > kOneShotBytes && ShouldVerify(item)) {
    if (!checksum_) checksum_ = std::make_unique<Xxh3Stream>();
    checksum_->Reset();
  }
  transport::PayloadTarget target;
  target.segments[0] = {head_.data(), head_bytes_, nullptr};
  target.segments[1] = {item.buffer, record_.value_bytes, nullptr};
  target.count = 2;
  return target;
}

void MessageExchange::OnReplyPayload(ByteSpan landed) {
  const bool of_value = landed_ >= head_bytes_;
  landed_ += landed.size();
  if (!of_value || record_.value_bytes <= kOneShotBytes || !ShouldVerify(*landing_)) return;
  stages_.Enter(Stage::kValidate);
  checksum_->Update(landed);
  stages_.Enter(Stage::kWire);
}

Status MessageExchange::EndRecord(Request& request) {
  request.next += record_.run;
  if (landing_ != nullptr) {
    CallItem& item = *landing_;
    protocol::ExtentHeader header;
    std::memcpy(&header, head_.data(), sizeof header);
    bool right = header.generation == record_.generation &&
                 header.namespace_id == shape_.namespace_id &&
                 header.key_bytes == item.key.size() && header.value_bytes == record_.value_bytes &&
                 std::memcmp(head_.data() + sizeof header, item.key.data(), item.key.size()) == 0;
    if (right && ShouldVerify(item)) {
      const uint64_t checksum = record_.value_bytes > kOneShotBytes
                                    ? checksum_->Digest()
                                    : Xxh3_64({item.buffer, record_.value_bytes});
      right = checksum == record_.checksum;
    }
    if (right) {
      Finish(item, Code::kOk, record_.value_bytes);
      Add(stats_.bytes_read, record_.value_bytes);
    } else {
      Finish(item, Code::kMiss, 0);
      Add(stats_.corrupt);
      corrupt_items_.push_back(&item);
    }
    landing_ = nullptr;
  }
  if (request.next == request.end) {
    request.answered = true;
    ++answered_;
  }
  return Status::Ok();
}

Status MessageExchange::TakeKeysReply(Request& request, ByteSpan body) {
  protocol::KeysReply reply;
  SIMM_RETURN_IF_ERROR(protocol::Decode(body, &reply));
  See(reply.map);
  if (reply.codes.size() != request.end - request.begin) return Refused("another number of keys");
  for (size_t i = 0; i < reply.codes.size(); ++i) {
    if (reply.codes[i] != Code::kWrongOwner) Finish(*items_[request.begin + i], reply.codes[i], 0);
  }
  return Status::Ok();
}

Status MessageExchange::TakePinReply(Request& request, ByteSpan body) {
  protocol::PinReply reply;
  SIMM_RETURN_IF_ERROR(protocol::Decode(body, &reply));
  heard_ = true;
  if (reply.pinned_ms.size() != request.end - request.begin)
    return Refused("another number of keys");
  for (size_t i = 0; i < reply.pinned_ms.size(); ++i) {
    CallItem& item = *items_[request.begin + i];
    const auto& [code, pinned_ms] = reply.pinned_ms[i];
    item.pinned_ms = pinned_ms;
    if (code != Code::kWrongOwner) Finish(item, code, 0);
  }
  return Status::Ok();
}

Status MessageExchange::TakePutReply(Request& request, ByteSpan body) {
  protocol::PutReply reply;
  SIMM_RETURN_IF_ERROR(protocol::Decode(body, &reply));
  TakePutCode(*items_[request.begin], reply);
  return Status::Ok();
}

Status MessageExchange::OnReplyEnd(uint64_t request_id) {
  Request* const request = Find(request_id);
  if (request == nullptr) return Refused("a reply to no request of ours");
  if (shape_.type == MessageType::kGet) return EndRecord(*request);
  request->answered = true;
  ++answered_;
  return Status::Ok();
}

}  // namespace simm::client
