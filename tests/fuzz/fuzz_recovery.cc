// Pool files from anywhere: whatever an index holds, a start neither crashes nor loses count of a
// byte, and what it says to be there has the right bytes or is a miss. An input changes a valid
// index: {offset u24, byte} each. Guessing a checksum is not what a fuzzer is for: those of slots
// and lease records that were changed are put right where the first byte is odd.

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "common/base/log.h"
#include "dataserver/lease_records.h"
#include "dataserver/pool.h"
#include "tests/support/fake_clock.h"
#include "tests/support/pool_driver.h"
#include "tests/support/pool_folder.h"

namespace {

using namespace simm;              // NOLINT
using namespace simm::dataserver;  // NOLINT

constexpr int kKeys = 60;

void ReadAll(const std::string& path, std::vector<std::byte>* bytes) {
  const int fd = open(path.c_str(), O_RDONLY);
  const ssize_t got = pread(fd, bytes->data(), bytes->size(), 0);
  if (got != static_cast<ssize_t>(bytes->size())) std::abort();
  close(fd);
}
void WriteAll(const std::string& path, const std::vector<std::byte>& bytes) {
  const int fd = open(path.c_str(), O_RDWR | O_CREAT, 0600);
  const ssize_t put = pwrite(fd, bytes.data(), bytes.size(), 0);
  if (put != static_cast<ssize_t>(bytes.size())) std::abort();
  close(fd);
}

struct Fixture {
  PoolFolder folder;
  FakeClock clock;
  protocol::PoolGeometry geometry = protocol::ComputeGeometry(1 << 20, 16 << 10);
  std::vector<std::byte> index;
  std::vector<std::byte> data;

  Result<std::unique_ptr<Pool>> Open() {
    return Pool::Create({.memory_bytes = 1 << 20,
                         .mean_value_bytes = 16 << 10,
                         .path = folder.pool(),
                         .prefault = false,
                         .boot_clock = &clock},
                        clock);
  }
  static std::string Key(int i) { return "key" + std::to_string(i); }

  Fixture() : index(geometry.index_bytes), data(geometry.data_bytes) {
    InitLog("fuzz_recovery", "error", false);
    auto pool = std::move(*Open());
    for (int i = 0; i < kKeys; ++i) (void)Put(*pool, Key(i), 1000 + i);
    LeaseRecords records(pool->lease_memory());
    const auto granted = pool->GrantBlank(4096, 4);
    if (!granted.ok()) std::abort();
    for (const LeasedExtent& extent : *granted) {
      protocol::LeaseRecord record;
      record.generation = extent.generation;
      record.offset = extent.offset;
      record.bytes = extent.bytes;
      records.Write(record);
    }
    pool.reset();
    ReadAll(folder.index(), &index);
    ReadAll(folder.data(), &data);
  }
};

void PutRight(const protocol::PoolGeometry& geometry, std::byte* index, size_t offset) {
  if (offset < geometry.buckets_offset || offset >= geometry.index_bytes) return;
  std::byte* const line = index + offset / 64 * 64;
  const bool header = offset < geometry.overflow_offset &&
                      (offset - geometry.buckets_offset) % protocol::kBucketBytes < 64;
  if (header) return;
  const uint32_t crc = Crc32c({line, 60});  // of slots and of records alike
  std::memcpy(line + 60, &crc, sizeof crc);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static Fixture fixture;
  static const std::vector<std::byte> index = fixture.index;
  if (size == 0) return 0;
  std::vector<std::byte> changed = index;
  for (size_t at = 1; at + 4 <= size; at += 4) {
    const size_t offset =
        (data[at] | size_t{data[at + 1]} << 8 | size_t{data[at + 2]} << 16) % changed.size();
    changed[offset] = std::byte{data[at + 3]};
    if (data[0] % 2 == 1) PutRight(fixture.geometry, changed.data(), offset);
  }
  WriteAll(fixture.folder.index(), changed);
  WriteAll(fixture.folder.data(), fixture.data);
  auto pool = fixture.Open();
  if (!pool.ok() || !(*pool)->Audit().ok()) std::abort();
  for (int i = 0; i < kKeys; ++i) {
    // kCorrupt: the checksum in the slot was changed, a reader takes it for a miss.
    PinnedValue pinned;
    const std::string key = Fixture::Key(i);
    if ((*pool)->Acquire(HashOf(key), 0, key, &pinned) != Code::kOk) continue;
    if (Xxh3_64(pinned.value) == pinned.checksum && !IsValue(pinned.value, key, 0)) std::abort();
    (*pool)->Release(pinned);
  }
  std::vector<LeasedExtent> adopted;
  for (const AdoptedGrant& grant : (*pool)->TakeAdopted()) adopted.push_back(grant.extent);
  (*pool)->AbandonBlank(adopted);
  for (int i = 0; i < 20; ++i) (void)Put(**pool, "new" + std::to_string(i), 5000);
  if (!(*pool)->Audit().ok() || (*pool)->Usage().granted_bytes != 0) std::abort();
  return 0;
}
