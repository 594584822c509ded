#include "client/batch.h"

#include <algorithm>
#include <utility>

#include "common/base/limits.h"
#include "common/routing/key_hash.h"

namespace simm::client {

using protocol::MessageType;

Batch::Batch(const BatchContext& context, MessageType type, size_t keys,
             std::chrono::milliseconds deadline)
    : context_(context),
      count_(keys),
      refused_(keys > limits::kMaxBatchKeys),
      began_(MonotonicClock::Get().Now()) {
  shape_.type = type;
  shape_.verify = context.verify;
  shape_.namespace_id = context.namespace_id;
  shape_.timed = context.slow_op > Duration::zero();
  shape_.slow_op = context.slow_op;
  deadline_ = began_ + std::clamp<std::chrono::milliseconds>(deadline, std::chrono::milliseconds(0),
                                                             std::chrono::hours(1));
  if (refused_) return;
  items_.resize(keys);
  registered_memory_ = !context.engine->memory().empty();
}

Batch::Batch(const BatchContext& context, std::span<const PutItem> puts, const PutOptions& options)
    : Batch(context, MessageType::kPut, puts.size(), options.deadline) {
  refused_ |= options.ttl.count() < 0 || options.ttl.count() > int64_t{UINT32_MAX};
  refused_ |= options.write_quorum == 0 || options.write_quorum > limits::kMaxReplicas;
  if (refused_) return;
  shape_.replace = options.replace;
  shape_.write_quorum = options.write_quorum;
  shape_.ttl_ms = static_cast<uint32_t>(options.ttl.count());
  for (size_t i = 0; i < puts.size(); ++i) {
    CallItem& item = Prepare(i, puts[i].key);
    item.value = static_cast<const std::byte*>(puts[i].data);
    item.size = puts[i].size;
    Use(item, puts[i].data);
    if (!item.done && item.size > limits::kMaxValueBytes) {
      item.result.code = Code::kTooLarge;
      item.done = true;
    } else if (!item.done && item.value == nullptr && item.size > 0) {
      item.result.code = Code::kInvalidArgument;
      item.done = true;
    }
    TakeHints(item, puts[i]);
    if (item.done) continue;
    const auto [it, inserted] = sent_of_.emplace(item.key, i);
    if (inserted) continue;
    const size_t other = options.replace ? std::exchange(it->second, i) : i;
    repeats_.push_back(other);
    items_[other].done = true;
  }
}

Batch::Batch(const BatchContext& context, std::span<const GetItem> gets, const GetOptions& options)
    : Batch(context, MessageType::kGet, gets.size(), options.deadline) {
  if (refused_) return;
  shape_.allow_shorter = options.allow_shorter;
  for (size_t i = 0; i < gets.size(); ++i) {
    CallItem& item = Prepare(i, gets[i].key);
    item.buffer = static_cast<std::byte*>(gets[i].data);
    item.size = gets[i].size;
    Use(item, gets[i].data);
    if (!item.done && item.buffer == nullptr && item.size > 0) {
      item.result.code = Code::kInvalidArgument;
      item.done = true;
    }
  }
}

Batch::Batch(const BatchContext& context, MessageType type, std::span<const std::string_view> keys,
             const CallOptions& options)
    : Batch(context, type, keys.size(), options.deadline) {
  if (refused_) return;
  for (size_t i = 0; i < keys.size(); ++i) Prepare(i, keys[i]);
}

Batch::~Batch() {
  for (const uint64_t id : in_use_) context_.engine->memory().EndUse(id);
}

CallItem& Batch::Prepare(size_t index, std::string_view key) {
  CallItem& item = items_[index];
  item.key = key;
  if (key.empty() || key.size() > limits::kMaxKeyBytes) {
    item.result.code = key.empty() ? Code::kInvalidArgument : Code::kTooLarge;
    item.done = true;
  } else {
    item.hash = HashKey(key, context_.namespace_seed);
  }
  return item;
}

void Batch::TakeHints(CallItem& item, const PutItem& put) const {
  item.depth = put.depth;
  if (put.parent.empty() || item.done) return;
  if (put.parent.size() > limits::kMaxKeyBytes) {
    item.result.code = Code::kTooLarge;
    item.done = true;
    return;
  }
  item.parent = HashKey(put.parent, context_.namespace_seed);
}

void Batch::Use(CallItem& item, const void* data) {
  if (!registered_memory_) return;
  const auto use = context_.engine->memory().BeginUse(data, item.size);
  item.region = use.region;
  in_use_.push_back(use.id);
}

std::vector<KeyResult> Batch::TakeResults(const CallTrace& trace) {
  Count();
  CountOps();
  LogIfSlow(trace);
  std::vector<KeyResult> results;
  results.reserve(items_.size());
  for (const CallItem& item : items_) results.push_back(item.result);
  for (const size_t repeat : repeats_) {
    results[repeat] = results[sent_of_.at(items_[repeat].key)];
    if (!shape_.replace && results[repeat].code == Code::kOk) results[repeat].code = Code::kExists;
  }
  return results;
}

std::vector<KeyResult> Batch::AllFailed(Code code) const {
  if (IsRead(shape_.type) && code != Code::kInvalidArgument) code = Code::kMiss;
  return std::vector<KeyResult>(count_, KeyResult{.code = code});
}

void Batch::CountOps() const {
  OpMetrics& ops = context_.engine->ops();
  const ClientOp op = ClientOpOf(shape_.type);
  for (size_t i = 0; i < items_.size();) {
    const CallItem& first = items_[i];
    const size_t begin = i;
    while (i < items_.size() && items_[i].road == first.road &&
           items_[i].result.code == first.result.code) {
      ++i;
    }
    ops.CountKeys(op, first.road, first.result.code, i - begin);
  }
  ops.CountCall(op, MonotonicClock::Get().Now() - began_);
  if (op != ClientOp::kGet && op != ClientOp::kExists) return;
  const auto missed = std::find_if(items_.begin(), items_.end(), [](const CallItem& item) {
    return item.result.code != Code::kOk;
  });
  ops.CountPrefix(op, static_cast<size_t>(missed - items_.begin()));
}

void Batch::LogIfSlow(const CallTrace& trace) const {
  if (context_.slow_op <= Duration::zero()) return;
  const Duration took = MonotonicClock::Get().Now() - began_;
  if (took < context_.slow_op) return;
  SlowCall slow;
  slow.op = ClientOpName(ClientOpOf(shape_.type));
  slow.client = context_.engine->client_name();
  slow.keys = items_.size();
  slow.took = took;
  slow.deadline = deadline_ - began_;
  slow.queued = trace.begun - began_;
  for (const CallItem& item : items_) {
    slow.bytes += item.size;
    ++slow.outcomes[static_cast<size_t>(item.result.code)];
  }
  LogSlowCall(slow, trace);
}

void Batch::Count() const {
  auto& stats = context_.engine->stats();
  uint64_t ok = 0, missed = 0, errors = 0;
  for (const CallItem& item : items_) {
    const Code code = item.result.code;
    ok += code == Code::kOk || code == Code::kExists ? 1 : 0;
    missed += code == Code::kMiss ? 1 : 0;
    errors += code != Code::kOk && code != Code::kExists && code != Code::kMiss ? 1 : 0;
  }
  Add(stats.errors, errors);
  switch (shape_.type) {
    case MessageType::kGet:
      Add(stats.gets, items_.size());
      Add(stats.hits, ok);
      Add(stats.misses, missed);
      break;
    case MessageType::kPut:
      Add(stats.puts, items_.size());
      Add(stats.put_failures, errors);
      break;
    case MessageType::kExists:
      Add(stats.exists, items_.size());
      break;
    case MessageType::kRemove:
      Add(stats.removes, items_.size());
      break;
    case MessageType::kPin:
      Add(stats.pins, items_.size());
      break;
    default:
      Add(stats.touches, items_.size());
      break;
  }
}

}  // namespace simm::client
