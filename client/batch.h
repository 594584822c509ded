#pragma once

#include <chrono>
#include <span>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "client/call_trace.h"
#include "client/client.h"
#include "client/engine.h"
#include "client/exchange.h"

namespace simm::client {

// What the batches of one client share.
struct BatchContext {
  Engine* engine = nullptr;
  Verify verify = Verify::kAlways;
  NamespaceId namespace_id = 0;
  uint64_t namespace_seed = 0;
  Duration slow_op = Duration::zero();  // calls that take longer are logged; 0: none
};

// The caller's arguments as the items of a Call, and its results as the caller wants them. Marks
// registered memory as in use as long as it lives. One-thread; its items stay where they are.
class Batch {
 public:
  Batch(const BatchContext& context, std::span<const PutItem> puts, const PutOptions& options);
  Batch(const BatchContext& context, std::span<const GetItem> gets, const GetOptions& options);
  Batch(const BatchContext& context, protocol::MessageType type,
        std::span<const std::string_view> keys, const CallOptions& options);
  ~Batch();
  Batch(const Batch&) = delete;
  Batch& operator=(const Batch&) = delete;

  // Not a batch that any call may hold: too many keys, or options that can never work.
  bool refused() const { return refused_; }
  const CallShape& shape() const { return shape_; }
  std::span<CallItem> items() { return items_; }
  Instant deadline() const { return deadline_; }

  // After the call's end: counts them, logs the call if it was slow, and answers for each of the
  // caller's items.
  std::vector<KeyResult> TakeResults(const CallTrace& trace);
  // All items ended with this code before anything was done; a miss for readers, if for a cache it
  // comes to the same.
  std::vector<KeyResult> AllFailed(Code code) const;

 private:
  Batch(const BatchContext& context, protocol::MessageType type, size_t keys,
        std::chrono::milliseconds deadline);
  CallItem& Prepare(size_t index, std::string_view key);
  void TakeHints(CallItem& item, const PutItem& put) const;
  void Use(CallItem& item, const void* data);
  void Count() const;
  void CountOps() const;
  void LogIfSlow(const CallTrace& trace) const;

  const BatchContext context_;
  const size_t count_;
  bool refused_ = false;
  CallShape shape_;
  const Instant began_;
  Instant deadline_;
  std::vector<CallItem> items_;
  // A key that stands several times in a batch of puts is sent once: the first of its values, or
  // with replace the last. `repeats_` names the others, `sent_of_` the one that was sent.
  std::unordered_map<std::string_view, size_t> sent_of_;
  std::vector<size_t> repeats_;
  bool registered_memory_ = false;
  std::vector<uint64_t> in_use_;
};

}  // namespace simm::client
