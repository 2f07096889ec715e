#include "store/dictionary.h"

namespace syncline::sqlite {

std::int64_t Dictionary::number(std::string_view name) {
  if (const auto known = numbers_.find(name); known != numbers_.end()) return known->second;
  Loan select = connection_.use(number_of_);
  select->bind_text(1, name);
  if (!select->step()) return 0;
  const std::int64_t number = select->integer(0);
  remember(name, number);
  return number;
}

std::string_view Dictionary::text(std::int64_t number, std::string& scratch) {
  if (const auto known = texts_.find(number); known != texts_.end()) return known->second;
  Loan select = connection_.use(text_of_);
  select->bind(1, number);
  if (!select->step()) {
    throw Error(Code::corrupt, "The database file '" + connection_.path() + "' is damaged: a row names the missing name " +
                                   std::to_string(number), {{"path", connection_.path()}});
  }
  if (texts_.size() < kMost) return texts_.emplace(number, select->text(0)).first->second;
  scratch = select->text(0);
  return scratch;
}

void Dictionary::remember(std::string_view name, std::int64_t number) {
  if (numbers_.size() >= kMost) numbers_.clear();
  numbers_.insert_or_assign(std::string(name), number);
}

void Dictionary::clear() noexcept {
  numbers_.clear();
  texts_.clear();
}

}  // namespace syncline::sqlite
