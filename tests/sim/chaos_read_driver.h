#pragma once

#include <gtest/gtest.h>

#include <list>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "common/base/random.h"
#include "common/protocol/validated_read.h"
#include "common/transport/chaos/chaos_transport.h"
#include "dataserver/pool.h"
#include "tests/support/fake_clock.h"
#include "tests/support/pool_driver.h"

namespace simm {

// What is right, and the ways to be wrong that the model check of the protocol names
// (common/protocol/README.md). Each of the latter must show as wrong bytes.
enum class Variant : uint8_t {
  kRight,
  kNoSecondLook,
  kSecondLookBehind,  // posted together with the value's read, not after its completion
  kGenerationReused,  // the second look sees that the key is there, not that it is another life
  kOwnerWritesFirst,  // the owner grants memory anew before it has unpublished the old value
  kNoBarrier,         // a dead writer's extent is reused while its lane is still open
};

// One reader and its server over a ChaosNetwork, in one thread under one seed: gets by
// ValidatedRead while the owner puts, replaces, removes and evicts, and while writers push values
// with one-sided Writes and die in the middle. Checksums are off unless `verify`.
class ChaosRead {
 public:
  struct Outcome {
    int hits = 0, misses = 0, wrong = 0, retries = 0, asked = 0;
    int pushed = 0, killed = 0, broken = 0;
    void Add(const Outcome& o) {
      hits += o.hits;
      misses += o.misses;
      wrong += o.wrong;
      retries += o.retries;
      asked += o.asked;
      pushed += o.pushed;
      killed += o.killed;
      broken += o.broken;
    }
  };

  ChaosRead(uint64_t seed, Variant variant, const transport::ChaosOptions& options,
            bool verify = false);
  ~ChaosRead();
  Outcome Run();

 private:
  using Next = protocol::ValidatedRead::Next;
  struct Done : transport::Completion {
    void OnComplete(const Status& s) override {
      status = s;
      done = true;
    }
    Status status;
    bool done = false;
  };
  struct Quiet : transport::Receiver {
    transport::PayloadTarget OnMessage(uint64_t, ByteSpan, uint64_t) override { return {}; }
    void OnMessageEnd(uint64_t, std::optional<uint64_t>) override {}
    void OnClosed(const Status&) override {}
  };
  // A put under way: the writer's lane and the server's end of it, which owns the grant.
  struct Push : Quiet {
    explicit Push(ChaosRead& simulation) : simulation(simulation) {}
    transport::PayloadTarget OnMessage(uint64_t, ByteSpan, uint64_t) override;
    void OnClosed(const Status&) override;
    ChaosRead& simulation;
    std::string key;
    uint64_t version = 0;
    std::optional<dataserver::Grant> grant;
    std::vector<std::byte> value;
    std::unique_ptr<transport::LocalRegion> region;
    Quiet near_receiver;
    Done done;
    std::unique_ptr<transport::Connection> near, far;
  };

  void Connect();
  void Mutate();
  void PutDirectly(const std::string& key);
  void StartPush(const std::string& key);
  void DrivePushes();
  void OverwriteLive(const std::string& key);
  Status Read(std::vector<transport::WorkItem> items);
  transport::WorkItem ItemFor(const transport::RemoteRegion& region, uint64_t offset,
                              std::span<const transport::MutableSegment> local);
  Status Perform(Next next, protocol::ValidatedRead& read);
  protocol::Location Locate(const std::string& key);
  void ReadOne();
  void Judge(const std::string& key, Code code, const protocol::ValidatedRead& read);
  transport::MutableSegment Scratch(void* at, size_t size) {
    return {static_cast<std::byte*>(at), size, scratch_region_.get()};
  }

  Random random_;
  transport::ChaosNetwork network_;
  transport::ChaosTransport transport_{network_};
  FakeClock clock_;
  const Variant variant_;
  const bool verify_;
  bool looked_behind_ = false;  // kSecondLookBehind: the slot has come with the value
  std::unique_ptr<dataserver::Pool> pool_;
  std::unique_ptr<transport::LocalRegion> index_region_, data_region_, scratch_region_,
      buffer_region_;
  transport::RemoteRegion index_, data_;
  protocol::ReadScratch scratch_;
  std::vector<std::byte> buffer_;
  Quiet receiver_;
  std::unique_ptr<transport::Acceptor> acceptor_;
  std::unique_ptr<transport::Connection> near_, far_;
  std::list<Push> pushes_;
  std::optional<std::string> overwritten_;  // kOwnerWritesFirst: to be removed too late
  std::map<std::string, uint64_t> versions_;
  std::map<std::string, std::vector<std::pair<uint64_t, uint64_t>>> committed_;
  std::map<std::string, protocol::CachedLocation> cache_;
  std::vector<dataserver::PinnedValue> pins_;
  Outcome outcome_;
};

}  // namespace simm
