#include "base/error.h"

namespace syncline {

std::string_view code_name(Code code) noexcept {
  switch (code) {
    case Code::invalid_request: return "invalid_request";
    case Code::invalid_mutation: return "invalid_mutation";
    case Code::invalid_scope: return "invalid_scope";
    case Code::unauthenticated: return "unauthenticated";
    case Code::forbidden: return "forbidden";
    case Code::not_found: return "not_found";
    case Code::unknown_mutation: return "unknown_mutation";
    case Code::internal_error: return "internal_error";
    case Code::sequence_gap: return "sequence_gap";
    case Code::sequence_reused: return "sequence_reused";
    case Code::conflict: return "conflict";
    case Code::cursor_too_old: return "cursor_too_old";
    case Code::history_gone: return "history_gone";
    case Code::epoch_mismatch: return "epoch_mismatch";
    case Code::result_expired: return "result_expired";
    case Code::too_large: return "too_large";
    case Code::rejected: return "rejected";
    case Code::rate_limited: return "rate_limited";
    case Code::unavailable: return "unavailable";
    case Code::closed: return "closed";
    case Code::usage: return "usage";
    case Code::locked: return "locked";
    case Code::foreign_file: return "foreign_file";
    case Code::newer_schema: return "newer_schema";
    case Code::corrupt: return "corrupt";
    case Code::disk_full: return "disk_full";
    case Code::read_only: return "read_only";
    case Code::storage: return "storage";
  }
  return "internal_error";
}

int http_status(Code code) noexcept {
  switch (code) {
    case Code::invalid_request:
    case Code::invalid_mutation:
    case Code::invalid_scope: return 400;
    case Code::unauthenticated: return 401;
    case Code::forbidden: return 403;
    case Code::not_found:
    case Code::unknown_mutation: return 404;
    case Code::sequence_gap:
    case Code::sequence_reused:
    case Code::conflict: return 409;
    case Code::cursor_too_old:
    case Code::history_gone:
    case Code::epoch_mismatch:
    case Code::result_expired: return 410;
    case Code::too_large: return 413;
    case Code::rejected: return 422;
    case Code::rate_limited: return 429;
    case Code::unavailable:
    case Code::closed:
    case Code::locked:
    case Code::disk_full:
    case Code::read_only:
    case Code::storage: return 503;
    case Code::internal_error:
    case Code::usage:
    case Code::foreign_file:
    case Code::newer_schema:
    case Code::corrupt: return 500;
  }
  return 500;
}

Code wire_code(Code code) noexcept {
  if (code <= Code::unavailable) return code;
  return http_status(code) == 503 ? Code::unavailable : Code::internal_error;
}

}  // namespace syncline
