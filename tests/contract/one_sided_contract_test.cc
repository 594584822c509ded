// The one-sided half of the contract: reads, writes, remote regions.

#include "tests/contract/contract_fixture.h"

namespace simm::transport {
namespace {

class OneSided : public TransportContract {
 protected:
  void Prepare() override {
    ASSERT_TRUE(caps().one_sided) << "transport " << GetParam()
                                  << " does not belong into this suite";
    remote_ = shelf_->AllocateShared(1 << 16);
    ASSERT_EQ(remote_.size(), size_t{1} << 16);
    Fill(remote_, 1);
    local_.assign(1 << 16, std::byte{0});
    remote_region_ = *shelf_->far().Register(remote_, kRemoteRead | kRemoteWrite);
    local_region_ = *shelf_->near().Register(local_, kLocalOnly);
    description_ = remote_region_->Describe();
  }
  static void Fill(MutableByteSpan memory, uint64_t seed) {
    const auto bytes = RandomBytes(memory.size(), seed);
    std::copy(bytes.begin(), bytes.end(), memory.begin());
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
  MutableByteSpan remote_;
  std::vector<std::byte> local_;
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
  // The completion of a Write says that its memory is the caller's again; that it is placed, only a
  // message behind it says.
  item = Make(Op::kWrite, 20'000, parts, &written);
  ASSERT_TRUE(near_->Post({&item, 1}).ok());
  CountingCompletion sent;
  ASSERT_TRUE(PostMessage(*near_, 1, "placed", &sent).ok());
  ASSERT_TRUE(Pump(
      [&] { return written.calls == 1 && sent.calls == 1 && far_receiver_.messages.size() == 1; }));
  EXPECT_TRUE(written.last.ok());
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
  ASSERT_TRUE(Pump([&] { return far_receiver_.messages.size() == 1 && done.calls == 1; }));
  EXPECT_TRUE(placed);
  EXPECT_EQ(near_->counters().doorbells, 1u);
}

TEST_P(OneSided, ATapSeesAllThatIsWrittenWhereTheProcessorCopies) {
  CountingCompletion done;
  HashTap tap;
  std::byte head[96] = {std::byte{1}, std::byte{2}};
  auto head_region = *shelf_->near().Register(head, kLocalOnly);
  const size_t size = local_.size() - sizeof head - 1;
  const MutableSegment parts[] = {{head, sizeof head, head_region.get()},
                                  {local_.data(), size, local_region_.get()}};
  WorkItem item = Make(Op::kWrite, 1, parts, &done);
  item.tap = &tap;
  const Status posted = near_->Post({&item, 1});
  if (!caps().write_taps) {
    EXPECT_EQ(posted.code(), Code::kInvalidArgument) << "it would see nothing";
    return;
  }
  ASSERT_TRUE(posted.ok());
  ASSERT_TRUE(Pump([&] { return done.calls == 1; }));
  Xxh3Stream want;
  want.Update(head);
  want.Update({local_.data(), size});
  EXPECT_EQ(tap.Trailer(), want.Digest());
  EXPECT_TRUE(std::equal(head, head + sizeof head, remote_.begin() + 1));
  EXPECT_TRUE(std::equal(local_.begin(), local_.begin() + static_cast<ptrdiff_t>(size),
                         remote_.begin() + 1 + sizeof head));
  item.op = Op::kRead;
  EXPECT_EQ(near_->Post({&item, 1}).code(), Code::kInvalidArgument) << "of a read";
}

TEST_P(OneSided, AccessAcrossChunksIsSplit) {
  const MutableByteSpan second = shelf_->AllocateShared(4096);
  Fill(second, 5);
  auto region = *shelf_->far().Register(second, kRemoteRead);
  Join();
  ASSERT_NE(far_, nullptr);
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
  if (caps().needs_registration) {
    std::vector<std::byte> unregistered(100);
    const MutableSegment stray[] = {{unregistered.data(), 100, nullptr}};
    item = Make(Op::kRead, 0, stray, &done);
    EXPECT_EQ(near_->Post({&item, 1}).code(), Code::kInvalidArgument);
  }
  EXPECT_EQ(done.calls, 0);

  auto read_only = *shelf_->far().Register(remote_, kRemoteRead);
  Join();
  ASSERT_NE(far_, nullptr);
  description_ = read_only->Describe();
  const std::vector<std::byte> before(remote_.begin(), remote_.end());
  item = Make(Op::kWrite, 0, part, &done);
  ASSERT_TRUE(near_->Post({&item, 1}).ok());
  ASSERT_TRUE(Pump([&] { return done.calls == 1; }));
  EXPECT_FALSE(done.last.ok()) << "a write to memory that may only be read";
  EXPECT_TRUE(std::equal(before.begin(), before.end(), remote_.begin()));
  EXPECT_TRUE(near_->closed()) << "a refused access breaks the lane, as a queue pair does";
}

TEST_P(OneSided, ADeregisteredRegionIsOutOfReach) {
  remote_region_.reset();
  CountingCompletion done;
  const MutableSegment part[] = {{local_.data(), 100, local_region_.get()}};
  WorkItem item = Make(Op::kRead, 0, part, &done);
  if (far_->peer_process() != nullptr) {
    // What the peer has once it keeps until its process ends; those who come later do not get it.
    Join();
    ASSERT_NE(far_, nullptr);
    EXPECT_EQ(near_->Post({&item, 1}).code(), Code::kInvalidArgument);
    return;
  }
  ASSERT_TRUE(near_->Post({&item, 1}).ok());
  ASSERT_TRUE(Pump([&] { return done.calls == 1; }));
  EXPECT_FALSE(done.last.ok());
}

TEST_P(OneSided, WhoeverPollsIsWokenForReadsThoughNothingArrives) {
  if (near_->PollFd() < 0) return;  // nothing to poll, by contract
  CountingCompletion done;
  const MutableSegment all[] = {{local_.data(), local_.size(), local_region_.get()}};
  WorkItem item = Make(Op::kRead, 0, all, &done);
  ASSERT_TRUE(near_->Post({&item, 1}).ok());
  EXPECT_EQ(done.calls, 0);
  while (done.calls == 0) {
    pollfd p{near_->PollFd(), near_->PollEvents(), 0};
    ASSERT_EQ(poll(&p, 1, 5000), 1) << "asleep with work to do";
    near_->Progress();
  }
  near_->Progress();  // a wake-up for what has been found already may lie there
  pollfd p{near_->PollFd(), near_->PollEvents(), 0};
  EXPECT_EQ(poll(&p, 1, 0), 0) << "awake without work: whoever waits would spin";
}

TEST_P(OneSided, WhoeverLookedWhileAwakeIsWokenAfterOneProgress) {
  if (near_->PollFd() < 0) return;  // nothing to poll, by contract
  const MutableSegment all[] = {{local_.data(), local_.size(), local_region_.get()}};
  for (int round = 0; round < 20; ++round) {
    CountingCompletion awake, asleep;
    WorkItem item = Make(Op::kRead, 0, all, &awake);
    ASSERT_TRUE(near_->Post({&item, 1}).ok());
    while (awake.calls == 0) ASSERT_TRUE(near_->ProgressAwake());
    item = Make(Op::kRead, 0, all, &asleep);
    ASSERT_TRUE(near_->Post({&item, 1}).ok());
    near_->ProgressAwake();
    while (asleep.calls == 0) {
      near_->Progress();
      if (asleep.calls > 0) break;
      pollfd p{near_->PollFd(), near_->PollEvents(), 0};
      ASSERT_EQ(poll(&p, 1, 5000), 1) << "asleep with work to do, round " << round;
    }
    EXPECT_TRUE(asleep.last.ok());
  }
}

TEST_P(OneSided, AfterCloseNothingTouchesLentMemory) {
  CountingCompletion read, written;
  std::vector<std::byte> source(1 << 15, std::byte{0x11});
  auto source_region = *shelf_->near().Register(source, kLocalOnly);
  const MutableSegment to[] = {{local_.data(), 1 << 15, local_region_.get()}};
  const MutableSegment from[] = {{source.data(), source.size(), source_region.get()}};
  WorkItem items[] = {Make(Op::kRead, 0, to, &read), Make(Op::kWrite, 1 << 15, from, &written)};
  ASSERT_TRUE(near_->Post(items).ok());
  for (int i = 0; i < 20; ++i) near_->Progress();
  near_->Close();
  EXPECT_EQ(read.calls, 1);
  EXPECT_EQ(written.calls, 1);
  std::fill(local_.begin(), local_.end(), std::byte{0x5a});
  std::fill(source.begin(), source.end(), std::byte{0x77});
  ASSERT_TRUE(Pump([&] { return far_receiver_.closed == 1; }));
  EXPECT_TRUE(
      std::all_of(local_.begin(), local_.end(), [](std::byte b) { return b == std::byte{0x5a}; }));
  const auto before = RandomBytes(remote_.size(), 1);
  for (size_t i = 0; i < source.size(); ++i) {
    const std::byte now = remote_[(1 << 15) + i];
    ASSERT_TRUE(now == std::byte{0x11} || now == before[(1 << 15) + i]) << "late bytes at " << i;
  }
}

const auto kOneSided = [](const ShelfEntry::About& about) { return about.one_sided; };
INSTANTIATE_TEST_SUITE_P(Shelf, OneSided, testing::ValuesIn(ShelfEntry::Names(kOneSided)),
                         [](const auto& param) { return param.param; });

}  // namespace
}  // namespace simm::transport
