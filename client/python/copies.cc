#include "client/python/copies.h"

#if defined(__x86_64__)
#include <emmintrin.h>
#endif

#include <cstddef>
#include <cstring>
#include <iterator>
#include <vector>

#include "client/python/arguments.h"
#include "client/python/process.h"

namespace nb = nanobind;

namespace simm::python {
namespace {

void CopyPastCache(std::byte* to, const std::byte* from, size_t size) {
#if defined(__x86_64__)
  constexpr size_t kLine = 64;
  if (size >= 16 * kLine) {
    const size_t head = -reinterpret_cast<uintptr_t>(to) % kLine;
    std::memcpy(to, from, head);
    to += head, from += head, size -= head;
    for (; size >= kLine; size -= kLine, to += kLine, from += kLine) {
      __m128i part[kLine / sizeof(__m128i)];
      std::memcpy(part, from, kLine);
      for (size_t i = 0; i < std::size(part); ++i)
        _mm_stream_si128(reinterpret_cast<__m128i*>(to) + i, part[i]);
    }
    _mm_sfence();  // such stores are not ordered with those that follow
  }
#endif
  std::memcpy(to, from, size);
}

struct Values {
  Values(nb::handle addresses_in, nb::handle sizes_in)
      : addresses(Numbers(addresses_in.ptr(), nb::len(addresses_in), "addresses")),
        sizes(Numbers(sizes_in.ptr(), addresses.size(), "sizes")) {}
  std::vector<uint64_t> addresses;
  std::vector<uint64_t> sizes;
};

}  // namespace

void Gather(nb::handle addresses, nb::handle sizes, uint64_t target) {
  const Values values(addresses, sizes);
  const GilReleased released;
  auto* to = reinterpret_cast<std::byte*>(target);
  for (size_t i = 0; i < values.sizes.size(); to += values.sizes[i++])
    std::memcpy(to, reinterpret_cast<const std::byte*>(values.addresses[i]), values.sizes[i]);
}

void Scatter(nb::handle addresses, nb::handle sizes, uint64_t source) {
  const Values values(addresses, sizes);
  const GilReleased released;
  const auto* from = reinterpret_cast<const std::byte*>(source);
  for (size_t i = 0; i < values.sizes.size(); from += values.sizes[i++])
    CopyPastCache(reinterpret_cast<std::byte*>(values.addresses[i]), from, values.sizes[i]);
}

}  // namespace simm::python
