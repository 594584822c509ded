#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "bench/embedded_cluster.h"
#include "bench/value_pattern.h"
#include "client/admin.h"
#include "client/client.h"
#include "common/base/clock.h"

namespace simm {

using namespace std::chrono_literals;

// Waits for a condition, looking every 5 ms; false when the time ran out first.
template <typename Condition>
bool WaitUntil(Condition condition, std::chrono::milliseconds limit) {
  const auto end = std::chrono::steady_clock::now() + limit;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(5ms);
  }
  return true;
}

class Stopwatch {
 public:
  std::chrono::milliseconds Elapsed() const {
    return std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() -
                                                                 start_);
  }

 private:
  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

inline std::string BinDir() {
  const char* const dir = std::getenv("SIMM_BIN_DIR");
  return dir != nullptr ? dir : "build/bin";
}

// The transport that the clients of these tests use; the same tests run over several.
inline std::string TestTransport() {
  const char* const name = std::getenv("SIMM_TEST_TRANSPORT");
  return name != nullptr ? name : "tcp";
}

// A value that says whose it is.
inline std::vector<std::byte> ValueOf(uint64_t key, size_t size, uint64_t version = 0) {
  std::vector<std::byte> value(size);
  bench::FillPattern(bench::ValueSeed(key, version), value);
  return value;
}
inline bool IsValueOf(uint64_t key, ByteSpan bytes, uint64_t version = 0) {
  return bench::MatchesPattern(bench::ValueSeed(key, version), bytes);
}
inline std::string KeyOf(uint64_t key) { return "key-" + std::to_string(key); }

// A manager and data servers as real processes, with short times so that deaths show within a
// second or two.
class ClusterTest : public testing::Test {
 protected:
  static constexpr auto kDeadTime = 1500ms;

  bench::EmbeddedOptions Options(uint32_t servers, uint64_t memory = 64 << 20) const {
    bench::EmbeddedOptions options;
    options.bin_dir = BinDir();
    options.servers = servers;
    options.memory_bytes = memory;
    options.mean_value_bytes = 16 << 10;
    options.manager_flags = {"--heartbeat-ms", "100",
                             "--suspect-ms",   "500",
                             "--dead-ms",      std::to_string(kDeadTime.count())};
    options.server_flags = {"--session-timeout-ms", "2000"};
    return options;
  }
  void StartCluster(uint32_t servers, uint64_t memory = 64 << 20) {
    StartCluster(Options(servers, memory));
  }
  void StartCluster(const bench::EmbeddedOptions& options) {
    auto cluster = bench::EmbeddedCluster::Start(options);
    ASSERT_TRUE(cluster.ok()) << cluster.status().ToString();
    cluster_ = std::move(*cluster);
    client_ = Connect();
  }
  std::unique_ptr<Client> Connect(Verify verify = Verify::kAlways,
                                  const std::string& name_space = "default") {
    return ConnectTo({cluster_->manager_address()}, verify, name_space);
  }
  static std::unique_ptr<Client> ConnectTo(std::vector<std::string> addresses,
                                           Verify verify = Verify::kAlways,
                                           const std::string& name_space = "default") {
    ClientOptions options;
    options.transport = TestTransport();
    options.addresses = std::move(addresses);
    options.verify = verify;
    options.name_space = name_space;
    auto client = Client::Connect(options);
    EXPECT_TRUE(client.ok()) << client.status().ToString();
    return client.ok() ? std::move(*client) : nullptr;
  }

  static Code PutOne(Client& client, std::string_view key, ByteSpan value,
                     const PutOptions& options = {}) {
    const PutItem item = {key, value.data(), value.size()};
    return client.Put({&item, 1}, options)[0].code;
  }
  static KeyResult GetOne(Client& client, std::string_view key, MutableByteSpan buffer,
                          const GetOptions& options = {}) {
    const GetItem item = {key, buffer.data(), buffer.size()};
    return client.Get({&item, 1}, options)[0];
  }
  static Code ExistsOne(Client& client, std::string_view key) {
    return client.Exists({&key, 1})[0].code;
  }

  rpc::ClusterStatus Status() const {
    auto status = Admin({cluster_->manager_address()}).GetStatus(5s);
    EXPECT_TRUE(status.ok()) << status.status().ToString();
    return status.ok() ? *status : rpc::ClusterStatus{};
  }
  // Index of the process that owns a key, by its name "server-<index>".
  size_t OwnerOf(std::string_view key) const {
    const std::string name = client_->Locate(key).server;
    return static_cast<size_t>(std::strtoul(name.substr(name.rfind('-') + 1).c_str(), nullptr, 10));
  }
  std::vector<uint64_t> KeysOwnedBy(size_t server, size_t count, uint64_t from = 0) const {
    std::vector<uint64_t> keys;
    for (uint64_t key = from; keys.size() < count; ++key) {
      if (OwnerOf(KeyOf(key)) == server) keys.push_back(key);
    }
    return keys;
  }

  std::unique_ptr<bench::EmbeddedCluster> cluster_;
  std::unique_ptr<Client> client_;
};

}  // namespace simm
