#pragma once

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <string>

namespace simm {

// A temporary folder for a pool's files, in memory where the host has a tmpfs.
class PoolFolder {
 public:
  PoolFolder() {
    const bool shm = access("/dev/shm", W_OK) == 0;
    std::string name =
        (shm ? std::filesystem::path("/dev/shm") : std::filesystem::temp_directory_path()) /
        "simm-pool-XXXXXX";
    if (mkdtemp(name.data()) == nullptr) std::abort();
    folder_ = name;
  }
  ~PoolFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }
  PoolFolder(const PoolFolder&) = delete;
  PoolFolder& operator=(const PoolFolder&) = delete;

  std::string pool() const { return folder_ + "/pool"; }
  std::string index() const { return pool() + ".index"; }
  std::string data() const { return pool() + ".data"; }

 private:
  std::string folder_;
};

}  // namespace simm
