// What a source tells of its entries.
#include "dataserver/entry_lister.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <string>
#include <vector>

#include "tests/support/migration_pool.h"

namespace simm::dataserver {
namespace {

using namespace std::chrono_literals;

constexpr ServerId kSource = 1;
constexpr ServerId kDestination = 2;

// Every other shard goes from the source to the destination.
std::shared_ptr<const RouteTable> MovingTable(uint64_t epoch) {
  MapContents contents;
  contents.version = {{1, 2}, 1, epoch};
  for (const ServerId id : {kSource, kDestination}) {
    ServerRecord record;
    record.id = id;
    record.name = "s" + std::to_string(id);
    record.control_address = record.data_address = "127.0.0.1:1";
    record.weight = 1;
    contents.servers.push_back(record);
  }
  contents.namespaces = {{0, "default"}};
  for (uint32_t shard = 0; shard < limits::kShards; ++shard) {
    contents.owners.push_back(shard % 2 == 0 ? ShardOwner{kDestination, kSource}
                                             : ShardOwner{kSource, kNoServer});
  }
  return *RouteTable::Create(std::move(contents));
}

class ListerTest : public PoolMigrationTest {
 protected:
  // The reply's keys are those of body_.
  protocol::ListReply Ask(EntryLister& lister, uint64_t cursor, uint64_t epoch = 5) {
    protocol::MessageBuffer request;
    protocol::MessageBuffer buffer;
    const auto answer = lister.Answer(
        protocol::Encode(protocol::ListRequest{kDestination, cursor, {1, epoch}}, request),
        table_.get(), kSource, buffer);
    EXPECT_TRUE(answer.ok()) << answer.status().ToString();
    body_.assign(answer->begin(), answer->end());
    protocol::ListReply reply;
    EXPECT_TRUE(protocol::Decode(body_, &reply).ok());
    return reply;
  }
  std::vector<std::string> All(EntryLister& lister) {
    std::vector<std::string> keys;
    protocol::ListReply reply;
    int answers = 0;
    do {
      reply = Ask(lister, reply.cursor);
      EXPECT_EQ(reply.code, Code::kOk);
      for (const auto& entry : reply.entries) keys.emplace_back(entry.key);
      if (++answers == 1 && between_) between_();
    } while (!reply.done && answers < 10'000);
    EXPECT_TRUE(reply.done);
    return keys;
  }

  std::shared_ptr<const RouteTable> table_ = MovingTable(5);
  std::atomic<uint64_t> open_{0};
  std::vector<std::byte> body_;
  std::function<void()> between_;
};

TEST_F(ListerTest, HottestFirstAndOnlyWhatMoves) {
  Make(4 << 20, {});
  std::vector<std::string> moving;
  for (int i = 0; i < 500; ++i) {
    const std::string key = "key-" + std::to_string(i) + std::string(i % 200, '.');
    ASSERT_EQ(Put(*pool_, key, 100), Code::kOk);
    clock_.Advance(1ms);
    if (ShardOf(HashOf(key)) % 2 == 0) moving.push_back(key);
  }
  // One of the oldest is used again.
  pool_->Touch(HashOf(moving[3]), 0, moving[3]);
  std::rotate(moving.begin() + 3, moving.begin() + 4, moving.end());
  std::reverse(moving.begin(), moving.end());
  EntryLister lister(*pool_, open_);
  EXPECT_EQ(All(lister), moving);
  EXPECT_EQ(open_.load(), 0u);
  EXPECT_EQ(All(lister), moving) << "from the beginning again";
}

TEST_F(ListerTest, WhatIsPutInTheMeantimeIsToldOfAtTheEnd) {
  std::string late;
  for (int i = 0; late.empty(); ++i) {
    const std::string key = "late" + std::to_string(i);
    if (ShardOf(HashOf(key)) % 2 == 0) late = key;
  }
  std::vector<std::string> moving;
  for (int i = 0; i < 20; ++i) {
    const std::string key = "key-" + std::to_string(i);
    ASSERT_EQ(Put(*pool_, key, 100), Code::kOk);
    if (ShardOf(HashOf(key)) % 2 == 0) moving.push_back(key);
  }
  between_ = [&] {
    EXPECT_EQ(Put(*pool_, late, 100), Code::kOk);
    EXPECT_EQ(Remove(moving[0]), Code::kOk);
  };
  EntryLister lister(*pool_, open_);
  const auto keys = All(lister);
  EXPECT_EQ(std::count(keys.begin(), keys.end(), late), 1);
  EXPECT_EQ(std::count(keys.begin(), keys.end(), moving[0]), 0);
  EXPECT_EQ(keys.size(), moving.size());
}

TEST_F(ListerTest, OnlyByTheSameMapAndFromWhereItStands) {
  EntryLister lister(*pool_, open_);
  EXPECT_EQ(Ask(lister, 0, 6).code, Code::kWrongOwner) << "the source is behind";
  EXPECT_EQ(Ask(lister, 0, 4).code, Code::kWrongOwner);
  EXPECT_EQ(Ask(lister, 0, 4).map.epoch, 5u);
  EXPECT_EQ(Ask(lister, 1).code, Code::kMiss) << "nothing was begun";
  const auto first = Ask(lister, 0);
  EXPECT_EQ(first.code, Code::kOk);
  EXPECT_EQ(open_.load(), 1u);
  table_ = MovingTable(6);
  EXPECT_EQ(Ask(lister, first.cursor).code, Code::kOk)
      << "it goes on by the rows that it began with";
  EXPECT_EQ(Ask(lister, first.cursor).code, Code::kMiss);
  table_ = nullptr;
  EXPECT_EQ(Ask(lister, 0).code, Code::kWrongOwner);
}

TEST_F(ListerTest, ListingsAreBounded) {
  std::vector<std::unique_ptr<EntryLister>> listers;
  for (size_t i = 0; i < limits::kMaxListings; ++i) {
    listers.push_back(std::make_unique<EntryLister>(*pool_, open_));
    ASSERT_EQ(Ask(*listers.back(), 0).code, Code::kOk);
  }
  EntryLister one_more(*pool_, open_);
  EXPECT_EQ(Ask(one_more, 0).code, Code::kBusy);
  listers.pop_back();
  EXPECT_EQ(Ask(one_more, 0).code, Code::kOk);
}

}  // namespace
}  // namespace simm::dataserver
