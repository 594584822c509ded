#pragma once

namespace simm {

// Of the programs and the library; protocols have versions of their own.
inline constexpr char kVersion[] = "0.1.0";

}  // namespace simm
