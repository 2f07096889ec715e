#include "engine/table.h"

#include <algorithm>
#include <utility>

#include "base/ids.h"
#include "base/msgpack.h"
#include "engine/shape.h"

namespace syncline {

namespace {

void check_batch_rows(std::int64_t rows) {
  if (rows < 1 || rows > kMaxBatchRows) {
    throw Error(Code::usage, "batch_rows must be 1 to " + std::to_string(kMaxBatchRows) + ", not " + std::to_string(rows));
  }
}

std::vector<Column> columns_of(const std::vector<ColumnField>& fields, std::size_t rows) {
  std::vector<Column> columns;
  columns.reserve(fields.size());
  for (const ColumnField& field : fields) columns.emplace_back(field.type).reserve(rows);
  return columns;
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
  LogTable(Engine& engine, LogTableRequest request) : engine_(engine), request_(std::move(request)), at_(request_.since) {
    check_batch_rows(request_.batch_rows);
    request_.through = std::min(request_.through, engine_.head());
    fields_ = {{"cursor", ColumnType::integer, false}, {"scope", ColumnType::name, false},   {"entity", ColumnType::name, false},
               {"id", ColumnType::text, false},        {"op", ColumnType::name, false},      {"version", ColumnType::integer, false},
               {"previous", ColumnType::integer, false},   {"ts", ColumnType::instant, false},   {"user", ColumnType::name},
               {"client_id", ColumnType::name},            {"client_seq", ColumnType::integer, false}, {"mutation", ColumnType::name},
               {"mutation_ts", ColumnType::instant},       {"hash", ColumnType::natural, false}};
    if (request_.changed) fields_.push_back({"changed", ColumnType::name});
  }

  [[nodiscard]] const std::vector<ColumnField>& fields() const override { return fields_; }

  Batch next() override {
    if (at_ >= request_.through) return {};
    const auto most = static_cast<std::size_t>(request_.batch_rows);
    Batch batch{0, columns_of(fields_, static_cast<std::size_t>(std::min<std::int64_t>(request_.batch_rows, request_.through - at_)))};
    std::string changed;
    std::size_t bytes = 0;
    const std::unique_ptr<ReadTx> tx = engine_.begin_read();
    const LogRange range{.after = at_,
                         .through = request_.through,
                         .scope = request_.scope,
                         .entity = request_.entity,
                         .id = request_.id,
                         .client_id = request_.client_id,
                         .newest_first = false};
    at_ = request_.through;  // unless the batch is full before
    tx->log(range, [&](const LogLineView& line) {
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
      column++->integer(line.client_seq);
      column++->name_or_null(line.mutation);
      line.mutation.empty() ? column++->null() : column++->integer(line.mutation_ts);
      column++->natural(line.hash);
      if (request_.changed) {
        if (line.op == Op::update) {
          changed_fields(line.delta, changed);
          column->name(changed);
          bytes += changed.size();
        } else {
          column->null();
        }
      }
      bytes += line.id.size() + line.user.size() + line.client_id.size();
      if (++batch.rows < most && bytes < kBatchBytes) return true;
      at_ = line.cursor;
      return false;
    });
    return batch;
  }

 private:
  Engine& engine_;
  LogTableRequest request_;
  std::vector<ColumnField> fields_;
  Cursor at_;
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
    std::vector<ColumnField> found = shape_.fields();
    fields_.insert(fields_.end(), std::make_move_iterator(found.begin()), std::make_move_iterator(found.end()));
  }

  [[nodiscard]] const std::vector<ColumnField>& fields() const override { return fields_; }

  Batch next() override {
    const auto most = static_cast<std::size_t>(request_.batch_rows);
    Batch batch{0, columns_of(fields_, 0)};
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

std::unique_ptr<TableSource> log_table(Engine& engine, LogTableRequest request) {
  return std::make_unique<LogTable>(engine, std::move(request));
}

std::unique_ptr<TableSource> document_table(Engine& engine, DocumentTableRequest request) {
  return std::make_unique<DocumentTable>(engine, std::move(request));
}

}  // namespace syncline
