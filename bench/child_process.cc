#include "bench/child_process.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>

namespace simm::bench {
namespace {

// Every thread of the process has been stopped, or has ended.
bool IsStopped(pid_t pid) {
  std::error_code gone;
  const std::filesystem::path tasks = "/proc/" + std::to_string(pid) + "/task";
  for (const auto& task : std::filesystem::directory_iterator(tasks, gone)) {
    std::ifstream file(task.path() / "stat");
    std::string stat;
    if (!std::getline(file, stat)) continue;
    const size_t name_end = stat.rfind(')');  // the name before it may hold anything
    if (name_end + 2 < stat.size() && stat[name_end + 2] != 'T') return false;
  }
  return true;
}

// Runs in the child between fork and exec: async-signal-safe calls only.
[[noreturn]] void Become(char* const* argv, int log, int error_pipe, pid_t parent) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(127);  // the parent ended before the line above
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  dup2(log, STDOUT_FILENO);
  dup2(log, STDERR_FILENO);
  execv(argv[0], argv);
  const int error = errno;
  [[maybe_unused]] const ssize_t written = write(error_pipe, &error, sizeof error);
  _exit(127);
}

}  // namespace

Result<std::unique_ptr<ChildProcess>> ChildProcess::Start(const std::vector<std::string>& argv,
                                                          const std::string& log_path) {
  std::vector<char*> pointers;
  for (const std::string& argument : argv) pointers.push_back(const_cast<char*>(argument.c_str()));
  pointers.push_back(nullptr);
  const auto failed = [&](int error) {
    return Status(Code::kUnavailable, argv[0] + " cannot be started: " + std::strerror(error));
  };
  const int log = open(log_path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (log < 0) return failed(errno);
  int error_pipe[2];
  if (pipe2(error_pipe, O_CLOEXEC) != 0) {
    close(log);
    return failed(errno);
  }
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid == 0) Become(pointers.data(), log, error_pipe[1], parent);
  const int fork_error = errno;
  close(log);
  close(error_pipe[1]);
  int error = 0;
  // The pipe closes at a successful exec; otherwise it carries errno.
  const bool exec_failed = pid > 0 && read(error_pipe[0], &error, sizeof error) == sizeof error;
  close(error_pipe[0]);
  if (pid < 0) return failed(fork_error);
  std::unique_ptr<ChildProcess> child(new ChildProcess(pid));
  if (exec_failed) return failed(error);
  return child;
}

ChildProcess::~ChildProcess() { Stop(); }

std::optional<int> ChildProcess::Ended() {
  int status = 0;
  if (!exit_code_.has_value() && waitpid(pid_, &status, WNOHANG) == pid_) {
    exit_code_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  return exit_code_;
}

void ChildProcess::Signal(int signal) {
  if (Ended().has_value()) return;
  kill(pid_, signal);
  // A thread that runs goes on until it next enters the kernel: long enough for an answer.
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(5);
  while (signal == SIGSTOP && !IsStopped(pid_) && std::chrono::steady_clock::now() < end)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

bool ChildProcess::WaitUntil(std::chrono::steady_clock::time_point end) {
  while (!Ended().has_value()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return true;
}

void ChildProcess::Stop(std::chrono::milliseconds grace) {
  Signal(SIGTERM);
  Signal(SIGCONT);
  if (!WaitUntil(std::chrono::steady_clock::now() + grace)) Kill();
}

void ChildProcess::Kill() {
  Signal(SIGKILL);
  WaitUntil(std::chrono::steady_clock::time_point::max());
}

}  // namespace simm::bench
