// The one-sided half of the contract: reads, writes, remote regions.

#include "tests/contract/contract_fixture.h"

namespace simm::transport {
namespace {

class OneSided : public TransportContract {
 protected:
  void SetUp() override {
    TransportContract::SetUp();
    ASSERT_TRUE(caps().one_sided) << "transport " << GetParam()
                                  << " does not belong into this suite";
    remote_ = RandomBytes(1 << 16, 1);
    local_.assign(1 << 16, std::byte{0});
    remote_region_ = *shelf_.transport->Register(remote_, kRemoteRead | kRemoteWrite);
    local_region_ = *shelf_.transport->Register(local_, kLocalOnly);
    description_ = remote_region_->Describe();
  }
  WorkItem Make(Op op, uint64_t offset, std::span<const MutableSegment> local,
                Completion* completion) {
    WorkItem item;
    item.op = op;
    item.local = local;
    item.remote = &description_;
    item.remote_offset = offset;
    item.completion = completion;
    return item;
  }
  std::vector<std::byte> remote_, local_;
  std::unique_ptr<LocalRegion> remote_region_, local_region_;
  RemoteRegion description_;
};

TEST_P(OneSided, ReadScattersAndWriteGathers) {
  CountingCompletion read, written;
  const MutableSegment parts[] = {{local_.data(), 100, local_region_.get()},
                                  {local_.data() + 5000, 3000, local_region_.get()}};
  WorkItem item = Make(Op::kRead, 777, parts, &read);
  ASSERT_TRUE(near_->Post({&item, 1}).ok());
  ASSERT_TRUE(Pump([&] { return read.calls == 1; }));
  EXPECT_TRUE(read.last.ok());
  EXPECT_TRUE(std::equal(local_.begin(), local_.begin() + 100, remote_.begin() + 777));
  EXPECT_TRUE(std::equal(local_.begin() + 5000, local_.begin() + 8000, remote_.begin() + 877));
  item = Make(Op::kWrite, 20'000, parts, &written);
  ASSERT_TRUE(near_->Post({&item, 1}).ok());
  ASSERT_TRUE(Pump([&] { return written.calls == 1; }));
  EXPECT_TRUE(std::equal(local_.begin() + 5000, local_.begin() + 8000, remote_.begin() + 20'100));
}

TEST_P(OneSided, AMessageBehindAWriteProvesItIsPlaced) {
  CountingCompletion done;
  const MutableSegment all[] = {{local_.data(), local_.size(), local_region_.get()}};
  std::fill(local_.begin(), local_.end(), std::byte{0x7e});
  WorkItem items[2];
  items[0] = Make(Op::kWrite, 0, all, nullptr);
  const std::string body = "commit";
  items[1].message.body = AsBytes(body);
  items[1].completion = &done;
  bool placed = false;
  far_receiver_.on_end = [&] {
    placed = std::all_of(remote_.begin(), remote_.end(),
                         [](std::byte b) { return b == std::byte{0x7e}; });
  };
  ASSERT_TRUE(near_->Post(items).ok());
  ASSERT_TRUE(Pump([&] { return far_receiver_.messages.size() == 1; }));
  EXPECT_TRUE(placed);
  EXPECT_EQ(near_->counters().doorbells, 1u);
}

TEST_P(OneSided, AccessAcrossChunksIsSplit) {
  std::vector<std::byte> second = RandomBytes(4096, 5);
  auto region = *shelf_.transport->Register(second, kRemoteRead);
  description_.chunks.push_back({remote_.size(), second.size(), region->Describe().chunks[0].key});
  CountingCompletion read;
  const MutableSegment part[] = {{local_.data(), 1000, local_region_.get()}};
  WorkItem item = Make(Op::kRead, remote_.size() - 500, part, &read);
  ASSERT_TRUE(near_->Post({&item, 1}).ok());
  ASSERT_TRUE(Pump([&] { return read.calls == 1; }));
  EXPECT_TRUE(std::equal(local_.begin(), local_.begin() + 500, remote_.end() - 500));
  EXPECT_TRUE(std::equal(local_.begin() + 500, local_.begin() + 1000, second.begin()));
}

TEST_P(OneSided, RangesRightsAndRegistrationAreChecked) {
  CountingCompletion done;
  const MutableSegment part[] = {{local_.data(), 100, local_region_.get()}};
  WorkItem item = Make(Op::kRead, remote_.size() - 50, part, &done);
  EXPECT_EQ(near_->Post({&item, 1}).code(), Code::kInvalidArgument) << "beyond the region";
  std::vector<std::byte> unregistered(100);
  const MutableSegment stray[] = {{unregistered.data(), 100, nullptr}};
  item = Make(Op::kRead, 0, stray, &done);
  EXPECT_EQ(near_->Post({&item, 1}).code(), Code::kInvalidArgument);
  EXPECT_EQ(done.calls, 0);

  auto read_only = *shelf_.transport->Register(remote_, kRemoteRead);
  description_ = read_only->Describe();
  const auto before = remote_;
  item = Make(Op::kWrite, 0, part, &done);
  ASSERT_TRUE(near_->Post({&item, 1}).ok());
  ASSERT_TRUE(Pump([&] { return done.calls == 1; }));
  EXPECT_FALSE(done.last.ok()) << "a write to memory that may only be read";
  EXPECT_EQ(remote_, before);
  EXPECT_TRUE(near_->closed()) << "a refused access breaks the lane, as a queue pair does";
}

TEST_P(OneSided, ADeregisteredRegionIsOutOfReach) {
  remote_region_.reset();
  CountingCompletion done;
  const MutableSegment part[] = {{local_.data(), 100, local_region_.get()}};
  WorkItem item = Make(Op::kRead, 0, part, &done);
  ASSERT_TRUE(near_->Post({&item, 1}).ok());
  ASSERT_TRUE(Pump([&] { return done.calls == 1; }));
  EXPECT_FALSE(done.last.ok());
}

INSTANTIATE_TEST_SUITE_P(Shelf, OneSided, testing::Values("sim"),
                         [](const auto& param) { return param.param; });

}  // namespace
}  // namespace simm::transport
