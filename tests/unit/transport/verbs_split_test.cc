// How an access is cut into work requests: every byte once, in order, within all borders.

#include <gtest/gtest.h>

#include <map>
#include <vector>

#include "common/base/random.h"
#include "common/transport/verbs/split_work.h"

namespace simm::transport {
namespace {

constexpr uint64_t kMiB = 1 << 20;

struct Split {
  Status status;
  std::vector<OneSidedRequest> requests;
  std::vector<ibv_sge> pieces;
};

Split Cut(const std::vector<LocalPiece>& local, const RemoteRegion& remote, uint64_t offset,
          SplitLimits split_limits = {}) {
  Split split;
  split.status = SplitWork(local, remote, offset, split_limits, split.requests, split.pieces);
  return split;
}

uint64_t BytesOf(const Split& split, size_t request) {
  uint64_t bytes = 0;
  for (uint32_t i = 0; i < split.requests[request].piece_count; ++i) {
    bytes += split.pieces[split.requests[request].first_piece + i].length;
  }
  return bytes;
}

TEST(VerbsSplit, OneRequestAMebibyte) {
  const RemoteRegion remote = {{{0, 10 * kMiB, MakeChunkKey(5, 0x1000)}}};
  const Split split = Cut({{0x70000, 5 * kMiB / 2, 9}}, remote, 100);
  ASSERT_TRUE(split.status.ok());
  ASSERT_EQ(split.requests.size(), 3u);
  EXPECT_EQ(BytesOf(split, 0), kMiB);
  EXPECT_EQ(BytesOf(split, 1), kMiB);
  EXPECT_EQ(BytesOf(split, 2), kMiB / 2);
  EXPECT_EQ(split.requests[0].remote_address, 0x1000u + 100);
  EXPECT_EQ(split.requests[2].remote_address, 0x1000u + 100 + 2 * kMiB);
  EXPECT_EQ(split.requests[2].remote_key, 5u);
  EXPECT_EQ(split.pieces[2].addr, 0x70000u + 2 * kMiB);
  EXPECT_EQ(split.pieces[2].lkey, 9u);
}

TEST(VerbsSplit, HeaderAndValueAreOneRequest) {
  const RemoteRegion remote = {{{0, kMiB, MakeChunkKey(5, 0)}}};
  const Split split = Cut({{0x1000, 128, 1}, {0x9000, 4096, 2}}, remote, 0);
  ASSERT_EQ(split.requests.size(), 1u);
  EXPECT_EQ(split.requests[0].piece_count, 2u);
}

TEST(VerbsSplit, ChunksAndPiecesAreBorders) {
  const RemoteRegion remote = {{{0, 100, MakeChunkKey(1, 10)}, {100, 50, MakeChunkKey(2, 20)}}};
  const Split split = Cut({{0x1000, 30, 1}}, remote, 90);
  ASSERT_EQ(split.requests.size(), 2u);
  EXPECT_EQ(split.requests[0].remote_address, 100u);
  EXPECT_EQ(split.requests[0].remote_key, 1u);
  EXPECT_EQ(split.requests[1].remote_address, 20u);
  EXPECT_EQ(split.requests[1].remote_key, 2u);
  const Split many = Cut(std::vector<LocalPiece>(5, {0x1000, 10, 1}), remote, 0,
                         {.max_bytes = kMiB, .max_pieces = 2});
  ASSERT_EQ(many.requests.size(), 3u);
  EXPECT_EQ(many.requests[2].piece_count, 1u);
}

TEST(VerbsSplit, WhatIsNotWithinTheRegionIsRefusedAndLeavesNothing) {
  const RemoteRegion remote = {{{0, 100, 1}, {100, 50, 2}}};
  const RemoteRegion gap = {{{0, 100, 1}, {101, 50, 2}}};
  const RemoteRegion endless = {{{0, UINT64_MAX, 1}, {UINT64_MAX, UINT64_MAX, 2}}};
  const std::vector<LocalPiece> twenty = {{0x1000, 20, 1}};
  for (const auto& [region, offset] :
       std::vector<std::pair<RemoteRegion, uint64_t>>{{remote, 131},
                                                      {remote, 150},
                                                      {remote, UINT64_MAX},
                                                      {remote, UINT64_MAX - 10},
                                                      {gap, 90},
                                                      {endless, UINT64_MAX - 10},
                                                      {RemoteRegion{}, 0}}) {
    const Split split = Cut(twenty, region, offset);
    EXPECT_EQ(split.status.code(), Code::kInvalidArgument) << offset;
    EXPECT_TRUE(split.requests.empty() && split.pieces.empty());
  }
  EXPECT_FALSE(Cut({}, remote, 0).status.ok()) << "no bytes";
  EXPECT_FALSE(Cut({{0x1000, 0, 1}}, remote, 0).status.ok()) << "no bytes";
  EXPECT_TRUE(Cut(twenty, remote, 130).status.ok());
}

// Against a model that goes byte by byte.
TEST(VerbsSplit, EveryByteOnceAndInOrder) {
  Random random(7);
  for (int round = 0; round < 2000; ++round) {
    RemoteRegion remote;
    uint64_t end = random.Below(50);
    std::vector<std::pair<uint32_t, uint64_t>> remote_bytes;  // (key, address) by offset
    const uint64_t begin = end;
    for (uint32_t key = 1, n = 1 + static_cast<uint32_t>(random.Below(4)); key <= n; ++key) {
      const uint64_t length = 1 + random.Below(100);
      const auto first = static_cast<uint32_t>(random.Below(1 << 30));
      remote.chunks.push_back({end, length, MakeChunkKey(key, first)});
      for (uint64_t i = 0; i < length; ++i) remote_bytes.push_back({key, first + i});
      end += length;
    }
    const uint64_t offset = begin + random.Below(end - begin);
    std::vector<LocalPiece> local;
    std::vector<uint64_t> local_bytes;
    for (uint64_t left = 1 + random.Below(end - offset); left > 0;) {
      const uint64_t bytes = std::min(left, random.Below(40));
      const uint64_t address = random.Below(1 << 30);
      local.push_back({address, bytes, 3});
      for (uint64_t i = 0; i < bytes; ++i) local_bytes.push_back(address + i);
      left -= bytes;
    }
    const SplitLimits split_limits = {.max_bytes = 1 + random.Below(64),
                                      .max_pieces = 1 + static_cast<uint32_t>(random.Below(4))};
    const Split split = Cut(local, remote, offset, split_limits);
    ASSERT_TRUE(split.status.ok());
    size_t at = 0;
    for (size_t r = 0; r < split.requests.size(); ++r) {
      const OneSidedRequest& request = split.requests[r];
      ASSERT_LE(BytesOf(split, r), split_limits.max_bytes);
      ASSERT_LE(request.piece_count, split_limits.max_pieces);
      uint64_t remote_address = request.remote_address;
      for (uint32_t p = 0; p < request.piece_count; ++p) {
        const ibv_sge& piece = split.pieces[request.first_piece + p];
        ASSERT_GT(piece.length, 0u);
        for (uint32_t i = 0; i < piece.length; ++i, ++at, ++remote_address) {
          ASSERT_EQ(piece.addr + i, local_bytes.at(at));
          const auto expected = remote_bytes.at(offset - begin + at);
          ASSERT_EQ(request.remote_key, expected.first);
          ASSERT_EQ(remote_address, expected.second);
        }
      }
    }
    ASSERT_EQ(at, local_bytes.size());
  }
}

}  // namespace
}  // namespace simm::transport
