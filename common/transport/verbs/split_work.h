#pragma once

#include <infiniband/verbs.h>

#include <cstdint>
#include <span>
#include <vector>

#include "common/base/status.h"
#include "common/transport/transport.h"

namespace simm::transport {

// Local memory of one registration, as the device addresses it.
struct LocalPiece {
  uint64_t address = 0;
  uint64_t bytes = 0;
  uint32_t local_key = 0;
};

// One READ or WRITE: contiguous remotely, up to max_pieces pieces locally.
struct OneSidedRequest {
  uint64_t remote_address = 0;
  uint32_t remote_key = 0;
  uint32_t first_piece = 0;  // of the vector that SplitWork appends to
  uint32_t piece_count = 0;
};

struct SplitLimits {
  uint64_t max_bytes = 1 << 20;
  uint32_t max_pieces = 4;
};

// A RemoteChunk's key: the device's remote key below, the address of the chunk's first byte above.
// Registrations begin at a small device address of their own, so that peers learn no pointer.
inline uint64_t MakeChunkKey(uint32_t remote_key, uint32_t first_address) {
  return (uint64_t{first_address} << 32) | remote_key;
}
inline uint32_t RemoteKeyOf(uint64_t chunk_key) { return static_cast<uint32_t>(chunk_key); }
inline uint64_t FirstAddressOf(uint64_t chunk_key) { return chunk_key >> 32; }

// Cuts an access of all of `local` at remote_offset of `remote` into requests, and appends these
// and their pieces: at max_bytes, at chunk borders, at max_pieces. kInvalidArgument: no bytes, a
// range that is not within the region, a region whose chunks are not in ascending order without
// gaps; then nothing is appended. Pure.
Status SplitWork(std::span<const LocalPiece> local, const RemoteRegion& remote,
                 uint64_t remote_offset, const SplitLimits& split_limits,
                 std::vector<OneSidedRequest>& requests, std::vector<ibv_sge>& pieces);

}  // namespace simm::transport
