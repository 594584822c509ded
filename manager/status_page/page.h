#pragma once

#include <string_view>

namespace simm::manager {

// The status page as one HTML document, made from page.html, page.css and page.js of this folder at
// build time. Its "@NONCE@" stands for the nonce of the answer's Content-Security-Policy.
extern const std::string_view kPage;

}  // namespace simm::manager
