#pragma once

#include <cstdint>
#include <vector>

#include "common/base/bytes.h"
#include "common/protocol/pool_layout.h"

namespace simm::dataserver {

// The lease table as it lies in the index file: which extents somebody else may be writing to, so
// that a successor of a killed server knows it (DESIGN 7). Thread-compatible: LeaseTable's lock.
//
// A record counts when its generation is not 0 and its CRC is right. It is there before the grant
// is told to the client, and gone before the extent is published or free: with what a COMMIT or a
// RETURN has ended nothing can be written any more, and a record never names bytes of a later
// extent. Between grant and record, or record and publication, a killed server leaves bytes that
// neither a slot nor a record names: free.
class LeaseRecords {
 public:
  static constexpr uint32_t kNone = UINT32_MAX;

  struct Numbered {
    protocol::LeaseRecord record;
    uint32_t number = 0;
  };

  // `area`: LeaseRecord slots of the index file, borrowed; those in use stay so until Clear. Empty:
  // nothing is recorded.
  explicit LeaseRecords(MutableByteSpan area);

  // The record's number, or kNone when all are in use.
  uint32_t Write(const protocol::LeaseRecord& record);
  void Clear(uint32_t number);
  // Records that count, in a copy of the area; for tests.
  static std::vector<protocol::LeaseRecord> Read(ByteSpan area);
  // For a successor, before anything else: those that count and that `keep` accepts; all others
  // become unused.
  template <typename Keep>
  static std::vector<Numbered> Sift(MutableByteSpan area, const Keep& keep) {
    std::vector<Numbered> kept;
    for (uint32_t number = 0; number < area.size() / sizeof(protocol::LeaseRecord); ++number) {
      protocol::LeaseRecord record;
      if (!Load(area, number, &record) || !keep(record)) {
        Discard(area, number);
      } else {
        kept.push_back({record, number});
      }
    }
    return kept;
  }
  // Makes a record of the area unused.
  static void Discard(MutableByteSpan area, uint32_t number);

 private:
  // False: unused, torn or damaged.
  static bool Load(ByteSpan area, uint32_t number, protocol::LeaseRecord* record);

  protocol::LeaseRecord* const records_;
  std::vector<uint32_t> free_;
};

}  // namespace simm::dataserver
