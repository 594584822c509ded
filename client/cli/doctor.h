#pragma once

#include <string>
#include <vector>

#include "client/cli/session.h"

namespace simm::cli {

// What doctor has looked at, in order. One-thread.
class Diagnosis {
 public:
  enum class Level { kGood, kNote, kWarning, kBad };
  struct Check {
    Level level = Level::kGood;
    std::string about;  // "manager 10.0.0.5:30001", "server-1"
    std::string what;
    std::string mend;
  };
  void Good(const std::string& about, const std::string& what) {
    checks_.push_back({Level::kGood, about, what, ""});
  }
  void Add(Level level, const std::string& about, const std::string& what,
           const std::string& mend) {
    checks_.push_back({level, about, what, mend});
  }
  const std::vector<Check>& checks() const { return checks_; }
  size_t Count(Level level) const;

 private:
  std::vector<Check> checks_;
};

// A data server, and what it says of itself if it does.
struct Patient {
  rpc::NodeStatus node;
  bool answers = false;
  HostFacts host;
};

// Puts, gets and removes a value at every data server that answers, over every transport that it
// offers and that can reach it from here. Keys are in a namespace of its own and end by themselves.
void CheckData(const Session& session, const HostFacts& here, const std::vector<Patient>& patients,
               Diagnosis& diagnosis);

}  // namespace simm::cli
