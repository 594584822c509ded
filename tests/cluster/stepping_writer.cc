// A client process that stops in the middle of a one-sided put, at a step that its caller chooses:
// the library's own Lane and OneSidedPut over shared memory, with a connection that knows where to
// stop. Says "reached" and stops itself (SIGSTOP); woken or not stopped at all, it goes on, on a
// new lane of the same session where the old one has broken, and says how the put ended.
//
//   stepping_writer SERVER STEP KEY SIZE [replace]
//
// STEP: lease (granted, nothing written), write (written, no COMMIT), commit (COMMIT sent), each
// also with "-break": instead of stopping, the lane breaks there.

#include <poll.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "bench/value_pattern.h"
#include "client/exchange.h"
#include "client/lane.h"
#include "common/base/limits.h"
#include "common/routing/key_hash.h"
#include "common/rpc/dataserver_stub.h"
#include "common/transport/shm/shm_transport.h"
#include "tests/support/wrapped_connection.h"

namespace simm {
namespace {

using namespace std::chrono_literals;

struct Plan {
  std::string step;
  bool breaks = false;
  bool over = false;  // reached once
};

class SteppingConnection final : public WrappedConnection, private transport::Completion {
 public:
  SteppingConnection(const transport::Transport& transport,
                     std::unique_ptr<transport::Connection> inner, Plan& plan)
      : WrappedConnection(std::move(inner), transport.capabilities(), nullptr), plan_(plan) {}

  simm::Status Post(std::span<const transport::WorkItem> items) override {
    if (plan_.over || items.front().op != transport::Op::kWrite) return inner().Post(items);
    plan_.over = true;
    size_t writes = 0;
    while (writes < items.size() && items[writes].op == transport::Op::kWrite) ++writes;
    if (plan_.step == "lease" && !Reached()) return simm::Status::Ok();
    if (plan_.step != "write") {
      // The server may be faster than this loop: its answer is not to be seen before the step.
      if (plan_.step == "commit") inner().PauseReceive(true);
      SIMM_RETURN_IF_ERROR(inner().Post(items));
      if (plan_.step != "commit") return simm::Status::Ok();
      while (inner().counters().messages_out < 1 + items.size() - writes) inner().Progress();
      (void)Reached();
      inner().PauseReceive(false);
      return simm::Status::Ok();
    }
    std::vector<transport::WorkItem> first(items.begin(),
                                           items.begin() + static_cast<ptrdiff_t>(writes));
    first.back().completion = this;
    SIMM_RETURN_IF_ERROR(inner().Post(first));
    while (!written_) inner().Progress();
    return Reached() ? inner().Post(items.subspan(writes)) : simm::Status::Ok();
  }

 private:
  void OnComplete(const simm::Status&) override { written_ = true; }
  // False: the lane has broken.
  bool Reached() {
    std::printf("reached\n");
    std::fflush(stdout);
    if (!plan_.breaks) return raise(SIGSTOP) == 0;
    inner().Close();
    return false;
  }

  Plan& plan_;
  bool written_ = false;
};

std::shared_ptr<client::PoolAccess> AccessTo(const rpc::HandshakeReply& reply,
                                             const rpc::TransportOffer& offer) {
  auto pool = std::make_shared<client::PoolAccess>();
  pool->view = {.bucket_count = reply.pool.bucket_count,
                .buckets_offset = reply.pool.buckets_offset,
                .index_bytes = reply.pool.index_bytes,
                .data_bytes = reply.pool.data_bytes};
  pool->overflow_offset = reply.pool.overflow_offset;
  pool->boot = reply.boot_id;
  for (const auto& chunk : offer.index)
    pool->index.chunks.push_back({chunk.offset, chunk.length, chunk.key});
  for (const auto& chunk : offer.data)
    pool->data.chunks.push_back({chunk.offset, chunk.length, chunk.key});
  pool->locations = std::make_shared<client::LocationCache>();
  pool->lost = std::make_shared<client::LostLanes>();
  return pool;
}

// One exchange on one lane; false when the lane broke.
bool RunOnce(client::Lane& lane, client::CallShape shape, client::CallItem& item,
             client::StatsCounters& stats) {
  const auto exchange = client::MakeExchange(shape, {&item}, stats, lane);
  lane.Attach(exchange.get());
  bool ok = exchange->Begin(lane).ok();
  while (ok && !exchange->failed() && !exchange->finished()) {
    lane.connection().Progress();
    if (exchange->Advance()) continue;
    pollfd p{lane.connection().PollFd(), lane.connection().PollEvents(), 0};
    poll(&p, 1, 20);
  }
  ok = ok && !exchange->failed();
  lane.Detach();
  return ok;
}

int Run(const std::string& server, Plan plan, const std::string& key, size_t size, bool replace) {
  rpc::HandshakeRequest request;
  request.client_name = "stepping_writer";
  request.transports = {"shm", "tcp"};
  transport::ShmTransport shm;
  const auto reply = rpc::Handshake(server, request, 2s);
  if (!reply.ok() || reply->offers.empty() || reply->offers[0].transport != "shm") {
    std::fprintf(stderr, "no shared memory: %s\n", reply.status().ToString().c_str());
    return 2;
  }
  const auto pool = AccessTo(*reply, reply->offers[0]);
  std::vector<std::byte> value(size);
  bench::FillPattern(bench::ValueSeed(1, 0), value);
  client::StatsCounters stats;
  client::CallShape shape;
  shape.type = protocol::MessageType::kPut;
  shape.replace = replace;
  shape.map = {reply->map.term, reply->map.epoch};
  client::CallItem item;
  item.key = key;
  item.hash = HashKey(key, NamespaceSeed("default"));
  item.value = value.data();
  item.size = size;
  for (int attempt = 0; attempt < 3 && !item.done; ++attempt) {
    auto connection =
        shm.Connect(reply->offers[0].endpoint, {reply->session, reply->incarnation}, 1s);
    if (!connection.ok()) {
      std::printf("no lane: %s\n", connection.status().ToString().c_str());
      break;
    }
    client::Lane lane(std::make_unique<SteppingConnection>(shm, std::move(*connection), plan),
                      reply->session, pool);
    if (!lane.PrepareScratch().ok()) break;
    if (RunOnce(lane, shape, item, stats)) break;
    std::printf("lane broke\n");
  }
  std::printf("ended %s %s, resolves %llu\n", item.done ? "done" : "undone",
              std::string(CodeName(item.result.code)).c_str(),
              static_cast<unsigned long long>(stats.resolves.load()));
  std::fflush(stdout);
  pause();  // lives on, as a server that cannot cut it off has to see
  return 0;
}

}  // namespace
}  // namespace simm

int main(int argc, char** argv) {
  if (argc < 5) {
    std::fprintf(stderr, "usage: stepping_writer SERVER STEP KEY SIZE [replace]\n");
    return 2;
  }
  simm::Plan plan{.step = argv[2]};
  const std::string breaks = "-break";
  if (plan.step.size() > breaks.size() && plan.step.ends_with(breaks)) {
    plan.breaks = true;
    plan.step.resize(plan.step.size() - breaks.size());
  }
  return simm::Run(argv[1], plan, argv[3], std::strtoull(argv[4], nullptr, 10), argc > 5);
}
