// The one exception of the core and the codes it carries.
//
// What   `Error` is a fault or a refusal with a code of the protocol (or one of the local codes below it), a sentence
//        for a person, and machine-readable details (`expected`, `limit`, `epoch`, `offset`, ...).
// Owner  value type; thrown by value, converted to Python once, in the bindings.
// Threads  any.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace syncline {

enum class Code : std::uint8_t {
  // codes that travel (their names and HTTP statuses are part of the protocol)
  invalid_request,
  invalid_mutation,
  invalid_scope,
  unauthenticated,
  forbidden,
  not_found,
  unknown_mutation,
  internal_error,
  sequence_gap,
  sequence_reused,
  conflict,
  cursor_too_old,
  history_gone,  // the log lines it would take were compacted away, or erased
  epoch_mismatch,
  result_expired,
  too_large,
  rejected,
  rate_limited,
  unavailable,
  // codes that stay in the process that raised them
  closed,         // the engine, the transaction or the view is no longer open
  usage,          // the API was called in a way it forbids (re-entry, after fork, ...)
  locked,         // another process has the database open for writing
  foreign_file,   // the file is no Syncline database
  newer_schema,   // the file was written by a newer Syncline
  corrupt,        // the file is damaged
  disk_full,      // the disk, or the quota, is full
  read_only,      // a write on something opened for reading
  storage,        // any other fault of the storage
};

// "sequence_gap", ...; stable, part of the wire for the first group.
std::string_view code_name(Code code) noexcept;

// The HTTP status of a code; local codes answer 500, but `disk_full`, `locked`, `read_only`, `closed` and `storage` 503.
int http_status(Code code) noexcept;

// The code as a client may see it: local codes become `unavailable` or `internal_error`.
Code wire_code(Code code) noexcept;

using Detail = std::pair<std::string, std::variant<std::int64_t, std::string>>;

class Error : public std::runtime_error {
 public:
  Error(Code code, const std::string& message, std::vector<Detail> details = {})
      : std::runtime_error(message), code_(code), details_(std::move(details)) {}

  [[nodiscard]] Code code() const noexcept { return code_; }
  [[nodiscard]] const std::vector<Detail>& details() const noexcept { return details_; }

 private:
  Code code_;
  std::vector<Detail> details_;
};

}  // namespace syncline
