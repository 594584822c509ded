#include "dataserver/memory_limit.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

namespace simm::dataserver {
namespace {

constexpr uint64_t kMiB = 1 << 20;

// A /proc and a /sys/fs/cgroup of files.
class MemoryLimitTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = testing::TempDir() + "/memory_limit_XXXXXX";
    root_ = mkdtemp(name.data());
    Write("proc/meminfo", "MemTotal: 9000000 kB\nMemAvailable:    8192000 kB\nSwapFree: 5 kB\n");
  }
  void TearDown() override { std::filesystem::remove_all(root_); }

  void Write(const std::string& path, const std::string& text) {
    const std::filesystem::path file = root_ / path;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file) << text;
  }
  void Group1(const std::string& path, uint64_t limit, uint64_t usage, uint64_t cache) {
    Write("cgroup/memory" + path + "/memory.limit_in_bytes", std::to_string(limit));
    Write("cgroup/memory" + path + "/memory.usage_in_bytes", std::to_string(usage));
    Write("cgroup/memory" + path + "/memory.stat",
          "cache 99\ninactive_file 1\ntotal_inactive_file " + std::to_string(cache / 2) +
              "\ntotal_active_file " + std::to_string(cache - cache / 2) + "\n");
  }
  void Group2(const std::string& path, const std::string& limit, uint64_t usage, uint64_t cache) {
    Write("cgroup" + path + "/memory.max", limit + "\n");
    Write("cgroup" + path + "/memory.current", std::to_string(usage) + "\n");
    Write("cgroup" + path + "/memory.stat",
          "anon 7\nfile 9\ninactive_file " + std::to_string(cache) + "\nactive_file 0\n");
  }
  AvailableMemory Find() const {
    return FindAvailableMemory((root_ / "proc").string(), (root_ / "cgroup").string());
  }

  std::filesystem::path root_;
};

TEST_F(MemoryLimitTest, WithoutGroupsTheMachineDecides) {
  EXPECT_EQ(Find().bytes, uint64_t{8192000} << 10);
  EXPECT_EQ(Find().bound, "this machine");
  std::filesystem::remove(root_ / "proc/meminfo");
  EXPECT_EQ(Find().bytes, UINT64_MAX) << "not known";
}

TEST_F(MemoryLimitTest, Version1CountsPageCacheAsFree) {
  Write("proc/self/cgroup", "9:name=systemd:/\n4:cpu,memory,pids:/pod/simm\n3:freezer:/\n");
  Group1("/pod/simm", 512 * kMiB, 300 * kMiB, 200 * kMiB);
  EXPECT_EQ(Find().bytes, 412 * kMiB);
  EXPECT_NE(Find().bound.find("/pod/simm"), std::string::npos) << Find().bound;
  EXPECT_NE(Find().bound.find("512MiB"), std::string::npos) << Find().bound;
}

TEST_F(MemoryLimitTest, Version1SaysNoLimitByALargeNumber) {
  Write("proc/self/cgroup", "4:memory:/pod\n");
  Group1("/pod", 9223372036854771712u, 300 * kMiB, 0);
  EXPECT_EQ(Find().bound, "this machine");
}

TEST_F(MemoryLimitTest, Version2AndTheGroupsAround) {
  Write("proc/self/cgroup", "0::/slice/pod/simm\n");
  Group2("/slice/pod/simm", "max", 100 * kMiB, 0);
  Group2("/slice/pod", "1073741824", 200 * kMiB, 50 * kMiB);
  Group2("/slice", "8589934592", 300 * kMiB, 0);
  EXPECT_EQ(Find().bytes, (1024 - 150) * kMiB) << "the tightest of all around";
  EXPECT_NE(Find().bound.find("/slice/pod,"), std::string::npos) << Find().bound;
}

TEST_F(MemoryLimitTest, APathThatCannotBeSeenCountsByItsRoot) {
  Write("proc/self/cgroup", "0::/kubepods/pod1/container\n");
  Group2("", "268435456", 300 * kMiB, 100 * kMiB);
  EXPECT_EQ(Find().bytes, 56 * kMiB) << "a container's own mount";
  Group2("", "268435456", 300 * kMiB, 0);
  EXPECT_EQ(Find().bytes, 0u) << "beyond its limit already";
}

TEST_F(MemoryLimitTest, GarbageIsNoLimit) {
  Write("proc/self/cgroup", "memory\n::\n4:memory\n4:memory:/x\n");
  Write("cgroup/memory/x/memory.limit_in_bytes", "many");
  EXPECT_EQ(Find().bound, "this machine");
}

}  // namespace
}  // namespace simm::dataserver
