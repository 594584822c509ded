#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <map>

#include "client/cli/doctor.h"

namespace simm::cli {
namespace {

using Level = Diagnosis::Level;

constexpr size_t kValueBytes = 64 << 10;
constexpr size_t kTriesPerServer = 400;  // keys looked at until one of each server is found
constexpr char kNamespace[] = "simmctl-doctor";

bool Offers(const Patient& patient, const std::string& transport) {
  const auto& all = patient.node.stats.transports;
  return std::any_of(all.begin(), all.end(), [&](const rpc::TransportStatus& entry) {
    return entry.name == transport && entry.offered;
  });
}

// A key that lives on each of the servers; none for one that owns no shard.
std::map<std::string, std::string> KeysOn(const Client& client,
                                          const std::vector<const Patient*>& patients) {
  std::map<std::string, std::string> keys;
  const std::string begin = "doctor-" + std::to_string(getpid()) + "-";
  for (size_t i = 0; i < kTriesPerServer * patients.size(); ++i) {
    const std::string key = begin + std::to_string(i);
    const std::string server = client.Locate(key).server;
    if (!server.empty()) keys.emplace(server, key);
  }
  return keys;
}

// Empty: the value came back as it was put.
std::string WhyNot(const Session& session, Client& client, const std::string& key) {
  std::string value(kValueBytes, '\0'), back(kValueBytes, '\1');
  for (size_t i = 0; i < value.size(); ++i) value[i] = static_cast<char>(i * 31 + key.size());
  PutOptions put_options;
  put_options.deadline = session.timeout();
  put_options.ttl = std::chrono::seconds(60);
  const PutItem put{key, value.data(), value.size()};
  const KeyResult stored = client.Put({&put, 1}, put_options)[0];
  if (stored.code != Code::kOk) return "a put ends with " + std::string(CodeName(stored.code));
  GetOptions get_options;
  get_options.deadline = session.timeout();
  const GetItem get{key, back.data(), back.size()};
  const KeyResult got = client.Get({&get, 1}, get_options)[0];
  const std::string_view view = key;
  CallOptions options;
  options.deadline = session.timeout();
  (void)client.Remove({&view, 1}, options);
  if (got.code != Code::kOk) return "a get ends with " + std::string(CodeName(got.code));
  return back == value ? "" : "a get gives other bytes than were put";
}

void CheckOver(const Session& session, const std::string& transport,
               const std::vector<const Patient*>& patients, Diagnosis& diagnosis) {
  ClientOptions options;
  options.name_space = kNamespace;
  options.transport = transport;
  options.connect_timeout = session.timeout();
  std::unique_ptr<Client> client;
  if (session.ConnectWith(options, &client) != kDone) {
    diagnosis.Add(Level::kBad, transport, "no client can connect",
                  "see above for the manager and the data servers");
    return;
  }
  const auto keys = KeysOn(*client, patients);
  for (const Patient* patient : patients) {
    const std::string& name = patient->node.record.name;
    const auto key = keys.find(name);
    if (key == keys.end()) {
      diagnosis.Add(Level::kNote, name, "owns no key: nothing to put there over " + transport,
                    "normal while it is drained or has just joined");
      continue;
    }
    const std::string why = WhyNot(session, *client, key->second);
    std::string used, reason;
    for (const ServerHealth& health : client->Servers()) {
      if (health.name != name) continue;
      used = health.transport;
      reason = health.transport_reason;
    }
    if (!why.empty()) {
      diagnosis.Add(Level::kBad, name, why + " over " + transport,
                    "is the process running, and is its data port " +
                        patient->node.record.data_address + " open from here?");
    } else if (used != transport) {
      diagnosis.Add(Level::kWarning, name,
                    "reached over " + used + " instead of " + transport + ": " + reason,
                    "it works, more slowly");
    } else {
      diagnosis.Good(name, "a value was put, read back and removed over " + transport);
    }
  }
}

}  // namespace

void CheckData(const Session& session, const HostFacts& here, const std::vector<Patient>& patients,
               Diagnosis& diagnosis) {
  for (const std::string transport : {"tcp", "shm", "verbs"}) {
    std::vector<const Patient*> reachable;
    for (const Patient& patient : patients) {
      if (!patient.answers || !Offers(patient, transport)) continue;
      if (transport == "shm" && patient.host.host_name != here.host_name) continue;
      if (transport == "verbs" && here.rdma_ports.empty()) continue;
      reachable.push_back(&patient);
    }
    if (!reachable.empty()) CheckOver(session, transport, reachable, diagnosis);
  }
}

}  // namespace simm::cli
