#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace simm::config {

// The one of `known` that a person who wrote `word` most likely meant, or empty: at most a third of
// its letters are wrong, or it is a unique beginning.
std::string Suggest(std::string_view word, const std::vector<std::string>& known);

}  // namespace simm::config
