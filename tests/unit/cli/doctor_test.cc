// What doctor makes of what it has measured.
#include "client/cli/doctor.h"

#include <gtest/gtest.h>

#include "common/base/host_facts.h"

namespace simm::cli {
namespace {

using Level = Diagnosis::Level;

Diagnosis::Check Only(const Diagnosis& diagnosis) {
  EXPECT_EQ(diagnosis.checks().size(), 1u);
  return diagnosis.checks().empty() ? Diagnosis::Check{} : diagnosis.checks()[0];
}
bool Has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST(DoctorTest, APathIsAsWideAsItsInterfaceOrItIsSaid) {
  Diagnosis well;
  CheckPath("s", "h:1", {"eth0", 9000, 9000}, well);
  EXPECT_EQ(Only(well).level, Level::kGood);
  EXPECT_EQ(Only(well).what, "path MTU 9000 by eth0");
  Diagnosis narrow;
  CheckPath("s", "h:1", {"eth0", 9000, 1450}, narrow);
  EXPECT_EQ(Only(narrow).level, Level::kWarning);
  EXPECT_TRUE(Has(Only(narrow).what, "to h:1 are of 1450 B")) << Only(narrow).what;
  EXPECT_TRUE(Has(Only(narrow).what, "eth0 here takes 9000 B")) << Only(narrow).what;
  EXPECT_NE(Only(narrow).mend, "");
  Diagnosis unknown;
  CheckPath("s", "h:1", {"", 0, 1500}, unknown);
  EXPECT_TRUE(unknown.checks().empty());
}

TEST(DoctorTest, RdmaPacketsAreAsLargeAsTheyCanBeOrItIsSaid) {
  EXPECT_EQ(RocePacketBytes(1500), 1024u);
  EXPECT_EQ(RocePacketBytes(4191), 2048u);
  EXPECT_EQ(RocePacketBytes(4192), 4096u);
  EXPECT_EQ(RocePacketBytes(9000), 4096u);
  EXPECT_EQ(RocePacketBytes(300), 0u);
  HostFacts host;
  host.rdma_ports = {{"mlx5_0", 1, "ACTIVE", "ens1", 9000}, {"ib0", 1, "ACTIVE", "", 0}};
  Diagnosis well;
  CheckRdmaPackets("s", host, well);
  EXPECT_TRUE(well.checks().empty()) << "InfiniBand has its own";
  host.rdma_ports.push_back({"rxe0", 2, "ACTIVE", "eth0", 1500});
  Diagnosis small;
  CheckRdmaPackets("s", host, small);
  EXPECT_EQ(Only(small).level, Level::kWarning);
  EXPECT_EQ(Only(small).what, "RDMA port rxe0/2 sends 1024 B a packet: eth0 has an MTU of 1500");
  EXPECT_TRUE(Has(Only(small).mend, "4200"));
}

TEST(DoctorTest, OnlyWhatTimesOutWhileSmallValuesPassIsABlackHole) {
  Patient patient;
  patient.node.record.name = "s";
  patient.node.record.data_address = "h:1";
  const auto report = [&](const RoundTrip& large, const RoundTrip& small) {
    Diagnosis diagnosis;
    ReportFailedTrip(patient, "tcp", large, small, diagnosis);
    EXPECT_EQ(Only(diagnosis).level, Level::kBad);
    EXPECT_EQ(Only(diagnosis).about, "s");
    EXPECT_TRUE(Has(Only(diagnosis).what, large.why + " over tcp"));
    return Only(diagnosis);
  };
  const RoundTrip late{"a put ends with DEADLINE_EXCEEDED", true}, well{};
  EXPECT_TRUE(Has(report(late, well).what, "black hole"));
  EXPECT_TRUE(Has(report(late, well).mend, "ping -M do"));
  const auto silent = report(late, late);
  EXPECT_FALSE(Has(silent.what, "black hole"));
  EXPECT_TRUE(Has(silent.mend, "h:1"));
  EXPECT_FALSE(Has(report({"a put ends with BUSY", false}, well).what, "black hole"));
}

TEST(DoctorTest, TheWayToAPortIsMeasuredOrWhyNot) {
  const auto nowhere = MeasurePath("127.0.0.1:1", 1000);
  EXPECT_TRUE(Has(nowhere.status().message(), "refused")) << nowhere.status().message();
  EXPECT_FALSE(MeasurePath("no port", 1000).ok());
}

}  // namespace
}  // namespace simm::cli
