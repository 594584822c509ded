#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "common/base/status.h"
#include "common/transport/transport.h"

namespace simm::transport {

// What the two ends of a lane tell each other before it works. It travels as an opaque blob that
// the owner carries (in production the gRPC handshake).
struct Handshake {
  enum class Kind : uint16_t { kOffer = 1, kAnswer = 2 };

  Kind kind = Kind::kOffer;
  uint32_t queue_pair = 0;        // 24 bits, not 0
  uint32_t packet_sequence = 0;   // 24 bits; the first of what this side sends
  uint16_t lid = 0;               // InfiniBand; 0 on RoCE
  uint8_t mtu = 0;                // an ibv_mtu, 1 to 5
  bool roce = false;              // the link layer: Ethernet, else InfiniBand
  std::array<uint8_t, 16> gid{};  // on RoCE not all zero
  uint8_t reads_started = 0;      // most READs that this side has under way at a time
  uint8_t reads_served = 0;       // most READs that it serves at a time
  uint16_t window = 0;            // messages that it takes before it has consumed any, >= 1
  SessionTag tag;                 // the same in the offer and its answer
};

inline constexpr size_t kHandshakeBytes = 56;
inline constexpr uint16_t kHandshakeVersion = 1;

std::string EncodeHandshake(const Handshake& handshake);

// Strict: kProtocolError for another size, version or kind, or a field outside its range; the
// message names it.
Result<Handshake> DecodeHandshake(std::string_view blob, Handshake::Kind kind);

}  // namespace simm::transport
