#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>

namespace simm::python {

// Copies the values at `addresses`, of `sizes`, to `target`, one behind the other. With the GIL,
// which is given up meanwhile. Whoever calls keeps all of that memory alive. Raises TypeError and
// ValueError for arguments that are no batch.
void Gather(nanobind::handle addresses, nanobind::handle sizes, uint64_t target);
// The way back: fills the values from what lies one behind the other at `source`. Goes past the
// cache: the values are read by a device next, and what others still want stays in the cache.
void Scatter(nanobind::handle addresses, nanobind::handle sizes, uint64_t source);

}  // namespace simm::python
