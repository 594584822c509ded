#include "dataserver/roads.h"

#include <algorithm>
#include <utility>

#include "common/base/bytes.h"
#include "common/base/clock.h"
#include "common/base/log.h"

namespace simm::dataserver {
namespace {

// Lanes of verbs meet over gRPC; the name only tells acceptors of one transport apart.
constexpr char kRdmaEndpoint[] = "pool";

// Nobody writes through it: the region is registered for reading only.
MutableByteSpan IndexMemory(const Pool& pool) {
  const ByteSpan index = pool.index_memory();
  return {const_cast<std::byte*>(index.data()), index.size()};
}

std::vector<rpc::RegionChunk> ChunksOf(const transport::LocalRegion& region) {
  std::vector<rpc::RegionChunk> chunks;
  for (const auto& chunk : region.Describe().chunks)
    chunks.push_back({chunk.offset, chunk.length, chunk.key});
  return chunks;
}

}  // namespace

Status Roads::Open(const ServerOptions& options, Pool& pool, const Id128& boot_id,
                   const transport::SessionCheck& check, Acceptors* acceptors) {
  const auto open = [&](const std::string& name, auto&& opened) -> Status {
    if (options.transport != "auto" && options.transport != name) {
      closed_.push_back({name, "--transport " + options.transport});
      return Status::Ok();
    }
    const Status status = opened();
    if (status.ok()) return status;
    if (options.transport == name) {
      return Status(status.code(), "--transport " + name + ": " + status.message());
    }
    SIMM_LOG_WARN("not offered to clients: {}: {}", name, status.message());
    closed_.push_back({name, status.message()});
    return Status::Ok();
  };
  SIMM_RETURN_IF_ERROR(
      open("shm", [&] { return OpenShared(options, pool, boot_id, check, acceptors); }));
  return open("verbs", [&] { return OpenRdma(options, pool, check, acceptors); });
}

Status Roads::RegisterPool(Road* road, Pool& pool) {
  auto index = road->transport->Register(IndexMemory(pool), transport::kRemoteRead);
  if (!index.ok()) return index.status();
  auto data = road->transport->Register(pool.data_memory(),
                                        uint8_t{transport::kRemoteRead} | transport::kRemoteWrite);
  if (!data.ok()) return data.status();
  road->index = std::move(*index);
  road->data = std::move(*data);
  road->registered_bytes = pool.index_memory().size() + pool.data_memory().size();
  return Status::Ok();
}

Status Roads::OpenShared(const ServerOptions& options, Pool& pool, const Id128& boot_id,
                         const transport::SessionCheck& check, Acceptors* acceptors) {
  auto shm = std::make_unique<transport::ShmTransport>();
  SIMM_RETURN_IF_ERROR(shm->ShareFile(pool.index_fd(), IndexMemory(pool)));
  SIMM_RETURN_IF_ERROR(shm->ShareFile(pool.data_fd(), pool.data_memory()));
  Road road;
  road.transport = std::move(shm);
  SIMM_RETURN_IF_ERROR(RegisterPool(&road, pool));
  const std::string endpoint =
      options.shm_socket.empty() ? "@simm-" + ToString(boot_id) : options.shm_socket;
  auto acceptor = road.transport->Listen(endpoint, "--shm-socket", check);
  if (!acceptor.ok()) return acceptor.status();
  road.endpoint = (*acceptor)->Address();
  acceptors->push_back(std::move(*acceptor));
  open_.push_back(std::move(road));
  return Status::Ok();
}

Status Roads::OpenRdma(const ServerOptions& options, Pool& pool,
                       const transport::SessionCheck& check, Acceptors* acceptors) {
  auto verbs = transport::OpenVerbs(options.rdma);
  if (!verbs.ok()) return verbs.status();
  Road road;
  road.transport = std::move(*verbs);
  const Instant start = MonotonicClock::Get().Now();
  SIMM_RETURN_IF_ERROR(RegisterPool(&road, pool));
  SIMM_LOG_INFO("RDMA: {} registered with {} in {:.1f} s",
                FormatSize(pool.data_memory().size() + pool.index_memory().size()),
                road.transport->Medium(), ToSeconds(MonotonicClock::Get().Now() - start));
  auto acceptor = road.transport->Listen(kRdmaEndpoint, "--transport", check);
  if (!acceptor.ok()) return acceptor.status();
  acceptors->push_back(std::move(*acceptor));
  open_.push_back(std::move(road));
  return Status::Ok();
}

void Roads::Offer(const std::vector<std::string>& wanted, const std::string& control_address,
                  rpc::HandshakeReply* reply) const {
  for (const Road& road : open_) {
    const std::string_view name = road.transport->name();
    if (std::find(wanted.begin(), wanted.end(), name) == wanted.end()) continue;
    rpc::TransportOffer& offer = reply->offers.emplace_back();
    offer.transport = name;
    offer.endpoint = road.endpoint.empty() ? control_address : road.endpoint;
    offer.index = ChunksOf(*road.index);
    offer.data = ChunksOf(*road.data);
  }
}

Result<std::string> Roads::Answer(const rpc::OpenLaneRequest& request) const {
  for (const Road& road : open_) {
    if (road.transport->name() == request.transport)
      return road.transport->Answer(kRdmaEndpoint, request.offer);
  }
  for (const Closed& road : closed_) {
    if (road.name == request.transport) {
      return Status(Code::kFailedPrecondition,
                    request.transport + " is not offered here: " + road.reason);
    }
  }
  return Status(Code::kFailedPrecondition,
                "no transport is called '" + request.transport + "' here");
}

std::vector<Roads::Registered> Roads::RegisteredMemory() const {
  std::vector<Registered> list;
  for (const Road& road : open_) list.push_back({road.transport->name(), road.registered_bytes});
  return list;
}

std::vector<rpc::TransportStatus> Roads::Describe() const {
  std::vector<rpc::TransportStatus> list = {{"tcp", true, "always offered", 0}};
  for (const Road& road : open_) {
    const std::string reason = road.endpoint.empty() ? "device " + road.transport->Medium()
                                                     : "on this host, socket " + road.endpoint;
    list.push_back({std::string(road.transport->name()), true, reason, 0});
  }
  for (const Closed& road : closed_) list.push_back({road.name, false, road.reason, 0});
  return list;
}

}  // namespace simm::dataserver
