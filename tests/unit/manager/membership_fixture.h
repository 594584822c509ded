#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "manager/membership.h"
#include "tests/support/fake_clock.h"

namespace simm::manager {

using namespace std::chrono_literals;
using Outcome = Result<std::pair<ServerId, Registration>>;

inline rpc::RegisterRequest Request(const std::string& name, uint64_t boot, uint64_t pool = 0,
                                    uint64_t incarnation = 1) {
  rpc::RegisterRequest request;
  request.name = name;
  request.pool_id = {1, pool != 0 ? pool : std::hash<std::string>()(name) | 1};
  request.incarnation = incarnation;
  request.boot_id = {2, boot};
  request.control_address = "host-" + name + ":30001";
  request.data_address = "host-" + name + ":30002";
  request.weight = 1ULL << 30;
  request.version = "0.1.0";
  return request;
}

// A membership without disk: every draft that is given to Apply becomes the state.
class MembershipTest : public testing::Test {
 protected:
  explicit MembershipTest(MembershipOptions options = {})
      : members_(options, NewCluster({7, 7}), clock_.Now()) {}

  // `change` writes into a draft, which is sealed and committed if it says so.
  template <typename Change>
  bool Apply(Change change) {
    Membership::Draft draft = members_.Begin();
    if (!change(draft)) return false;
    Membership::Seal(draft);
    members_.Commit(clock_.Now(), std::move(draft));
    return true;
  }
  Outcome Register(const rpc::RegisterRequest& request) {
    Outcome outcome = Status(Code::kInternal, "");
    Apply([&](Membership::Draft& draft) {
      outcome = members_.Register(clock_.Now(), request, draft);
      return outcome.ok();
    });
    return outcome;
  }
  ServerId Join(const std::string& name, uint64_t boot = 1) {
    Outcome outcome = Register(Request(name, boot));
    EXPECT_TRUE(outcome.ok()) << outcome.status().ToString();
    return outcome->first;
  }
  bool Beat(ServerId id, uint64_t boot = 1, const std::vector<uint32_t>& pulled = {}) {
    rpc::HeartbeatRequest request;
    request.id = id;
    request.boot_id = {2, boot};
    request.map = version();
    request.pulled_shards = pulled;
    return !members_.Heartbeat(clock_.Now(), request).register_again;
  }
  // Time passes; `beating` are heard each second (boot 1).
  std::vector<std::string> Pass(Duration time, const std::vector<ServerId>& beating) {
    std::vector<std::string> dead;
    for (Duration passed = 0s; passed < time; passed += 500ms) {
      clock_.Advance(500ms);
      for (const ServerId id : beating) Beat(id);
      members_.Tick(clock_.Now());
      Apply([&](Membership::Draft& draft) {
        const auto names = members_.BuryTheDead(clock_.Now(), draft);
        dead.insert(dead.end(), names.begin(), names.end());
        members_.SettleMoves(clock_.Now(), draft);
        return true;
      });
    }
    return dead;
  }
  Status Order(Status (Membership::*order)(const std::string&, Membership::Draft&) const,
               const std::string& name) {
    Status status;
    Apply([&](Membership::Draft& draft) {
      status = (members_.*order)(name, draft);
      return status.ok();
    });
    return status;
  }
  Status Drain(const std::string& name) { return Order(&Membership::Drain, name); }
  Status Undrain(const std::string& name) { return Order(&Membership::Undrain, name); }
  Status Remove(const std::string& name) {
    Status status;
    Apply([&](Membership::Draft& draft) {
      status = members_.RemoveNode(clock_.Now(), name, draft);
      return status.ok();
    });
    return status;
  }
  MapVersion version() const { return members_.state().map.version; }
  uint64_t epoch() const { return version().epoch; }
  const std::vector<ShardOwner>& owners() const { return members_.state().map.owners; }
  rpc::NodeStatus NodeOf(ServerId id) const {
    for (const auto& node : members_.Nodes(clock_.Now())) {
      if (node.record.id == id) return node;
    }
    ADD_FAILURE() << "no server " << id;
    return {};
  }
  ServerState StateOf(ServerId id) const { return NodeOf(id).record.state; }
  uint32_t ShardsOf(ServerId id) const { return NodeOf(id).shards; }

  FakeClock clock_;
  Membership members_;
};

}  // namespace simm::manager
