#include "base/query.h"

#include <cmath>
#include <optional>

#include "base/error.h"
#include "base/msgpack.h"
#include "base/utf8.h"

namespace syncline {

namespace {

using mp::Kind;
using mp::Reader;

constexpr std::string_view kNil = "\xc0";

// Filters and documents are bounded where they are written; this only keeps a damaged file from exhausting the stack.
constexpr int kMaxDepth = 1000;

[[noreturn]] void refuse(const std::string& why) { throw Error(Code::invalid_request, why); }

// The order of the classes; values of one class are compared with each other.
int class_of(Kind kind) noexcept {
  switch (kind) {
    case Kind::nil: return 0;
    case Kind::integer:
    case Kind::natural:
    case Kind::real: return 1;
    case Kind::str: return 2;
    case Kind::map: return 3;
    case Kind::array: return 4;
    case Kind::bin: return 5;
    case Kind::boolean: return 6;
    case Kind::instant: return 7;
  }
  return 0;
}

template <typename T>
int three_way(const T& a, const T& b) {
  return a < b ? -1 : b < a ? 1 : 0;
}

int compare_reals(double a, double b) {
  if (std::isnan(a) || std::isnan(b)) return three_way(!std::isnan(a), !std::isnan(b));
  return three_way(a, b);
}

// Exact: the float is split into its whole part, which is an integer of the same width, and the rest.
int compare_natural_real(std::uint64_t a, double b) {
  if (std::isnan(b) || b < 0) return 1;
  if (b >= 0x1p64) return -1;
  const double whole = std::trunc(b);
  const int order = three_way(a, static_cast<std::uint64_t>(whole));
  return order != 0 ? order : three_way(whole, b);
}

int compare_negative_real(std::int64_t a, double b) {
  if (std::isnan(b) || b < -0x1p63) return 1;
  if (b >= 0) return -1;
  const double whole = std::trunc(b);
  const int order = three_way(a, static_cast<std::int64_t>(whole));
  return order != 0 ? order : three_way(whole, b);
}

int compare_integer_real(Reader& a, Reader& b) {
  const double real = b.real();
  if (a.peek() == Kind::natural) return compare_natural_real(a.natural(), real);
  const std::int64_t integer = a.integer();
  return integer < 0 ? compare_negative_real(integer, real)
                     : compare_natural_real(static_cast<std::uint64_t>(integer), real);
}

int compare_numbers(Reader& a, Reader& b) {
  const Kind left = a.peek();
  const Kind right = b.peek();
  if (left == Kind::real && right == Kind::real) {
    const double value = a.real();
    return compare_reals(value, b.real());
  }
  if (right == Kind::real) return compare_integer_real(a, b);
  if (left == Kind::real) return -compare_integer_real(b, a);
  if (left == Kind::natural && right == Kind::natural) {
    const std::uint64_t value = a.natural();
    return three_way(value, b.natural());
  }
  if (left == Kind::natural || right == Kind::natural) {
    a.skip();
    b.skip();
    return left == Kind::natural ? 1 : -1;
  }
  const std::int64_t value = a.integer();
  return three_way(value, b.integer());
}

// Compares the next values of both, and has passed them when it returns 0.
int compare_next(Reader& a, Reader& b, int depth) {
  const Kind kind = a.peek();
  if (const int order = three_way(class_of(kind), class_of(b.peek())); order != 0) return order;
  switch (kind) {
    case Kind::nil:
      a.nil();
      b.nil();
      return 0;
    case Kind::integer:
    case Kind::natural:
    case Kind::real: return compare_numbers(a, b);
    case Kind::str: {
      const std::string_view text = a.str();
      return three_way(text, b.str());
    }
    case Kind::bin: {
      const std::string_view bytes = a.bin();
      return three_way(bytes, b.bin());
    }
    case Kind::boolean: {
      const bool value = a.boolean();
      return three_way(value, b.boolean());
    }
    case Kind::instant: {
      const std::int64_t value = a.instant();
      return three_way(value, b.instant());
    }
    case Kind::map:
    case Kind::array: break;
  }
  if (depth > kMaxDepth) throw Error(Code::corrupt, "a stored document is nested too deeply");
  const bool is_map = kind == Kind::map;
  const std::size_t left = is_map ? a.map() : a.array();
  const std::size_t right = is_map ? b.map() : b.array();
  for (std::size_t i = 0; i < left && i < right; ++i) {
    if (is_map) {
      const std::string_view name = a.str();
      const int names = three_way(name, b.str());
      // As MongoDB: the class of the value comes before the name of the field.
      if (const int classes = three_way(class_of(a.peek()), class_of(b.peek())); classes != 0) return classes;
      if (names != 0) return names;
    }
    if (const int order = compare_next(a, b, depth + 1); order != 0) return order;
  }
  return three_way(left, right);
}

std::string_view value_at_dotted(std::string_view document, std::string_view path) {
  std::string_view value = document;
  while (true) {
    if (value.empty() || Reader(value).peek() != Kind::map) return {};
    const std::size_t dot = path.find('.');
    value = mp::field(value, path.substr(0, dot));
    if (dot == std::string_view::npos) return value;
    path.remove_prefix(dot + 1);
  }
}

std::vector<std::string> split_path(std::string_view path) {
  std::vector<std::string> parts;
  while (true) {
    const std::size_t dot = path.find('.');
    parts.emplace_back(path.substr(0, dot));
    if (parts.back().empty()) refuse("a field of the filter has an empty part; a path is written 'a.b'");
    if (dot == std::string_view::npos) return parts;
    path.remove_prefix(dot + 1);
  }
}

void refuse_operators_within(Reader& reader, int depth) {
  const Kind kind = reader.peek();
  if (kind != Kind::map && kind != Kind::array) {
    reader.skip();
    return;
  }
  if (depth > kMaxDepth) refuse("the filter is nested too deeply");
  for (std::size_t left = kind == Kind::map ? reader.map() : reader.array(); left > 0; --left) {
    if (kind == Kind::map) {
      if (const std::string_view name = reader.str(); name.starts_with('$')) {
        refuse("the operator " + utf8::quoted(name) + " stands within a value; operators stand directly below a field");
      }
    }
    refuse_operators_within(reader, depth + 1);
  }
}

}  // namespace

Filter::Filter(std::string_view encoded_filter) {
  Reader reader(encoded_filter);
  if (reader.peek() != Kind::map) refuse("a filter is a map of fields to conditions");
  const auto operator_of = [](std::string_view name) -> std::optional<Op> {
    if (name == "$eq") return Op::eq;
    if (name == "$ne") return Op::ne;
    if (name == "$gt") return Op::gt;
    if (name == "$gte") return Op::gte;
    if (name == "$lt") return Op::lt;
    if (name == "$lte") return Op::lte;
    if (name == "$in") return Op::in;
    if (name == "$nin") return Op::nin;
    return std::nullopt;
  };
  const auto add = [this](const std::vector<std::string>& path, Op op, std::string_view operand) {
    Reader within(operand);
    refuse_operators_within(within, 0);
    terms_.push_back({path, op, std::string(operand)});
  };
  for (std::size_t fields = reader.map(); fields > 0; --fields) {
    const std::string_view name = reader.str();
    if (name.starts_with('$')) {
      refuse("the operator " + utf8::quoted(name) + " is not known in place of a field");
    }
    const std::vector<std::string> path = split_path(name);
    const std::string_view condition = reader.skip();
    Reader operators(condition);
    const std::size_t size = operators.peek() == Kind::map ? operators.map() : 0;
    std::size_t with_dollar = 0;
    Reader names = operators;
    for (std::size_t i = 0; i < size; ++i) {
      if (names.str().starts_with('$')) ++with_dollar;
      names.skip();
    }
    if (with_dollar == 0) {
      add(path, Op::eq, condition);
      continue;
    }
    if (with_dollar != size) refuse("the condition on " + utf8::quoted(name) + " mixes operators with fields");
    for (std::size_t i = 0; i < size; ++i) {
      const std::string_view operator_name = operators.str();
      const std::string_view operand = operators.skip();
      const std::optional<Op> op = operator_of(operator_name);
      if (!op) {
        refuse("the operator " + utf8::quoted(operator_name) +
               " is not known; there are $eq, $ne, $gt, $gte, $lt, $lte, $in, $nin");
      }
      if ((*op == Op::in || *op == Op::nin) && Reader(operand).peek() != Kind::array) {
        refuse("the operand of " + std::string(operator_name) + " on " + utf8::quoted(name) + " is not a list");
      }
      add(path, *op, operand);
    }
  }
}

bool Filter::matches(std::string_view document) const {
  // Whether one value, not looking into lists, meets an operator.
  const auto meets = [](std::string_view value, Op op, std::string_view operand) {
    const auto same_class = [&] {
      return class_of(Reader(value).peek()) == class_of(Reader(operand).peek());
    };
    switch (op) {
      case Op::eq:
      case Op::ne: return value == operand || compare_values(value, operand) == 0;
      case Op::gt: return same_class() && compare_values(value, operand) > 0;
      case Op::gte: return same_class() && compare_values(value, operand) >= 0;
      case Op::lt: return same_class() && compare_values(value, operand) < 0;
      case Op::lte: return same_class() && compare_values(value, operand) <= 0;
      case Op::in:
      case Op::nin: {
        Reader choices(operand);
        for (std::size_t left = choices.array(); left > 0; --left) {
          if (compare_values(value, choices.skip()) == 0) return true;
        }
        return false;
      }
    }
    return false;
  };
  for (const Term& term : terms_) {
    std::string_view value = value_at(document, term.path);
    if (value.empty()) value = kNil;
    bool met = meets(value, term.op, term.operand);
    if (!met && Reader(value).peek() == Kind::array) {
      Reader elements(value);
      for (std::size_t left = elements.array(); left > 0 && !met; --left) {
        met = meets(elements.skip(), term.op, term.operand);
      }
    }
    const bool negated = term.op == Op::ne || term.op == Op::nin;
    if (met == negated) return false;
  }
  return true;
}

int compare_values(std::string_view a, std::string_view b) {
  Reader left(a.empty() ? kNil : a);
  Reader right(b.empty() ? kNil : b);
  return compare_next(left, right, 0);
}

int compare_documents(std::string_view a, std::string_view b, const std::vector<SortKey>& order) {
  for (const auto& [path, descending] : order) {
    const int result = compare_values(value_at_dotted(a, path), value_at_dotted(b, path));
    if (result != 0) return descending ? -result : result;
  }
  return 0;
}

std::string_view value_at(std::string_view document, const std::vector<std::string>& path) {
  std::string_view value = document;
  for (const std::string& part : path) {
    if (value.empty() || Reader(value).peek() != Kind::map) return {};
    value = mp::field(value, part);
  }
  return value;
}

}  // namespace syncline
