// Whose pool it is: the lock for life, and what a successor knows of the end of who had it.

#include "dataserver/pool_lock.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <fstream>
#include <string>

#include "dataserver/pool.h"
#include "tests/support/fake_clock.h"
#include "tests/support/pool_driver.h"
#include "tests/support/pool_folder.h"

namespace simm::dataserver {
namespace {

using namespace std::chrono_literals;
using testing::HasSubstr;

class PoolLockTest : public testing::Test {
 protected:
  // A process that has the lock until it is killed.
  pid_t Owner() {
    int ready[2];
    EXPECT_EQ(pipe(ready), 0);
    const pid_t pid = fork();
    if (pid == 0) {
      FakeClock clock;
      PoolLock lock;
      const bool ok = lock.Take(folder_.pool(), {}, clock).ok();
      [[maybe_unused]] const ssize_t n = write(ready[1], ok ? "y" : "n", 1);
      for (;;) pause();
    }
    char said = 'n';
    EXPECT_EQ(read(ready[0], &said, 1), 1);
    EXPECT_EQ(said, 'y');
    close(ready[0]);
    close(ready[1]);
    return pid;
  }
  static void Kill(pid_t pid) {
    kill(pid, SIGKILL);
    waitpid(pid, nullptr, 0);
  }
  void WriteOwner(const std::string& text) const {
    std::ofstream(folder_.pool() + ".lock") << text;
  }

  const PoolFolder folder_;
  FakeClock clock_;
};

TEST_F(PoolLockTest, ItIsRefusedAtOnceOrWaitedFor) {
  const pid_t owner = Owner();
  PoolLock refused;
  const Status status = refused.Take(folder_.pool(), {}, clock_);
  EXPECT_EQ(status.code(), Code::kUnavailable);
  EXPECT_THAT(status.message(), HasSubstr("pid " + std::to_string(owner)));
  EXPECT_THAT(status.message(), HasSubstr("stop that server"));
  int asked = 0;
  PoolLock waiting;
  ASSERT_TRUE(waiting
                  .Take(
                      folder_.pool(),
                      [&] {
                        if (++asked == 3) Kill(owner);
                        return true;
                      },
                      clock_)
                  .ok());
  EXPECT_GE(asked, 3);
  EXPECT_TRUE(waiting.PredecessorEnded(clock_.Now()));
  PoolLock given_up;
  asked = 0;
  EXPECT_EQ(given_up
                .Take(
                    folder_.pool(), [&] { return ++asked < 3; }, clock_)
                .code(),
            Code::kUnavailable);
  EXPECT_EQ(asked, 3);
}

// The kernel lets go of the lock before the process has ended; a zombie has.
TEST_F(PoolLockTest, AKilledOwnerHasEndedAlsoBeforeItsParentKnows) {
  const pid_t owner = Owner();
  kill(owner, SIGKILL);
  PoolLock lock;
  ASSERT_TRUE(lock.Take(
                      folder_.pool(), [] { return true; }, clock_)
                  .ok());
  EXPECT_TRUE(lock.PredecessorEnded(clock_.Now()));
  waitpid(owner, nullptr, 0);
}

TEST_F(PoolLockTest, ANumberThatIsAnotherProcessesByNowIsNotTheOwner) {
  ProcessName self = ThisProcess();
  ASSERT_NE(self.pid_namespace, 0u);
  const std::string rest =
      std::to_string(self.pid_namespace) + " " + ToString(self.host_boot) + " end\n";
  // The test's own parent lives, but did not start then.
  WriteOwner(std::to_string(getppid()) + " 1 " + rest);
  PoolLock lock;
  ASSERT_TRUE(lock.Take(folder_.pool(), {}, clock_).ok());
  EXPECT_TRUE(lock.PredecessorEnded(clock_.Now()));
}

// Its files are closed, its end is not announced: the successor waits for that, not for ever.
TEST_F(PoolLockTest, AnOwnerThatLivesOnHasNotEnded) {
  const ProcessName self = ThisProcess();
  WriteOwner(std::to_string(getppid()) + " " + std::to_string(StartTimeOf(getppid())) + " " +
             std::to_string(self.pid_namespace) + " " + ToString(self.host_boot) + " end\n");
  int asked = 0;
  PoolLock lock;
  EXPECT_EQ(lock.Take(
                    folder_.pool(), [&] { return ++asked < 5; }, clock_)
                .code(),
            Code::kUnavailable);
  EXPECT_EQ(asked, 5);
}

TEST_F(PoolLockTest, AnOwnerThatCannotBeSeenIsGivenTenSeconds) {
  const ProcessName self = ThisProcess();
  WriteOwner("1 77 " + std::to_string(self.pid_namespace + 1) + " " + ToString(self.host_boot) +
             " end\n");
  {
    PoolLock lock;
    ASSERT_TRUE(lock.Take(folder_.pool(), {}, clock_).ok());
    EXPECT_FALSE(lock.PredecessorEnded(clock_.Now() + kQuarantine - 1ms));
    EXPECT_TRUE(lock.PredecessorEnded(clock_.Now() + kQuarantine));
  }
  WriteOwner("cut sh");
  PoolLock lock;
  ASSERT_TRUE(lock.Take(folder_.pool(), {}, clock_).ok());
  EXPECT_FALSE(lock.PredecessorEnded(clock_.Now())) << "nobody knows who it was";
}

TEST_F(PoolLockTest, AnOwnerFromBeforeTheHostsStartHasEnded) {
  const ProcessName self = ThisProcess();
  WriteOwner("1 77 " + std::to_string(self.pid_namespace + 1) + " " +
             ToString(Id128{self.host_boot.high ^ 1, 5}) + " end\n");
  PoolLock lock;
  ASSERT_TRUE(lock.Take(folder_.pool(), {}, clock_).ok());
  EXPECT_TRUE(lock.PredecessorEnded(clock_.Now()));
}

TEST_F(PoolLockTest, ASecondPoolOfTheFilesWaitsThenHasTheEntries) {
  const PoolOptions options = {
      .memory_bytes = 4 << 20, .path = folder_.pool(), .wait_for_lock = {}, .prefault = false};
  auto first = Pool::Create(options, clock_);
  ASSERT_TRUE(first.ok());
  ASSERT_EQ(Put(**first, "a", 1000), Code::kOk);
  PoolOptions waits = options;
  int asked = 0;
  waits.wait_for_lock = [&] {
    if (++asked == 2) first->reset();
    return true;
  };
  auto second = Pool::Create(waits, clock_);
  ASSERT_TRUE(second.ok());
  EXPECT_EQ(asked, 2);
  EXPECT_EQ(Get(**second, "a"), Code::kOk);
}

}  // namespace
}  // namespace simm::dataserver
