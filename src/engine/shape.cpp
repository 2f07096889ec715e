#include "engine/shape.h"

#include <algorithm>
#include <cstdlib>

#include "base/json.h"
#include "base/msgpack.h"
#include "engine/table.h"

namespace syncline {

namespace {

constexpr std::uint16_t bit(mp::Kind kind) { return static_cast<std::uint16_t>(1u << static_cast<unsigned>(kind)); }
constexpr std::uint16_t kWhole = bit(mp::Kind::integer) | bit(mp::Kind::natural);
constexpr std::int64_t kExact = std::int64_t{1} << 53;

// A part of a path, such that no two paths are written alike and none is written like a column of ours.
void append_part(std::string_view key, std::string& path) {
  if (path.empty() && key.starts_with('_')) path += '\\';
  for (const char c : key) {
    if (c == '.' || c == '\\') path += '\\';
    path += c;
  }
}

}  // namespace

Shape::Shape(std::optional<std::vector<std::string>> only) : only_(std::move(only)) {
  if (only_) std::ranges::sort(*only_);
}

void Shape::learn(std::string_view document) {
  if (!only_) {
    learn(root_, document);
    return;
  }
  // As below, but a key that was not asked for makes no child.
  mp::Reader reader(document);
  for (std::size_t left = reader.map(); left > 0; --left) {
    const std::string_view key = reader.str();
    const std::string_view value = reader.skip();
    if (!std::ranges::binary_search(*only_, key)) continue;
    const auto at = std::ranges::lower_bound(root_.children, key, {}, &Node::key);
    Node& child = at != root_.children.end() && at->key == key ? *at : *root_.children.insert(at, Node{.key = std::string(key)});
    learn(child, value);
  }
}

void Shape::learn(Node& node, std::string_view value) {
  mp::Reader reader(value);
  const mp::Kind kind = reader.peek();
  node.kinds |= bit(kind);
  if (kind == mp::Kind::integer) {
    const std::int64_t number = reader.integer();
    node.negative = node.negative || number < 0;
    node.inexact = node.inexact || number > kExact || number < -kExact;
    return;
  }
  if (kind == mp::Kind::natural) {
    node.inexact = true;
    return;
  }
  if (kind != mp::Kind::map || node.whole) return;
  // Keys come sorted, and documents of an entity have mostly the same ones: the next child is mostly the one that is meant.
  std::size_t next = 0;
  for (std::size_t left = reader.map(); left > 0; --left) {
    const std::string_view key = reader.str();
    if (next >= node.children.size() || node.children[next].key != key) {
      const auto at = std::ranges::lower_bound(node.children, key, {}, &Node::key);
      next = static_cast<std::size_t>(at - node.children.begin());
      if (at == node.children.end() || at->key != key) {
        if (node.children.size() >= kMaxFields) {
          node.whole = true;
          node.children.clear();
          return;
        }
        node.children.insert(at, Node{.key = std::string(key)});
      }
    }
    learn(node.children[next++], reader.skip());
  }
}

ColumnType Shape::type_of(const Node& node) {
  const auto kinds = static_cast<std::uint16_t>(node.kinds & ~bit(mp::Kind::nil));
  if (kinds == 0) return ColumnType::none;
  if (kinds == bit(mp::Kind::boolean)) return ColumnType::boolean;
  if (kinds == bit(mp::Kind::str)) return ColumnType::text;
  if (kinds == bit(mp::Kind::bin)) return ColumnType::bytes;
  if (kinds == bit(mp::Kind::instant)) return ColumnType::instant;
  if (kinds == bit(mp::Kind::integer)) return ColumnType::integer;
  if (kinds == bit(mp::Kind::real)) return ColumnType::real;
  if ((kinds & ~kWhole) == 0 && !node.negative) return ColumnType::natural;
  if ((kinds & ~(kWhole | bit(mp::Kind::real))) == 0 && (kinds & bit(mp::Kind::real)) != 0 && !node.inexact) return ColumnType::real;
  return ColumnType::json;
}

std::vector<ColumnField> Shape::fields() {
  std::vector<ColumnField> fields;
  if (root_.whole) {
    throw Error(Code::too_large,
                "the documents have more than " + std::to_string(kMaxFields) + " different fields in all; say which to take: fields=[...]",
                {{"limit", static_cast<std::int64_t>(kMaxFields)}});
  }
  for (Node& child : root_.children) {
    std::string path;
    append_part(child.key, path);
    plan(child, path, fields);
  }
  return fields;
}

void Shape::plan(Node& node, const std::string& path, std::vector<ColumnField>& fields) {
  const auto kinds = static_cast<std::uint16_t>(node.kinds & ~bit(mp::Kind::nil));
  if (kinds == bit(mp::Kind::map) && !node.whole) {
    for (Node& child : node.children) {
      std::string longer = path + ".";
      append_part(child.key, longer);
      plan(child, longer, fields);
    }
    return;
  }
  node.children.clear();
  if (fields.size() >= kMaxColumns) {
    throw Error(Code::too_large,
                "the documents would make more than " + std::to_string(kMaxColumns) + " columns; say which fields to take: fields=[...]",
                {{"limit", static_cast<std::int64_t>(kMaxColumns)}});
  }
  node.column = fields.size();
  fields.push_back({path, type_of(node), true});
}

void Shape::add(std::string_view document, std::size_t row, std::vector<Column>& columns, std::size_t first) const {
  add(root_, document, row, columns, first);
}

void Shape::add(const Node& node, std::string_view map, std::size_t row, std::vector<Column>& columns, std::size_t first) {
  mp::Reader reader(map);
  std::size_t next = 0;
  for (std::size_t left = reader.map(); left > 0; --left) {
    const std::string_view key = reader.str();
    if (next >= node.children.size() || node.children[next].key != key) {
      const auto at = std::ranges::lower_bound(node.children, key, {}, &Node::key);
      if (at == node.children.end() || at->key != key) {  // not asked for
        reader.skip();
        continue;
      }
      next = static_cast<std::size_t>(at - node.children.begin());
    }
    const Node& child = node.children[next++];
    if (reader.next_is_nil()) {
      reader.nil();
      continue;
    }
    if (!child.column) {
      add(child, reader.skip(), row, columns, first);
      continue;
    }
    Column& column = columns[first + *child.column];
    column.pad(row);
    switch (column.type()) {
      case ColumnType::boolean: column.boolean(reader.boolean()); break;
      case ColumnType::integer: column.integer(reader.integer()); break;
      case ColumnType::natural: column.natural(reader.natural()); break;
      case ColumnType::real:
        column.real(reader.peek() == mp::Kind::real ? reader.real() : static_cast<double>(reader.integer()));
        break;
      case ColumnType::instant: column.integer(reader.instant()); break;
      case ColumnType::text: column.text(reader.str()); break;
      case ColumnType::bytes: column.text(reader.bin()); break;
      case ColumnType::json:
        json::from_msgpack(reader.skip(), column.chars);
        column.written();
        break;
      case ColumnType::none:
      case ColumnType::name: reader.skip(); break;
    }
  }
}

}  // namespace syncline
