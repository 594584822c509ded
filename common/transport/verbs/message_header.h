#pragma once

#include <cstdint>

#include "common/base/bytes.h"
#include "common/base/limits.h"
#include "common/transport/transport.h"

namespace simm::transport {

enum class FrameKind : uint8_t {
  kMessage = 1,
  kCredit = 2,   // only tells `consumed`
  kGoodbye = 3,  // the sender closes the lane
};

// In front of each SEND of a lane. Every frame carries how many messages its sender has consumed so
// far: that is the credit for the other side's next ones.
struct MessageHeader {
  FrameKind kind = FrameKind::kMessage;
  uint16_t body_bytes = 0;  // 1 to kMaxMessageBytes for kMessage, else 0
  uint64_t request_id = 0;
  SessionTag tag;
  uint32_t consumed = 0;  // modulo 2^32
};

inline constexpr size_t kMessageHeaderBytes = 40;
inline constexpr size_t kMaxFrameBytes = kMessageHeaderBytes + limits::kMaxMessageBytes;

// `out` has at least kMessageHeaderBytes.
void EncodeMessageHeader(const MessageHeader& header, MutableByteSpan out);

// Into an encoded header: the credit is known only when the frame leaves.
void SetConsumed(MutableByteSpan frame, uint32_t consumed);

// `frame` is the whole SEND. Strict: kProtocolError unless the header fits and accounts for every
// byte.
Result<MessageHeader> DecodeMessageHeader(ByteSpan frame);

}  // namespace simm::transport
