#include "common/rpc/control_services.h"

#include <grpcpp/grpcpp.h>
#include <grpcpp/resource_quota.h>
#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "common/base/host_port.h"
#include "common/rpc/channel.h"
#include "common/rpc/convert.h"
#include "common/rpc/map_codec.h"
#include "common/rpc/map_stream.h"
#include "common/rpc/node_service.h"
#include "proto/dataserver.grpc.pb.h"
#include "proto/manager.grpc.pb.h"

namespace simm::rpc {
namespace {

using Observer = std::function<void(std::string_view, Code, Duration)>;

// Runs `call`, reports it, and gives its value to `reply` in wire form.
template <typename Call, typename Give>
Status Run(const Observer& observer, std::string_view method, Call call, Give give) {
  const Instant start = MonotonicClock::Get().Now();
  auto result = call();
  Status status;
  if constexpr (std::is_same_v<decltype(result), Status>) {
    status = result;
  } else {
    status = result.status();
    if (result.ok()) give(*result);
  }
  if (observer) observer(method, status.code(), MonotonicClock::Get().Now() - start);
  return status;
}
template <typename Call, typename Give>
grpc::Status Serve(const Observer& observer, std::string_view method, Call call, Give give) {
  return ToGrpc(Run(observer, method, std::move(call), std::move(give)));
}

// The pieces of a reported map put together. kTooLarge beyond the bound of an update.
Result<std::shared_ptr<const RouteTable>> ReadMap(grpc::ServerReader<v1::MapPiece>& reader) {
  std::string bytes;
  v1::MapPiece piece;
  while (reader.Read(&piece)) {
    if (bytes.size() + piece.bytes().size() > static_cast<size_t>(kMaxUpdateBytes)) {
      return Status(Code::kTooLarge, "the map reported is larger than any map can be");
    }
    bytes += piece.bytes();
  }
  Result<MapUpdate> update = DecodeUpdate(bytes);
  if (!update.ok()) return update.status();
  if (update->snapshot == nullptr) {
    return Status(Code::kInvalidArgument, "the map reported is no snapshot");
  }
  return update->snapshot;
}

class ManagerService final : public v1::Manager::Service {
 public:
  ManagerService(ManagerHandler& handler, const Observer& observer)
      : handler_(handler), observer_(observer) {}

  grpc::Status Register(grpc::ServerContext*, const v1::RegisterRequest* request,
                        v1::RegisterReply* reply) override {
    return Answer(
        "Register", [&] { return handler_.Register(FromProto(*request)); },
        [&](const auto& value) { *reply = ToProto(value); });
  }
  grpc::Status Heartbeat(grpc::ServerContext*, const v1::HeartbeatRequest* request,
                         v1::HeartbeatReply* reply) override {
    return Answer(
        "Heartbeat", [&] { return handler_.Heartbeat(FromProto(*request)); },
        [&](const auto& value) { *reply = ToProto(value); });
  }
  grpc::Status GetStatus(grpc::ServerContext*, const v1::GetStatusRequest*,
                         v1::ClusterStatus* reply) override {
    return Answer(
        "GetStatus", [&] { return handler_.GetStatus(); },
        [&](const auto& value) { *reply = ToProto(value); });
  }
  grpc::Status CreateNamespace(grpc::ServerContext*, const v1::CreateNamespaceRequest* request,
                               v1::CreateNamespaceReply* reply) override {
    return Answer(
        "CreateNamespace", [&] { return handler_.CreateNamespace(request->name()); },
        [&](NamespaceId id) { reply->set_id(id); });
  }
  grpc::Status RemoveNode(grpc::ServerContext*, const v1::RemoveNodeRequest* request,
                          v1::RemoveNodeReply*) override {
    return Answer(
        "RemoveNode", [&] { return handler_.RemoveNode(request->name()); }, nullptr);
  }
  grpc::Status ReportMap(grpc::ServerContext*, grpc::ServerReader<v1::MapPiece>* reader,
                         v1::ReportMapReply*) override {
    return Answer(
        "ReportMap",
        [&] {
          Result<std::shared_ptr<const RouteTable>> table = ReadMap(*reader);
          return table.ok() ? handler_.ReportMap(*std::move(table)) : table.status();
        },
        nullptr);
  }
  grpc::Status DrainNode(grpc::ServerContext*, const v1::DrainNodeRequest* request,
                         v1::DrainNodeReply* reply) override {
    return Answer(
        "DrainNode", [&] { return handler_.DrainNode(request->name(), request->undrain()); },
        [&](const DrainReply& value) {
          reply->set_migrates(value.migrates);
          *reply->mutable_map() = ToProto(value.map);
        });
  }
  grpc::Status ListEvents(grpc::ServerContext*, const v1::ListEventsRequest* request,
                          v1::ListEventsReply* reply) override {
    return Answer(
        "ListEvents", [&] { return handler_.ListEvents(request->after(), request->newest()); },
        [&](const std::vector<Event>& events) {
          for (const Event& event : events) *reply->add_events() = ToProto(event);
        });
  }

 private:
  // As Serve; a manager that cannot do its work says who can.
  template <typename Call, typename Give>
  grpc::Status Answer(std::string_view method, Call call, Give give) {
    const Status status = Run(observer_, method, std::move(call), std::move(give));
    return ToGrpc(status,
                  status.code() == Code::kUnavailable ? handler_.LeaderElsewhere() : std::string());
  }

  ManagerHandler& handler_;
  const Observer& observer_;
};

class DataServerService final : public v1::DataServer::Service {
 public:
  DataServerService(DataServerHandler& handler, const Observer& observer)
      : handler_(handler), observer_(observer) {}

  grpc::Status Handshake(grpc::ServerContext* context, const v1::HandshakeRequest* request,
                         v1::HandshakeReply* reply) override {
    return Serve(
        observer_, "Handshake",
        [&] { return handler_.Handshake(FromProto(*request), context->peer()); },
        [&](const auto& value) { *reply = ToProto(value); });
  }
  grpc::Status OpenLane(grpc::ServerContext*, const v1::OpenLaneRequest* request,
                        v1::OpenLaneReply* reply) override {
    return Serve(
        observer_, "OpenLane",
        [&] {
          return handler_.OpenLane({request->transport(), request->offer()});
        },
        [&](const std::string& answer) { reply->set_answer(answer); });
  }
  grpc::Status ClearNamespace(grpc::ServerContext* context,
                              const v1::ClearNamespaceRequest* request,
                              v1::ClearNamespaceReply* reply) override {
    return Serve(
        observer_, "ClearNamespace",
        [&] {
          return handler_.ClearNamespace(FromProto(*request),
                                         [context] { return context->IsCancelled(); });
        },
        [&](uint64_t dropped) { reply->set_dropped(dropped); });
  }
  grpc::Status SampleKeys(grpc::ServerContext* context, const v1::SampleKeysRequest* request,
                          v1::SampleKeysReply* reply) override {
    return Serve(
        observer_, "SampleKeys",
        [&] {
          return handler_.SampleKeys(
              {FromProto(request->expected_cluster()), request->expected_server(),
               request->name_space(), request->prefix(), request->limit()},
              [context] { return context->IsCancelled(); });
        },
        [&](const SampleKeysReply& value) {
          for (const SampledKey& key : value.keys) {
            reply->add_keys(key.key);
            reply->add_value_bytes(key.value_bytes);
          }
          reply->set_scanned(value.scanned);
          reply->set_complete(value.complete);
        });
  }
  grpc::Status GetStatus(grpc::ServerContext*, const v1::GetServerStatusRequest*,
                         v1::NodeStatus* reply) override {
    return Serve(
        observer_, "GetStatus", [&] { return handler_.GetStatus(); },
        [&](const auto& value) { *reply = ToProto(value); });
  }

 private:
  DataServerHandler& handler_;
  const Observer& observer_;
};

// gRPC says only that it could not listen. Binding the address first gives the reason.
Status CheckBindable(const HostPort& address) {
  const auto refused = [&](const std::string& reason) {
    return Status(Code::kFailedPrecondition, "cannot listen on " + ToString(address) + ": " +
                                                 reason + ". Choose another address with --listen");
  };
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  addrinfo* found = nullptr;
  const int error =
      getaddrinfo(address.host.c_str(), std::to_string(address.port).c_str(), &hints, &found);
  if (error != 0) return refused(gai_strerror(error));
  int reason = 0;
  const int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int on = 1;
  if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0 ||
      bind(fd, found->ai_addr, found->ai_addrlen) != 0 || listen(fd, 1) != 0) {
    reason = errno;
  }
  if (fd >= 0) close(fd);
  freeaddrinfo(found);
  return reason == 0 ? Status::Ok() : refused(std::strerror(reason));
}

}  // namespace

struct ControlServer::Impl {
  explicit Impl(ControlServerOptions given) : options(std::move(given)) {}

  const ControlServerOptions options;
  std::unique_ptr<ManagerService> manager;
  std::unique_ptr<DataServerService> data_server;
  std::unique_ptr<MapServiceHost> maps;
  std::unique_ptr<NodeService> node;
  std::unique_ptr<grpc::Server> server;
  int port = 0;
  Mutex mutex;
  bool shut_down SIMM_GUARDED_BY(mutex) = false;
};

ControlServer::ControlServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ControlServer::~ControlServer() { Shutdown(Duration::zero()); }

Result<std::unique_ptr<ControlServer>> ControlServer::Start(ControlServerOptions options) {
  RouteLibraryLogs();
  Result<HostPort> address = ParseHostPort(options.listen);
  if (!address.ok()) return address.status();
  SIMM_RETURN_IF_ERROR(CheckBindable(*address));

  auto impl = std::make_unique<Impl>(std::move(options));
  const ControlServerOptions& kept = impl->options;
  grpc::ServerBuilder builder;
  builder.AddListeningPort(ToString(*address), grpc::InsecureServerCredentials(), &impl->port);
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.SetMaxReceiveMessageSize(kMaxRequestBytes);
  builder.SetMaxSendMessageSize(kMaxUpdateBytes);
  // Peers ping every 5 s (channel.cc); a peer that is gone is noticed as fast from this side.
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 10000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 3000);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 1000);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PING_STRIKES, 0);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_IDLE_MS,
                             static_cast<int>(kept.idle_limit.count()));
  builder.SetSyncServerOption(grpc::ServerBuilder::NUM_CQS, 1);
  grpc::ResourceQuota quota("control");
  quota.SetMaxThreads(kMaxServerThreads);
  builder.SetResourceQuota(quota);
  if (kept.manager != nullptr) {
    impl->manager = std::make_unique<ManagerService>(*kept.manager, kept.observer);
    builder.RegisterService(impl->manager.get());
  }
  if (kept.data_server != nullptr) {
    impl->data_server = std::make_unique<DataServerService>(*kept.data_server, kept.observer);
    builder.RegisterService(impl->data_server.get());
  }
  if (kept.maps != nullptr) {
    impl->maps = std::make_unique<MapServiceHost>(*kept.maps);
    builder.RegisterService(impl->maps.get());
  }
  if (kept.describe) {
    impl->node = std::make_unique<NodeService>(kept.describe);
    builder.RegisterService(impl->node.get());
  }
  impl->server = builder.BuildAndStart();
  if (impl->server == nullptr || impl->port == 0) {
    return Status(Code::kFailedPrecondition, "cannot listen on " + ToString(*address) +
                                                 ": gRPC refused it. Choose another address with "
                                                 "--listen");
  }
  return std::unique_ptr<ControlServer>(new ControlServer(std::move(impl)));
}

uint16_t ControlServer::port() const { return static_cast<uint16_t>(impl_->port); }

void ControlServer::Shutdown(Duration grace) {
  MutexLock lock(impl_->mutex);
  if (impl_->shut_down) return;
  impl_->shut_down = true;
  if (impl_->maps != nullptr) impl_->maps->Close();
  impl_->server->Shutdown(std::chrono::system_clock::now() +
                          std::chrono::duration_cast<std::chrono::microseconds>(grace));
  impl_->server->Wait();
}

}  // namespace simm::rpc
