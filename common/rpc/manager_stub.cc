#include "common/rpc/manager_stub.h"

#include <atomic>

#include "common/base/host_port.h"
#include "common/rpc/channel.h"
#include "common/rpc/convert.h"
#include "proto/manager.grpc.pb.h"

namespace simm::rpc {

struct ManagerStub::Impl {
  struct Peer {
    std::string address;
    std::unique_ptr<v1::Manager::Stub> stub;
  };
  std::vector<Peer> peers;
  std::atomic<size_t> last_good{0};

  // `method` of the generated stub, at one address after the other.
  template <typename Request, typename Reply>
  Status Call(grpc::Status (v1::Manager::Stub::*method)(grpc::ClientContext*, const Request&,
                                                        Reply*),
              const Request& request, Duration timeout, Reply& reply) {
    const Instant deadline = MonotonicClock::Get().Now() + timeout;
    const size_t first = last_good.load(std::memory_order_relaxed);
    Status last(Code::kDeadlineExceeded, "no time left for a call to the manager");
    for (size_t i = 0; i < peers.size(); ++i) {
      const Duration left = deadline - MonotonicClock::Get().Now();
      if (left <= Duration::zero()) break;
      const size_t index = (first + i) % peers.size();
      grpc::ClientContext context;
      SetDeadline(context, left / static_cast<int64_t>(peers.size() - i));
      reply.Clear();
      const grpc::Status status = (peers[index].stub.get()->*method)(&context, request, &reply);
      last = FromGrpc(status, peers[index].address);
      if (last.code() != Code::kUnavailable && last.code() != Code::kDeadlineExceeded) {
        last_good.store(index, std::memory_order_relaxed);
        return last;
      }
    }
    return last;
  }
};

ManagerStub::ManagerStub(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ManagerStub::~ManagerStub() = default;

Result<std::unique_ptr<ManagerStub>> ManagerStub::Create(
    const std::vector<std::string>& addresses) {
  if (addresses.empty()) {
    return Status(Code::kInvalidArgument, "no address of a manager is given");
  }
  auto impl = std::make_unique<Impl>();
  for (const std::string& address : addresses) {
    if (Result<HostPort> parsed = ParseHostPort(address); !parsed.ok()) return parsed.status();
    impl->peers.push_back({address, v1::Manager::NewStub(SharedChannel(address))});
  }
  return std::unique_ptr<ManagerStub>(new ManagerStub(std::move(impl)));
}

Result<RegisterReply> ManagerStub::Register(const RegisterRequest& request, Duration timeout) {
  v1::RegisterReply reply;
  SIMM_RETURN_IF_ERROR(impl_->Call(&v1::Manager::Stub::Register, ToProto(request), timeout, reply));
  return FromProto(reply);
}

Result<HeartbeatReply> ManagerStub::Heartbeat(const HeartbeatRequest& request, Duration timeout) {
  v1::HeartbeatReply reply;
  SIMM_RETURN_IF_ERROR(
      impl_->Call(&v1::Manager::Stub::Heartbeat, ToProto(request), timeout, reply));
  return FromProto(reply);
}

Result<ClusterStatus> ManagerStub::GetStatus(Duration timeout) {
  v1::ClusterStatus reply;
  SIMM_RETURN_IF_ERROR(
      impl_->Call(&v1::Manager::Stub::GetStatus, v1::GetStatusRequest(), timeout, reply));
  return FromProto(reply);
}

Result<NamespaceId> ManagerStub::CreateNamespace(const std::string& name, Duration timeout) {
  v1::CreateNamespaceRequest request;
  request.set_name(name);
  v1::CreateNamespaceReply reply;
  SIMM_RETURN_IF_ERROR(impl_->Call(&v1::Manager::Stub::CreateNamespace, request, timeout, reply));
  if (reply.id() >= limits::kMaxNamespaces) {
    return Status(Code::kProtocolError, "the manager answered a namespace id beyond 16 bits");
  }
  return static_cast<NamespaceId>(reply.id());
}

Status ManagerStub::RemoveNode(const std::string& name, Duration timeout) {
  v1::RemoveNodeRequest request;
  request.set_name(name);
  v1::RemoveNodeReply reply;
  return impl_->Call(&v1::Manager::Stub::RemoveNode, request, timeout, reply);
}

}  // namespace simm::rpc
