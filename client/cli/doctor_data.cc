#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <thread>

#include "client/cli/doctor.h"
#include "common/base/clock.h"

namespace simm::cli {
namespace {

using Level = Diagnosis::Level;

constexpr size_t kValueBytes = 64 << 10;
constexpr size_t kSmallBytes = 64;
constexpr size_t kTriesPerServer = 400;  // keys looked at until one of each server is found
constexpr char kNamespace[] = "simmctl-doctor";

bool Offers(const Patient& patient, const std::string& transport) {
  const auto& all = patient.node.stats.transports;
  return std::any_of(all.begin(), all.end(), [&](const rpc::TransportStatus& entry) {
    return entry.name == transport && entry.offered;
  });
}

// Keys that live on each of the servers, two or more of most; none for one that owns no shard.
std::map<std::string, std::vector<std::string>> KeysOn(
    const Client& client, const std::vector<const Patient*>& patients) {
  std::map<std::string, std::vector<std::string>> keys;
  const std::string begin = "doctor-" + std::to_string(getpid()) + "-";
  for (size_t i = 0; i < kTriesPerServer * patients.size(); ++i) {
    const std::string key = begin + std::to_string(i);
    const std::string server = client.Locate(key).server;
    if (!server.empty()) keys[server].push_back(key);
  }
  return keys;
}

// A reader takes a server that does not answer for a miss: time tells the two apart.
RoundTrip Failed(const char* what, Code code, Duration took, Duration timeout) {
  return {std::string(what) + " ends with " + std::string(CodeName(code)), took >= timeout / 2};
}

// A value of so many bytes is put, read back and removed.
RoundTrip TryValue(const Session& session, Client& client, const std::string& key, size_t bytes) {
  std::string value(bytes, '\0'), back(bytes, '\1');
  for (size_t i = 0; i < value.size(); ++i) value[i] = static_cast<char>(i * 31 + key.size());
  PutOptions put_options;
  put_options.deadline = session.timeout();
  put_options.ttl = std::chrono::seconds(60);
  const Clock& clock = MonotonicClock::Get();
  Instant begin = clock.Now();
  const PutItem put{key, value.data(), value.size()};
  const KeyResult stored = client.Put({&put, 1}, put_options)[0];
  if (stored.code != Code::kOk) {
    return Failed("a put", stored.code, clock.Now() - begin, session.timeout());
  }
  GetOptions get_options;
  get_options.deadline = session.timeout();
  begin = clock.Now();
  const GetItem get{key, back.data(), back.size()};
  const KeyResult got = client.Get({&get, 1}, get_options)[0];
  const Duration took = clock.Now() - begin;
  const std::string_view view = key;
  CallOptions options;
  options.deadline = session.timeout();
  (void)client.Remove({&view, 1}, options);
  if (got.code != Code::kOk) return Failed("a get", got.code, took, session.timeout());
  return {back == value ? "" : "a get gives other bytes than were put", false};
}

// Tries again for a while: the library sends nothing to a server that has not answered just now.
RoundTrip TrySmallValue(const Session& session, Client& client, const std::string& key) {
  const Clock& clock = MonotonicClock::Get();
  const Instant end = clock.Now() + session.timeout();
  RoundTrip trip = TryValue(session, client, key, kSmallBytes);
  while (!trip.why.empty() && clock.Now() < end) {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    trip = TryValue(session, client, key, kSmallBytes);
  }
  return trip;
}

ServerHealth HealthOf(const Client& client, const std::string& server) {
  for (const ServerHealth& health : client.Servers()) {
    if (health.name == server) return health;
  }
  return {};
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
  const Clock& clock = MonotonicClock::Get();
  const Instant patience = clock.Now() + session.timeout();
  for (const Patient* patient : patients) {
    const std::string& name = patient->node.record.name;
    const auto key = keys.find(name);
    if (key == keys.end()) {
      diagnosis.Add(Level::kNote, name, "owns no key: nothing to put there over " + transport,
                    "normal while it is drained or has just joined");
      continue;
    }
    const RoundTrip large = TryValue(session, *client, key->second.front(), kValueBytes);
    ServerHealth health = HealthOf(*client, name);
    // A transport that has failed once is tried again in a while.
    while (large.why.empty() && health.transport != transport && clock.Now() < patience) {
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
      (void)TryValue(session, *client, key->second.front(), kSmallBytes);
      health = HealthOf(*client, name);
    }
    if (!large.why.empty()) {
      const RoundTrip small = TrySmallValue(session, *client, key->second.back());
      ReportFailedTrip(*patient, transport, large, small, diagnosis);
    } else if (health.transport != transport) {
      diagnosis.Add(Level::kWarning, name,
                    "reached over " + health.transport + " instead of " + transport + ": " +
                        health.transport_reason,
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
