#include "common/rpc/map_codec.h"

#include <algorithm>

#include "common/base/check.h"
#include "common/base/limits.h"
#include "common/rpc/channel.h"
#include "common/rpc/convert.h"

namespace simm::rpc {
namespace {

Status Malformed(const std::string& what) {
  return Status(Code::kProtocolError, "a map update is malformed: " + what);
}

template <typename Message>
void AddNamespaces(const std::vector<std::pair<NamespaceId, std::string>>& namespaces,
                   Message& message) {
  for (const auto& [id, name] : namespaces) {
    v1::Namespace* added = message.add_namespaces();
    added->set_id(id);
    added->set_name(name);
  }
}

template <typename Message>
Status ReadNamespaces(const Message& message,
                      std::vector<std::pair<NamespaceId, std::string>>& namespaces) {
  for (const v1::Namespace& entry : message.namespaces()) {
    if (entry.id() >= limits::kMaxNamespaces) return Malformed("a namespace id beyond 16 bits");
    namespaces.emplace_back(static_cast<NamespaceId>(entry.id()), entry.name());
  }
  return Status::Ok();
}

bool AnySource(std::span<const ShardOwner> owners) {
  return std::any_of(owners.begin(), owners.end(),
                     [](const ShardOwner& owner) { return owner.source != kNoServer; });
}

template <typename Message>
void AddOwners(std::span<const ShardOwner> owners, bool with_sources, Message& message) {
  for (const ShardOwner& owner : owners) {
    message.add_owners(owner.server);
    if (with_sources) message.add_sources(owner.source);
  }
}

template <typename Message>
ShardOwner OwnerAt(const Message& message, int index) {
  return {message.owners(index), message.sources_size() == 0 ? kNoServer : message.sources(index)};
}

// Lengths of the runs of equal rows; empty when they would cost more than they save, which is so
// with two servers and more: the runs are then 1 to 2 rows long.
std::vector<uint32_t> RunLengths(const RouteTable& table) {
  std::vector<uint32_t> lengths;
  for (uint32_t shard = 0; shard < limits::kShards; ++shard) {
    const auto row = table.Owners(shard);
    if (shard > 0 && std::equal(row.begin(), row.end(), table.Owners(shard - 1).begin())) {
      ++lengths.back();
    } else {
      lengths.push_back(1);
    }
  }
  if (lengths.size() > limits::kShards / 4) lengths.clear();
  return lengths;
}

Result<MapUpdate> SnapshotFromProto(const v1::MapSnapshot& message) {
  MapContents contents;
  contents.version = FromProto(message.version());
  contents.replicas = message.replicas();
  if (contents.replicas == 0 || contents.replicas > limits::kMaxReplicas) {
    return Malformed("owners a shard: " + std::to_string(contents.replicas));
  }
  for (const auto& server : message.servers()) contents.servers.push_back(FromProto(server));
  SIMM_RETURN_IF_ERROR(ReadNamespaces(message, contents.namespaces));
  const bool runs = message.run_lengths_size() != 0;
  const size_t rows = runs ? static_cast<size_t>(message.run_lengths_size()) : limits::kShards;
  const auto entries = static_cast<size_t>(message.owners_size());
  if (rows > limits::kShards || entries != rows * contents.replicas ||
      (message.sources_size() != 0 && message.sources_size() != message.owners_size())) {
    return Malformed("its columns differ in length");
  }
  const size_t total = size_t{limits::kShards} * contents.replicas;
  contents.owners.reserve(total);
  for (size_t row = 0; row < rows; ++row) {
    const uint32_t length = runs ? message.run_lengths(static_cast<int>(row)) : 1;
    if (length > (total - contents.owners.size()) / contents.replicas) {
      return Malformed("more rows than shards");
    }
    for (uint32_t repeat = 0; repeat < length; ++repeat) {
      for (uint32_t i = 0; i < contents.replicas; ++i) {
        contents.owners.push_back(OwnerAt(message, static_cast<int>(row * contents.replicas + i)));
      }
    }
  }
  Result<std::shared_ptr<const RouteTable>> table = RouteTable::Create(std::move(contents));
  if (!table.ok()) return table.status();
  MapUpdate update;
  update.snapshot = *std::move(table);
  return update;
}

Result<MapUpdate> DiffFromProto(const v1::MapDiff& message) {
  auto diff = std::make_unique<MapDiff>();
  diff->from = FromProto(message.from());
  diff->to = FromProto(message.to());
  for (const auto& server : message.servers()) diff->servers.push_back(FromProto(server));
  diff->removed_servers.assign(message.removed_servers().begin(), message.removed_servers().end());
  SIMM_RETURN_IF_ERROR(ReadNamespaces(message, diff->namespaces));
  const auto rows = static_cast<size_t>(message.shard_gaps_size());
  const auto entries = static_cast<size_t>(message.owners_size());
  const size_t replicas = rows == 0 ? 1 : entries / rows;
  if (rows > limits::kShards || entries != rows * replicas || replicas == 0 ||
      replicas > limits::kMaxReplicas ||
      (message.sources_size() != 0 && message.sources_size() != message.owners_size())) {
    return Malformed("its columns differ in length");
  }
  uint64_t shard = 0;
  for (size_t row = 0; row < rows; ++row) {
    const uint32_t gap = message.shard_gaps(static_cast<int>(row));
    shard += gap;
    if (shard >= limits::kShards || (row > 0 && gap == 0)) return Malformed("shards out of order");
    std::vector<ShardOwner> owners;
    for (size_t i = 0; i < replicas; ++i) {
      owners.push_back(OwnerAt(message, static_cast<int>(row * replicas + i)));
    }
    diff->rows.emplace_back(static_cast<uint32_t>(shard), std::move(owners));
  }
  MapUpdate update;
  update.diff = std::move(diff);
  return update;
}

}  // namespace

std::string EncodeSnapshot(const RouteTable& table, bool from_manager) {
  v1::MapUpdate update;
  update.set_from_manager(from_manager);
  v1::MapSnapshot& message = *update.mutable_snapshot();
  const MapContents& contents = table.contents();
  *message.mutable_version() = ToProto(contents.version);
  message.set_replicas(contents.replicas);
  for (const ServerRecord& server : contents.servers) *message.add_servers() = ToProto(server);
  AddNamespaces(contents.namespaces, message);
  const bool with_sources = AnySource(contents.owners);
  const std::vector<uint32_t> lengths = RunLengths(table);
  if (lengths.empty()) {
    AddOwners(std::span<const ShardOwner>(contents.owners), with_sources, message);
  }
  uint32_t shard = 0;
  for (const uint32_t length : lengths) {
    message.add_run_lengths(length);
    AddOwners(table.Owners(shard), with_sources, message);
    shard += length;
  }
  return update.SerializeAsString();
}

std::string EncodeDiff(const MapDiff& diff, bool from_manager) {
  v1::MapUpdate update;
  update.set_from_manager(from_manager);
  v1::MapDiff& message = *update.mutable_diff();
  *message.mutable_from() = ToProto(diff.from);
  *message.mutable_to() = ToProto(diff.to);
  for (const ServerRecord& server : diff.servers) *message.add_servers() = ToProto(server);
  for (const ServerId id : diff.removed_servers) message.add_removed_servers(id);
  AddNamespaces(diff.namespaces, message);
  const bool with_sources = std::any_of(diff.rows.begin(), diff.rows.end(),
                                        [](const auto& row) { return AnySource(row.second); });
  uint32_t previous = 0;
  for (const auto& [shard, owners] : diff.rows) {
    SIMM_CHECK(shard >= previous, "rows of a diff are ascending");
    message.add_shard_gaps(shard - previous);
    previous = shard;
    AddOwners(std::span<const ShardOwner>(owners), with_sources, message);
  }
  return update.SerializeAsString();
}

std::string EncodeUpToDate(const MapVersion& version, bool from_manager) {
  v1::MapUpdate update;
  update.set_from_manager(from_manager);
  *update.mutable_up_to_date() = ToProto(version);
  return update.SerializeAsString();
}

Result<MapUpdate> FromProto(const v1::MapUpdate& message) {
  MapUpdate update;
  switch (message.update_case()) {
    case v1::MapUpdate::kSnapshot: {
      Result<MapUpdate> decoded = SnapshotFromProto(message.snapshot());
      if (!decoded.ok()) return decoded.status();
      update = *std::move(decoded);
      break;
    }
    case v1::MapUpdate::kDiff: {
      Result<MapUpdate> decoded = DiffFromProto(message.diff());
      if (!decoded.ok()) return decoded.status();
      update = *std::move(decoded);
      break;
    }
    case v1::MapUpdate::kUpToDate:
      update.up_to_date = std::make_unique<MapVersion>(FromProto(message.up_to_date()));
      break;
    case v1::MapUpdate::UPDATE_NOT_SET:
      return Malformed("of a kind that this version does not know");
  }
  update.from_manager = message.from_manager();
  return update;
}

Result<MapUpdate> DecodeUpdate(std::string_view bytes) {
  RouteLibraryLogs();
  v1::MapUpdate message;
  if (bytes.size() > static_cast<size_t>(INT32_MAX) ||
      !message.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
    return Malformed("not the bytes of one");
  }
  return FromProto(message);
}

}  // namespace simm::rpc
