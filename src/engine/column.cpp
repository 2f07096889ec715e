#include "engine/column.h"

#include <utility>

#include "base/msgpack.h"

namespace syncline {

// Names come in runs, and the same few come again: the last one is compared first, then a hash table without deletions.
std::int32_t NameTable::code(std::string_view text) {
  if (last_ >= 0 && this->text(last_) == text) return last_;
  if (2 * size() >= slots_.size()) grow();
  const std::uint64_t hash = mp::hash64(text);
  const std::size_t mask = slots_.size() - 1;
  std::size_t at = static_cast<std::size_t>(hash) & mask;
  while (slots_[at].code >= 0) {
    if (slots_[at].hash == hash && this->text(slots_[at].code) == text) return last_ = slots_[at].code;
    at = (at + 1) & mask;
  }
  last_ = static_cast<std::int32_t>(size());
  slots_[at] = {hash, last_};
  chars.append(text);
  offsets.push_back(static_cast<std::int32_t>(chars.size()));
  return last_;
}

void NameTable::grow() {
  std::vector<Slot> wider(slots_.empty() ? 32 : 2 * slots_.size());
  const std::size_t mask = wider.size() - 1;
  for (const Slot& slot : slots_) {
    if (slot.code < 0) continue;
    std::size_t at = static_cast<std::size_t>(slot.hash) & mask;
    while (wider[at].code >= 0) at = (at + 1) & mask;
    wider[at] = slot;
  }
  slots_ = std::move(wider);
}

Column::Column(ColumnType type) : type_(type) {
  if (type == ColumnType::text || type == ColumnType::json || type == ColumnType::bytes) offsets.push_back(0);
}

void Column::null() {
  if (nulls_ == 0 && type_ != ColumnType::none) {
    validity.assign((rows_ + 7) / 8, 0xff);
    if ((rows_ & 7) != 0) validity.back() = static_cast<std::uint8_t>((1u << (rows_ & 7)) - 1);
  }
  if ((rows_ & 7) == 0) {
    if (type_ != ColumnType::none) validity.push_back(0);
    if (type_ == ColumnType::boolean) bits.push_back(0);
  }
  switch (type_) {
    case ColumnType::integer:
    case ColumnType::natural:
    case ColumnType::real:
    case ColumnType::instant: words.push_back(0); break;
    case ColumnType::text:
    case ColumnType::json:
    case ColumnType::bytes: offsets.push_back(static_cast<std::int32_t>(chars.size())); break;
    case ColumnType::name: codes.push_back(0); break;
    case ColumnType::none:
    case ColumnType::boolean: break;
  }
  ++rows_;
  ++nulls_;
}

}  // namespace syncline
