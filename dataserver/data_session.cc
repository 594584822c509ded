#include "dataserver/data_session.h"

#include <algorithm>
#include <utility>

#include "common/base/limits.h"
#include "common/base/log.h"

namespace simm::dataserver {
namespace {

constexpr uint32_t kBusyRetryMs = 5;

}  // namespace

DataSession::DataSession(DataContext& context, std::unique_ptr<transport::Connection> connection,
                         std::function<void()> wake)
    : context_(context),
      connection_(std::move(connection)),
      road_(DataRoadOf(connection_->capabilities().transport)),
      shards_(context.map, context.self),
      last_moved_(context.clock.Now()) {
  if (context.one_sided != nullptr) {
    one_sided_ = std::make_unique<OneSidedSession>(
        *context.one_sided, context.pool, context.metrics, shards_,
        OneSidedSession::Options{.is_lane = connection_->capabilities().one_sided,
                                 .road = road_,
                                 .verify_puts = context.verify_commits,
                                 .process = connection_->peer_process(),
                                 .wake = std::move(wake)});
  }
  connection_->Start(this);
  context_.metrics.CountConnection(road_, state_, 1);
}

DataSession::~DataSession() {
  End();
  context_.metrics.CountConnection(road_, state_, -1);
}

// The lane's grants are freed only behind Close: before it returns the peer may still write.
void DataSession::End() {
  connection_->Close();
  if (one_sided_) one_sided_->End();
}

bool DataSession::Progress() {
  if (one_sided_ && one_sided_->MustClose()) connection_->Close();
  if (Move()) return true;
  End();
  return false;
}

bool DataSession::Move() {
  resumed_ = false;
  if (!connection_->Progress()) return false;
  ResumeOneSided();
  PumpGet();
  // What PumpGet has posted goes out now, not at the next readiness event.
  if (streaming_) {
    if (!connection_->Progress()) return false;
    PumpGet();
  }
  return !connection_->closed();
}

// Back-pressure: no further request while an answer streams or while the peer does not read its
// replies.
void DataSession::Pace() {
  const bool pause = streaming_ || window_.size() > limits::kMaxUnreadReplies ||
                     (one_sided_ && one_sided_->Waiting());
  if (paused_ && !pause) resumed_ = true;
  if (paused_ != pause) connection_->PauseReceive(pause);
  paused_ = pause;
}

void DataSession::Tick(Instant now) {
  SendRecalls(now);
  if (one_sided_ && one_sided_->Overdue(now)) connection_->Close();
  if (connection_->closed()) return End();
  const auto& counters = connection_->counters();
  const uint64_t bytes = counters.bytes_in + counters.bytes_out;
  ShowState(now, bytes != last_bytes_);
  if (bytes != last_bytes_) {
    last_bytes_ = bytes;
    last_moved_ = now;
    // A message may take longer than a session lives without a word.
    if (session_ != 0) context_.sessions.Touch(session_);
    return;
  }
  const bool within_message = type_.has_value() || streaming_;
  if (within_message && now - last_moved_ > limits::kStalledPeer) {
    context_.metrics.stalled_closed.fetch_add(1, std::memory_order_relaxed);
    End();
  } else if (session_ == 0 ? now - last_moved_ > limits::kSessionTimeout
                           : !context_.sessions.IsOpen(session_)) {
    End();
  }
}

void DataSession::Refuse(const Status& why) {
  static LogLimiter limiter(std::chrono::seconds(1));
  context_.metrics.protocol_errors.fetch_add(1, std::memory_order_relaxed);
  if (const int64_t more = limiter.Allow(context_.clock.Now()); more >= 0) {
    SIMM_LOG_WARN("closing data connection of {}: {} ({} more since)", connection_->PeerName(),
                  why.ToString(), more);
  }
  connection_->Close();
}

transport::PayloadTarget DataSession::OnMessage(uint64_t request_id, ByteSpan body,
                                                uint64_t payload_bytes) {
  if (session_ == 0) {
    session_ = connection_->Tag().session;
    if (one_sided_) one_sided_->Begin(session_);
  }
  context_.sessions.Touch(session_);
  const auto type = protocol::TypeOf(body);
  if (!type.ok()) {
    Refuse(type.status());
    return {};
  }
  type_ = *type;
  if (*type != protocol::MessageType::kPing) last_asked_ = context_.clock.Now();
  request_id_ = request_id;
  body_.assign(body.begin(), body.end());
  received_ = context_.clock.Now();
  shards_.Load();
  if (*type == protocol::MessageType::kPut) return BeginPut(body_, payload_bytes);
  if (payload_bytes != 0) {
    Refuse(Status(Code::kProtocolError, "payload on a message that takes none"));
  }
  return {};
}

void DataSession::OnPayload(ByteSpan landed) {
  if (grant_ && context_.verify_puts) put_checksum_.Update(landed);
}

void DataSession::OnMessageEnd(uint64_t, std::optional<uint64_t> trailer) {
  const protocol::MessageType type = *type_;
  switch (type) {
    case protocol::MessageType::kPut:
      EndPut(trailer);
      break;
    case protocol::MessageType::kPing: {
      protocol::Ping ping;
      if (Status s = protocol::Decode(body_, &ping); !s.ok()) return Refuse(s);
      protocol::MessageBuffer buffer;
      ReplyWith(protocol::EncodePong(ping, buffer));
      break;
    }
    case protocol::MessageType::kList:
      if (Status s = AnswerList(); !s.ok()) return Refuse(s);
      break;
    case protocol::MessageType::kGet:
    case protocol::MessageType::kExists:
    case protocol::MessageType::kRemove:
    case protocol::MessageType::kTouch:
    case protocol::MessageType::kScrub:
      if (Status s = protocol::Decode(body_, &keys_); !s.ok()) return Refuse(s);
      if (type == protocol::MessageType::kGet) return BeginGet();
      AnswerKeys();
      break;
    default:
      if (one_sided_ && OneSidedSession::Takes(type)) return AnswerOneSided(type);
      return Refuse(Status(Code::kProtocolError, "message type " +
                                                     std::to_string(static_cast<int>(type)) +
                                                     " is not served over this transport"));
  }
  if (const auto op = DataOpOf(type))
    Observe(*op, type == protocol::MessageType::kPut ? 1 : keys_.keys.size());
  type_.reset();
}

void DataSession::OnClosed(const Status& why) {
  if (grant_) {
    context_.pool.Abandon(*grant_);
    grant_.reset();
    context_.metrics.abandoned_puts.fetch_add(1, std::memory_order_relaxed);
  }
  if (why.code() == Code::kProtocolError) {
    context_.metrics.protocol_errors.fetch_add(1, std::memory_order_relaxed);
  }
  streaming_ = false;
  type_.reset();
}

// ---- put

transport::PayloadTarget DataSession::BeginPut(ByteSpan body, uint64_t payload_bytes) {
  grant_.reset();
  if (Status s = protocol::Decode(body, &put_); !s.ok()) {
    Refuse(s);
    return {};
  }
  if (put_.value_bytes != payload_bytes) {
    Refuse(Status(Code::kProtocolError, "put whose payload differs from its length"));
    return {};
  }
  put_code_ = shards_.Check(ShardCheck::For::kWrite, put_.namespace_id, put_.key, &put_hash_);
  if (put_code_ == Code::kOk && put_.mode == 0) {
    uint64_t length = 0;
    if (context_.pool.Lookup(put_hash_, put_.namespace_id, put_.key, &length) == Code::kOk) {
      put_code_ = Code::kExists;  // the payload is discarded
    }
  }
  if (put_code_ != Code::kOk) return {};
  auto grant = context_.pool.Allocate(put_hash_, put_.namespace_id, put_.key, put_.value_bytes);
  if (!grant.ok()) {
    put_code_ = grant.code();
    return {};
  }
  grant_ = *grant;
  put_checksum_.Reset();
  transport::PayloadTarget target;
  target.segments[0] = {grant_->value.data(), grant_->value.size(), nullptr};
  target.count = 1;
  return target;
}

void DataSession::EndPut(std::optional<uint64_t> trailer) {
  uint64_t generation = 0;
  // The shard may have moved while the value came in: its new owner would not know of it.
  shards_.Load();
  Hash128 hash;
  if (grant_ &&
      shards_.Check(ShardCheck::For::kWrite, put_.namespace_id, put_.key, &hash) != Code::kOk) {
    context_.pool.Abandon(*std::exchange(grant_, std::nullopt));
    put_code_ = Code::kWrongOwner;
  }
  if (grant_) {
    const Grant grant = *std::exchange(grant_, std::nullopt);
    if (!trailer || (context_.verify_puts && put_checksum_.Digest() != *trailer)) {
      put_code_ = Code::kCorrupt;
      context_.pool.Abandon(grant);
    } else {
      generation = grant.generation;
      const PutHints hints = {put_.parent, put_.depth, put_.ttl_ms};
      put_code_ = context_.pool.Commit(grant, put_hash_, put_.namespace_id, put_.key,
                                       put_.mode == 1 ? PutMode::kReplace : PutMode::kIfAbsent,
                                       *trailer, hints);
      if (put_code_ == Code::kOk) {
        context_.metrics.value_bytes_in.fetch_add(put_.value_bytes, std::memory_order_relaxed);
      }
    }
  } else if (put_code_ == Code::kExists) {
    context_.pool.Touch(put_hash_, put_.namespace_id, put_.key);
  }
  context_.metrics.CountKeys(road_, DataOp::kPut, put_code_);
  protocol::PutReply reply = {.code = put_code_,
                              .retry_after_ms = put_code_ == Code::kBusy ? kBusyRetryMs : 0,
                              .generation = generation,
                              .map = shards_.Stamp()};
  protocol::MessageBuffer buffer;
  ReplyWith(protocol::Encode(reply, buffer));
}

// ---- exists, remove, touch, scrub, list

Status DataSession::AnswerList() {
  if (!lister_) lister_ = std::make_unique<EntryLister>(context_.pool, context_.metrics.listings);
  protocol::MessageBuffer buffer;
  const auto answer = lister_->Answer(body_, shards_.table(), shards_.self(), buffer);
  if (!answer.ok()) return answer.status();
  ReplyWith(*answer);
  return Status::Ok();
}

Code DataSession::AnswerKey(const protocol::KeyEntry& entry) {
  Hash128 hash;
  const auto purpose = keys_.type == protocol::MessageType::kRemove ? ShardCheck::For::kWrite
                                                                    : ShardCheck::For::kRead;
  if (const Code code = shards_.Check(purpose, keys_.namespace_id, entry.key, &hash);
      code != Code::kOk) {
    return code;
  }
  uint64_t length = 0;
  switch (keys_.type) {
    case protocol::MessageType::kRemove:
      return context_.pool.Remove(hash, keys_.namespace_id, entry.key);
    case protocol::MessageType::kScrub:
      return context_.pool.Scrub(hash, keys_.namespace_id, entry.key) ? Code::kOk : Code::kMiss;
    default:
      return Tell(context_.pool.Lookup(hash, keys_.namespace_id, entry.key, &length));
  }
}

// A chain comes root first; touched deepest first, its root ends up most recent and outlives its
// leaves.
void DataSession::TouchInReverse(const std::vector<Code>& codes) {
  Hash128 hash;
  for (size_t i = codes.size(); i-- > 0;) {
    if (codes[i] != Code::kOk) continue;
    const std::string_view key = keys_.keys[i].key;
    if (shards_.Check(ShardCheck::For::kRead, keys_.namespace_id, key, &hash) != Code::kOk)
      continue;
    context_.pool.Touch(hash, keys_.namespace_id, key);
  }
}

void DataSession::AnswerKeys() {
  protocol::KeysReply reply;
  reply.map = shards_.Stamp();
  reply.codes.reserve(keys_.keys.size());
  const DataOp op = *DataOpOf(keys_.type);
  for (const protocol::KeyEntry& entry : keys_.keys) {
    reply.codes.push_back(AnswerKey(entry));
    context_.metrics.CountKeys(road_, op, reply.codes.back());
  }
  if (op == DataOp::kExists || op == DataOp::kTouch) TouchInReverse(reply.codes);
  protocol::MessageBuffer buffer;
  ReplyWith(protocol::Encode(reply, buffer));
}

// ---- one-sided peers

void DataSession::AnswerOneSided(protocol::MessageType type) {
  protocol::MessageBuffer buffer;
  const auto answer = one_sided_->Answer(type, body_, received_, buffer);
  if (!answer.ok()) return Refuse(answer.status());
  if (one_sided_->Waiting()) return Pace();  // type_ stays: the message is being answered
  if (!answer->empty()) ReplyWith(*answer);
  if (const auto op = DataOpOf(type)) Observe(*op, 0);
  type_.reset();
}

void DataSession::ResumeOneSided() {
  if (!one_sided_ || !one_sided_->Waiting()) return;
  protocol::MessageBuffer buffer;
  const ByteSpan answer = one_sided_->Resume(buffer);
  if (answer.empty()) return;
  type_.reset();
  ReplyWith(answer);
  Observe(DataOp::kResolve, 0);
}

void DataSession::SendRecalls(Instant now) {
  if (!one_sided_ || connection_->closed()) return;
  protocol::MessageBuffer buffer;
  for (const uint64_t lease : one_sided_->TakeRecalls(now)) {
    AddReply(0, protocol::Encode(protocol::Recall{lease}, buffer));
    window_.push_back({});
  }
  Flush();
}

// ---- get

void DataSession::BeginGet() {
  streaming_ = true;
  next_key_ = 0;
  get_codes_.assign(keys_.keys.size(), Code::kMiss);
  Pace();
  PumpGet();
}

// Answers the next key, or the next run of keys without a value.
void DataSession::AddGetRecord() {
  const bool allow_shorter = (keys_.flags & protocol::kGetAllowShorter) != 0;
  const size_t first = next_key_;
  protocol::GetRecord record = {.index = static_cast<uint16_t>(first), .map = shards_.Stamp()};
  StreamedValue streamed;
  transport::ConstSegment payload;
  Code run_code = Code::kOk;
  while (next_key_ < keys_.keys.size()) {
    const protocol::KeyEntry& entry = keys_.keys[next_key_];
    Hash128 hash;
    PinnedValue pinned;
    Code code = shards_.Check(ShardCheck::For::kRead, keys_.namespace_id, entry.key, &hash);
    if (code == Code::kOk)
      code = Tell(context_.pool.Acquire(hash, keys_.namespace_id, entry.key, &pinned));
    if (next_key_ > first &&
        code != run_code) {  // ends the run; looked at again for its own record
      if (code == Code::kOk) context_.pool.Release(pinned);
      break;
    }
    get_codes_[next_key_] = code;
    ++next_key_;
    run_code = code;
    record.code = code;
    if (code != Code::kOk) continue;
    const uint64_t length = pinned.value.size();
    record.value_bytes = static_cast<uint32_t>(length);
    if (allow_shorter ? length > entry.capacity : length != entry.capacity) {
      context_.pool.Release(pinned);
      record.code = Code::kLengthMismatch;
    } else {
      record.key_bytes = static_cast<uint16_t>(entry.key.size());
      record.checksum = pinned.checksum;
      record.generation = pinned.generation;
      payload = {pinned.head.data(), pinned.head.size() + length, nullptr};
      streamed = {pinned, payload.size};
      context_.metrics.CountBytesOut(road_, length);
    }
    break;
  }
  record.run = static_cast<uint16_t>(next_key_ - first);
  context_.metrics.CountKeys(road_, DataOp::kGet, record.code, record.run);
  protocol::MessageBuffer buffer;
  PendingReply& reply = AddReply(request_id_, protocol::Encode(record, buffer));
  reply.payload = payload;
  reply.has_payload = payload.data != nullptr;
  window_bytes_ += streamed.bytes;
  window_.push_back(std::move(streamed));
}

void DataSession::PumpGet() {
  if (!streaming_ || connection_->closed()) return;
  // Refilled when half empty: few, large doorbells.
  if (window_bytes_ <= limits::kReplyWindowBytes / 2 &&
      window_.size() <= limits::kReplyWindowItems / 2) {
    while (next_key_ < keys_.keys.size() && window_bytes_ < limits::kReplyWindowBytes &&
           window_.size() < limits::kReplyWindowItems) {
      AddGetRecord();
    }
    Flush();
  }
  if (next_key_ < keys_.keys.size() || !window_.empty() || connection_->closed()) return;
  if ((keys_.flags & protocol::kForPull) == 0) TouchInReverse(get_codes_);
  Observe(DataOp::kGet, keys_.keys.size());
  streaming_ = false;
  type_.reset();
  Pace();
}

void DataSession::OnComplete(const Status&) {
  SIMM_CHECK(!window_.empty(), "a completion without a record");
  const StreamedValue streamed = std::move(window_.front());
  window_.pop_front();
  window_bytes_ -= streamed.bytes;
  if (streamed.pinned) context_.pool.Release(*streamed.pinned);
  Pace();
}

// ---- replies

// To be sent by Flush; the caller adds its entry to window_.
DataSession::PendingReply& DataSession::AddReply(uint64_t request_id, ByteSpan body) {
  if (spare_.empty()) {
    replies_.push_back(std::make_unique<PendingReply>());
  } else {
    replies_.push_back(std::move(spare_.back()));
    spare_.pop_back();
  }
  PendingReply& reply = *replies_.back();
  reply.request_id = request_id;
  reply.body.assign(body.begin(), body.end());
  reply.has_payload = false;
  return reply;
}

void DataSession::ReplyWith(ByteSpan body) {
  AddReply(request_id_, body);
  window_.push_back({});
  Flush();
}

void DataSession::Flush() {
  if (replies_.empty()) return;
  std::vector<transport::WorkItem> items;
  items.reserve(replies_.size());
  for (const auto& reply : replies_) {
    transport::WorkItem& item = items.emplace_back();
    item.message.request_id = reply->request_id;
    item.message.body = reply->body;
    if (reply->has_payload) item.message.payload = {&reply->payload, 1};
    item.completion = this;
  }
  const Status posted = connection_->Post(items);
  for (auto& reply : replies_) spare_.push_back(std::move(reply));
  replies_.clear();
  if (spare_.size() > limits::kReplyWindowItems) spare_.resize(limits::kReplyWindowItems);
  if (posted.ok()) return Pace();
  // Nothing was posted and no completion will come: let go of what those records held.
  for (size_t i = 0; i < items.size(); ++i) {
    const StreamedValue streamed = std::move(window_.back());
    window_.pop_back();
    window_bytes_ -= streamed.bytes;
    if (streamed.pinned) context_.pool.Release(*streamed.pinned);
  }
}

}  // namespace simm::dataserver
