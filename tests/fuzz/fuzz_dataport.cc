// Any messages on a data connection: the session answers or closes; afterwards no extent is granted
// or pinned and the pool's books are right.

#include "dataserver/data_session.h"
#include "tests/support/byte_peer.h"

namespace {

using namespace simm;              // NOLINT
using namespace simm::dataserver;  // NOLINT

std::shared_ptr<const RouteTable> OwnEverything() {
  MapContents contents;
  contents.version = {{1, 2}, 1, 1};
  ServerRecord record;
  record.id = 1;
  record.name = "s";
  record.control_address = record.data_address = "127.0.0.1:1";
  record.weight = 1;
  contents.servers = {record};
  contents.namespaces = {{0, "default"}};
  contents.owners.assign(limits::kShards, {1, kNoServer});
  return *RouteTable::Create(std::move(contents));
}

struct World {
  World() : sessions(MonotonicClock::Get(), 1, std::chrono::seconds(10)) {
    pool = std::move(*Pool::Create(
        {.memory_bytes = 1 << 20, .mean_value_bytes = 4096, .path = "", .prefault = false},
        MonotonicClock::Get()));
    map.Set(OwnEverything());
  }
  std::unique_ptr<Pool> pool;
  SessionTable sessions;
  MapHolder map;
  DataMetrics metrics;
  std::atomic<ServerId> self{1};
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static World& world = *new World;
  static uint64_t runs = 0;
  DataContext context{*world.pool,           world.sessions, world.map, world.metrics,
                      MonotonicClock::Get(), world.self,     true};
  {
    transport::BytePeer peer([](const transport::SessionTag&) { return Status(); });
    DataSession session(context, std::move(peer.connection));
    transport::FrameMaker frames(data, size);
    while (!frames.done()) {
      const auto stream = frames.Next();
      if (write(peer.fd, stream.data(), stream.size()) < 0 && errno != EAGAIN) break;
      if (!session.Progress()) break;
      std::byte sink[4096];
      while (read(peer.fd, sink, sizeof sink) > 0) {
      }
    }
  }
  const PoolUsage usage = world.pool->Usage();
  if (usage.granted_bytes != 0 || usage.pinned_bytes != 0) std::abort();
  if (++runs % 1000 == 0 && !world.pool->Audit().ok()) std::abort();
  return 0;
}
