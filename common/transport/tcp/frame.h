#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "common/base/bytes.h"
#include "common/base/limits.h"
#include "common/base/status.h"

// One message on a tcp stream: header, body, payload, trailer. Little-endian; byte table in
// README.md.
namespace simm::transport {

inline constexpr size_t kFrameHeaderBytes = 48;
inline constexpr size_t kTrailerBytes = 8;
// A value, its extent head and key.
inline constexpr uint64_t kMaxPayloadBytes = limits::kMaxValueBytes + 1024;

struct FrameHeader {
  uint16_t body_bytes = 0;
  bool has_trailer = false;
  uint64_t request_id = 0;
  uint64_t session = 0;
  uint32_t incarnation = 0;
  uint64_t payload_bytes = 0;
  uint32_t body_crc = 0;
};

using FrameHeaderBytes = std::array<std::byte, kFrameHeaderBytes>;
void EncodeFrameHeader(const FrameHeader& header, FrameHeaderBytes& out);
// kProtocolError: not one of our frames (magic, version, CRC), or a length beyond its limit.
Status DecodeFrameHeader(ByteSpan bytes, FrameHeader* header);

}  // namespace simm::transport
