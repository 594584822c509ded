#include "dataserver/entry_lister.h"

#include <algorithm>
#include <utility>

#include "common/base/limits.h"

namespace simm::dataserver {
namespace {

// For one request: 16 steps of the index, about 2 ms; what is gone in the meantime costs a look.
constexpr int kStepsPerAnswer = 16;
constexpr int kLooksPerAnswer = 512;
// The last one finds nothing, or what is left is put to all owners anyhow.
constexpr int kMaxPasses = 3;

}  // namespace

void EntryLister::Close() {
  if (listing_) open_.fetch_sub(1, std::memory_order_relaxed);
  listing_ = false;
  for (auto& bin : bins_) bin = {};
  left_over_.reset();
}

Code EntryLister::Begin(const protocol::ListRequest& request, const RouteTable& table,
                        ServerId self) {
  Close();
  if (open_.fetch_add(1, std::memory_order_relaxed) >= limits::kMaxListings) {
    open_.fetch_sub(1, std::memory_order_relaxed);
    return Code::kBusy;
  }
  listing_ = true;
  map_ = request.map;
  cursor_ = 0;
  passes_ = 0;
  newest_before_ = 0;
  wanted_.assign(limits::kShards, false);
  for (uint32_t shard = 0; shard < limits::kShards; ++shard) {
    for (const ShardOwner& owner : table.Owners(shard)) {
      if (owner.server == request.destination && owner.source == self) wanted_[shard] = true;
    }
  }
  BeginPass();
  return Code::kOk;
}

void EntryLister::BeginPass() {
  ++passes_;
  newer_than_ = std::exchange(newest_before_, pool_.NewestGeneration());
  scan_ = 0;
  bin_ = kBins;
  ordered_ = false;
}

void EntryLister::Look() {
  for (int step = 0; step < kStepsPerAnswer && scan_; ++step) {
    found_.clear();
    const uint64_t next = pool_.ListSlots([this](uint32_t shard) { return wanted_[shard]; },
                                          newer_than_, *scan_, &found_);
    for (const ListedSlot& one : found_) {
      const float heat = std::clamp(one.heat, 0.0f, 1.0f);
      bins_[static_cast<size_t>(heat * (kBins - 1))].push_back(one);
    }
    scan_ = next == UINT64_MAX ? std::nullopt : std::optional<uint64_t>(next);
  }
}

// The hottest that has not been told yet.
bool EntryLister::NextListed(ListedSlot* out) {
  if (left_over_) {
    *out = *std::exchange(left_over_, std::nullopt);
    return true;
  }
  while (true) {
    if (bin_ < kBins && !bins_[bin_].empty()) break;
    if (bin_ < kBins) bins_[bin_] = {};
    if (bin_ == 0) return false;
    --bin_;
    ordered_ = false;
  }
  auto& bin = bins_[bin_];
  if (!std::exchange(ordered_, true)) {
    std::sort(bin.begin(), bin.end(),
              [](const ListedSlot& a, const ListedSlot& b) { return a.rank < b.rank; });
  }
  *out = bin.back();
  bin.pop_back();
  return true;
}

void EntryLister::FillPage() {
  size_t bytes = protocol::kListReplyHeadBytes;
  ListedSlot next;
  for (int looks = 0;
       looks < kLooksPerAnswer && page_.size() < protocol::kMaxListedEntries && NextListed(&next);
       ++looks) {
    EntryFacts facts;
    // Another may lie in the slot by now: then it is told of as well, or not this destination's.
    if (!pool_.Describe(next.slot, &facts) || !wanted_[ShardOf(facts.hash)]) continue;
    bytes += protocol::ListedEntryBytes(facts.key.size());
    if (bytes > limits::kMaxMessageBytes) {
      left_over_ = next;
      return;
    }
    page_.push_back(std::move(facts));
  }
}

Result<ByteSpan> EntryLister::Answer(ByteSpan body, const RouteTable* table, ServerId self,
                                     protocol::MessageBuffer& buffer) {
  protocol::ListRequest request;
  SIMM_RETURN_IF_ERROR(protocol::Decode(body, &request));
  protocol::ListReply reply;
  if (table != nullptr) reply.map = {table->version().term, table->version().epoch};
  if (request.cursor == 0) {
    const bool same = table != nullptr && request.map.term == reply.map.term &&
                      request.map.epoch == reply.map.epoch;
    reply.code = same ? Begin(request, *table, self) : Code::kWrongOwner;
  } else {
    const bool stands = listing_ && request.cursor == cursor_ && request.map.term == map_.term &&
                        request.map.epoch == map_.epoch;
    reply.code = stands ? Code::kOk : Code::kMiss;
  }
  page_.clear();
  if (reply.code == Code::kOk) {
    if (scan_) {
      Look();
    } else {
      FillPage();
      if (bin_ == 0 && bins_[0].empty() && !left_over_) {
        // All that this pass has found is told; done when a pass finds nothing.
        const bool last = passes_ == kMaxPasses || (passes_ > 1 && page_.empty());
        if (last) {
          reply.done = true;
          Close();
        } else {
          BeginPass();
        }
      }
    }
    reply.cursor = ++cursor_;
  }
  for (const EntryFacts& facts : page_) {
    const auto age_ms = std::chrono::duration_cast<std::chrono::milliseconds>(facts.age).count();
    reply.entries.push_back(
        {.namespace_id = facts.ns,
         .value_bytes = static_cast<uint32_t>(facts.value_bytes),
         .checksum = facts.checksum,
         .ttl_ms = facts.ttl_ms,
         .age_ms = static_cast<uint32_t>(std::clamp<int64_t>(age_ms, 0, UINT32_MAX)),
         .key = facts.key});
  }
  return protocol::Encode(reply, buffer);
}

}  // namespace simm::dataserver
