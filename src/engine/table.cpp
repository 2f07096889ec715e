#include "engine/table.h"

#include <iterator>
#include <utility>

#include "base/msgpack.h"
#include "engine/shape.h"

namespace syncline {

namespace {

void check_batch_rows(std::int64_t rows) {
  if (rows < 1 || rows > kMaxBatchRows) {
    throw Error(Code::usage, "batch_rows must be 1 to " + std::to_string(kMaxBatchRows) + ", not " + std::to_string(rows));
  }
}

std::vector<Column> columns_of(const std::vector<ColumnField>& fields) {
  std::vector<Column> columns;
  columns.reserve(fields.size());
  for (const ColumnField& field : fields) columns.emplace_back(field.type);
  return columns;
}

void append_fields(Shape& shape, std::vector<ColumnField>& fields) {
  std::vector<ColumnField> found = shape.fields();
  fields.insert(fields.end(), std::make_move_iterator(found.begin()), std::make_move_iterator(found.end()));
}

// ----------------------------------------------------------------------------------------------------------------- log

// The names of the fields that a delta changes, joined: of an entity there are few such sets.
void changed_fields(std::string_view delta, std::string& into) {
  into.clear();
  mp::Reader reader(delta);
  for (std::size_t left = reader.map(); left > 0; --left) {
    if (!into.empty()) into += ", ";
    into += reader.str();
    reader.skip();
  }
}

class LogTable final : public TableSource {
 public:
  LogTable(Engine& engine, LogRequest request, bool changed, std::int64_t batch_rows)
      : reader_(engine, std::move(request)), changed_(changed), batch_rows_(batch_rows) {
    check_batch_rows(batch_rows);
    fields_ = {{"cursor", ColumnType::integer, false},     {"scope", ColumnType::name, false},
               {"entity", ColumnType::name, false},        {"id", ColumnType::text, false},
               {"op", ColumnType::name, false},            {"version", ColumnType::integer, false},
               {"previous", ColumnType::integer, false},   {"ts", ColumnType::instant, false},
               {"user", ColumnType::name},                 {"client_id", ColumnType::name},
               {"client_seq", ColumnType::integer, false}, {"mutation", ColumnType::name},
               {"mutation_ts", ColumnType::instant, false}, {"hash", ColumnType::natural, false}};
    if (changed) fields_.push_back({"changed", ColumnType::name});
  }

  [[nodiscard]] const std::vector<ColumnField>& fields() const override { return fields_; }

  Batch next() override {
    const auto most = static_cast<std::size_t>(batch_rows_);
    Batch batch{0, columns_of(fields_)};
    std::string changed;
    std::size_t bytes = 0;
    bool full = false;
    const auto add = [&](const LogLineView& line) {
      Column* column = batch.columns.data();
      column++->integer(line.cursor);
      column++->name(line.scope);
      column++->name(line.entity);
      column++->text(line.id);
      column++->name(op_name(line.op));
      column++->integer(line.version);
      column++->integer(line.previous);
      column++->integer(line.ts);
      column++->name_or_null(line.user);
      column++->name_or_null(line.client_id);
      column++->integer(line.client_id.empty() ? 0 : line.client_seq);
      column++->name_or_null(line.mutation);
      column++->integer(line.mutation_ts);
      column++->natural(line.hash);
      if (changed_) {
        if (line.op == Op::update) {
          changed_fields(line.delta, changed);
          column->name(changed);
          bytes += changed.size();
        } else {
          column->null();
        }
      }
      bytes += line.id.size() + line.user.size() + line.client_id.size();
      full = ++batch.rows >= most || bytes >= kBatchBytes;
      return !full;
    };
    while (!full && more_) more_ = reader_.next(add);
    return batch;
  }

 private:
  LogReader reader_;
  bool changed_;
  std::int64_t batch_rows_;
  std::vector<ColumnField> fields_;
  bool more_ = true;
};

// ------------------------------------------------------------------------------------------------------------- history

class HistoryTable final : public TableSource {
 public:
  HistoryTable(Engine& engine, std::string scope, std::string entity, std::string id, std::int64_t batch_rows)
      : reader_(engine, std::move(scope), std::move(entity), std::move(id)), batch_rows_(batch_rows) {
    check_batch_rows(batch_rows);
    // The second reading begins where the first one did, or it would meet fields that nobody knows.
    VersionReader first(reader_);
    while (first.next(kVersions, [&](const VersionView& version) {
      if (!version.body.empty()) shape_.learn(version.body);
      return true;
    })) {
    }
    fields_ = {{"_cursor", ColumnType::integer, false},     {"_version", ColumnType::integer, false},
               {"_op", ColumnType::name, false},            {"_ts", ColumnType::instant, false},
               {"_user", ColumnType::name},                 {"_client_id", ColumnType::name},
               {"_client_seq", ColumnType::integer, false}, {"_mutation", ColumnType::name},
               {"_mutation_ts", ColumnType::instant, false}};
    own_ = fields_.size();
    append_fields(shape_, fields_);
  }

  [[nodiscard]] const std::vector<ColumnField>& fields() const override { return fields_; }

  Batch next() override {
    const auto most = static_cast<std::size_t>(batch_rows_);
    Batch batch{0, columns_of(fields_)};
    std::size_t bytes = 0;
    bool full = false;
    const auto add = [&](const VersionView& version) {
      const LogLineView& line = version.line;
      Column* column = batch.columns.data();
      column++->integer(line.cursor);
      column++->integer(line.version);
      column++->name(op_name(line.op));
      column++->integer(line.ts);
      column++->name_or_null(line.user);
      column++->name_or_null(line.client_id);
      column++->integer(line.client_seq);
      column++->name_or_null(line.mutation);
      column++->integer(line.mutation_ts);
      if (!version.body.empty()) shape_.add(version.body, batch.rows, batch.columns, own_);
      bytes += version.body.size();
      full = ++batch.rows >= most || bytes >= kBatchBytes;
      return !full;
    };
    while (!full && more_) more_ = reader_.next(kVersions, add);
    for (Column& column : batch.columns) column.pad(batch.rows);
    return batch;
  }

 private:
  static constexpr std::size_t kVersions = 1024;  // a read transaction

  VersionReader reader_;
  std::int64_t batch_rows_;
  Shape shape_;
  std::vector<ColumnField> fields_;
  std::size_t own_ = 0;  // columns before those of the document's fields
  bool more_ = true;
};

// ----------------------------------------------------------------------------------------------------------- documents

class DocumentTable final : public TableSource {
 public:
  DocumentTable(Engine& engine, DocumentTableRequest request)
      : request_(std::move(request)), shape_(request_.only), tx_(engine.begin_read()), scopes_(request_.scopes) {
    check_batch_rows(request_.batch_rows);
    if (scopes_.empty()) {
      tx_->scopes([&](const ScopeRow& scope) {
        if (!scope.name.starts_with('_')) scopes_.push_back(scope.name);
        return true;
      });
    }
    for (const std::string& scope : scopes_) {
      visit(scope, 0, [&](const DocumentView& document) {
        shape_.learn(document.body);
        return true;
      });
    }
    fields_ = {{"_scope", ColumnType::name, false},          {"_entity", ColumnType::name, false},
               {"_id", ColumnType::text, false},             {"_version", ColumnType::integer, false},
               {"_cursor", ColumnType::integer, false},      {"_created_at", ColumnType::instant, false},
               {"_updated_at", ColumnType::instant, false}};
    own_ = fields_.size();
    append_fields(shape_, fields_);
  }

  [[nodiscard]] const std::vector<ColumnField>& fields() const override { return fields_; }

  Batch next() override {
    const auto most = static_cast<std::size_t>(request_.batch_rows);
    Batch batch{0, columns_of(fields_)};
    std::size_t bytes = 0;
    bool full = false;
    while (!full && scope_ < scopes_.size()) {
      const std::string& scope = scopes_[scope_];
      visit(scope, after_, [&](const DocumentView& document) {
        Column* column = batch.columns.data();
        column++->name(scope);
        column++->name(document.entity);
        column++->text(document.id);
        column++->integer(document.version);
        column++->integer(document.cursor);
        column++->integer(document.created_at);
        column++->integer(document.updated_at);
        shape_.add(document.body, batch.rows, batch.columns, own_);
        after_ = document.cursor;
        bytes += document.id.size() + document.body.size();
        full = ++batch.rows >= most || bytes >= kBatchBytes;
        return !full;
      });
      if (full) break;
      ++scope_;
      after_ = 0;
    }
    for (Column& column : batch.columns) column.pad(batch.rows);
    return batch;
  }

 private:
  // In cursor order, which is the order on the disk, whatever the entity: one run of pages.
  template <typename Visit>
  void visit(const std::string& scope, Cursor after, Visit visit) {
    tx_->changed(scope, after, true, [&](const DocumentView& document) {
      const bool wanted = request_.entity ? document.entity == *request_.entity : !document.entity.starts_with('_');
      if (!wanted || !(request_.filter.matches_all() || request_.filter.matches(document.body))) return true;
      return visit(document);
    });
  }

  DocumentTableRequest request_;
  Shape shape_;
  std::unique_ptr<ReadTx> tx_;
  std::vector<std::string> scopes_;
  std::vector<ColumnField> fields_;
  std::size_t own_ = 0;  // columns before those of the documents' fields
  std::size_t scope_ = 0;
  Cursor after_ = 0;
};

}  // namespace

std::unique_ptr<TableSource> log_table(Engine& engine, LogRequest request, bool changed, std::int64_t batch_rows) {
  return std::make_unique<LogTable>(engine, std::move(request), changed, batch_rows);
}

std::unique_ptr<TableSource> history_table(Engine& engine, std::string scope, std::string entity, std::string id, std::int64_t batch_rows) {
  return std::make_unique<HistoryTable>(engine, std::move(scope), std::move(entity), std::move(id), batch_rows);
}

std::unique_ptr<TableSource> document_table(Engine& engine, DocumentTableRequest request) {
  return std::make_unique<DocumentTable>(engine, std::move(request));
}

}  // namespace syncline
