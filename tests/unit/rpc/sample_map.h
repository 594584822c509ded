#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "common/routing/route_table.h"

namespace simm::rpc {

using Table = std::shared_ptr<const RouteTable>;

// A map of servers 1..count; without `owners` the shards go round.
inline Table SampleMap(uint64_t epoch, uint32_t count, const std::vector<ServerId>& owners = {},
                       Id128 cluster = {77, 88}) {
  MapContents contents;
  contents.version = {cluster, 1, epoch};
  for (ServerId id = 1; id <= count; ++id) {
    ServerRecord& server = contents.servers.emplace_back();
    server.id = id;
    server.name = "server-" + std::to_string(id);
    server.pool_id = {id, 1};
    server.boot_id = {id, 2};
    server.incarnation = id;
    server.control_address = "10.0.0.1:" + std::to_string(id);
    server.data_address = "10.0.0.1:" + std::to_string(id);
    server.weight = 1ULL << 30;
  }
  contents.namespaces = {{0, "default"}};
  contents.owners.resize(limits::kShards);
  for (uint32_t shard = 0; shard < limits::kShards && count > 0; ++shard) {
    contents.owners[shard].server = owners.empty() ? 1 + shard % count : owners[shard];
  }
  Result<Table> table = RouteTable::Create(std::move(contents));
  EXPECT_TRUE(table.ok()) << table.status().ToString();
  return *table;
}

inline void ExpectSame(const RouteTable& a, const RouteTable& b) {
  EXPECT_EQ(a.version(), b.version());
  EXPECT_EQ(a.replicas(), b.replicas());
  EXPECT_EQ(a.contents().servers, b.contents().servers);
  EXPECT_EQ(a.contents().namespaces, b.contents().namespaces);
  EXPECT_EQ(a.contents().owners, b.contents().owners);
}

// Polls until `condition` holds; false after `seconds`.
template <typename Condition>
bool Eventually(Condition condition, int seconds = 10) {
  for (int i = 0; i < seconds * 100; ++i) {
    if (condition()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return condition();
}

}  // namespace simm::rpc
