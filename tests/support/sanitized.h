#pragma once

namespace simm {

// Whether a sanitizer is at work: it costs memory and time, so bars on those are held elsewhere.
// (gcc names it by one macro, clang by another.)
#if defined(__SANITIZE_ADDRESS__)
inline constexpr bool kSanitized = true;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif
#else
inline constexpr bool kSanitized = false;
#endif

}  // namespace simm
