#include "common/rpc/channel.h"

#include <google/protobuf/stubs/logging.h>
#include <grpc/support/log.h>

#include <chrono>
#include <cstdlib>
#include <deque>
#include <mutex>
#include <unordered_map>

#include "common/base/log.h"
#include "common/base/mutex.h"
#include "proto/types.pb.h"

namespace simm::rpc {
namespace {

// Beyond this many the longest-known channel is forgotten; gRPC closes it when its last call ends.
constexpr size_t kMaxSharedChannels = 2048;

struct ChannelCache {
  Mutex mutex;
  std::unordered_map<std::string, std::shared_ptr<grpc::Channel>> channels SIMM_GUARDED_BY(mutex);
  std::deque<std::string> order SIMM_GUARDED_BY(mutex);
};

// Never destroyed: calls of detached threads may still run while the process exits.
ChannelCache& Cache() {
  static ChannelCache* cache = new ChannelCache;
  return *cache;
}

grpc::StatusCode GrpcCodeOf(Code code) {
  switch (code) {
    case Code::kOk:
      return grpc::StatusCode::OK;
    case Code::kMiss:
    case Code::kRemoved:
      return grpc::StatusCode::NOT_FOUND;
    case Code::kExists:
      return grpc::StatusCode::ALREADY_EXISTS;
    case Code::kInvalidArgument:
    case Code::kTooLarge:
    case Code::kLengthMismatch:
      return grpc::StatusCode::INVALID_ARGUMENT;
    case Code::kDeadlineExceeded:
      return grpc::StatusCode::DEADLINE_EXCEEDED;
    case Code::kUnavailable:
      return grpc::StatusCode::UNAVAILABLE;
    case Code::kBusy:
      return grpc::StatusCode::RESOURCE_EXHAUSTED;
    case Code::kWrongOwner:
    case Code::kLeaseGone:
    case Code::kWrongCluster:
    case Code::kFailedPrecondition:
      return grpc::StatusCode::FAILED_PRECONDITION;
    case Code::kCorrupt:
      return grpc::StatusCode::DATA_LOSS;
    case Code::kProtocolError:
    case Code::kInternal:
      return grpc::StatusCode::INTERNAL;
  }
  return grpc::StatusCode::INTERNAL;
}

Code CodeOfGrpc(grpc::StatusCode code) {
  switch (code) {
    case grpc::StatusCode::OK:
      return Code::kOk;
    case grpc::StatusCode::DEADLINE_EXCEEDED:
      return Code::kDeadlineExceeded;
    case grpc::StatusCode::UNAVAILABLE:
    case grpc::StatusCode::CANCELLED:
      return Code::kUnavailable;
    case grpc::StatusCode::RESOURCE_EXHAUSTED:
      return Code::kBusy;
    case grpc::StatusCode::INVALID_ARGUMENT:
      return Code::kInvalidArgument;
    case grpc::StatusCode::UNIMPLEMENTED:  // another kind of server, or an older one
    case grpc::StatusCode::INTERNAL:
    case grpc::StatusCode::DATA_LOSS:
      return Code::kProtocolError;
    case grpc::StatusCode::FAILED_PRECONDITION:
      return Code::kFailedPrecondition;
    default:
      return Code::kInternal;
  }
}

}  // namespace

std::shared_ptr<grpc::Channel> OpenChannel(const std::string& address, int max_request_bytes) {
  RouteLibraryLogs();
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 50);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 500);
  // gRPC's name misleads: this is the time that one attempt to connect may take.
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 1000);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  // A peer that is paused or cut off ends its streams after 8 s.
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 5000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 3000);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  arguments.SetMaxReceiveMessageSize(kMaxUpdateBytes);
  arguments.SetMaxSendMessageSize(max_request_bytes);
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
}

std::shared_ptr<grpc::Channel> SharedChannel(const std::string& address) {
  ChannelCache& cache = Cache();
  MutexLock lock(cache.mutex);
  std::shared_ptr<grpc::Channel>& channel = cache.channels[address];
  if (channel == nullptr) {
    channel = OpenChannel(address);
    cache.order.push_back(address);
  }
  std::shared_ptr<grpc::Channel> shared = channel;
  if (cache.order.size() > kMaxSharedChannels) {
    cache.channels.erase(cache.order.front());
    cache.order.pop_front();
  }
  return shared;
}

void ForgetChannel(const std::string& address) {
  ChannelCache& cache = Cache();
  std::shared_ptr<grpc::Channel> forgotten;  // ends outside the lock
  MutexLock lock(cache.mutex);
  const auto found = cache.channels.find(address);
  if (found == cache.channels.end()) return;
  forgotten = std::move(found->second);
  cache.channels.erase(found);
  std::erase(cache.order, address);
}

grpc::Status ToGrpc(const Status& status, const std::string& leader) {
  if (status.ok()) return grpc::Status::OK;
  v1::ErrorDetail detail;
  detail.set_code(static_cast<uint32_t>(status.code()));
  if (!leader.empty()) detail.set_leader(leader);
  return grpc::Status(GrpcCodeOf(status.code()), status.message(), detail.SerializeAsString());
}

Status FromGrpc(const grpc::Status& status, const std::string& peer) {
  if (status.ok()) return Status::Ok();
  v1::ErrorDetail detail;
  if (!status.error_details().empty() && detail.ParseFromString(status.error_details()) &&
      detail.code() > 0 && detail.code() <= kMaxCode) {
    return Status(static_cast<Code>(detail.code()), status.error_message());
  }
  return Status(CodeOfGrpc(status.error_code()), peer + ": " + status.error_message());
}

std::string LeaderOf(const grpc::Status& status) {
  v1::ErrorDetail detail;
  if (status.error_details().empty() || !detail.ParseFromString(status.error_details())) return {};
  return detail.leader();
}

void RouteLibraryLogs() {
  static std::once_flag once;
  std::call_once(once, [] {
    // Protobuf complains once per malformed field: a peer could fill the log with it.
    google::protobuf::SetLogHandler(
        [](google::protobuf::LogLevel, const char*, int, const std::string& line) {
          SIMM_LOG_DEBUG("protobuf: {}", line);
        });
    if (std::getenv("GRPC_VERBOSITY") != nullptr) return;  // somebody wants gRPC's own way
    gpr_set_log_function(
        [](gpr_log_func_args* line) { SIMM_LOG_DEBUG("grpc: {}", line->message); });
  });
}

void SetDeadline(grpc::ClientContext& context, Duration timeout) {
  context.set_deadline(std::chrono::system_clock::now() +
                       std::chrono::duration_cast<std::chrono::system_clock::duration>(timeout));
}

}  // namespace simm::rpc
