#include "common/transport/verbs/message_header.h"

#include <string>

namespace simm::transport {
namespace {

constexpr uint32_t kMagic = 0x4d566953;  // "SiVM"
constexpr uint8_t kVersion = 1;
constexpr size_t kConsumedOffset = 32;

Status Garbage(const char* what) {
  return Status(Code::kProtocolError, std::string("verbs frame: ") + what);
}

}  // namespace

void EncodeMessageHeader(const MessageHeader& h, MutableByteSpan bytes) {
  ByteWriter out(bytes);
  out.Put(kMagic);
  out.Put(kVersion);
  out.Put(static_cast<uint8_t>(h.kind));
  out.Put(h.body_bytes);
  out.Put(h.request_id);
  out.Put(h.tag.session);
  out.Put(h.tag.incarnation);
  out.Put(h.consumed);
  out.Put(uint32_t{0});
  SIMM_CHECK(out.ok() && out.used() == kMessageHeaderBytes, "the layout of the header");
}

void SetConsumed(MutableByteSpan frame, uint32_t consumed) {
  ByteWriter(frame.subspan(kConsumedOffset)).Put(consumed);
}

Result<MessageHeader> DecodeMessageHeader(ByteSpan frame) {
  ByteReader in(frame);
  MessageHeader h;
  if (in.Get<uint32_t>() != kMagic) return Garbage("wrong magic");
  if (in.Get<uint8_t>() != kVersion) return Garbage("wrong version");
  const auto kind = in.Get<uint8_t>();
  if (kind < 1 || kind > 3) return Garbage("no such kind");
  h.kind = static_cast<FrameKind>(kind);
  h.body_bytes = in.Get<uint16_t>();
  h.request_id = in.Get<uint64_t>();
  h.tag.session = in.Get<uint64_t>();
  h.tag.incarnation = in.Get<uint64_t>();
  h.consumed = in.Get<uint32_t>();
  if (in.Get<uint32_t>() != 0 || !in.ok()) return Garbage("not a header");
  if (h.kind == FrameKind::kMessage) {
    if (h.body_bytes == 0 || h.body_bytes > limits::kMaxMessageBytes) return Garbage("body length");
  } else if (h.body_bytes != 0) {
    return Garbage("a body where none belongs");
  }
  if (in.remaining() != h.body_bytes) return Garbage("length differs from what arrived");
  return h;
}

}  // namespace simm::transport
