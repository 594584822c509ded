#include "common/rpc/etcd_stub.h"

#include <atomic>

#include "common/base/host_port.h"
#include "common/rpc/channel.h"
#include "proto/etcd.grpc.pb.h"

namespace simm::rpc {
namespace {

namespace etcd = ::etcdserverpb;

constexpr char kScheme[] = "http://";

Result<std::string> AddressOf(const std::string& endpoint) {
  std::string address = endpoint;
  if (address.starts_with(kScheme)) address.erase(0, sizeof kScheme - 1);
  while (address.ends_with('/')) address.pop_back();
  if (address.find("://") != std::string::npos) {
    return Status(Code::kInvalidArgument,
                  "'" + endpoint + "' is no endpoint of etcd that can be used: http://HOST:PORT " +
                      "is (TLS to etcd is not supported)");
  }
  if (Result<HostPort> parsed = ParsePeer(address); !parsed.ok()) {
    return Status(Code::kInvalidArgument,
                  "'" + endpoint + "' is no endpoint of etcd: " + parsed.status().message());
  }
  return address;
}

}  // namespace

struct EtcdStub::Impl {
  struct Peer {
    std::string address;
    std::unique_ptr<etcd::KV::Stub> kv;
    std::unique_ptr<etcd::Lease::Stub> lease;
  };
  std::vector<Peer> peers;
  std::atomic<size_t> last_good{0};

  // `ask` is one call: (peer, context) -> grpc::Status; at one endpoint after the other.
  template <typename Ask>
  Status Call(Duration timeout, Ask ask) {
    const Instant deadline = MonotonicClock::Get().Now() + timeout;
    const size_t first = last_good.load(std::memory_order_relaxed);
    Status last(Code::kDeadlineExceeded, "no time left for a call to etcd");
    for (size_t i = 0; i < peers.size(); ++i) {
      const Duration left = deadline - MonotonicClock::Get().Now();
      if (left <= Duration::zero()) break;
      const size_t index = (first + i) % peers.size();
      grpc::ClientContext context;
      SetDeadline(context, left / static_cast<int64_t>(peers.size() - i));
      // Else a call fails at once while the channel reconnects, and where no other thread of the
      // process polls for gRPC nobody brings that attempt to its end.
      context.set_wait_for_ready(true);
      last = FromGrpc(ask(peers[index], context), "etcd at " + peers[index].address);
      if (last.code() != Code::kUnavailable && last.code() != Code::kDeadlineExceeded) {
        last_good.store(index, std::memory_order_relaxed);
        return last;
      }
    }
    return last;
  }

  Result<std::optional<EtcdEntry>> Read(const std::string& key, bool keys_only, Duration timeout) {
    etcd::RangeRequest request;
    request.set_key(key);
    request.set_keys_only(keys_only);
    etcd::RangeResponse reply;
    SIMM_RETURN_IF_ERROR(Call(timeout, [&](Peer& peer, grpc::ClientContext& context) {
      reply.Clear();
      return peer.kv->Range(&context, request, &reply);
    }));
    if (reply.kvs_size() == 0) return std::optional<EtcdEntry>();
    etcd::KeyValue& entry = *reply.mutable_kvs(0);
    return std::optional<EtcdEntry>({std::move(*entry.mutable_value()), entry.create_revision(),
                                     entry.mod_revision(), entry.lease()});
  }
};

EtcdStub::EtcdStub(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
EtcdStub::~EtcdStub() = default;

Result<std::unique_ptr<EtcdStub>> EtcdStub::Create(const std::vector<std::string>& endpoints) {
  if (endpoints.empty()) return Status(Code::kInvalidArgument, "no endpoint of etcd is given");
  auto impl = std::make_unique<Impl>();
  for (const std::string& endpoint : endpoints) {
    Result<std::string> address = AddressOf(endpoint);
    if (!address.ok()) return address.status();
    const auto channel = OpenChannel(*address, kMaxUpdateBytes);
    impl->peers.push_back({*address, etcd::KV::NewStub(channel), etcd::Lease::NewStub(channel)});
  }
  return std::unique_ptr<EtcdStub>(new EtcdStub(std::move(impl)));
}

Result<std::optional<EtcdEntry>> EtcdStub::Get(const std::string& key, Duration timeout) {
  return impl_->Read(key, /*keys_only=*/false, timeout);
}

Result<std::optional<EtcdEntry>> EtcdStub::Peek(const std::string& key, Duration timeout) {
  return impl_->Read(key, /*keys_only=*/true, timeout);
}

Result<std::optional<int64_t>> EtcdStub::PutIf(const std::vector<EtcdCondition>& conditions,
                                               const std::string& key, const std::string& value,
                                               int64_t lease, Duration timeout) {
  etcd::TxnRequest request;
  for (const EtcdCondition& condition : conditions) {
    etcd::Compare* compare = request.add_compare();
    compare->set_key(condition.key);
    compare->set_result(etcd::Compare::EQUAL);
    if (condition.of == EtcdCondition::Of::kCreation) {
      compare->set_target(etcd::Compare::CREATE);
      compare->set_create_revision(condition.revision);
    } else {
      compare->set_target(etcd::Compare::MOD);
      compare->set_mod_revision(condition.revision);
    }
  }
  etcd::PutRequest* put = request.add_success()->mutable_request_put();
  put->set_key(key);
  put->set_value(value);
  put->set_lease(lease);
  etcd::TxnResponse reply;
  SIMM_RETURN_IF_ERROR(impl_->Call(timeout, [&](Impl::Peer& peer, grpc::ClientContext& context) {
    reply.Clear();
    return peer.kv->Txn(&context, request, &reply);
  }));
  if (!reply.succeeded()) return std::optional<int64_t>();
  return std::optional<int64_t>(reply.header().revision());
}

Result<int64_t> EtcdStub::GrantLease(std::chrono::seconds ttl, Duration timeout) {
  etcd::LeaseGrantRequest request;
  request.set_ttl(ttl.count());
  etcd::LeaseGrantResponse reply;
  SIMM_RETURN_IF_ERROR(impl_->Call(timeout, [&](Impl::Peer& peer, grpc::ClientContext& context) {
    reply.Clear();
    return peer.lease->LeaseGrant(&context, request, &reply);
  }));
  if (!reply.error().empty() || reply.id() == 0) {
    return Status(Code::kUnavailable, "etcd grants no lease: " + reply.error());
  }
  return reply.id();
}

Result<bool> EtcdStub::KeepAlive(int64_t lease, Duration timeout) {
  etcd::LeaseKeepAliveRequest request;
  request.set_id(lease);
  etcd::LeaseKeepAliveResponse reply;
  SIMM_RETURN_IF_ERROR(impl_->Call(timeout, [&](Impl::Peer& peer, grpc::ClientContext& context) {
    // One question and one answer a stream: a stream that is kept would have to be watched.
    const auto stream = peer.lease->LeaseKeepAlive(&context);
    const bool answered = stream->Write(request) && stream->Read(&reply);
    stream->WritesDone();
    if (answered) {
      context.TryCancel();
      (void)stream->Finish();
      return grpc::Status::OK;
    }
    const grpc::Status status = stream->Finish();
    return status.ok() ? grpc::Status(grpc::StatusCode::UNAVAILABLE, "it ended the stream")
                       : status;
  }));
  return reply.ttl() > 0;
}

Status EtcdStub::RevokeLease(int64_t lease, Duration timeout) {
  etcd::LeaseRevokeRequest request;
  request.set_id(lease);
  etcd::LeaseRevokeResponse reply;
  return impl_->Call(timeout, [&](Impl::Peer& peer, grpc::ClientContext& context) {
    return peer.lease->LeaseRevoke(&context, request, &reply);
  });
}

}  // namespace simm::rpc
