#include "common/protocol/messages.h"

#include <string>

namespace simm::protocol {
namespace {

// One description of each layout serves both directions: Fields(archive, message) names the fields
// in wire order. A WriteArchive writes them; a ReadArchive fills them and remembers the first thing
// that is out of bounds.
class WriteArchive {
 public:
  explicit WriteArchive(MessageBuffer& out) : out_(out), writer_(out) {}

  template <typename T>
  void Int(const T& value) {
    writer_.Put(value);
  }
  void CodeByte(const Code& code) { writer_.Put(static_cast<uint8_t>(code)); }
  void Flag(const bool& flag) { writer_.Put(static_cast<uint8_t>(flag ? 1 : 0)); }
  void KeyBytes(const std::string_view& key) {
    SIMM_CHECK(!key.empty() && key.size() <= limits::kMaxKeyBytes, "key length was not validated");
    writer_.Put(AsBytes(key));
  }
  void KeyLength(const std::string_view& key) { writer_.Put(static_cast<uint16_t>(key.size())); }
  void Raw(const void* data, size_t size) {
    writer_.Put(ByteSpan(static_cast<const std::byte*>(data), size));
  }
  template <typename V>
  void Count(const V& items, size_t low, size_t high) {
    SIMM_CHECK(items.size() >= low && items.size() <= high, "count was not validated");
    writer_.Put(static_cast<uint16_t>(items.size()));
  }
  void Refuse(const char*) {}
  ByteSpan Finish() {
    SIMM_CHECK(writer_.ok(), "message longer than 4 KiB");
    return ByteSpan(out_).first(writer_.used());
  }

 private:
  MessageBuffer& out_;
  ByteWriter writer_;
};

class ReadArchive {
 public:
  explicit ReadArchive(ByteSpan body) : reader_(body) {}

  template <typename T>
  void Int(T& value) {
    value = reader_.Get<T>();
  }
  void CodeByte(Code& code) {
    const auto raw = reader_.Get<uint8_t>();
    if (raw > kMaxCode) Refuse("unknown code");
    code = static_cast<Code>(raw);
  }
  void Flag(bool& flag) {
    const auto raw = reader_.Get<uint8_t>();
    if (raw > 1) Refuse("flag");
    flag = raw == 1;
  }
  void KeyLength(std::string_view& key) {
    key_bytes_ = reader_.Get<uint16_t>();
    if (key_bytes_ == 0 || key_bytes_ > limits::kMaxKeyBytes) Refuse("key length");
    key = {};
  }
  void KeyBytes(std::string_view& key) {
    if (why_ == nullptr) key = AsText(reader_.Take(key_bytes_));
  }
  void Raw(void* data, size_t size) {
    const ByteSpan bytes = reader_.Take(size);
    if (bytes.size() == size) std::memcpy(data, bytes.data(), size);
  }
  template <typename V>
  void Count(V& items, size_t low, size_t high) {
    const auto n = reader_.Get<uint16_t>();
    if (n < low || n > high) Refuse("count");
    items.clear();
    if (why_ == nullptr && reader_.ok()) items.resize(n);
  }
  void Refuse(const char* why) {
    if (why_ == nullptr) why_ = why;
  }
  Status Finish() const {
    if (why_ != nullptr)
      return Status(Code::kProtocolError, std::string("message refused: ") + why_);
    if (!reader_.ok()) return Status(Code::kProtocolError, "message refused: too short");
    if (reader_.remaining() != 0)
      return Status(Code::kProtocolError, "message refused: bytes left over");
    return Status::Ok();
  }

 private:
  ByteReader reader_;
  size_t key_bytes_ = 0;
  const char* why_ = nullptr;
};

template <typename A, typename T>
void Head(A& a, T& type) {
  a.Int(type);
  uint8_t version = kMessageVersion;
  a.Int(version);
  if (version != kMessageVersion) a.Refuse("version");
}

template <typename A, typename T>
void Reserved(A& a) {
  T zero = 0;
  a.Int(zero);
}

template <typename A, typename M>
void MapFields(A& a, M& map) {
  a.Int(map.term);
  a.Int(map.epoch);
}

template <typename A, typename M>
void HashFields(A& a, M& hash) {
  a.Int(hash.high);
  a.Int(hash.low);
}

template <typename A, typename M>
void KeysFields(A& a, M& m) {
  a.Count(m.keys, 1, m.type == MessageType::kLookup ? 1 : limits::kMaxKeysPerMessage);
  a.Int(m.flags);
  Reserved<A, uint8_t>(a);
  a.Int(m.namespace_id);
  MapFields(a, m.map);
  for (auto& entry : m.keys) {
    a.KeyLength(entry.key);
    a.Int(entry.capacity);
    a.KeyBytes(entry.key);
  }
}

template <typename A, typename M>
void Fields(A& a, M& m) requires std::is_same_v<std::remove_const_t<M>, GetRecord> {
  a.CodeByte(m.code);
  Reserved<A, uint8_t>(a);
  a.Int(m.index);
  a.Int(m.run);
  a.Int(m.key_bytes);
  Reserved<A, uint16_t>(a);
  a.Int(m.value_bytes);
  a.Int(m.checksum);
  a.Int(m.generation);
  MapFields(a, m.map);
  if (m.run == 0) a.Refuse("empty run");
  if (m.value_bytes > limits::kMaxValueBytes) a.Refuse("value length");
  if (m.code == Code::kOk &&
      (m.run != 1 || m.key_bytes == 0 || m.key_bytes > limits::kMaxKeyBytes)) {
    a.Refuse("key length");
  }
}

template <typename A, typename M>
void Fields(A& a, M& m) requires std::is_same_v<std::remove_const_t<M>, KeysReply> {
  a.Count(m.codes, 1, limits::kMaxKeysPerMessage);
  MapFields(a, m.map);
  for (auto& code : m.codes) a.CodeByte(code);
}

// What PutRequest and CommitRequest share.
template <typename A, typename M>
void PutFields(A& a, M& m) {
  a.Int(m.mode);
  Reserved<A, uint8_t>(a);
  a.Int(m.namespace_id);
  a.KeyLength(m.key);
  a.Int(m.value_bytes);
  a.Int(m.ttl_ms);
  a.Int(m.depth);
  HashFields(a, m.parent);
  MapFields(a, m.map);
  if (m.mode > 1) a.Refuse("put mode");
  if (m.value_bytes > limits::kMaxValueBytes) a.Refuse("value length");
}

template <typename A, typename M>
void Fields(A& a, M& m) requires std::is_same_v<std::remove_const_t<M>, PutRequest> {
  PutFields(a, m);
  a.KeyBytes(m.key);
}

template <typename A, typename M>
void Fields(A& a, M& m) requires std::is_same_v<std::remove_const_t<M>, CommitRequest> {
  PutFields(a, m);
  a.Int(m.lease);
  a.Int(m.generation);
  a.Int(m.offset);
  a.Int(m.checksum);
  a.KeyBytes(m.key);
}

template <typename A, typename M>
void Fields(A& a, M& m) requires std::is_same_v<std::remove_const_t<M>, PutReply> {
  a.CodeByte(m.code);
  Reserved<A, uint8_t>(a);
  a.Int(m.retry_after_ms);
  a.Int(m.generation);
  MapFields(a, m.map);
}

template <typename A, typename M>
void Fields(A& a, M& m) requires std::is_same_v<std::remove_const_t<M>, ListRequest> {
  a.Int(m.destination);
  a.Int(m.cursor);
  MapFields(a, m.map);
  if (m.destination == 0) a.Refuse("a list for nobody");
}

template <typename A, typename M>
void Fields(A& a, M& m) requires std::is_same_v<std::remove_const_t<M>, ListReply> {
  a.CodeByte(m.code);
  a.Flag(m.done);
  a.Int(m.cursor);
  MapFields(a, m.map);
  a.Count(m.entries, 0, kMaxListedEntries);
  if (m.code != Code::kOk && (m.done || !m.entries.empty())) a.Refuse("entries of no list");
  for (auto& entry : m.entries) {
    a.Int(entry.namespace_id);
    a.KeyLength(entry.key);
    a.Int(entry.value_bytes);
    a.Int(entry.checksum);
    a.Int(entry.ttl_ms);
    a.Int(entry.age_ms);
    a.KeyBytes(entry.key);
    if (entry.value_bytes > limits::kMaxValueBytes) a.Refuse("value length");
  }
}

template <typename A, typename M>
void Fields(A& a, M& m) requires std::is_same_v<std::remove_const_t<M>, LeaseRequest> {
  a.Int(m.extent_bytes);
  a.Int(m.count);
  a.Int(m.ahead);
  a.Int(m.lane_tag);
  if (m.extent_bytes == 0 || m.count == 0) a.Refuse("empty lease");
  if (m.ahead > m.count) a.Refuse("more ahead than all");
}

template <typename A, typename R>
void RangeFields(A& a, R& ranges, size_t low) {
  a.Count(ranges, low, kMaxLeaseRanges);
  for (auto& range : ranges) {
    a.Int(range.offset);
    a.Int(range.first_generation);
    a.Int(range.extent_bytes);
    a.Int(range.count);
    if (range.count == 0 || range.extent_bytes == 0) a.Refuse("empty range");
  }
}

template <typename A, typename M>
void Fields(A& a, M& m) requires std::is_same_v<std::remove_const_t<M>, LeaseReply> {
  a.CodeByte(m.code);
  a.Int(m.retry_after_ms);
  a.Int(m.lease);
  a.Int(m.lane);
  RangeFields(a, m.ranges, 0);
}

template <typename A, typename M>
void Fields(A& a, M& m) requires std::is_same_v<std::remove_const_t<M>, ReturnRequest> {
  a.Int(m.lease);
  a.Int(m.lane_tag);
  RangeFields(a, m.ranges, 0);
  // Ranges are of a lease; without ranges all of a lane is meant.
  if ((m.lease == 0) != m.ranges.empty()) a.Refuse("a return of nothing");
  if (m.lease != 0 && m.lane_tag != 0) a.Refuse("a lease of another lane");
}

template <typename A, typename M>
void Fields(A& a, M& m) requires std::is_same_v<std::remove_const_t<M>, Recall> {
  a.Int(m.lease);
}

template <typename A, typename M>
void Fields(A& a, M& m) requires std::is_same_v<std::remove_const_t<M>, ResolveRequest> {
  a.Int(m.lane);
  a.Int(m.generation);
  a.Int(m.namespace_id);
  a.KeyLength(m.key);
  MapFields(a, m.map);
  a.KeyBytes(m.key);
}

template <typename A, typename M>
void Fields(A& a, M& m) requires std::is_same_v<std::remove_const_t<M>, Location> {
  a.CodeByte(m.code);
  a.Int(m.pinned_ms);
  a.Int(m.slot_offset);
  a.Raw(&m.slot, sizeof m.slot);
  if (m.pinned_ms > 2000) a.Refuse("pin longer than 2 s");
}

template <typename A, typename T>
void TouchFields(A& a, T& touches, size_t low) {
  a.Count(touches, low, kMaxSlotTouches);
  for (auto& touch : touches) {
    a.Int(touch.slot);
    a.Int(touch.generation);
  }
}

template <typename A, typename M>
void Fields(A& a, M& m) requires std::is_same_v<std::remove_const_t<M>, TouchSlots> {
  TouchFields(a, m.touches, 1);
}

template <typename A, typename M>
void Fields(A& a, M& m) requires std::is_same_v<std::remove_const_t<M>, ReadReport> {
  a.Int(m.totals.get_hits);
  a.Int(m.totals.get_misses);
  a.Int(m.totals.get_length_mismatches);
  a.Int(m.totals.get_bytes);
  a.Int(m.totals.exists_hits);
  a.Int(m.totals.exists_misses);
  a.Int(m.totals.validation_failures);
  a.Int(m.totals.validation_retries);
  TouchFields(a, m.touches, 0);
}

template <typename A, typename M>
void Fields(A& a, M& m) requires std::is_same_v<std::remove_const_t<M>, PinReply> {
  a.Count(m.pinned_ms, 1, limits::kMaxKeysPerMessage);
  for (auto& [code, ms] : m.pinned_ms) {
    a.CodeByte(code);
    a.Int(ms);
  }
}

template <typename M>
ByteSpan EncodeAs(MessageType type, const M& m, MessageBuffer& out) {
  WriteArchive a(out);
  const auto raw = static_cast<uint8_t>(type);
  Head(a, raw);
  Fields(a, m);
  return a.Finish();
}

template <typename M>
Status DecodeAs(MessageType type, ByteSpan body, M* m) {
  ReadArchive a(body);
  uint8_t raw = 0;
  Head(a, raw);
  if (raw != static_cast<uint8_t>(type)) a.Refuse("type");
  Fields(a, *m);
  return a.Finish();
}

bool IsKeysRequest(MessageType type) {
  switch (type) {
    case MessageType::kGet:
    case MessageType::kExists:
    case MessageType::kRemove:
    case MessageType::kTouch:
    case MessageType::kScrub:
    case MessageType::kLookup:
    case MessageType::kPin:
      return true;
    default:
      return false;
  }
}

ByteSpan EncodeNonce(MessageType type, const Ping& m, MessageBuffer& out) {
  WriteArchive a(out);
  const auto raw = static_cast<uint8_t>(type);
  Head(a, raw);
  a.Int(m.nonce);
  return a.Finish();
}

}  // namespace

Result<MessageType> TypeOf(ByteSpan body) {
  if (body.size() < 2 || std::to_integer<uint8_t>(body[1]) != kMessageVersion) {
    return Status(Code::kProtocolError, "message refused: no type, or another version");
  }
  return static_cast<MessageType>(body[0]);
}

ByteSpan Encode(const KeysRequest& m, MessageBuffer& out) {
  SIMM_CHECK(IsKeysRequest(m.type), "not a type of a KeysRequest");
  WriteArchive a(out);
  const auto raw = static_cast<uint8_t>(m.type);
  Head(a, raw);
  KeysFields(a, m);
  return a.Finish();
}

Status Decode(ByteSpan body, KeysRequest* m) {
  ReadArchive a(body);
  uint8_t raw = 0;
  Head(a, raw);
  m->type = static_cast<MessageType>(raw);
  if (!IsKeysRequest(m->type)) a.Refuse("type");
  KeysFields(a, *m);
  return a.Finish();
}

ByteSpan Encode(const GetRecord& m, MessageBuffer& out) {
  return EncodeAs(MessageType::kGetRecord, m, out);
}
ByteSpan Encode(const KeysReply& m, MessageBuffer& out) {
  return EncodeAs(MessageType::kKeysReply, m, out);
}
ByteSpan Encode(const PutRequest& m, MessageBuffer& out) {
  return EncodeAs(MessageType::kPut, m, out);
}
ByteSpan Encode(const PutReply& m, MessageBuffer& out) {
  return EncodeAs(MessageType::kPutReply, m, out);
}
ByteSpan EncodePing(const Ping& m, MessageBuffer& out) {
  return EncodeNonce(MessageType::kPing, m, out);
}
ByteSpan EncodePong(const Ping& m, MessageBuffer& out) {
  return EncodeNonce(MessageType::kPong, m, out);
}
ByteSpan Encode(const ListRequest& m, MessageBuffer& out) {
  return EncodeAs(MessageType::kList, m, out);
}
ByteSpan Encode(const ListReply& m, MessageBuffer& out) {
  return EncodeAs(MessageType::kListReply, m, out);
}
ByteSpan Encode(const LeaseRequest& m, MessageBuffer& out) {
  return EncodeAs(MessageType::kLease, m, out);
}
ByteSpan Encode(const LeaseReply& m, MessageBuffer& out) {
  return EncodeAs(MessageType::kLeaseReply, m, out);
}
ByteSpan Encode(const CommitRequest& m, MessageBuffer& out) {
  return EncodeAs(MessageType::kCommit, m, out);
}
ByteSpan Encode(const ReturnRequest& m, MessageBuffer& out) {
  return EncodeAs(MessageType::kReturn, m, out);
}
ByteSpan Encode(const Recall& m, MessageBuffer& out) {
  return EncodeAs(MessageType::kRecall, m, out);
}
ByteSpan Encode(const ResolveRequest& m, MessageBuffer& out) {
  return EncodeAs(MessageType::kResolve, m, out);
}
ByteSpan Encode(const Location& m, MessageBuffer& out) {
  return EncodeAs(MessageType::kLocation, m, out);
}
ByteSpan Encode(const TouchSlots& m, MessageBuffer& out) {
  return EncodeAs(MessageType::kTouchSlots, m, out);
}
ByteSpan Encode(const ReadReport& m, MessageBuffer& out) {
  return EncodeAs(MessageType::kReadReport, m, out);
}
ByteSpan Encode(const PinReply& m, MessageBuffer& out) {
  return EncodeAs(MessageType::kPinReply, m, out);
}

Status Decode(ByteSpan body, GetRecord* m) { return DecodeAs(MessageType::kGetRecord, body, m); }
Status Decode(ByteSpan body, KeysReply* m) { return DecodeAs(MessageType::kKeysReply, body, m); }
Status Decode(ByteSpan body, PutRequest* m) { return DecodeAs(MessageType::kPut, body, m); }
Status Decode(ByteSpan body, PutReply* m) { return DecodeAs(MessageType::kPutReply, body, m); }
Status Decode(ByteSpan body, Ping* m) {
  ReadArchive a(body);
  uint8_t raw = 0;
  Head(a, raw);
  const auto type = static_cast<MessageType>(raw);
  if (type != MessageType::kPing && type != MessageType::kPong) a.Refuse("type");
  a.Int(m->nonce);
  return a.Finish();
}
Status Decode(ByteSpan body, ListRequest* m) { return DecodeAs(MessageType::kList, body, m); }
Status Decode(ByteSpan body, ListReply* m) { return DecodeAs(MessageType::kListReply, body, m); }
Status Decode(ByteSpan body, LeaseRequest* m) { return DecodeAs(MessageType::kLease, body, m); }
Status Decode(ByteSpan body, LeaseReply* m) { return DecodeAs(MessageType::kLeaseReply, body, m); }
Status Decode(ByteSpan body, CommitRequest* m) { return DecodeAs(MessageType::kCommit, body, m); }
Status Decode(ByteSpan body, ReturnRequest* m) { return DecodeAs(MessageType::kReturn, body, m); }
Status Decode(ByteSpan body, Recall* m) { return DecodeAs(MessageType::kRecall, body, m); }
Status Decode(ByteSpan body, ResolveRequest* m) { return DecodeAs(MessageType::kResolve, body, m); }
Status Decode(ByteSpan body, Location* m) { return DecodeAs(MessageType::kLocation, body, m); }
Status Decode(ByteSpan body, TouchSlots* m) { return DecodeAs(MessageType::kTouchSlots, body, m); }
Status Decode(ByteSpan body, ReadReport* m) { return DecodeAs(MessageType::kReadReport, body, m); }
Status Decode(ByteSpan body, PinReply* m) { return DecodeAs(MessageType::kPinReply, body, m); }

}  // namespace simm::protocol
