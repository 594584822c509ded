#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

#include "common/base/check.h"
#include "common/base/code.h"

namespace simm {

// The result of an operation that can fail: a Code and, when it is not kOk, a sentence for a person
// that says what is wrong and, where there is one, the mend. Value type, cheap when kOk.
class [[nodiscard]] Status {
 public:
  Status() = default;
  explicit Status(Code code, std::string message = {})
      : code_(code), message_(std::move(message)) {}

  static Status Ok() { return Status(); }

  bool ok() const { return code_ == Code::kOk; }
  Code code() const { return code_; }
  const std::string& message() const { return message_; }

  // "UNAVAILABLE: no route to 10.0.0.1:30001", or "OK".
  std::string ToString() const;

 private:
  Code code_ = Code::kOk;
  std::string message_;
};

// A T, or the Status that says why there is none. value() on a failed Result is a broken invariant.
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::move(value)) {}        // NOLINT: implicit by design
  Result(Status status) : state_(std::move(status)) {  // NOLINT
    SIMM_CHECK(!std::get<Status>(state_).ok(), "a Result without a value needs a reason");
  }

  bool ok() const { return std::holds_alternative<T>(state_); }
  Code code() const { return ok() ? Code::kOk : std::get<Status>(state_).code(); }
  Status status() const { return ok() ? Status() : std::get<Status>(state_); }

  T& value() & {
    SIMM_CHECK(ok(), std::get_if<Status>(&state_)->ToString());
    return std::get<T>(state_);
  }
  const T& value() const& {
    SIMM_CHECK(ok(), std::get_if<Status>(&state_)->ToString());
    return std::get<T>(state_);
  }
  T&& value() && {
    SIMM_CHECK(ok(), std::get_if<Status>(&state_)->ToString());
    return std::get<T>(std::move(state_));
  }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

 private:
  std::variant<T, Status> state_;
};

}  // namespace simm

// Returns the Status from the enclosing function unless it is OK.
#define SIMM_RETURN_IF_ERROR(expr)                                                     \
  do {                                                                                 \
    if (::simm::Status simm_status_ = (expr); !simm_status_.ok()) return simm_status_; \
  } while (0)
