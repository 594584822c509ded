// verbs takes its place in the contract suite.

#include <cstdio>

#include "tests/contract/shelf.h"
#include "tests/rdma/rdma_fixture.h"

namespace simm::transport {
namespace {

class VerbsShelf final : public Shelf {
 public:
  explicit VerbsShelf(std::unique_ptr<VerbsTransport> transport)
      : transport_(std::move(transport)) {}
  Transport& near() override { return *transport_; }
  Transport& far() override { return *transport_; }
  std::string endpoint() const override { return "server"; }

 private:
  const std::unique_ptr<VerbsTransport> transport_;
};

const ShelfEntry verbs(
    {.name = "verbs", .one_sided = true, .make = []() -> Result<std::unique_ptr<Shelf>> {
       auto transport = MakeLoopback();
       if (!transport.ok()) return transport.status();
       return std::unique_ptr<Shelf>(std::make_unique<VerbsShelf>(std::move(*transport)));
     }});

TEST(Verbs, IsTestedOrSaysThatItIsNot) {
  const auto transport = MakeLoopback();
  if (transport.ok()) return;
  EXPECT_EQ(transport.code(), Code::kUnavailable);
  ASSERT_FALSE(VerbsIsRequired()) << transport.status().ToString();
  std::printf("WARNING: VERBS IS NOT TESTED HERE: %s\n", transport.status().ToString().c_str());
}

TEST(Verbs, ADeviceThatIsNotThereIsNamed) {
  VerbsOptions options;
  options.device.names = {"no_such_device"};
  const auto transport = VerbsTransport::Create(options);
  ASSERT_EQ(transport.code(), Code::kUnavailable);
  const std::string message = transport.status().message();
  EXPECT_TRUE(message.find("no_such_device") != std::string::npos ||
              message.find("ibv_devices") != std::string::npos)
      << message;
}

}  // namespace
}  // namespace simm::transport
