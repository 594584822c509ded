#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/base/bytes.h"
#include "common/base/status.h"
#include "common/transport/transport.h"

namespace simm::transport {

// One transport as the contract suite meets it: both sides, an endpoint, and memory of the far side
// that peers may reach. Made anew for each test.
class Shelf {
 public:
  virtual ~Shelf() = default;
  virtual Transport& near() = 0;  // connects
  virtual Transport& far() = 0;   // listens; may be the same object
  virtual std::string endpoint() const = 0;
  // For Register with remote access; zero, lives as long as the shelf.
  virtual MutableByteSpan AllocateShared(size_t bytes) {
    return *heap_.emplace_back(std::make_unique<std::vector<std::byte>>(bytes));
  }
  // Connect returns only when the far side has been driven: it gets a thread of its own then.
  virtual bool connect_waits_for_accept() const { return false; }

 private:
  std::vector<std::unique_ptr<std::vector<std::byte>>> heap_;
};

// A transport takes part in the suite by one static object of this kind, in a file of its own that
// is linked into the test:
//
//   const ShelfEntry verbs({.name = "verbs", .one_sided = true, .make = [] { ... }});
//
// What it says of its capabilities decides which suites run on it, and is compared with what the
// transport itself says. `make` fails where this machine lacks the device: the tests are skipped,
// loudly, or fail if SIMM_REQUIRE_TRANSPORTS (names with commas) has its name.
struct ShelfEntry {
  struct About {
    std::string name = "";
    bool one_sided = false;
    bool payload = false;
    bool streams_payload = false;  // piece by piece: one can stop in the middle
    std::function<Result<std::unique_ptr<Shelf>>()> make = nullptr;
  };
  explicit ShelfEntry(About about);

  static const std::vector<About>& All();
  static const About& Named(const std::string& name);
  // For INSTANTIATE_TEST_SUITE_P, which asks when all static objects are there.
  static std::vector<std::string> Names(const std::function<bool(const About&)>& wanted);
};

}  // namespace simm::transport
