#include "base/error.h"

#include <gtest/gtest.h>

#include <set>
#include <string>

namespace syncline {
namespace {

constexpr int kCodes = static_cast<int>(Code::storage) + 1;

TEST(Error, EveryCodeHasItsOwnName) {
  std::set<std::string_view> names;
  for (int i = 0; i < kCodes; ++i) names.insert(code_name(static_cast<Code>(i)));
  EXPECT_EQ(names.size(), static_cast<std::size_t>(kCodes));
  EXPECT_EQ(code_name(Code::sequence_gap), "sequence_gap");
  EXPECT_EQ(code_name(Code::invalid_request), "invalid_request");
  EXPECT_EQ(code_name(Code::unavailable), "unavailable");
}

TEST(Error, StatusesAreThoseOfTheProtocol) {
  const std::pair<Code, int> statuses[] = {
      {Code::invalid_request, 400}, {Code::invalid_mutation, 400}, {Code::invalid_scope, 400},
      {Code::unauthenticated, 401}, {Code::forbidden, 403},        {Code::not_found, 404},
      {Code::unknown_mutation, 404}, {Code::internal_error, 500},  {Code::sequence_gap, 409},
      {Code::sequence_reused, 409}, {Code::conflict, 409},         {Code::cursor_too_old, 410},
      {Code::epoch_mismatch, 410},  {Code::result_expired, 410},   {Code::too_large, 413},
      {Code::rejected, 422},        {Code::rate_limited, 429},     {Code::unavailable, 503},
      {Code::disk_full, 503},       {Code::locked, 503},           {Code::read_only, 503},
      {Code::closed, 503},          {Code::storage, 503},          {Code::corrupt, 500},
      {Code::usage, 500},           {Code::foreign_file, 500},     {Code::newer_schema, 500},
      {Code::history_gone, 410}};
  EXPECT_EQ(std::size(statuses), static_cast<std::size_t>(kCodes));
  for (const auto& [code, status] : statuses) EXPECT_EQ(http_status(code), status) << code_name(code);
}

TEST(Error, LocalCodesNeverTravel) {
  for (int i = 0; i < kCodes; ++i) {
    const auto code = static_cast<Code>(i);
    if (code <= Code::unavailable) {
      EXPECT_EQ(wire_code(code), code);
    } else {
      EXPECT_EQ(wire_code(code), http_status(code) == 503 ? Code::unavailable : Code::internal_error);
    }
  }
}

TEST(Error, CarriesMessageAndDetails) {
  const Error error(Code::sequence_gap, "expected 4", {{"expected", 4}, {"client", std::string("c1")}});
  EXPECT_EQ(error.code(), Code::sequence_gap);
  EXPECT_STREQ(error.what(), "expected 4");
  EXPECT_EQ(std::get<std::int64_t>(error.details()[0].second), 4);
  EXPECT_EQ(std::get<std::string>(error.details()[1].second), "c1");
}

}  // namespace
}  // namespace syncline
