#include "dataserver/lease_records.h"

#include <atomic>
#include <cstddef>
#include <cstring>

#include "common/base/check.h"
#include "common/base/hash.h"

namespace simm::dataserver {
namespace {

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
// TSan does not model fences; nothing here relies on that it does.
#pragma GCC diagnostic ignored "-Wtsan"
#endif
// A fence, not only a release: the stores that publish or reuse the extent come behind it.
void FenceBehindClear() { std::atomic_thread_fence(std::memory_order_release); }
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif

using protocol::LeaseRecord;

uint32_t CrcOf(const LeaseRecord& record) {
  return Crc32c({reinterpret_cast<const std::byte*>(&record), offsetof(LeaseRecord, crc)});
}

}  // namespace

LeaseRecords::LeaseRecords(MutableByteSpan area)
    : records_(reinterpret_cast<LeaseRecord*>(area.data())) {
  const auto count = static_cast<uint32_t>(area.size() / sizeof(LeaseRecord));
  free_.reserve(count);
  for (uint32_t i = count; i-- > 0;) {
    if (records_[i].generation == 0) free_.push_back(i);
  }
}

// The generation last: a server that is killed in between leaves an unused record.
uint32_t LeaseRecords::Write(const LeaseRecord& record) {
  if (free_.empty()) return kNone;
  const uint32_t number = free_.back();
  free_.pop_back();
  LeaseRecord complete = record;
  complete.crc = CrcOf(complete);
  LeaseRecord& to = records_[number];
  constexpr size_t kBehind = offsetof(LeaseRecord, offset);
  static_assert(offsetof(LeaseRecord, generation) == 0 && kBehind == sizeof(uint64_t));
  std::memcpy(reinterpret_cast<std::byte*>(&to) + kBehind,
              reinterpret_cast<const std::byte*>(&complete) + kBehind, sizeof to - kBehind);
  std::atomic_ref<uint64_t>(to.generation).store(complete.generation, std::memory_order_release);
  return number;
}

void LeaseRecords::Clear(uint32_t number) {
  if (number == kNone) return;
  LeaseRecord& record = records_[number];
  SIMM_CHECK(record.generation != 0, "cleared a lease record twice");
  std::atomic_ref<uint64_t>(record.generation).store(0, std::memory_order_relaxed);
  FenceBehindClear();
  free_.push_back(number);
}

bool LeaseRecords::Load(ByteSpan area, uint32_t number, LeaseRecord* record) {
  std::memcpy(record, area.data() + number * sizeof(LeaseRecord), sizeof *record);
  return record->generation != 0 && record->crc == CrcOf(*record);
}

void LeaseRecords::Discard(MutableByteSpan area, uint32_t number) {
  auto& record = reinterpret_cast<LeaseRecord*>(area.data())[number];
  std::atomic_ref<uint64_t>(record.generation).store(0, std::memory_order_relaxed);
  FenceBehindClear();
}

std::vector<LeaseRecord> LeaseRecords::Read(ByteSpan area) {
  std::vector<LeaseRecord> records;
  for (uint32_t number = 0; number < area.size() / sizeof(LeaseRecord); ++number) {
    LeaseRecord record;
    if (Load(area, number, &record)) records.push_back(record);
  }
  return records;
}

}  // namespace simm::dataserver
