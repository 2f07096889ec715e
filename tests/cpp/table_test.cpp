#include "engine/table.h"

#include <gtest/gtest.h>

#include <bit>

#include "engine/shape.h"
#include "engine_fixture.h"
#include "folder.h"

namespace syncline::testing {
namespace {

constexpr std::int64_t kRows = 1 << 16;

// A row of a column as text: "null", or the value.
std::string shown(const Column& column, std::size_t row) {
  if (column.type() == ColumnType::none) return "null";
  if (!column.validity.empty() && (column.validity[row / 8] >> (row % 8) & 1) == 0) return "null";
  switch (column.type()) {
    case ColumnType::boolean: return (column.bits[row / 8] >> (row % 8) & 1) != 0 ? "true" : "false";
    case ColumnType::integer:
    case ColumnType::instant: return std::to_string(column.words[row]);
    case ColumnType::natural: return std::to_string(static_cast<std::uint64_t>(column.words[row]));
    case ColumnType::real: return std::to_string(std::bit_cast<double>(column.words[row]));
    case ColumnType::text:
    case ColumnType::json:
    case ColumnType::bytes: {
      const auto from = static_cast<std::size_t>(column.offsets[row]);
      return column.chars.substr(from, static_cast<std::size_t>(column.offsets[row + 1]) - from);
    }
    case ColumnType::name: return std::string(column.names.text(column.codes[row]));
    case ColumnType::none: break;
  }
  return "null";
}

struct Read {
  std::vector<ColumnField> fields;
  std::vector<std::vector<std::string>> rows;
  std::vector<std::size_t> batches;

  [[nodiscard]] std::vector<std::string> column(std::string_view name) const {
    for (std::size_t at = 0; at < fields.size(); ++at) {
      if (fields[at].name != name) continue;
      std::vector<std::string> values;
      for (const auto& row : rows) values.push_back(row[at]);
      return values;
    }
    return {"no such column"};
  }
  [[nodiscard]] std::vector<std::string> names() const {
    std::vector<std::string> all;
    for (const ColumnField& field : fields) all.push_back(field.name);
    return all;
  }
};

Read read_all(TableSource& source) {
  Read read;
  read.fields = source.fields();
  for (Batch batch = source.next(); batch.rows > 0; batch = source.next()) {
    read.batches.push_back(batch.rows);
    for (std::size_t row = 0; row < batch.rows; ++row) {
      std::vector<std::string> values;
      for (const Column& column : batch.columns) {
        EXPECT_EQ(column.rows(), batch.rows);
        values.push_back(shown(column, row));
      }
      read.rows.push_back(std::move(values));
    }
  }
  return read;
}

// What documents become, without an engine.
struct Taken {
  std::vector<ColumnField> fields;
  std::vector<Column> columns;
};
Taken take_apart(const std::vector<std::string>& documents) {
  Shape shape;
  for (const std::string& document : documents) shape.learn(pack(document));
  Taken taken;
  taken.fields = shape.fields();
  for (const ColumnField& field : taken.fields) taken.columns.emplace_back(field.type);
  std::size_t row = 0;
  for (const std::string& document : documents) shape.add(pack(document), row++, taken.columns, 0);
  for (Column& column : taken.columns) column.pad(row);
  return taken;
}

using Strings = std::vector<std::string>;

void expect_column(const Strings& documents, const std::string& name, ColumnType type, const Strings& values) {
  const Taken taken = take_apart(documents);
  ASSERT_EQ(taken.fields.size(), 1u);
  EXPECT_EQ(taken.fields[0].name, name);
  EXPECT_EQ(taken.fields[0].type, type);
  for (std::size_t row = 0; row < values.size(); ++row) EXPECT_EQ(shown(taken.columns[0], row), values[row]) << row;
}

TEST(Shape, APathWithValuesOfOneTypeHasThatType) {
  expect_column({R"({"a":1})", R"({"a":-5})", R"({"a":null})", "{}"}, "a", ColumnType::integer, {"1", "-5", "null", "null"});
  expect_column({R"({"a":true})", "{}", R"({"a":false})"}, "a", ColumnType::boolean, {"true", "null", "false"});
  expect_column({"{}", R"({"a":"x"})", R"({"a":""})"}, "a", ColumnType::text, {"null", "x", ""});
  expect_column({R"({"a":1.5})"}, "a", ColumnType::real, {"1.500000"});
  expect_column({R"({"a":{"$binary":"YWI="}})"}, "a", ColumnType::bytes, {"ab"});
  expect_column({R"({"a":{"$date":"1970-01-01T00:00:01.000002Z"}})"}, "a", ColumnType::instant, {"1000002"});
  expect_column({R"({"a":null})"}, "a", ColumnType::none, {"null"});
}

TEST(Shape, NoNumberIsChangedByItsColumn) {
  expect_column({R"({"a":1})", R"({"a":0.5})"}, "a", ColumnType::real, {"1.000000", "0.500000"});
  expect_column({R"({"a":{"$numberLong":"9007199254740993"}})", R"({"a":0.5})"}, "a", ColumnType::json,
                {R"({"$numberLong":"9007199254740993"})", "0.5"});
  expect_column({R"({"a":{"$numberLong":"18446744073709551615"}})", R"({"a":1})"}, "a", ColumnType::natural, {"18446744073709551615", "1"});
  expect_column({R"({"a":{"$numberLong":"18446744073709551615"}})", R"({"a":-1})"}, "a", ColumnType::json,
                {R"({"$numberLong":"18446744073709551615"})", "-1"});
}

TEST(Shape, WhatNoTypeHoldsIsJson) {
  expect_column({R"({"a":[1,{"b":null}]})", "{}"}, "a", ColumnType::json, {R"([1,{"b":null}])", "null"});
  expect_column({R"({"a":1})", R"({"a":"1"})"}, "a", ColumnType::json, {"1", R"("1")"});
  expect_column({R"({"a":{"b":1}})", R"({"a":2})"}, "a", ColumnType::json, {R"({"b":1})", "2"});
}

TEST(Shape, MapsAreFlattenedAndNoTwoPathsAreWrittenAlike) {
  const Taken taken = take_apart({R"({"a":{"b":{"c":1},"d":2},"a.d":3,"_id":4,"":5,"e":{}})", R"({"a":{"b":null},"f":{"_g":6}})"});
  Strings names;
  for (const ColumnField& field : taken.fields) names.push_back(field.name);
  EXPECT_EQ(names, (Strings{"", R"(\_id)", "a.b.c", "a.d", R"(a\.d)", "f._g"}));
  EXPECT_EQ(shown(taken.columns[2], 0), "1");
  EXPECT_EQ(shown(taken.columns[2], 1), "null");
  EXPECT_EQ(shown(taken.columns[3], 0), "2");
  EXPECT_EQ(shown(taken.columns[4], 0), "3");
  EXPECT_EQ(shown(taken.columns[5], 1), "6");
}

TEST(Shape, AMapThatHasDataForKeysIsOneColumn) {
  Strings documents;
  Strings values;
  for (std::size_t n = 0; n <= kMaxFields; ++n) {
    values.push_back("{\"user" + std::to_string(n) + "\":1}");
    documents.push_back("{\"votes\":" + values.back() + "}");
  }
  expect_column(documents, "votes", ColumnType::json, values);
}

TEST(Shape, TooManyColumnsAreRefusedWithTheLimit) {
  Shape wide;
  for (std::size_t n = 0; n <= kMaxFields; ++n) wide.learn(pack("{\"f" + std::to_string(n) + "\":1}"));
  EXPECT_EQ(error_code([&] { wide.fields(); }), "too_large");
  Shape many;
  for (int field = 0; field < 10; ++field) {
    for (int n = 0; n < 201; ++n) many.learn(pack("{\"f" + std::to_string(field) + "\":{\"g" + std::to_string(n) + "\":1}}"));
  }
  EXPECT_EQ(error_code([&] { many.fields(); }), "too_large");
}

TEST(Shape, OnlyTheFieldsThatAreAskedForAreTaken) {
  Shape shape(Strings{"c", "a"});
  shape.learn(pack(R"({"a":1,"b":{"x":1},"c":{"y":2}})"));
  Strings names;
  for (const ColumnField& field : shape.fields()) names.push_back(field.name);
  EXPECT_EQ(names, (Strings{"a", "c.y"}));
}

TEST(LogTable, HasARowPerLineInCursorOrder) {
  Bench bench;
  PushOptions ada;
  ada.user = "ada";
  bench.push({mutation("c", 1, "add", R"({"id":"x"})"), mutation("c", 2, "add", R"({"id":"x"})"), mutation("c", 3, "del", R"({"id":"x"})")},
             ada);
  {
    const auto write = bench.engine->write({"t"}, "");
    write->txs()[0]->set("k", "y", pack(R"({"n":1})"));
    write->commit();
  }
  const Read log = read_all(*log_table(*bench.engine, {}, true, kRows));
  EXPECT_EQ(log.column("cursor"), (Strings{"1", "2", "3", "4"}));
  EXPECT_EQ(log.column("scope"), (Strings{"s", "s", "s", "t"}));
  EXPECT_EQ(log.column("op"), (Strings{"create", "update", "delete", "create"}));
  EXPECT_EQ(log.column("id"), (Strings{"x", "x", "x", "y"}));
  EXPECT_EQ(log.column("version"), (Strings{"1", "2", "3", "1"}));
  EXPECT_EQ(log.column("previous"), (Strings{"0", "1", "2", "0"}));
  EXPECT_EQ(log.column("user"), (Strings{"ada", "ada", "ada", "null"}));
  EXPECT_EQ(log.column("client_id"), (Strings{"c", "c", "c", "null"}));
  EXPECT_EQ(log.column("client_seq"), (Strings{"1", "2", "3", "0"}));
  EXPECT_EQ(log.column("mutation"), (Strings{"add", "add", "del", "null"}));
  EXPECT_EQ(log.column("changed"), (Strings{"null", "n", "null", "null"}));
}

TEST(LogTable, IsTheSameInBatchesOfAnySizeAndEndsAtTheHeadOfItsBeginning) {
  Bench bench;
  for (int n = 1; n <= 20; ++n) bench.one(mutation("c", n, "add", "{\"id\":\"d" + std::to_string(n % 7) + "\"}"));
  const auto rows = [&](std::int64_t batch_rows) { return read_all(*log_table(*bench.engine, {}, false, batch_rows)); };
  const Read whole = rows(kRows);
  ASSERT_EQ(whole.rows.size(), 20u);
  for (const std::int64_t size : {1, 3, 7, 8, 20}) EXPECT_EQ(rows(size).rows, whole.rows);
  EXPECT_EQ(rows(7).batches, (std::vector<std::size_t>{7, 7, 6}));

  const auto source = log_table(*bench.engine, {}, false, 5);
  EXPECT_EQ(source->next().rows, 5u);
  bench.one(mutation("c", 21, "add", R"({"id":"later"})"));
  EXPECT_EQ(read_all(*source).rows.size(), 15u);
}

TEST(LogTable, TakesOnlyWhatWasAskedFor) {
  Bench bench;
  bench.push({mutation("c", 1, "add", R"({"id":"x"})"), mutation("c", 2, "add", R"({"id":"y"})"), mutation("c", 3, "add", R"({"id":"x"})")});
  bench.one(mutation("o", 1, "add", R"({"id":"x"})", "other"));
  const auto cursors = [&](const std::function<void(LogRequest&)>& ask) {
    LogRequest request;
    ask(request);
    return read_all(*log_table(*bench.engine, request, false, 1)).column("cursor");
  };
  EXPECT_EQ(cursors([](auto& r) { r.since = Cursor{1}, r.through = Cursor{3}; }), (Strings{"2", "3"}));
  EXPECT_EQ(cursors([](auto& r) { r.scope = "s"; }), (Strings{"1", "2", "3"}));
  EXPECT_EQ(cursors([](auto& r) { r.scope = "s", r.entity = "k", r.id = "x"; }), (Strings{"1", "3"}));
  EXPECT_EQ(cursors([](auto& r) { r.client_id = "o"; }), (Strings{"4"}));
  EXPECT_EQ(cursors([](auto& r) { r.scope = "nowhere"; }), Strings{});
  EXPECT_EQ(cursors([](auto& r) { r.newest_first = true, r.limit = 2; }), (Strings{"4", "3"}));
}

TEST(HistoryTable, HasARowPerVersionNewestFirst) {
  Bench bench;
  bench.push({mutation("c", 1, "set", R"({"id":"x","v":1})"), mutation("c", 2, "set", R"({"id":"x","v":0.5})"),
              mutation("c", 3, "del", R"({"id":"x"})"), mutation("c", 4, "set", R"({"id":"x","w":"a"})")});
  for (const std::int64_t size : {1, 2, 100}) {
    const auto source = history_table(*bench.engine, "s", "k", "x", size);
    bench.one(mutation("d" + std::to_string(size), 1, "add", R"({"id":"y"})"));
    const Read read = read_all(*source);
    EXPECT_EQ(read.column("_version"), (Strings{"4", "3", "2", "1"}));
    EXPECT_EQ(read.column("_op"), (Strings{"create", "delete", "update", "create"}));
    EXPECT_EQ(read.column("v"), (Strings{"null", "null", "0.500000", "1.000000"}));
    EXPECT_EQ(read.column("w"), (Strings{"a", "null", "null", "null"}));
  }
  EXPECT_EQ(error_code([&] { history_table(*bench.engine, "s", "k", "none", 1); }), "not_found");
}

TEST(DocumentTable, HasARowPerLiveDocumentOfOneSnapshot) {
  Bench bench;
  bench.push({mutation("c", 1, "set", R"({"id":"x","v":1})"), mutation("c", 2, "set", R"({"id":"y","v":2.5})"),
              mutation("c", 3, "set", R"({"id":"z"})"), mutation("c", 4, "del", R"({"id":"z"})"), mutation("c", 5, "set", R"({"id":"x","v":3})")});
  bench.one(mutation("o", 1, "set", R"({"id":"w"})", "other"));
  DocumentTableRequest request;
  request.batch_rows = 1;
  const auto source = document_table(*bench.engine, request);
  bench.one(mutation("c", 6, "set", R"({"id":"later","v":"text"})"));
  const Read read = read_all(*source);
  EXPECT_EQ(read.names(), (Strings{"_scope", "_entity", "_id", "_version", "_cursor", "_created_at", "_updated_at", "id", "v"}));
  EXPECT_EQ(read.column("_scope"), (Strings{"other", "s", "s"}));
  EXPECT_EQ(read.column("_id"), (Strings{"w", "y", "x"}));
  EXPECT_EQ(read.column("_version"), (Strings{"1", "1", "2"}));
  EXPECT_EQ(read.column("v"), (Strings{"null", "2.500000", "3.000000"}));
  EXPECT_EQ(read.batches, (std::vector<std::size_t>{1, 1, 1}));
}

TEST(DocumentTable, LeavesOutWhatIsReservedUnlessItIsNamed) {
  // Only the store writes what is reserved.
  const Folder folder;
  const std::string path = folder / "reserved.db";
  {
    const std::unique_ptr<Store> store = open_sqlite(path, {});
    const std::unique_ptr<WriteTx> tx = store->write();
    WriteBatch batch;
    batch.head = 3;
    batch.documents = {{.scope = "_jobs", .entity = "job", .id = "1", .cursor = 1, .created = 1, .version = 1, .body = "\x80"},
                       {.scope = "s", .entity = "k", .id = "2", .cursor = 2, .created = 2, .version = 1, .body = "\x80"},
                       {.scope = "s", .entity = "_op", .id = "3", .cursor = 3, .created = 3, .version = 1, .body = "\x80"}};
    batch.scopes = {{"_jobs", 1}, {"s", 3}};
    tx->apply(batch);
    tx->commit();
  }
  Bench bench(path);
  const auto ids = [&](std::vector<std::string> scopes, std::optional<std::string> entity) {
    DocumentTableRequest request;
    request.scopes = std::move(scopes);
    request.entity = std::move(entity);
    return read_all(*document_table(*bench.engine, request)).column("_id");
  };
  EXPECT_EQ(ids({}, {}), (Strings{"2"}));
  EXPECT_EQ(ids({"_jobs"}, {}), (Strings{"1"}));
  EXPECT_EQ(ids({}, "_op"), (Strings{"3"}));
  bench.engine.reset();
}

TEST(DocumentTable, TakesOnlyWhatTheFilterAndTheEntitySay) {
  Bench bench;
  {
    const auto write = bench.engine->write({"s"}, "");
    write->txs()[0]->set("a", "1", pack(R"({"n":1,"only_here":1})"));
    write->txs()[0]->set("b", "2", pack(R"({"n":2})"));
    write->txs()[0]->set("b", "3", pack(R"({"n":3})"));
    write->commit();
  }
  DocumentTableRequest request;
  request.entity = "b";
  request.filter = Filter([] {
    mp::Border border;
    border.allow_dollar_keys = true;
    return json::to_msgpack(R"({"n":3})", border);
  }());
  const Read read = read_all(*document_table(*bench.engine, request));
  EXPECT_EQ(read.column("_id"), (Strings{"3"}));
  EXPECT_EQ(read.names().back(), "n");
}

TEST(Table, BadBatchesAreRefusedAndAClosedEngineSaysSo) {
  Bench bench;
  EXPECT_EQ(error_code([&] { log_table(*bench.engine, {}, false, 0); }), "usage");
  EXPECT_EQ(error_code([&] { log_table(*bench.engine, {}, false, kMaxBatchRows + 1); }), "usage");
  bench.one(mutation("c", 1, "add", R"({"id":"x"})"));
  EXPECT_EQ(error_code([&] { history_table(*bench.engine, "s", "k", "x", 0); }), "usage");
  const auto source = log_table(*bench.engine, {}, false, kRows);
  bench.engine->close();
  EXPECT_EQ(error_code([&] { source->next(); }), "closed");
}

TEST(Column, ANameHasOneCodeHoweverOftenItComes) {
  Column column(ColumnType::name);
  for (int round = 0; round < 3; ++round) {
    for (int n = 0; n < 1000; ++n) column.name("name" + std::to_string(n));
  }
  EXPECT_EQ(column.names.size(), 1000u);
  for (std::size_t row = 0; row < 3000; ++row) ASSERT_EQ(shown(column, row), "name" + std::to_string(row % 1000));
}

TEST(Column, NullsAreKeptWhereverTheFirstOneComes) {
  for (std::size_t first = 0; first < 20; ++first) {
    for (const ColumnType type : {ColumnType::integer, ColumnType::boolean, ColumnType::text, ColumnType::name}) {
      Column column(type);
      const auto is_null = [&](std::size_t row) { return row >= first && (row - first) % 3 == 0; };
      for (std::size_t row = 0; row < 30; ++row) {
        if (is_null(row)) column.null();
        else if (type == ColumnType::integer) column.integer(1);
        else if (type == ColumnType::boolean) column.boolean(true);
        else if (type == ColumnType::text) column.text("1");
        else column.name("1");
      }
      for (std::size_t row = 0; row < 30; ++row) {
        const std::string value = type == ColumnType::boolean ? "true" : "1";
        ASSERT_EQ(shown(column, row), is_null(row) ? "null" : value) << first << " " << row;
      }
    }
  }
}

}  // namespace
}  // namespace syncline::testing
