// What operators ask a data server.
#include <chrono>
#include <set>
#include <thread>

#include "common/base/limits.h"
#include "common/base/random.h"
#include "common/base/version.h"
#include "dataserver/server.h"

namespace simm::dataserver {
namespace {

constexpr size_t kScanStep = 1024;  // entries between two looks at whether the caller still waits
constexpr uint64_t kFewEntries = 65536;

}  // namespace

Result<rpc::SampleKeysReply> Server::SampleKeys(const rpc::SampleKeysRequest& request,
                                                const std::function<bool()>& cancelled) {
  SIMM_RETURN_IF_ERROR(CheckAddressee(request.expected_cluster, request.expected_server));
  if (request.limit == 0 || request.limit > limits::kMaxSampledKeys) {
    return Status(Code::kInvalidArgument, "limit must be 1 to " +
                                              std::to_string(limits::kMaxSampledKeys) + ", not " +
                                              std::to_string(request.limit));
  }
  const auto ns = map_.Get()->FindNamespace(request.name_space);
  if (!ns.has_value()) {
    return Status(Code::kMiss, "no namespace is called '" + request.name_space + "'");
  }
  rpc::SampleKeysReply reply;
  std::set<std::string, std::less<>> found;
  const auto visit = [&](NamespaceId of, std::string_view key, uint64_t value_bytes) {
    ++reply.scanned;
    if (of != *ns || !key.starts_with(request.prefix)) return;
    if (reply.keys.size() == request.limit || !found.emplace(key).second) return;
    reply.keys.push_back({std::string(key), value_bytes});
  };
  const uint64_t slots = pool_->geometry().slots() + pool_->geometry().overflow_slots;
  // Where few entries lie, all of them are looked at, in order.
  const bool few = pool_->Usage().entries <= kFewEntries;
  const uint64_t start = few ? 0 : Random(OsEntropy()).Below(slots);
  // From a random slot to the end, then from the first one to somewhat beyond the random one:
  // Scan stops at entries, not at slots.
  uint64_t cursor = start;
  bool wrapped = start == 0;
  while (reply.keys.size() < request.limit && reply.scanned < limits::kMaxScannedEntries) {
    if (stopping_.load() || cancelled()) return reply;
    cursor = pool_->Scan(cursor, kScanStep, visit);
    if (cursor == UINT64_MAX && !wrapped) {
      wrapped = true;
      cursor = 0;
    } else if (cursor == UINT64_MAX || (wrapped && start != 0 && cursor >= start)) {
      reply.complete = true;
      return reply;
    }
    std::this_thread::yield();  // to whoever waits for the pool's lock
  }
  return reply;
}

rpc::NodeDescription Server::Describe() const {
  rpc::NodeDescription node;
  node.program = "simm-dataserver";
  node.version = kVersion;
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  node.unix_ms = static_cast<uint64_t>(now / std::chrono::milliseconds(1));
  for (const config::OptionValue& option : options_.effective) {
    node.options.push_back({option.name, option.value, option.source});
  }
  node.host = ReadHostFacts();
  return node;
}

}  // namespace simm::dataserver
