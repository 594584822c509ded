#pragma once

#include <atomic>
#include <cstdint>
#include <optional>
#include <vector>

#include "common/base/status.h"
#include "common/protocol/messages.h"
#include "common/routing/route_table.h"
#include "dataserver/pool.h"

namespace simm::dataserver {

// The source's end of a listing: tells one destination what lies here of the shards that a map's
// rows have it pull from this server, hottest first. Looks through the index in bounded steps, a
// few for each request; keeps 16 B an entry until it is told. What is published in the meantime, as
// where this server is an owner too, is looked for once more at the end. One-thread.
class EntryLister {
 public:
  // `open` counts the listings under way at this server. Both are borrowed.
  EntryLister(const Pool& pool, std::atomic<uint64_t>& open) : pool_(pool), open_(open) {}
  ~EntryLister() { Close(); }
  EntryLister(const EntryLister&) = delete;
  EntryLister& operator=(const EntryLister&) = delete;

  // Answers a ListRequest, by the map in force, nullptr: none. kProtocolError: it is not one.
  Result<ByteSpan> Answer(ByteSpan request, const RouteTable* table, ServerId self,
                          protocol::MessageBuffer& buffer);

 private:
  static constexpr size_t kBins = 256;

  Code Begin(const protocol::ListRequest& request, const RouteTable& table, ServerId self);
  void Close();
  void Look();
  void BeginPass();
  bool NextListed(ListedSlot* out);
  void FillPage();

  const Pool& pool_;
  std::atomic<uint64_t>& open_;

  bool listing_ = false;
  protocol::MapStamp map_;
  uint64_t cursor_ = 0;
  std::vector<bool> wanted_;  // by shard
  // The pass under way: where in the index, what it takes.
  std::optional<uint64_t> scan_;
  int passes_ = 0;
  uint64_t newer_than_ = 0;
  uint64_t newest_before_ = 0;  // the pass; the next one takes what is newer
  // By heat, so that each can be ordered when its turn comes.
  std::vector<ListedSlot> bins_[kBins];
  size_t bin_ = 0;
  bool ordered_ = false;
  std::vector<ListedSlot> found_;  // scratch
  std::optional<ListedSlot> left_over_;
  std::vector<EntryFacts> page_;
};

}  // namespace simm::dataserver
