#include "common/transport/address.h"

#include <gtest/gtest.h>

namespace simm::transport {
namespace {

TEST(Address, AnUnknownHostIsUnavailable) {
  EXPECT_EQ(Resolve({"no-such-host.invalid", 1}).code(), Code::kUnavailable);
  EXPECT_EQ(ToString(*Resolve({"127.0.0.1", 77})), "127.0.0.1:77");
}

}  // namespace
}  // namespace simm::transport
