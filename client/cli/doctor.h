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

// A tcp connection to HOST:PORT; the descriptor is the caller's. Otherwise why there is none.
Result<int> ConnectTcp(const std::string& address, int timeout_ms);

// The way of a tcp connection, as this host knows it.
struct NetworkPath {
  std::string interface;       // by which it leaves
  uint32_t interface_mtu = 0;  // bytes
  uint32_t path_mtu = 0;       // of its packets: less if a router or the routing table has said so
};
Result<NetworkPath> MeasurePath(const std::string& address, int timeout_ms);
void CheckPath(const std::string& about, const std::string& address, const NetworkPath& path,
               Diagnosis& diagnosis);

// Whether the ports' packets are as large as RDMA can have them.
void CheckRdmaPackets(const std::string& about, const HostFacts& host, Diagnosis& diagnosis);

// How a put and a get of a value have ended.
struct RoundTrip {
  std::string why;         // empty: the bytes came back
  bool timed_out = false;  // `why` is that there was no answer
};
// `large` has failed; `small` is the same with a value that fits one packet.
void ReportFailedTrip(const Patient& patient, const std::string& transport, const RoundTrip& large,
                      const RoundTrip& small, Diagnosis& diagnosis);

// Puts, gets and removes a value at every data server that answers, over every transport that it
// offers and that can reach it from here. Keys are in a namespace of its own and end by themselves.
void CheckData(const Session& session, const HostFacts& here, const std::vector<Patient>& patients,
               Diagnosis& diagnosis);

}  // namespace simm::cli
