#include "common/rpc/manager_stub.h"

#include <algorithm>
#include <deque>

#include "common/base/host_port.h"
#include "common/base/mutex.h"
#include "common/rpc/channel.h"
#include "common/rpc/convert.h"
#include "common/rpc/map_codec.h"
#include "proto/manager.grpc.pb.h"

namespace simm::rpc {

struct ManagerStub::Impl {
  struct Peer {
    std::string address;
    std::shared_ptr<v1::Manager::Stub> stub;
  };
  // The addresses given, each asked once; a leader that is named by one of them goes first.
  std::vector<Peer> peers;
  Mutex mutex;
  Peer first SIMM_GUARDED_BY(mutex);  // that answered last; may be none of `peers`

  static Peer PeerAt(const std::string& address) {
    return {address, v1::Manager::NewStub(SharedChannel(address))};
  }
  // Whom to ask, in order.
  std::deque<Peer> Round() {
    MutexLock lock(mutex);
    std::deque<Peer> round;
    if (first.stub != nullptr) round.push_back(first);
    for (const Peer& peer : peers) {
      if (peer.address != first.address) round.push_back(peer);
    }
    return round;
  }
  void Answered(const Peer& peer) {
    MutexLock lock(mutex);
    if (first.address != peer.address) first = peer;
  }

  // `ask` is one call: (stub, context) -> grpc::Status; at one address after the other.
  template <typename Ask>
  Status Call(Duration timeout, Ask ask) {
    const Instant deadline = MonotonicClock::Get().Now() + timeout;
    Status last(Code::kDeadlineExceeded, "no time left for a call to the manager");
    std::deque<Peer> round = Round();
    bool followed = false;  // one named leader is followed: two that name each other end here
    while (!round.empty()) {
      const Duration left = deadline - MonotonicClock::Get().Now();
      if (left <= Duration::zero()) break;
      const Peer peer = round.front();
      round.pop_front();
      grpc::ClientContext context;
      SetDeadline(context, left / static_cast<int64_t>(round.size() + 1));
      const grpc::Status status = ask(*peer.stub, context);
      last = FromGrpc(status, peer.address);
      if (last.code() != Code::kUnavailable && last.code() != Code::kDeadlineExceeded) {
        Answered(peer);
        return last;
      }
      const std::string leader = LeaderOf(status);
      if (!followed && !leader.empty() && leader != peer.address && ParseHostPort(leader).ok()) {
        followed = true;
        std::erase_if(round, [&](const Peer& other) { return other.address == leader; });
        round.push_front(PeerAt(leader));
      }
    }
    return last;
  }

  // A unary method of the generated stub.
  template <typename Request, typename Reply>
  Status Call(grpc::Status (v1::Manager::Stub::*method)(grpc::ClientContext*, const Request&,
                                                        Reply*),
              const Request& request, Duration timeout, Reply& reply) {
    return Call(timeout, [&](v1::Manager::Stub& stub, grpc::ClientContext& context) {
      reply.Clear();
      return (stub.*method)(&context, request, &reply);
    });
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
    impl->peers.push_back(Impl::PeerAt(address));
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

Status ManagerStub::ReportMap(const RouteTable& table, Duration timeout) {
  const std::string bytes = EncodeSnapshot(table, /*from_manager=*/false);
  return impl_->Call(timeout, [&](v1::Manager::Stub& stub, grpc::ClientContext& context) {
    v1::ReportMapReply reply;
    const auto writer = stub.ReportMap(&context, &reply);
    for (size_t at = 0; at < bytes.size(); at += kMapPieceBytes) {
      v1::MapPiece piece;
      piece.set_bytes(bytes.substr(at, kMapPieceBytes));
      if (!writer->Write(piece)) break;  // Finish says why
    }
    writer->WritesDone();
    return writer->Finish();
  });
}

Result<DrainReply> ManagerStub::DrainNode(const std::string& name, bool undrain, Duration timeout) {
  v1::DrainNodeRequest request;
  request.set_name(name);
  request.set_undrain(undrain);
  v1::DrainNodeReply reply;
  SIMM_RETURN_IF_ERROR(impl_->Call(&v1::Manager::Stub::DrainNode, request, timeout, reply));
  return DrainReply{reply.migrates(), FromProto(reply.map())};
}

Result<std::vector<Event>> ManagerStub::ListEvents(uint64_t after, uint32_t newest,
                                                   Duration timeout) {
  v1::ListEventsRequest request;
  request.set_after(after);
  request.set_newest(newest);
  v1::ListEventsReply reply;
  SIMM_RETURN_IF_ERROR(impl_->Call(&v1::Manager::Stub::ListEvents, request, timeout, reply));
  std::vector<Event> events;
  for (const v1::Event& event : reply.events()) events.push_back(FromProto(event));
  return events;
}

}  // namespace simm::rpc
