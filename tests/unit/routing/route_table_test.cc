#include "common/routing/route_table.h"

#include <gtest/gtest.h>

namespace simm {
namespace {

using Table = std::shared_ptr<const RouteTable>;

ServerRecord Server(ServerId id) {
  ServerRecord record;
  record.id = id;
  record.name = "s" + std::to_string(id);
  record.control_address = "host" + std::to_string(id) + ":30001";
  record.weight = 1 << 20;
  return record;
}

MapContents Contents(uint64_t epoch, std::vector<ServerId> servers, uint32_t replicas = 1) {
  MapContents contents;
  contents.version = {{1, 2}, 1, epoch};
  contents.replicas = replicas;
  for (const ServerId id : servers) contents.servers.push_back(Server(id));
  contents.namespaces = {{0, "default"}};
  contents.owners.resize(size_t{limits::kShards} * replicas);
  if (!servers.empty()) {
    for (size_t i = 0; i < contents.owners.size(); ++i) {
      contents.owners[i].server = servers[i % servers.size()];
    }
  }
  return contents;
}

Table Make(MapContents contents) {
  Result<Table> table = RouteTable::Create(std::move(contents));
  EXPECT_TRUE(table.ok()) << table.status().ToString();
  return *table;
}

Code CodeOf(const MapContents& contents) { return RouteTable::Create(contents).code(); }

TEST(RouteTable, AnswersWhatItWasGiven) {
  const Table table = Make(Contents(1, {5, 6, 7}, 2));
  ASSERT_EQ(table->Owners(1).size(), 2U);
  EXPECT_EQ(table->Owners(1)[0].server, 7U);
  EXPECT_EQ(table->Owners(1)[1].server, 5U);
  EXPECT_EQ(table->FindServer(6)->name, "s6");
  EXPECT_EQ(table->FindServer(8), nullptr);
  EXPECT_EQ(table->FindNamespace("default"), NamespaceId{0});
  EXPECT_EQ(table->FindNamespace("other"), std::nullopt);
  EXPECT_EQ(table->ShardsOf(5) + table->ShardsOf(6) + table->ShardsOf(7), 2 * limits::kShards);
  EXPECT_EQ(table->ShardsOf(8), 0U);
}

TEST(RouteTable, RefusesRowsThatContradictThemselves) {
  MapContents good = Contents(1, {5, 6, 7}, 2);
  good.owners[30] = {};
  good.owners[40].source = good.owners[41].server;
  EXPECT_EQ(CodeOf(good), Code::kOk);
  MapContents bad = good;
  bad.owners[50].server = bad.owners[51].server;
  EXPECT_EQ(CodeOf(bad), Code::kInvalidArgument) << "an owner twice";
  bad = good;
  bad.owners[50].source = bad.owners[50].server;
  EXPECT_EQ(CodeOf(bad), Code::kInvalidArgument) << "its own source";
  bad = good;
  bad.owners[30].source = 5;
  EXPECT_EQ(CodeOf(bad), Code::kInvalidArgument) << "a source for nobody";
}

TEST(RouteTable, RefusesContradictions) {
  const MapContents good = Contents(1, {5, 6});
  EXPECT_EQ(CodeOf(good), Code::kOk);
  MapContents bad = good;
  bad.version.cluster = {};
  EXPECT_EQ(CodeOf(bad), Code::kInvalidArgument);
  for (const uint32_t replicas : {0U, 2U, 4U, UINT32_MAX}) {
    bad = good;
    bad.replicas = replicas;
    EXPECT_EQ(CodeOf(bad), Code::kInvalidArgument) << replicas;
  }
  bad = good;
  bad.owners.pop_back();
  EXPECT_EQ(CodeOf(bad), Code::kInvalidArgument);
  bad = good;
  bad.owners[77].server = 9;
  EXPECT_EQ(CodeOf(bad), Code::kInvalidArgument);
  bad = good;
  bad.owners[77].source = 9;
  EXPECT_EQ(CodeOf(bad), Code::kInvalidArgument);
  bad = good;
  bad.servers.push_back(Server(5));
  EXPECT_EQ(CodeOf(bad), Code::kInvalidArgument);
  bad = good;
  bad.servers[0].state = static_cast<ServerState>(9);
  EXPECT_EQ(CodeOf(bad), Code::kInvalidArgument);
  bad = good;
  bad.namespaces.emplace_back(0, "twice");
  EXPECT_EQ(CodeOf(bad), Code::kInvalidArgument);
  bad = good;
  bad.namespaces.emplace_back(1, "default");
  EXPECT_EQ(CodeOf(bad), Code::kInvalidArgument);
  bad = good;
  bad.namespaces.emplace_back(1, "");
  EXPECT_EQ(CodeOf(bad), Code::kInvalidArgument);
}

TEST(RouteTable, WithoutServersNobodyOwns) {
  const Table table = Make(Contents(1, {}));
  EXPECT_EQ(table->Owners(65535)[0].server, kNoServer);
}

TEST(RouteTable, ADiffLeadsFromOneTableToTheOther) {
  const Table old = Make(Contents(1, {5, 6, 7}));
  MapContents contents = old->contents();
  contents.version.epoch = 2;
  contents.servers = {Server(6), Server(7), Server(8)};
  contents.servers[1].data_address = "elsewhere:1";
  contents.namespaces.emplace_back(1, "tenant");
  for (ShardOwner& owner : contents.owners) {
    if (owner.server == 5) owner = {8, 7};
  }
  const Table now = Make(std::move(contents));
  const MapDiff diff = now->DiffFrom(*old);
  EXPECT_EQ(diff.servers.size(), 2U);
  EXPECT_EQ(diff.removed_servers, std::vector<ServerId>{5});
  EXPECT_EQ(diff.rows.size(), old->ShardsOf(5));
  EXPECT_EQ(diff.namespaces.size(), 1U);
  Result<Table> applied = old->Apply(diff);
  ASSERT_TRUE(applied.ok()) << applied.status().ToString();
  EXPECT_EQ((*applied)->contents().owners, now->contents().owners);
  EXPECT_EQ((*applied)->contents().servers, now->contents().servers);
  EXPECT_EQ((*applied)->contents().namespaces, now->contents().namespaces);
  EXPECT_EQ((*applied)->version(), now->version());
  EXPECT_EQ((*applied)->ShardsOf(8), old->ShardsOf(5));
}

TEST(RouteTable, ApplyRefusesGapsAndNonsense) {
  const Table one = Make(Contents(1, {5, 6}));
  const Table two = Make(Contents(2, {5, 6}));
  const MapDiff good = two->DiffFrom(*one);
  EXPECT_EQ(two->Apply(good).code(), Code::kFailedPrecondition);
  MapDiff bad = good;
  bad.to.epoch = 0;
  EXPECT_EQ(one->Apply(bad).code(), Code::kInvalidArgument);
  bad = good;
  bad.to.cluster = {9, 9};
  EXPECT_EQ(one->Apply(bad).code(), Code::kInvalidArgument);
  bad = good;
  bad.rows = {{limits::kShards, {{5, 0}}}};
  EXPECT_EQ(one->Apply(bad).code(), Code::kInvalidArgument);
  bad.rows = {{0, {{5, 0}, {6, 0}}}};
  EXPECT_EQ(one->Apply(bad).code(), Code::kInvalidArgument);
  bad.rows = {{0, {{99, 0}}}};
  EXPECT_EQ(one->Apply(bad).code(), Code::kInvalidArgument);
  bad = good;
  bad.removed_servers = {5};  // still an owner
  EXPECT_EQ(one->Apply(bad).code(), Code::kInvalidArgument);
}

TEST(MapVersion, OrdersByTermThenEpoch) {
  const MapVersion held{{1, 1}, 2, 10};
  EXPECT_TRUE(MayReplace(held, {{1, 1}, 2, 10}));
  EXPECT_TRUE(MayReplace(held, {{1, 1}, 2, 11}));
  EXPECT_TRUE(MayReplace(held, {{1, 1}, 3, 1}));
  EXPECT_FALSE(MayReplace(held, {{1, 1}, 2, 9}));
  EXPECT_FALSE(MayReplace(held, {{1, 1}, 1, 99}));
  EXPECT_FALSE(MayReplace(held, {{1, 2}, 3, 99}));
  EXPECT_NE(ToString(held).find("term 2 epoch 10"), std::string::npos);
}

TEST(KeyHash, SpreadsKeysAndSeparatesNamespaces) {
  std::vector<uint32_t> hits(16, 0);
  const uint64_t seed = NamespaceSeed("default");
  for (int i = 0; i < 16000; ++i) ++hits[ShardOf(HashKey("key" + std::to_string(i), seed)) >> 12];
  for (const uint32_t count : hits) EXPECT_NEAR(count, 1000, 150);
  EXPECT_NE(HashKey("k", seed), HashKey("k", NamespaceSeed("other")));
  EXPECT_LT(BucketOf(HashKey("k", seed), 10), 10U);
}

}  // namespace
}  // namespace simm
