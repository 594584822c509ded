#include "common/transport/shm/packet.h"

#include <algorithm>

namespace simm::transport {
namespace {

constexpr uint32_t kMagic = 0x6d68'5353;  // "SShm"
constexpr uint8_t kVersion = 1;
constexpr size_t kWelcomeHeadBytes = 24;
constexpr size_t kRegionBytes = 32;
static_assert(kWelcomeHeadBytes + kMaxSharedRegions * kRegionBytes <= limits::kMaxMessageBytes);

}  // namespace

void EncodePacketHeader(const PacketHeader& header, PacketHeaderBytes& out) {
  ByteWriter writer(out);
  writer.Put(kMagic);
  writer.Put(kVersion);
  writer.Put(static_cast<uint8_t>(header.kind));
  writer.Put(header.body_bytes);
  writer.Put(header.request_id);
  writer.Put(header.tag.session);
  writer.Put(header.tag.incarnation);
  SIMM_CHECK(writer.ok() && writer.used() == out.size(), "packet header has another size");
}

Status DecodePacket(ByteSpan packet, PacketHeader* header, ByteSpan* body) {
  ByteReader reader(packet);
  const auto magic = reader.Get<uint32_t>();
  const auto version = reader.Get<uint8_t>();
  const auto kind = reader.Get<uint8_t>();
  header->kind = static_cast<PacketKind>(kind);
  header->body_bytes = reader.Get<uint16_t>();
  header->request_id = reader.Get<uint64_t>();
  header->tag.session = reader.Get<uint64_t>();
  header->tag.incarnation = reader.Get<uint64_t>();
  if (!reader.ok() || magic != kMagic || version != kVersion) {
    return Status(Code::kProtocolError, "not a packet of this protocol");
  }
  if (kind < static_cast<uint8_t>(PacketKind::kHello) ||
      kind > static_cast<uint8_t>(PacketKind::kMessage)) {
    return Status(Code::kProtocolError, "packet of an unknown kind");
  }
  if (header->body_bytes != reader.remaining() || header->body_bytes > limits::kMaxMessageBytes ||
      (header->kind == PacketKind::kMessage && header->body_bytes == 0)) {
    return Status(Code::kProtocolError, "packet of a wrong length");
  }
  *body = reader.Take(header->body_bytes);
  return Status::Ok();
}

std::vector<std::byte> EncodeWelcome(const Welcome& welcome) {
  std::vector<std::byte> out(kWelcomeHeadBytes + welcome.regions.size() * kRegionBytes);
  ByteWriter writer(out);
  writer.Put(welcome.boot.high);
  writer.Put(welcome.boot.low);
  writer.Put(welcome.files);
  writer.Put(static_cast<uint32_t>(welcome.regions.size()));
  for (const SharedRegion& region : welcome.regions) {
    writer.Put(region.key);
    writer.Put(region.offset);
    writer.Put(region.length);
    writer.Put(region.file);
    writer.Put(uint32_t{region.access});
  }
  SIMM_CHECK(writer.ok() && writer.used() == out.size(), "welcome has another size");
  return out;
}

Status DecodeWelcome(ByteSpan body, Welcome* welcome) {
  ByteReader reader(body);
  welcome->boot.high = reader.Get<uint64_t>();
  welcome->boot.low = reader.Get<uint64_t>();
  welcome->files = reader.Get<uint32_t>();
  const auto regions = reader.Get<uint32_t>();
  if (!reader.ok() || welcome->files > kMaxSharedFiles || regions > kMaxSharedRegions ||
      reader.remaining() != regions * kRegionBytes) {
    return Status(Code::kProtocolError, "welcome of a wrong length");
  }
  welcome->regions.resize(regions);
  for (SharedRegion& region : welcome->regions) {
    region.key = reader.Get<uint64_t>();
    region.offset = reader.Get<uint64_t>();
    region.length = reader.Get<uint64_t>();
    region.file = reader.Get<uint32_t>();
    const auto access = reader.Get<uint32_t>();
    region.access = static_cast<uint8_t>(access);
    const bool known = access != 0 && (access & ~uint32_t{kRemoteRead | kRemoteWrite}) == 0;
    if (region.file >= welcome->files || !known || region.length == 0) {
      return Status(Code::kProtocolError, "welcome with an impossible region");
    }
  }
  return Status::Ok();
}

}  // namespace simm::transport
