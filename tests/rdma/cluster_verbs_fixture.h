#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "bench/child_process.h"
#include "common/transport/open.h"
#include "tests/rdma/rdma_fixture.h"
#include "tests/support/cluster_fixture.h"

namespace simm {

// A manager, data servers and a client as processes that speak RDMA; needs a device.
class VerbsClusterTest : public ClusterTest {
 protected:
  void SetUp() override {
    const auto verbs = transport::OpenVerbs({});
    if (!verbs.ok()) SIMM_SKIP_WITHOUT_DEVICE(verbs.status());
    setenv("SIMM_TEST_TRANSPORT", "verbs", 1);
  }

  // Servers on the far end of the link, so that values cross it.
  bench::EmbeddedOptions Far(uint32_t servers, uint64_t memory = 64 << 20) const {
    bench::EmbeddedOptions options = Options(servers, memory);
    // Emulated processors: patience with heartbeats and sessions.
    options.manager_flags = {"--heartbeat-ms", "200", "--suspect-ms", "1500", "--dead-ms", "3000"};
    options.server_flags = {"--session-timeout-ms", "3000", "--rdma-device", "rxe1"};
    return options;
  }

  // Memory for `count` values, known to the client's transports.
  void Prepare(size_t count, size_t size) {
    if (handle_.id != 0) {
      ASSERT_TRUE(client_->DeregisterMemory(handle_).ok());
    }
    memory_.assign(count * size, std::byte{0});
    const auto handle = client_->RegisterMemory(memory_.data(), memory_.size());
    ASSERT_TRUE(handle.ok()) << handle.status().ToString();
    handle_ = *handle;
    size_ = size;
    keys_.clear();
    for (size_t i = 0; i < count; ++i) keys_.push_back(KeyOf(i));
  }
  std::vector<KeyResult> PutPrepared(const PutOptions& options = {.replace = true}) {
    std::vector<PutItem> puts;
    for (size_t i = 0; i < keys_.size(); ++i) {
      bench::FillPattern(bench::ValueSeed(i, 0), {memory_.data() + i * size_, size_});
      puts.push_back({keys_[i], memory_.data() + i * size_, size_});
    }
    return client_->Put(puts, options);
  }
  std::vector<KeyResult> GetPrepared(const GetOptions& options = {}) {
    std::fill(memory_.begin(), memory_.end(), std::byte{0});
    std::vector<GetItem> gets;
    for (size_t i = 0; i < keys_.size(); ++i)
      gets.push_back({keys_[i], memory_.data() + i * size_, size_});
    return client_->Get(gets, options);
  }
  void ExpectPut() {
    for (const KeyResult& result : PutPrepared()) EXPECT_EQ(result.code, Code::kOk);
  }
  void ExpectAllRight() {
    const auto results = GetPrepared();
    for (size_t i = 0; i < results.size(); ++i) {
      EXPECT_EQ(results[i].code, Code::kOk) << i;
      EXPECT_TRUE(IsValueOf(i, {memory_.data() + i * size_, size_})) << i;
    }
  }
  // Right bytes or a miss; how many were right.
  size_t RightOrMiss(const std::vector<KeyResult>& results) {
    size_t right = 0;
    for (size_t i = 0; i < results.size(); ++i) {
      if (results[i].code != Code::kOk) {
        EXPECT_EQ(results[i].code, Code::kMiss) << i;
        continue;
      }
      EXPECT_TRUE(IsValueOf(i, {memory_.data() + i * size_, size_})) << i;
      ++right;
    }
    return right;
  }
  uint64_t HeldBytes() const {
    uint64_t held = 0;
    for (const auto& node : Status().nodes)
      held += node.stats.granted_bytes + node.stats.pinned_bytes + node.stats.limbo_bytes;
    return held;
  }
  template <typename Work>
  ClientStats Cost(Work work) {
    const ClientStats before = client_->Stats();
    work();
    ClientStats now = client_->Stats();
    now.work_requests -= before.work_requests;
    now.doorbells -= before.doorbells;
    now.requests -= before.requests;
    now.payload_bytes_copied -= before.payload_bytes_copied;
    now.bounced_values -= before.bounced_values;
    return now;
  }
  std::unique_ptr<bench::ChildProcess> StartBench(std::vector<std::string> more) {
    std::vector<std::string> argv = {BinDir() + "/simm-bench"};
    argv.insert(argv.end(), more.begin(), more.end());
    argv.insert(argv.end(),
                {"--manager", cluster_->manager_address(), "--transport", "verbs", "--json"});
    auto child = bench::ChildProcess::Start(argv, cluster_->folder() + "/bench.log");
    EXPECT_TRUE(child.ok()) << child.status().ToString();
    return child.ok() ? std::move(*child) : nullptr;
  }

  std::vector<std::string> keys_;
  std::vector<std::byte> memory_;
  size_t size_ = 0;
  MemoryHandle handle_;
};

}  // namespace simm
