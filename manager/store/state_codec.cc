#include "manager/store/state_codec.h"

#include <bit>
#include <cstring>

#include "common/base/bytes.h"
#include "common/base/hash.h"
#include "common/base/limits.h"

namespace simm::manager {
namespace {

constexpr uint64_t kMagic =
    std::bit_cast<uint64_t>(std::array<char, 8>{'S', 'I', 'M', 'M', 'S', 'T', 'A', 'T'});
// 2 (capabilities, draining servers, rows as varints: 90 KB instead of 790 KB) since 0.2; 1 is
// read.
// 3 (rows of several places, homes plus one) is written only with replicas: without, the version
// before can go on from the state.
constexpr uint32_t kFormat = 3;
constexpr uint32_t kFormatOfOneOwner = 2;
constexpr uint32_t kOldestFormat = 1;
constexpr size_t kHeaderBytes = 24;
constexpr size_t kCrcStart = 12;  // behind magic and CRC

class Out {
 public:
  template <typename T>
  requires std::is_integral_v<T>
  void Put(T value) { bytes_.append(reinterpret_cast<const char*>(&value), sizeof value); }
  void Put(const Id128& id) {
    Put(id.high);
    Put(id.low);
  }
  void Put(const std::string& text) {
    Put(static_cast<uint16_t>(text.size()));
    bytes_ += text;
  }
  void PutVarint(uint32_t value) {
    for (; value >= 0x80; value >>= 7) bytes_ += static_cast<char>(value | 0x80);
    bytes_ += static_cast<char>(value);
  }
  std::string Take() && { return std::move(bytes_); }

 private:
  std::string bytes_;
};

Id128 GetId(ByteReader& in) {
  Id128 id;
  id.high = in.Get<uint64_t>();
  id.low = in.Get<uint64_t>();
  return id;
}
std::string GetText(ByteReader& in) {
  const auto size = in.Get<uint16_t>();
  return std::string(AsText(in.Take(size)));
}

// After an overlong one `in` is read to its end and not ok.
uint32_t GetVarint(ByteReader& in) {
  uint64_t value = 0;
  for (int shift = 0; shift < 35; shift += 7) {
    const auto byte = in.Get<uint8_t>();
    value |= uint64_t{byte & 0x7fU} << shift;
    if (byte < 0x80 && value <= UINT32_MAX) return static_cast<uint32_t>(value);
  }
  (void)in.Take(in.remaining() + 1);
  return 0;
}

// A number for some of the `places`; most have none, 0: pairs of gap and number.
template <typename Of>
void PutSparse(size_t places, Of of, Out& out) {
  uint32_t count = 0;
  for (uint32_t place = 0; place < places; ++place) count += of(place) != 0;
  out.PutVarint(count);
  uint32_t next = 0;
  for (uint32_t place = 0; place < places; ++place) {
    if (of(place) == 0) continue;
    out.PutVarint(place - next);
    out.PutVarint(of(place));
    next = place + 1;
  }
}
template <typename Give>
bool GetSparse(ByteReader& in, size_t places, Give give) {
  const uint32_t count = GetVarint(in);
  uint64_t place = 0;
  for (uint32_t i = 0; i < count && in.ok(); ++i) {
    place += GetVarint(in);
    const uint32_t number = GetVarint(in);
    if (place >= places) return false;
    give(static_cast<uint32_t>(place), number);
    ++place;
  }
  return in.ok();
}

void PutServer(const ServerRecord& server, Out& out) {
  out.Put(server.id);
  out.Put(static_cast<uint8_t>(server.state));
  out.Put(server.incarnation);
  out.Put(server.weight);
  out.Put(server.pool_id);
  out.Put(server.boot_id);
  out.Put(server.name);
  out.Put(server.control_address);
  out.Put(server.data_address);
  out.Put(server.zone);
  out.Put(server.capabilities);
}
ServerRecord GetServer(ByteReader& in, uint32_t format) {
  ServerRecord server;
  server.id = in.Get<ServerId>();
  server.state = static_cast<ServerState>(in.Get<uint8_t>());
  server.incarnation = in.Get<uint64_t>();
  server.weight = in.Get<uint64_t>();
  server.pool_id = GetId(in);
  server.boot_id = GetId(in);
  server.name = GetText(in);
  server.control_address = GetText(in);
  server.data_address = GetText(in);
  server.zone = GetText(in);
  if (format >= 2) server.capabilities = in.Get<uint64_t>();
  return server;
}

uint32_t CrcOf(std::string_view file) { return Crc32c(AsBytes(file.substr(kCrcStart))); }

Status Corrupt(const std::string& what) { return Status(Code::kCorrupt, what); }

// Rows of format 1: three fixed numbers a shard.
void GetFixedRows(ByteReader& in, DurableState& state) {
  for (ShardOwner& owner : state.map.owners) {
    owner.server = in.Get<ServerId>();
    owner.source = in.Get<ServerId>();
  }
  for (ServerId& home : state.homes) home = in.Get<ServerId>();
}

// Rows of format 2 and 3: owners; sources where there are any; homes where another server, or
// nobody, is the owner. In format 2 a home that is none cannot be said, and does not occur; in
// format 3 homes are written plus one.
uint32_t HomeBias(uint32_t format) { return format >= 3 ? 1 : 0; }
void PutRows(const DurableState& state, uint32_t format, Out& out) {
  const std::vector<ShardOwner>& owners = state.map.owners;
  for (const ShardOwner& owner : owners) out.PutVarint(owner.server);
  PutSparse(
      owners.size(), [&](uint32_t place) { return owners[place].source; }, out);
  PutSparse(
      owners.size(),
      [&](uint32_t place) {
        const bool same = state.homes[place] == owners[place].server;
        return same ? 0 : state.homes[place] + HomeBias(format);
      },
      out);
}
bool GetRows(ByteReader& in, uint32_t format, DurableState& state) {
  std::vector<ShardOwner>& owners = state.map.owners;
  for (size_t place = 0; place < owners.size(); ++place) {
    owners[place].server = state.homes[place] = GetVarint(in);
  }
  return GetSparse(in, owners.size(),
                   [&](uint32_t place, ServerId id) { owners[place].source = id; }) &&
         GetSparse(in, owners.size(), [&](uint32_t place, uint32_t number) {
           state.homes[place] = number - HomeBias(format);
         });
}

Status GetBody(ByteReader& in, uint32_t format, DurableState& state) {
  MapContents& map = state.map;
  map.version.cluster = GetId(in);
  map.version.term = in.Get<uint64_t>();
  map.version.epoch = in.Get<uint64_t>();
  map.replicas = in.Get<uint32_t>();
  state.next_server = in.Get<ServerId>();
  const auto servers = in.Get<uint32_t>();
  const uint32_t most = format >= 3 ? limits::kMaxReplicas : 1;
  if (map.replicas < 1 || map.replicas > most || servers > limits::kMaxServers) {
    return Corrupt("a count is out of range");
  }
  for (uint32_t i = 0; i < servers && in.ok(); ++i) map.servers.push_back(GetServer(in, format));
  const auto namespaces = in.Get<uint32_t>();
  if (namespaces > limits::kMaxNamespaces) return Corrupt("a count is out of range");
  for (uint32_t i = 0; i < namespaces && in.ok(); ++i) {
    const auto id = in.Get<NamespaceId>();
    map.namespaces.emplace_back(id, GetText(in));
  }
  map.owners.resize(size_t{limits::kShards} * map.replicas);
  state.homes.resize(map.owners.size());
  if (format == 1) {
    GetFixedRows(in, state);
  } else {
    const uint32_t draining = GetVarint(in);
    if (draining > servers) return Corrupt("a count is out of range");
    for (uint32_t i = 0; i < draining; ++i) state.draining.push_back(GetVarint(in));
    if (!GetRows(in, format, state)) return Corrupt("its rows are out of range");
  }
  if (!in.ok() || in.remaining() != 0) return Corrupt("its length does not fit its content");
  return Status::Ok();
}

}  // namespace

std::string EncodeState(const DurableState& state) {
  const uint32_t format = state.map.replicas == 1 ? kFormatOfOneOwner : kFormat;
  Out body;
  body.Put(state.map.version.cluster);
  body.Put(state.map.version.term);
  body.Put(state.map.version.epoch);
  body.Put(state.map.replicas);
  body.Put(state.next_server);
  body.Put(static_cast<uint32_t>(state.map.servers.size()));
  for (const ServerRecord& server : state.map.servers) PutServer(server, body);
  body.Put(static_cast<uint32_t>(state.map.namespaces.size()));
  for (const auto& [id, name] : state.map.namespaces) {
    body.Put(id);
    body.Put(name);
  }
  body.PutVarint(static_cast<uint32_t>(state.draining.size()));
  for (const ServerId id : state.draining) body.PutVarint(id);
  PutRows(state, format, body);
  const std::string payload = std::move(body).Take();

  Out out;
  out.Put(kMagic);
  out.Put(uint32_t{0});
  out.Put(format);
  out.Put(static_cast<uint64_t>(payload.size()));
  std::string file = std::move(out).Take() + payload;
  const uint32_t crc = CrcOf(file);
  std::memcpy(file.data() + sizeof kMagic, &crc, sizeof crc);
  return file;
}

Result<DurableState> DecodeState(std::string_view bytes) {
  if (bytes.size() < kHeaderBytes) return Corrupt("it is cut short");
  ByteReader in(AsBytes(bytes));
  if (in.Get<uint64_t>() != kMagic) return Corrupt("it is no state file of simm-manager");
  const auto crc = in.Get<uint32_t>();
  const auto format = in.Get<uint32_t>();
  const auto length = in.Get<uint64_t>();
  if (length != in.remaining()) return Corrupt("it is cut short or has grown");
  if (crc != CrcOf(bytes)) return Corrupt("its checksum is wrong");
  if (format < kOldestFormat || format > kFormat) {
    return Status(Code::kFailedPrecondition,
                  "it has format " + std::to_string(format) + ", this program reads up to format " +
                      std::to_string(kFormat) + ": run the version that wrote it, or a newer one");
  }
  DurableState state;
  SIMM_RETURN_IF_ERROR(GetBody(in, format, state));
  SIMM_RETURN_IF_ERROR(CheckState(state));
  return state;
}

}  // namespace simm::manager
