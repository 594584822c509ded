#include "common/base/status.h"

namespace simm {

std::string Status::ToString() const {
  std::string text(CodeName(code_));
  if (!message_.empty()) {
    text += ": ";
    text += message_;
  }
  return text;
}

}  // namespace simm
