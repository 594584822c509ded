#include "common/rpc/dataserver_stub.h"

#include "common/base/host_port.h"
#include "common/rpc/channel.h"
#include "common/rpc/convert.h"
#include "proto/dataserver.grpc.pb.h"

namespace simm::rpc {
namespace {

Result<std::unique_ptr<v1::DataServer::Stub>> StubOf(const std::string& address) {
  if (Result<HostPort> parsed = ParseHostPort(address); !parsed.ok()) return parsed.status();
  return v1::DataServer::NewStub(SharedChannel(address));
}

}  // namespace

Result<HandshakeReply> Handshake(const std::string& address, const HandshakeRequest& request,
                                 Duration timeout) {
  auto stub = StubOf(address);
  if (!stub.ok()) return stub.status();
  grpc::ClientContext context;
  SetDeadline(context, timeout);
  v1::HandshakeReply reply;
  const grpc::Status status = stub.value()->Handshake(&context, ToProto(request), &reply);
  // Who shakes hands paces himself. The channel's own pause would go on failing calls to a server
  // that is back.
  if (status.error_code() == grpc::StatusCode::UNAVAILABLE) ForgetChannel(address);
  if (!status.ok()) return FromGrpc(status, address);
  return FromProto(reply);
}

Result<std::string> OpenLane(const std::string& address, const OpenLaneRequest& request,
                             Duration timeout) {
  auto stub = StubOf(address);
  if (!stub.ok()) return stub.status();
  grpc::ClientContext context;
  SetDeadline(context, timeout);
  v1::OpenLaneRequest message;
  message.set_transport(request.transport);
  message.set_offer(request.offer);
  v1::OpenLaneReply reply;
  const grpc::Status status = stub.value()->OpenLane(&context, message, &reply);
  if (!status.ok()) return FromGrpc(status, address);
  return std::move(*reply.mutable_answer());
}

Result<uint64_t> ClearNamespace(const std::string& address, const ClearNamespaceRequest& request,
                                Duration timeout) {
  auto stub = StubOf(address);
  if (!stub.ok()) return stub.status();
  grpc::ClientContext context;
  SetDeadline(context, timeout);
  v1::ClearNamespaceReply reply;
  const grpc::Status status = stub.value()->ClearNamespace(&context, ToProto(request), &reply);
  if (!status.ok()) return FromGrpc(status, address);
  return reply.dropped();
}

Result<SampleKeysReply> SampleKeys(const std::string& address, const SampleKeysRequest& request,
                                   Duration timeout) {
  auto stub = StubOf(address);
  if (!stub.ok()) return stub.status();
  grpc::ClientContext context;
  SetDeadline(context, timeout);
  v1::SampleKeysRequest message;
  *message.mutable_expected_cluster() = ToProto(request.expected_cluster);
  message.set_expected_server(request.expected_server);
  message.set_name_space(request.name_space);
  message.set_prefix(request.prefix);
  message.set_limit(request.limit);
  v1::SampleKeysReply reply;
  const grpc::Status status = stub.value()->SampleKeys(&context, message, &reply);
  if (!status.ok()) return FromGrpc(status, address);
  SampleKeysReply sampled;
  for (int i = 0; i < reply.keys_size(); ++i) {
    const uint64_t bytes = i < reply.value_bytes_size() ? reply.value_bytes(i) : 0;
    sampled.keys.push_back({std::move(*reply.mutable_keys(i)), bytes});
  }
  sampled.scanned = reply.scanned();
  sampled.complete = reply.complete();
  return sampled;
}

Result<NodeStatus> GetServerStatus(const std::string& address, Duration timeout) {
  auto stub = StubOf(address);
  if (!stub.ok()) return stub.status();
  grpc::ClientContext context;
  SetDeadline(context, timeout);
  v1::NodeStatus reply;
  const grpc::Status status =
      stub.value()->GetStatus(&context, v1::GetServerStatusRequest(), &reply);
  if (!status.ok()) return FromGrpc(status, address);
  return FromProto(reply);
}

}  // namespace simm::rpc
