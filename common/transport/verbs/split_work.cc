#include "common/transport/verbs/split_work.h"

#include <algorithm>

namespace simm::transport {
namespace {

// The chunk that holds `offset`, by bisection: a pool of 1 TiB has a thousand chunks. The end when
// none does.
std::vector<RemoteChunk>::const_iterator ChunkAt(const RemoteRegion& remote, uint64_t offset) {
  const auto& chunks = remote.chunks;
  auto after = std::upper_bound(
      chunks.begin(), chunks.end(), offset,
      [](uint64_t value, const RemoteChunk& chunk) { return value < chunk.offset; });
  if (after == chunks.begin()) return chunks.end();
  --after;
  return offset - after->offset < after->length ? after : chunks.end();
}

// Whether [offset, offset + size) is covered without a gap.
bool Covers(const RemoteRegion& remote, uint64_t offset, uint64_t size) {
  if (size == 0 || offset + size < offset) return false;
  auto chunk = ChunkAt(remote, offset);
  if (chunk == remote.chunks.end()) return false;
  uint64_t reached = chunk->offset + chunk->length;
  while (reached - offset < size) {
    ++chunk;
    if (chunk == remote.chunks.end() || chunk->offset != reached || chunk->length == 0 ||
        reached + chunk->length < reached) {
      return false;
    }
    reached += chunk->length;
  }
  return true;
}

}  // namespace

Status SplitWork(std::span<const LocalPiece> local, const RemoteRegion& remote,
                 uint64_t remote_offset, const SplitLimits& split_limits,
                 std::vector<OneSidedRequest>& requests, std::vector<ibv_sge>& pieces) {
  uint64_t total = 0;
  for (const LocalPiece& piece : local) total += piece.bytes;
  if (!Covers(remote, remote_offset, total)) {
    return Status(Code::kInvalidArgument, "outside the remote region");
  }
  auto chunk = ChunkAt(remote, remote_offset);
  uint64_t at = remote_offset;
  uint64_t room = 0;  // bytes that the request under construction may still take
  for (const LocalPiece& piece : local) {
    for (uint64_t done = 0; done < piece.bytes;) {
      if (at - chunk->offset == chunk->length) {
        ++chunk;
        room = 0;
      }
      if (room == 0 || requests.back().piece_count == split_limits.max_pieces) {
        room = split_limits.max_bytes;
        requests.push_back({FirstAddressOf(chunk->key) + (at - chunk->offset),
                            RemoteKeyOf(chunk->key), static_cast<uint32_t>(pieces.size()), 0});
      }
      const uint64_t bytes =
          std::min({room, piece.bytes - done, chunk->offset + chunk->length - at});
      pieces.push_back({piece.address + done, static_cast<uint32_t>(bytes), piece.local_key});
      ++requests.back().piece_count;
      done += bytes;
      at += bytes;
      room -= bytes;
    }
  }
  return Status::Ok();
}

}  // namespace simm::transport
