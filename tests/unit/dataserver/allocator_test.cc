#include "dataserver/allocator.h"

#include <gtest/gtest.h>

#include <map>
#include <vector>

#include "common/base/bytes.h"
#include "common/base/random.h"

namespace simm::dataserver {
namespace {

TEST(Allocator, RoundsTo64AndPacksWithoutGap) {
  Allocator allocator(1 << 20);
  const uint32_t a = allocator.Allocate(1);
  const uint32_t b = allocator.Allocate(65);
  const uint32_t c = allocator.Allocate(64);
  EXPECT_EQ(allocator.OffsetOf(a), 0u);
  EXPECT_EQ(allocator.BytesOf(a), 64u);
  EXPECT_EQ(allocator.OffsetOf(b), 64u);
  EXPECT_EQ(allocator.BytesOf(b), 128u);
  EXPECT_EQ(allocator.OffsetOf(c), 192u);
  EXPECT_EQ(allocator.free_bytes(), (1u << 20) - 256);
}

TEST(Allocator, TakesTheWholeAndRefusesMore) {
  Allocator allocator(4096);
  EXPECT_EQ(allocator.Allocate(4097), kNoExtent);
  const uint32_t all = allocator.Allocate(4096);
  ASSERT_NE(all, kNoExtent);
  EXPECT_EQ(allocator.Allocate(1), kNoExtent);
  EXPECT_EQ(allocator.largest_free(), 0u);
  allocator.Free(all);
  EXPECT_EQ(allocator.largest_free(), 4096u);
}

TEST(Allocator, BestFitAtTheLowestAddress) {
  Allocator allocator(64 * 100);
  std::vector<uint32_t> extents;
  for (int i = 0; i < 20; ++i) extents.push_back(allocator.Allocate(64 * 5));
  // Holes of 10, 5 and 5 units.
  allocator.Free(extents[2]);
  allocator.Free(extents[3]);
  allocator.Free(extents[8]);
  allocator.Free(extents[12]);
  EXPECT_EQ(allocator.free_extents(), 3u);
  EXPECT_EQ(allocator.OffsetOf(allocator.Allocate(64 * 4)), 64u * 40);
  EXPECT_EQ(allocator.OffsetOf(allocator.Allocate(64 * 5)), 64u * 60);
  EXPECT_EQ(allocator.OffsetOf(allocator.Allocate(64 * 6)), 64u * 10);
}

TEST(Allocator, MergesWithBothNeighbours) {
  Allocator allocator(64 * 4);
  const uint32_t a = allocator.Allocate(64);
  const uint32_t b = allocator.Allocate(64);
  const uint32_t c = allocator.Allocate(64);
  const uint32_t d = allocator.Allocate(64);
  allocator.Free(a);
  allocator.Free(c);
  EXPECT_EQ(allocator.free_extents(), 2u);
  allocator.Free(b);
  EXPECT_EQ(allocator.free_extents(), 1u);
  EXPECT_EQ(allocator.largest_free(), 64u * 3);
  allocator.Free(d);
  EXPECT_EQ(allocator.largest_free(), 64u * 4);
  EXPECT_TRUE(allocator.Check().ok());
}

TEST(Allocator, FitsCountsPieces) {
  Allocator allocator(64 * 10);
  const uint32_t a = allocator.Allocate(64 * 3);
  (void)allocator.Allocate(64 * 3);
  EXPECT_TRUE(allocator.Fits(64 * 2, 2));  // both in the 4 units left
  EXPECT_FALSE(allocator.Fits(64 * 3, 2));
  allocator.Free(a);
  EXPECT_TRUE(allocator.Fits(64 * 3, 2));  // 3 and 4
  EXPECT_FALSE(allocator.Fits(64 * 4, 2));
  EXPECT_TRUE(allocator.Fits(64 * 4, 1));
}

TEST(Allocator, FragmentsComeRoundLongestFirst) {
  Allocator allocator(64 * 60);
  std::vector<uint32_t> spacers;
  std::vector<uint32_t> holes;
  for (int size = 1; size <= 6; ++size) {
    holes.push_back(allocator.Allocate(64 * static_cast<uint64_t>(size)));
    spacers.push_back(allocator.Allocate(64));
  }
  for (const uint32_t hole : holes) allocator.Free(hole);
  std::vector<uint64_t> seen;
  for (int i = 0; i < 3; ++i) {
    uint32_t out[2];
    const size_t count = allocator.NextFragments(64 * 6, out);
    for (size_t k = 0; k < count; ++k) seen.push_back(allocator.BytesOf(out[k]) / 64);
  }
  EXPECT_EQ(seen, (std::vector<uint64_t>{5, 4, 3, 2, 1}));
  Allocator full(64);
  (void)full.Allocate(64);
  uint32_t out[2];
  EXPECT_EQ(full.NextFragments(64, out), 0u);
}

// Against a map of offset -> size that knows nothing of nodes, links or merging.
TEST(Allocator, AgreesWithANaiveModel) {
  for (uint64_t seed = 1; seed <= 30; ++seed) {
    Random random(seed);
    const uint64_t total = 64 * (50 + random.Below(2000));
    Allocator allocator(total);
    std::map<uint64_t, uint64_t> used;  // offset -> bytes
    std::vector<uint32_t> handles;
    for (int step = 0; step < 2000; ++step) {
      if (handles.empty() || random.Below(100) < 55) {
        const uint64_t bytes = 1 + random.Below(random.OneIn(4) ? total / 4 : 1000);
        uint64_t best = UINT64_MAX;  // the smallest gap that fits, lowest first
        uint64_t best_at = 0;
        uint64_t at = 0;
        const auto gap = [&](uint64_t until) {
          const uint64_t size = until - at;
          if (size >= RoundUp(bytes, 64) && size < best) best = size, best_at = at;
        };
        for (const auto& [offset, size] : used) {
          gap(offset);
          at = offset + size;
        }
        gap(total);
        const uint32_t extent = allocator.Allocate(bytes);
        ASSERT_EQ(extent != kNoExtent, best != UINT64_MAX) << "seed " << seed << " step " << step;
        if (extent == kNoExtent) continue;
        ASSERT_EQ(allocator.OffsetOf(extent), best_at) << "seed " << seed << " step " << step;
        used[best_at] = RoundUp(bytes, 64);
        handles.push_back(extent);
      } else {
        const size_t pick = random.Below(handles.size());
        used.erase(allocator.OffsetOf(handles[pick]));
        allocator.Free(handles[pick]);
        handles[pick] = handles.back();
        handles.pop_back();
      }
      if (step % 50 == 0) {
        ASSERT_TRUE(allocator.Check().ok()) << allocator.Check().ToString();
      }
    }
    for (const uint32_t handle : handles) allocator.Free(handle);
    ASSERT_EQ(allocator.largest_free(), total) << "seed " << seed;
    ASSERT_TRUE(allocator.Check().ok());
  }
}

}  // namespace
}  // namespace simm::dataserver
