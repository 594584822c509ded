#include "common/base/host_port.h"

#include <gtest/gtest.h>

namespace simm {
namespace {

TEST(HostPort, ParsesWhatItPrints) {
  for (const std::string text :
       {"node7:30001", "10.0.0.1:1", "[::1]:65535", "[fe80::1%eth0]:80", "a_b-c.example.org:0"}) {
    Result<HostPort> parsed = ParseHostPort(text);
    ASSERT_TRUE(parsed.ok()) << parsed.status().ToString();
    EXPECT_EQ(ToString(*parsed), text);
  }
}

TEST(HostPort, RefusesTheRest) {
  for (const std::string text :
       {"", ":", "host", "host:", ":80", "host:65536", "host:-1", "host:8x", "host: 80", "::1:80",
        "[::1:80", "[]:80", "a b:80", "http://host:80", "host:80/path", "host\n:80"}) {
    Result<HostPort> parsed = ParseHostPort(text);
    EXPECT_EQ(parsed.code(), Code::kInvalidArgument) << text;
  }
  EXPECT_FALSE(ParseHostPort(std::string(300, 'a') + ":80").ok());
}

TEST(HostPort, TheMessageShowsTheTextAndTheForm) {
  const auto parsed = ParseHostPort("::1:30001");
  EXPECT_NE(parsed.status().message().find("'::1:30001'"), std::string::npos);
  EXPECT_NE(parsed.status().message().find("[::1]:30001"), std::string::npos);
}

TEST(HostPort, APeerHasAPort) {
  EXPECT_TRUE(ParseHostPort("a:0").ok());
  EXPECT_EQ(ParsePeer("a:0").code(), Code::kInvalidArgument);
  EXPECT_EQ(*ParsePeerList(" a:1 , [::1]:2"), (std::vector<std::string>{"a:1", "[::1]:2"}));
  for (const char* bad : {"", "a:1,", ",a:1", "a:1,,b:2", "a:1,b:0"}) {
    EXPECT_FALSE(ParsePeerList(bad).ok()) << bad;
  }
}

}  // namespace
}  // namespace simm
