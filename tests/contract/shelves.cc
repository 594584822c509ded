// The transports that every machine has. Others register in files of their own (see shelf.h).

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

#include "common/transport/chaos/chaos_transport.h"
#include "common/transport/shm/descriptor.h"
#include "common/transport/shm/shm_transport.h"
#include "common/transport/sim/sim_transport.h"
#include "common/transport/tcp/tcp_transport.h"
#include "tests/contract/shelf.h"

namespace simm::transport {
namespace {

std::vector<ShelfEntry::About>& Entries() {
  static std::vector<ShelfEntry::About> entries;
  return entries;
}

class TcpShelf final : public Shelf {
 public:
  Transport& near() override { return transport_; }
  Transport& far() override { return transport_; }
  std::string endpoint() const override { return "127.0.0.1:0"; }

 private:
  TcpTransport transport_;
};

template <typename Network, typename InNetwork>
class OneThreadShelf final : public Shelf {
 public:
  Transport& near() override { return transport_; }
  Transport& far() override { return transport_; }
  std::string endpoint() const override { return "server"; }

 private:
  Network network_{42};
  InNetwork transport_{network_};
};

class ShmShelf final : public Shelf {
 public:
  ~ShmShelf() override {
    for (const MutableByteSpan memory : mapped_) munmap(memory.data(), memory.size());
  }
  Transport& near() override { return near_; }
  Transport& far() override { return far_; }
  std::string endpoint() const override {
    return "@simm-contract-" + std::to_string(getpid()) + "-" +
           std::to_string(reinterpret_cast<uintptr_t>(this));
  }
  MutableByteSpan AllocateShared(size_t bytes) override {
    const Descriptor fd(memfd_create("contract", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    if (ftruncate(fd.get(), static_cast<off_t>(bytes)) != 0) return {};
    void* const at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
    if (at == MAP_FAILED) return {};
    const MutableByteSpan memory(static_cast<std::byte*>(at), bytes);
    mapped_.push_back(memory);
    return far_.ShareFile(fd.get(), memory).ok() ? memory : MutableByteSpan();
  }
  bool connect_waits_for_accept() const override { return true; }

 private:
  ShmTransport near_, far_;
  std::vector<MutableByteSpan> mapped_;
};

template <typename T>
Result<std::unique_ptr<Shelf>> Make() {
  return std::unique_ptr<Shelf>(std::make_unique<T>());
}

const ShelfEntry tcp(
    {.name = "tcp", .payload = true, .streams_payload = true, .make = Make<TcpShelf>});
const ShelfEntry sim({.name = "sim",
                      .one_sided = true,
                      .payload = true,
                      .make = Make<OneThreadShelf<SimNetwork, SimTransport>>});
const ShelfEntry chaos({.name = "chaos",
                        .one_sided = true,
                        .make = Make<OneThreadShelf<ChaosNetwork, ChaosTransport>>});
const ShelfEntry shm({.name = "shm", .one_sided = true, .make = Make<ShmShelf>});

}  // namespace

ShelfEntry::ShelfEntry(About about) { Entries().push_back(std::move(about)); }

const std::vector<ShelfEntry::About>& ShelfEntry::All() { return Entries(); }

const ShelfEntry::About& ShelfEntry::Named(const std::string& name) {
  const auto it = std::find_if(All().begin(), All().end(),
                               [&](const About& about) { return about.name == name; });
  SIMM_CHECK(it != All().end(), "no such transport in the suite");
  return *it;
}

std::vector<std::string> ShelfEntry::Names(const std::function<bool(const About&)>& wanted) {
  std::vector<std::string> names;
  for (const About& about : All()) {
    if (wanted(about)) names.push_back(about.name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace simm::transport
