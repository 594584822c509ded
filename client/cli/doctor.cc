#include "client/cli/doctor.h"

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>

#include "common/base/bytes.h"
#include "common/base/host_facts.h"
#include "common/base/host_port.h"
#include "common/base/version.h"

namespace simm::cli {
namespace {

using Level = Diagnosis::Level;

constexpr int64_t kClockApartMs = 2000;
constexpr uint64_t kFewOpenFiles = 4096;

int64_t UnixMs() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::milliseconds>(now).count();
}

void CheckClockAndVersion(const std::string& about, const rpc::NodeDescription& node,
                          int64_t asked_at, Diagnosis& diagnosis) {
  const int64_t middle = (asked_at + UnixMs()) / 2;
  const int64_t apart = static_cast<int64_t>(node.unix_ms) - middle;
  const std::string said = std::to_string(apart) + " ms from here";
  if (std::abs(apart) > kClockApartMs) {
    diagnosis.Add(Level::kWarning, about, "its clock is " + said,
                  "nothing in SiMM depends on it, but logs and events are hard to compare: run an "
                  "NTP client on both hosts");
  }
  if (node.version != kVersion) {
    diagnosis.Add(Level::kNote, about,
                  "version " + node.version + ", this simmctl is " + std::string(kVersion),
                  "neighbouring versions work together; finish the upgrade");
  }
  diagnosis.Good(about, node.program + " " + node.version + " answers, clock " + said);
}

void CheckManagers(const Session& session, Diagnosis& diagnosis) {
  const auto addresses = ParsePeerList(session.manager);
  if (!addresses.ok()) return;  // said before
  for (const std::string& address : *addresses) {
    const std::string about = "manager " + address;
    const int64_t asked_at = UnixMs();
    const auto node = Admin::DescribeAt(address, session.timeout());
    if (node.ok()) {
      CheckClockAndVersion(about, *node, asked_at, diagnosis);
    } else if (node.status().code() == Code::kFailedPrecondition) {
      diagnosis.Add(Level::kNote, about, node.status().message(), "finish the upgrade");
    } else {
      diagnosis.Add(Level::kBad, about, "does not answer: " + node.status().message(),
                    "is it running, and is its port open from here? With it down the cache still "
                    "serves, but nothing in the membership changes");
    }
  }
}

// Limits and memory of a host that matter to a data server on it (or, `pool` 0, to a client).
void CheckHost(const std::string& about, const HostFacts& host, uint64_t pool,
               Diagnosis& diagnosis) {
  bool rdma = false;
  for (const RdmaPort& port : host.rdma_ports) {
    rdma = rdma || port.state == "ACTIVE";
    if (port.state != "ACTIVE") {
      diagnosis.Add(
          Level::kWarning, about,
          "RDMA port " + port.device + "/" + std::to_string(port.port) + " is " + port.state,
          "cable, switch port, `ip link set dev ... up`");
    }
  }
  CheckRdmaPackets(about, host, diagnosis);
  const uint64_t needed = pool != 0 ? pool : 1ULL << 30;
  if (host.memlock_bytes < needed) {
    diagnosis.Add(rdma ? Level::kWarning : Level::kNote, about,
                  "memlock is limited to " + FormatSize(host.memlock_bytes) +
                      (rdma ? ": RDMA cannot register more memory" : "; it matters for RDMA only"),
                  "ulimit -l unlimited, or LimitMEMLOCK=infinity in the unit");
  }
  if (host.open_files < kFewOpenFiles) {
    diagnosis.Add(Level::kWarning, about,
                  "only " + std::to_string(host.open_files) +
                      " open files are allowed: each connection is one",
                  "ulimit -n 65536, or LimitNOFILE=65536 in the unit");
  }
  if (pool != 0 && host.huge_pages == 0) {
    diagnosis.Add(Level::kNote, about, "no huge pages: the pool lies on small ones",
                  "vm.nr_hugepages for the pool's size: fewer TLB misses, cheaper registration");
  }
}

void CheckServer(const Session& session, Patient& patient, Diagnosis& diagnosis) {
  const rpc::NodeStatus& node = patient.node;
  const std::string& about = node.record.name;
  const int64_t asked_at = UnixMs();
  const auto said = Admin::DescribeAt(node.record.control_address, session.timeout());
  if (said.ok()) {
    patient.answers = true;
    patient.host = said->host;
    CheckClockAndVersion(about, *said, asked_at, diagnosis);
    CheckHost(about, said->host, node.stats.data_bytes, diagnosis);
  } else if (said.status().code() == Code::kFailedPrecondition) {
    patient.answers = true;
    diagnosis.Add(Level::kNote, about, said.status().message(), "finish the upgrade");
  } else {
    diagnosis.Add(Level::kBad, about,
                  "does not answer at its control address " + node.record.control_address + ": " +
                      said.status().message(),
                  "is the process running (or stopped in a debugger), and is the port open from "
                  "here? --listen, --advertise");
  }
  const auto connected = ConnectTcp(node.record.data_address, static_cast<int>(session.timeout_ms));
  if (connected.ok()) {
    close(*connected);
  } else {
    diagnosis.Add(Level::kBad, about,
                  "no connection to its data port " + node.record.data_address + ": " +
                      connected.status().message(),
                  "is the port open from here? --data-listen, --advertise, firewall");
  }
  for (const rpc::TransportStatus& transport : node.stats.transports) {
    if (transport.offered) continue;
    diagnosis.Add(Level::kNote, about, transport.name + " is not offered: " + transport.reason,
                  "fine where it is meant so; see --transport");
  }
}

// Hosts whose largest MTU differs lose packets or speed on the way between them.
void CheckMtu(const HostFacts& here, const std::vector<Patient>& patients, Diagnosis& diagnosis) {
  std::map<uint32_t, std::vector<std::string>> hosts;
  const auto note = [&](const std::string& name, const HostFacts& host) {
    uint32_t largest = 0;
    for (const NetworkInterface& entry : host.interfaces) {
      if (entry.up) largest = std::max(largest, entry.mtu);
    }
    if (largest != 0) hosts[largest].push_back(name);
  };
  note("here", here);
  for (const Patient& patient : patients) {
    if (patient.answers) note(patient.node.record.name, patient.host);
  }
  if (hosts.size() == 1) diagnosis.Good("network", "MTU " + std::to_string(hosts.begin()->first));
  if (hosts.size() < 2) return;
  std::string text;
  for (const auto& [mtu, names] : hosts) {
    text += (text.empty() ? "" : "; ") + std::to_string(mtu) + ": " + names.front();
    if (names.size() > 1) text += " and " + std::to_string(names.size() - 1) + " more";
  }
  diagnosis.Add(Level::kWarning, "network", "the largest MTU differs between hosts: " + text,
                "the same MTU on every host and switch port; 9000 for tcp, 4096 for RDMA");
}

void Print(const Session& session, const Diagnosis& diagnosis) {
  using Colour = Session::Colour;
  static const std::map<Level, std::pair<const char*, Colour>> marks = {
      {Level::kGood, {"ok  ", Colour::kGood}},
      {Level::kNote, {"note", Colour::kGood}},
      {Level::kWarning, {"WARN", Colour::kWarning}},
      {Level::kBad, {"BAD ", Colour::kBad}}};
  if (session.json) {
    static const char* const names[] = {"ok", "note", "warning", "bad"};
    nlohmann::json checks = nlohmann::json::array();
    for (const Diagnosis::Check& check : diagnosis.checks()) {
      checks.push_back({{"level", names[static_cast<size_t>(check.level)]},
                        {"about", check.about},
                        {"what", check.what},
                        {"mend", check.mend}});
    }
    session.PrintJson({{"checks", checks},
                       {"bad", diagnosis.Count(Level::kBad)},
                       {"warnings", diagnosis.Count(Level::kWarning)}});
    return;
  }
  for (const Diagnosis::Check& check : diagnosis.checks()) {
    const auto& [mark, colour] = marks.at(check.level);
    std::printf("%s  %s: %s\n", session.Paint(mark, colour).c_str(), check.about.c_str(),
                check.what.c_str());
    if (!check.mend.empty()) std::printf("        %s\n", check.mend.c_str());
  }
  std::printf("\n%zu bad, %zu to be looked at\n", diagnosis.Count(Level::kBad),
              diagnosis.Count(Level::kWarning));
}

int Examine(const Session& session) {
  std::unique_ptr<Admin> admin;
  if (const int code = session.OpenAdmin(&admin); code != kDone) return code;
  Diagnosis diagnosis;
  const HostFacts here = ReadHostFacts();
  CheckHost("here", here, 0, diagnosis);
  CheckManagers(session, diagnosis);
  const Result<rpc::ClusterStatus> status = admin->GetStatus(session.timeout());
  if (!status.ok()) {
    diagnosis.Add(Level::kBad, "cluster", status.status().message(),
                  "start a manager, or name it: --manager HOST:PORT, SIMM_CLUSTER_MANAGER");
    Print(session, diagnosis);
    return kUnwell;
  }
  for (const rpc::Finding& finding : rpc::AssessHealth(*status).findings) {
    diagnosis.Add(finding.problem ? Level::kBad : Level::kNote, "cluster", finding.what,
                  finding.mend);
  }
  std::vector<Patient> patients;
  for (const rpc::NodeStatus& node : status->nodes) {
    if (node.record.state != ServerState::kDead) patients.push_back({node, false, {}});
  }
  for (Patient& patient : patients) CheckServer(session, patient, diagnosis);
  CheckMtu(here, patients, diagnosis);
  CheckData(session, here, patients, diagnosis);
  // Behind the data, whose packets may have met a router that says what it takes.
  for (const Patient& patient : patients) {
    const std::string& address = patient.node.record.data_address;
    const auto path = MeasurePath(address, static_cast<int>(session.timeout_ms));
    if (path.ok()) CheckPath(patient.node.record.name, address, *path, diagnosis);
  }
  Print(session, diagnosis);
  return diagnosis.Count(Level::kBad) == 0 ? kDone : kUnwell;
}

}  // namespace

size_t Diagnosis::Count(Level level) const {
  return static_cast<size_t>(
      std::count_if(checks_.begin(), checks_.end(),
                    [level](const Check& check) { return check.level == level; }));
}

void AddDoctor(CLI::App& app, Session& session) {
  CLI::App* doctor = app.add_subcommand(
      "doctor", "Looks for what is wrong, a put and get at every server included; says the mend");
  doctor->callback([&session] { session.command = [&session] { return Examine(session); }; });
}

}  // namespace simm::cli
