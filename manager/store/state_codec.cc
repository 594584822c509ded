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
constexpr uint32_t kFormat = 1;
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
}
ServerRecord GetServer(ByteReader& in) {
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
  return server;
}

uint32_t CrcOf(std::string_view file) { return Crc32c(AsBytes(file.substr(kCrcStart))); }

Status Corrupt(const std::string& what) { return Status(Code::kCorrupt, what); }

Status GetBody(ByteReader& in, DurableState& state) {
  MapContents& map = state.map;
  map.version.cluster = GetId(in);
  map.version.term = in.Get<uint64_t>();
  map.version.epoch = in.Get<uint64_t>();
  map.replicas = in.Get<uint32_t>();
  state.next_server = in.Get<ServerId>();
  const auto servers = in.Get<uint32_t>();
  if (map.replicas != 1 || servers > limits::kMaxServers) return Corrupt("a count is out of range");
  for (uint32_t i = 0; i < servers && in.ok(); ++i) map.servers.push_back(GetServer(in));
  const auto namespaces = in.Get<uint32_t>();
  if (namespaces > limits::kMaxNamespaces) return Corrupt("a count is out of range");
  for (uint32_t i = 0; i < namespaces && in.ok(); ++i) {
    const auto id = in.Get<NamespaceId>();
    map.namespaces.emplace_back(id, GetText(in));
  }
  map.owners.resize(limits::kShards);
  for (ShardOwner& owner : map.owners) {
    owner.server = in.Get<ServerId>();
    owner.source = in.Get<ServerId>();
  }
  state.homes.resize(limits::kShards);
  for (ServerId& home : state.homes) home = in.Get<ServerId>();
  if (!in.ok() || in.remaining() != 0) return Corrupt("its length does not fit its content");
  return Status::Ok();
}

// What membership builds upon, beyond what the route table checks.
Status CheckState(const DurableState& state) {
  Result<std::shared_ptr<const RouteTable>> table = RouteTable::Create(state.map);
  if (!table.ok()) return Corrupt(table.status().message());
  ServerId last = kNoServer;
  for (const ServerRecord& server : state.map.servers) {
    if (server.id <= last || server.id >= state.next_server || server.weight == 0) {
      return Corrupt("its list of servers is inconsistent");
    }
    last = server.id;
  }
  for (const ServerId home : state.homes) {
    if (home != kNoServer && table.value()->FindServer(home) == nullptr) {
      return Corrupt("a shard's home has no record");
    }
  }
  return Status::Ok();
}

}  // namespace

std::string EncodeState(const DurableState& state) {
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
  for (const ShardOwner& owner : state.map.owners) {
    body.Put(owner.server);
    body.Put(owner.source);
  }
  for (const ServerId home : state.homes) body.Put(home);
  const std::string payload = std::move(body).Take();

  Out out;
  out.Put(kMagic);
  out.Put(uint32_t{0});
  out.Put(kFormat);
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
  if (format != kFormat) {
    return Status(Code::kFailedPrecondition,
                  "it has format " + std::to_string(format) + ", this program writes format " +
                      std::to_string(kFormat) + ": run the version that wrote it, or a newer one");
  }
  DurableState state;
  SIMM_RETURN_IF_ERROR(GetBody(in, state));
  SIMM_RETURN_IF_ERROR(CheckState(state));
  return state;
}

}  // namespace simm::manager
