#include "common/transport/tcp/frame.h"

#include "common/base/hash.h"

namespace simm::transport {
namespace {

constexpr uint32_t kMagic = 0x4d4d6953;  // "SiMM"
constexpr uint8_t kVersion = 1;
constexpr uint8_t kHasTrailer = 1;

}  // namespace

void EncodeFrameHeader(const FrameHeader& header, FrameHeaderBytes& out) {
  ByteWriter w(out);
  w.Put(kMagic);
  w.Put(kVersion);
  w.Put(static_cast<uint8_t>(header.has_trailer ? kHasTrailer : 0));
  w.Put(header.body_bytes);
  w.Put(header.request_id);
  w.Put(header.session);
  w.Put(header.payload_bytes);
  w.Put(header.incarnation);
  w.Put(header.body_crc);
  w.Put(uint32_t{0});
  w.Put(Crc32c(ByteSpan(out).first(kFrameHeaderBytes - 4)));
  SIMM_CHECK(w.ok() && w.used() == kFrameHeaderBytes, "frame header layout");
}

Status DecodeFrameHeader(ByteSpan bytes, FrameHeader* header) {
  ByteReader r(bytes);
  const auto magic = r.Get<uint32_t>();
  const auto version = r.Get<uint8_t>();
  const auto flags = r.Get<uint8_t>();
  header->body_bytes = r.Get<uint16_t>();
  header->request_id = r.Get<uint64_t>();
  header->session = r.Get<uint64_t>();
  header->payload_bytes = r.Get<uint64_t>();
  header->incarnation = r.Get<uint32_t>();
  header->body_crc = r.Get<uint32_t>();
  const auto reserved = r.Get<uint32_t>();
  const auto crc = r.Get<uint32_t>();
  if (!r.ok() || magic != kMagic) return Status(Code::kProtocolError, "not a SiMM frame");
  if (crc != Crc32c(bytes.first(kFrameHeaderBytes - 4))) {
    return Status(Code::kProtocolError, "frame header fails its checksum");
  }
  if (version != kVersion) return Status(Code::kProtocolError, "frame of another version");
  if ((flags & ~kHasTrailer) != 0 || reserved != 0) {
    return Status(Code::kProtocolError, "frame with unknown flags");
  }
  header->has_trailer = (flags & kHasTrailer) != 0;
  if (header->body_bytes == 0 || header->body_bytes > limits::kMaxMessageBytes) {
    return Status(Code::kProtocolError, "frame body of a forbidden length");
  }
  if (header->payload_bytes > kMaxPayloadBytes) {
    return Status(Code::kProtocolError, "frame payload of a forbidden length");
  }
  return Status::Ok();
}

}  // namespace simm::transport
