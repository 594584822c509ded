#include "common/transport/verbs/handshake.h"

#include <algorithm>

#include "common/base/bytes.h"

namespace simm::transport {
namespace {

constexpr uint32_t kMagic = 0x48566953;  // "SiVH"
constexpr uint32_t kMax24Bits = (1u << 24) - 1;
constexpr uint8_t kMaxMtu = 5;  // 4096 bytes

Status Refused(const std::string& what) {
  return Status(Code::kProtocolError, "verbs handshake: " + what);
}

Status CheckFields(const Handshake& h) {
  if (h.queue_pair == 0 || h.queue_pair > kMax24Bits) return Refused("no queue pair number");
  if (h.packet_sequence > kMax24Bits) return Refused("no packet sequence number");
  if (h.mtu < 1 || h.mtu > kMaxMtu) return Refused("no MTU");
  if (h.roce && std::all_of(h.gid.begin(), h.gid.end(), [](uint8_t b) { return b == 0; })) {
    return Refused("no GID");
  }
  if (!h.roce && h.lid == 0) return Refused("no LID");
  if (h.reads_served == 0 || h.reads_started == 0) return Refused("no READ at all");
  if (h.window == 0) return Refused("no window for messages");
  return Status::Ok();
}

}  // namespace

std::string EncodeHandshake(const Handshake& h) {
  std::string blob(kHandshakeBytes, '\0');
  ByteWriter out({reinterpret_cast<std::byte*>(blob.data()), blob.size()});
  out.Put(kMagic);
  out.Put(kHandshakeVersion);
  out.Put(static_cast<uint16_t>(h.kind));
  out.Put(h.queue_pair);
  out.Put(h.packet_sequence);
  out.Put(h.lid);
  out.Put(h.mtu);
  out.Put(static_cast<uint8_t>(h.roce ? 1 : 0));
  out.Put(ByteSpan(reinterpret_cast<const std::byte*>(h.gid.data()), h.gid.size()));
  out.Put(h.reads_started);
  out.Put(h.reads_served);
  out.Put(h.window);
  out.Put(h.tag.session);
  out.Put(h.tag.incarnation);
  SIMM_CHECK(out.ok() && out.used() == kHandshakeBytes, "the layout of the handshake");
  return blob;
}

Result<Handshake> DecodeHandshake(std::string_view blob, Handshake::Kind kind) {
  ByteReader in(AsBytes(blob));
  if (in.Get<uint32_t>() != kMagic) return Refused("not one");
  if (const auto version = in.Get<uint16_t>(); version != kHandshakeVersion) {
    return Refused("version " + std::to_string(version) + ", this program speaks " +
                   std::to_string(kHandshakeVersion));
  }
  // Each version has one size: what is longer was made by somebody else.
  if (blob.size() != kHandshakeBytes) return Refused(std::to_string(blob.size()) + " bytes");
  if (in.Get<uint16_t>() != static_cast<uint16_t>(kind)) {
    return Refused(kind == Handshake::Kind::kOffer ? "not an offer" : "not an answer");
  }
  Handshake h;
  h.kind = kind;
  h.queue_pair = in.Get<uint32_t>();
  h.packet_sequence = in.Get<uint32_t>();
  h.lid = in.Get<uint16_t>();
  h.mtu = in.Get<uint8_t>();
  const auto link = in.Get<uint8_t>();
  if (link > 1) return Refused("no link layer");
  h.roce = link == 1;
  const ByteSpan gid = in.Take(h.gid.size());
  if (in.ok()) std::memcpy(h.gid.data(), gid.data(), gid.size());
  h.reads_started = in.Get<uint8_t>();
  h.reads_served = in.Get<uint8_t>();
  h.window = in.Get<uint16_t>();
  h.tag.session = in.Get<uint64_t>();
  h.tag.incarnation = in.Get<uint64_t>();
  if (!in.ok()) return Refused("too short");
  SIMM_RETURN_IF_ERROR(CheckFields(h));
  return h;
}

}  // namespace simm::transport
