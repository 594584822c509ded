#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "common/base/bytes.h"
#include "common/base/ids.h"
#include "common/base/limits.h"
#include "common/base/status.h"
#include "common/transport/transport.h"

// What travels on the Unix socket of an shm lane: one SEQPACKET packet each, a header of 32 bytes
// and a body. No checksums: the kernel copies it within one machine.
namespace simm::transport {

enum class PacketKind : uint8_t {
  kHello = 1,    // client: the tag, no body
  kWelcome = 2,  // server: the table of regions, with the files' descriptors
  kRefusal = 3,  // server: request_id holds the Code, the body a sentence; then it closes
  kMessage = 4,
};

struct PacketHeader {
  PacketKind kind = PacketKind::kMessage;
  uint16_t body_bytes = 0;
  uint64_t request_id = 0;
  SessionTag tag;
};

inline constexpr size_t kPacketHeaderBytes = 32;
inline constexpr size_t kMaxPacketBytes = kPacketHeaderBytes + limits::kMaxMessageBytes;
using PacketHeaderBytes = std::array<std::byte, kPacketHeaderBytes>;

void EncodePacketHeader(const PacketHeader& header, PacketHeaderBytes& out);
// kProtocolError unless the packet is a header of this version and exactly the body that it
// announces.
Status DecodePacket(ByteSpan packet, PacketHeader* header, ByteSpan* body);

// A stretch of one of the server's files that clients may read or write.
struct SharedRegion {
  uint64_t key = 0;
  uint64_t offset = 0;  // in the file
  uint64_t length = 0;
  uint32_t file = 0;   // which of the descriptors that come along
  uint8_t access = 0;  // Access bits
};

inline constexpr size_t kMaxSharedFiles = 8;
inline constexpr size_t kMaxSharedRegions = 64;

struct Welcome {
  Id128 boot;  // of the server's transport: names its files for as long as it lives
  uint32_t files = 0;
  std::vector<SharedRegion> regions;
};

std::vector<std::byte> EncodeWelcome(const Welcome& welcome);
Status DecodeWelcome(ByteSpan body, Welcome* welcome);

}  // namespace simm::transport
