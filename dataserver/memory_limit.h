#pragma once

#include <cstdint>
#include <string>

namespace simm::dataserver {

// How much memory this process may still take.
struct AvailableMemory {
  uint64_t bytes = UINT64_MAX;  // UINT64_MAX: not known
  std::string bound;            // what sets it, for people: "the control group /simm.slice, 2GiB"
};

// The least of what the machine has and what each control group around this process leaves
// (versions 1 and 2; a hierarchy whose path cannot be seen, as in a container, counts by its root).
// What a group's page cache holds counts as free: the kernel drops it first. `proc` and `cgroups`:
// where those file systems are mounted.
AvailableMemory FindAvailableMemory(const std::string& proc = "/proc",
                                    const std::string& cgroups = "/sys/fs/cgroup");

}  // namespace simm::dataserver
