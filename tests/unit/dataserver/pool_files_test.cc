#include "dataserver/pool_files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "common/base/clock.h"
#include "dataserver/pool.h"
#include "tests/support/fake_clock.h"
#include "tests/support/pool_driver.h"

namespace simm::dataserver {
namespace {

using ::testing::HasSubstr;

class PoolFilesTest : public ::testing::Test {
 protected:
  PoolFilesTest() {
    std::string name = std::filesystem::temp_directory_path() / "simm-pool-XXXXXX";
    directory_ = mkdtemp(name.data());
    options_.memory_bytes = 4 << 20;
    options_.path = directory_ + "/pool";
  }
  ~PoolFilesTest() override { std::filesystem::remove_all(directory_); }

  Result<std::unique_ptr<Pool>> Open() { return Pool::Create(options_, clock_); }

  FakeClock clock_;
  std::string directory_;
  PoolOptions options_;
};

TEST_F(PoolFilesTest, AnonymousPoolsAreDistinct) {
  options_.path.clear();
  auto a = Open();
  auto b = Open();
  ASSERT_TRUE(a.ok() && b.ok());
  EXPECT_NE((*a)->pool_id(), (*b)->pool_id());
  EXPECT_EQ((*a)->incarnation(), 1u);
  protocol::Superblock block;
  std::memcpy(&block, (*a)->index_memory().data(), sizeof block);
  EXPECT_EQ(block.magic, protocol::kPoolMagic);
  EXPECT_EQ(block.crc, block.ComputeCrc());
  EXPECT_EQ(block.layout_fingerprint, protocol::LayoutFingerprint());
  EXPECT_EQ(block.data_bytes, (*a)->geometry().data_bytes);
  EXPECT_GE((*a)->index_fd(), 0);
  EXPECT_GE((*a)->data_fd(), 0);
}

// The system's huge pages of the default size; what there were comes back at the end.
class HugePages {
 public:
  HugePages() { std::ifstream(kPath) >> before_; }
  ~HugePages() { Set(before_); }
  // False: not allowed, or not so many could be made.
  bool Set(uint64_t count) {
    std::ofstream(kPath) << count;
    uint64_t now = 0;
    std::ifstream(kPath) >> now;
    return now == count;
  }

 private:
  static constexpr char kPath[] = "/proc/sys/vm/nr_hugepages";
  uint64_t before_ = 0;
};

bool OnHugePages(int fd) {
  struct statfs fs {};
  return fstatfs(fd, &fs) == 0 && fs.f_type == HUGETLBFS_MAGIC;
}

TEST_F(PoolFilesTest, HugePagesAreTakenWhereThereAreEnough) {
  options_.path.clear();
  options_.huge_pages = true;
  HugePages pages;
  if (!pages.Set(8)) {
    std::printf("WARNING: HUGE PAGES ARE NOT TESTED HERE: vm.nr_hugepages cannot be set\n");
  } else {
    auto pool = Open();
    ASSERT_TRUE(pool.ok()) << pool.status().ToString();
    EXPECT_TRUE(OnHugePages((*pool)->data_fd()));
    std::memset((*pool)->data_memory().data(), 1, (*pool)->data_memory().size());
    EXPECT_TRUE((*pool)->Audit().ok());
    // The next one finds too few and does without.
    options_.memory_bytes = 32 << 20;
    auto larger = Open();
    ASSERT_TRUE(larger.ok()) << larger.status().ToString();
    EXPECT_FALSE(OnHugePages((*larger)->data_fd()));
  }
  options_.huge_pages = false;
  auto plain = Open();
  ASSERT_TRUE(plain.ok());
  EXPECT_FALSE(OnHugePages((*plain)->data_fd()));
}

TEST_F(PoolFilesTest, RestartKeepsTheIdentityAndRaisesTheIncarnation) {
  Id128 id;
  for (uint64_t incarnation = 1; incarnation <= 3; ++incarnation) {
    auto pool = Open();
    ASSERT_TRUE(pool.ok()) << pool.status().ToString();
    if (incarnation == 1) id = (*pool)->pool_id();
    EXPECT_EQ((*pool)->pool_id(), id);
    EXPECT_EQ((*pool)->incarnation(), incarnation);
    const std::string key = "a" + std::to_string(incarnation);
    EXPECT_EQ(Put(**pool, key, 1000), Code::kOk);
    PinnedValue pinned;
    ASSERT_EQ((*pool)->Acquire(HashOf(key), 0, key, &pinned), Code::kOk);
    EXPECT_EQ(pinned.generation >> protocol::kGenerationCounterBits, incarnation);
    (*pool)->Release(pinned);
  }
  EXPECT_FALSE(std::filesystem::exists(options_.path + ".index.new"));
  EXPECT_FALSE(std::filesystem::exists(options_.path + ".data.new"));
}

TEST_F(PoolFilesTest, AnotherSizeMakesNewFilesAndTheOldOnesStayForWhoHasThem) {
  struct stat before {};
  {
    auto pool = Open();
    ASSERT_TRUE(pool.ok());
    ASSERT_EQ(stat((options_.path + ".index").c_str(), &before), 0);
  }
  std::ifstream old(options_.path + ".index", std::ios::binary);  // as a peer that still has it
  options_.memory_bytes = 5 << 20;
  auto pool = Open();
  ASSERT_TRUE(pool.ok());
  EXPECT_THAT((*pool)->recovery().cold_because, HasSubstr("--memory"));
  EXPECT_EQ((*pool)->incarnation(), 2u);
  struct stat after {};
  ASSERT_EQ(stat((options_.path + ".index").c_str(), &after), 0);
  EXPECT_NE(before.st_ino, after.st_ino);
  protocol::Superblock block;
  old.read(reinterpret_cast<char*>(&block), sizeof block);
  EXPECT_EQ(block.incarnation(), 1u);
  for (const char* end : {".index.new", ".data.new", ".index.old"})
    EXPECT_FALSE(std::filesystem::exists(options_.path + end)) << end;
}

TEST_F(PoolFilesTest, ASecondServerOfThePoolIsRefused) {
  auto first = Open();
  ASSERT_TRUE(first.ok());
  auto second = Open();
  ASSERT_EQ(second.code(), Code::kUnavailable);
  EXPECT_THAT(second.status().message(), HasSubstr(options_.path + ".lock"));
  EXPECT_THAT(second.status().message(), HasSubstr("stop that server"));
  first->reset();
  EXPECT_TRUE(Open().ok());
}

TEST_F(PoolFilesTest, GarbageInTheIndexGivesANewIdentity) {
  std::ofstream(options_.path + ".index") << std::string(5000, 'x');
  auto pool = Open();
  ASSERT_TRUE(pool.ok());
  EXPECT_EQ((*pool)->incarnation(), 1u);
  EXPECT_THAT((*pool)->recovery().cold_because, HasSubstr("is no pool index"));
}

TEST_F(PoolFilesTest, MissingDirectoryIsNamed) {
  options_.path = directory_ + "/no/such/pool";
  auto pool = Open();
  ASSERT_EQ(pool.code(), Code::kUnavailable);
  EXPECT_THAT(pool.status().message(), HasSubstr(options_.path));
  EXPECT_THAT(pool.status().message(), HasSubstr("directory"));
}

TEST_F(PoolFilesTest, MoreMemoryThanThereIsSaysSo) {
  options_.path.clear();
  options_.memory_bytes = 1ULL << 50;
  options_.mean_value_bytes = 64 << 20;
  auto pool = Open();
  ASSERT_EQ(pool.code(), Code::kUnavailable);
  EXPECT_THAT(pool.status().message(), HasSubstr("not enough memory for --memory"));
}

TEST_F(PoolFilesTest, SizesThatCannotWork) {
  options_.path.clear();
  options_.memory_bytes = 4096;
  auto tiny = Open();
  ASSERT_EQ(tiny.code(), Code::kInvalidArgument);
  EXPECT_THAT(tiny.status().message(), HasSubstr("at least 1.0 MiB"));
  options_.memory_bytes = 4 << 20;
  options_.mean_value_bytes = 64;
  auto mean = Open();
  ASSERT_EQ(mean.code(), Code::kInvalidArgument);
  EXPECT_THAT(mean.status().message(), HasSubstr("would"));
  options_.mean_value_bytes = 0;
  EXPECT_EQ(Open().code(), Code::kInvalidArgument);
}

}  // namespace
}  // namespace simm::dataserver
