// The floor: documents, changelog, client row and result row written straight on SQLite, and scanned from it. No mutators, no
// deltas, no protocol, one thread: what is left when everything a sync engine does is taken away, with the same rows in the same
// tables and the same settings of SQLite as src/store.
//
// Build    g++ -O2 -std=c++20 floor.cpp -lsqlite3
// Use      floor PATH full|normal (SQLite's `synchronous`), then one command a line on standard input; each is answered by one line on standard output:
//   push COUNT BATCH SCOPES BYTES time|random    -> seconds      creates COUNT documents, BATCH to a transaction, durably
//   scan SCOPES                                  -> seconds rows bytes   reads every scope in cursor order into 4 MiB pages
// Documents and ids are functions of a running number, the same as in peers.py.
#include <sqlite3.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <iostream>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;

struct CloseDatabase {
  void operator()(sqlite3* db) const { sqlite3_close_v2(db); }
};
struct CloseStatement {
  void operator()(sqlite3_stmt* statement) const { sqlite3_finalize(statement); }
};
using Database = std::unique_ptr<sqlite3, CloseDatabase>;

constexpr const char* kTables = R"sql(
  CREATE TABLE meta (id INTEGER PRIMARY KEY, head INTEGER NOT NULL);
  INSERT INTO meta VALUES (1, 0);
  CREATE TABLE scopes (no INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, head INTEGER NOT NULL);
  CREATE TABLE documents (
    place INTEGER PRIMARY KEY, entity INTEGER NOT NULL, id TEXT NOT NULL, version INTEGER NOT NULL, created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL, created INTEGER NOT NULL, body BLOB);
  CREATE TABLE keys (
    scope INTEGER NOT NULL, entity INTEGER NOT NULL, id TEXT NOT NULL, cursor INTEGER NOT NULL, PRIMARY KEY (scope, entity, id)
  ) WITHOUT ROWID;
  CREATE TABLE changelog (
    cursor INTEGER PRIMARY KEY, scope INTEGER NOT NULL, entity INTEGER NOT NULL, id TEXT NOT NULL, op INTEGER NOT NULL,
    version INTEGER NOT NULL, previous INTEGER NOT NULL, ts INTEGER NOT NULL, client INTEGER, client_seq INTEGER NOT NULL,
    user TEXT, mutation INTEGER, mutation_ts INTEGER NOT NULL, delta BLOB, hash INTEGER NOT NULL);
  CREATE TABLE clients (
    no INTEGER PRIMARY KEY, client_id TEXT NOT NULL UNIQUE, owner TEXT NOT NULL, last_seq INTEGER NOT NULL,
    settled INTEGER NOT NULL, seen_at INTEGER NOT NULL);
  INSERT INTO clients VALUES (1, 'client', 'user', 0, 0, 0);
  CREATE TABLE results (
    client INTEGER NOT NULL, last_seq INTEGER NOT NULL, first_seq INTEGER NOT NULL, results BLOB NOT NULL,
    PRIMARY KEY (client, last_seq)) WITHOUT ROWID;
)sql";

[[noreturn]] void fail(sqlite3* db, const char* what) {
  throw std::runtime_error(std::string(what) + ": " + sqlite3_errmsg(db));
}

Database open(const std::string& path, int flags) {
  sqlite3* db = nullptr;
  const int rc = sqlite3_open_v2(path.c_str(), &db, flags | SQLITE_OPEN_NOMUTEX, nullptr);
  Database result(db);
  if (rc != SQLITE_OK) fail(db, path.c_str());
  return result;
}

void execute(sqlite3* db, const char* sql) {
  if (sqlite3_exec(db, sql, nullptr, nullptr, nullptr) != SQLITE_OK) fail(db, sql);
}

class Statement {
 public:
  Statement(sqlite3* db, const char* sql) : db_(db) {
    sqlite3_stmt* statement = nullptr;
    if (sqlite3_prepare_v3(db, sql, -1, SQLITE_PREPARE_PERSISTENT, &statement, nullptr) != SQLITE_OK) fail(db, sql);
    handle_.reset(statement);
  }
  Statement& bind(int at, std::int64_t value) {
    sqlite3_bind_int64(handle_.get(), at, value);
    return *this;
  }
  Statement& text(int at, std::string_view value) {
    sqlite3_bind_text(handle_.get(), at, value.data(), static_cast<int>(value.size()), SQLITE_STATIC);
    return *this;
  }
  Statement& blob(int at, std::string_view value) {
    sqlite3_bind_blob(handle_.get(), at, value.data(), static_cast<int>(value.size()), SQLITE_STATIC);
    return *this;
  }
  Statement& null(int at) {
    sqlite3_bind_null(handle_.get(), at);
    return *this;
  }
  bool step() {
    const int rc = sqlite3_step(handle_.get());
    if (rc != SQLITE_ROW && rc != SQLITE_DONE) fail(db_, "step");
    return rc == SQLITE_ROW;
  }
  void reset() { sqlite3_reset(handle_.get()); }
  void run() {
    step();
    reset();
  }
  std::int64_t integer(int column) { return sqlite3_column_int64(handle_.get(), column); }
  std::string_view bytes(int column) {
    const void* data = sqlite3_column_blob(handle_.get(), column);
    return {static_cast<const char*>(data), static_cast<std::size_t>(sqlite3_column_bytes(handle_.get(), column))};
  }

 private:
  sqlite3* db_;
  std::unique_ptr<sqlite3_stmt, CloseStatement> handle_;
};

// ---------------------------------------------------------------------------------------------------------- the documents

struct Document {
  std::int64_t scope = 0;
  std::string id, title, owner, text;
  std::int64_t rank = 0;
  double price = 0;
};

std::uint64_t mixed(std::uint64_t x) {
  x += 0x9E3779B97F4A7C15U;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9U;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBU;
  return x ^ (x >> 31);
}

std::string id_of(std::uint64_t number, bool random) {
  char buffer[40];
  const std::uint64_t hash = random ? mixed(number) : number;
  const auto first = static_cast<unsigned>(random ? hash >> 32 : number);
  const auto last = static_cast<unsigned long long>(hash & 0xFFFFFFFFFFFFU);
  std::snprintf(buffer, sizeof buffer, "%08x-%04x-%04x-8000-%012llx", first, static_cast<unsigned>(random ? hash & 0xFFFF : 0),
                random ? 0x4000U : 0x7000U, last);
  return buffer;
}

Document document(std::uint64_t number, std::int64_t scopes, std::size_t bytes, bool random) {
  static const std::string kText = "the quick brown fox jumps over the lazy dog and ";
  Document result;
  result.scope = static_cast<std::int64_t>(number) % scopes + 1;
  result.id = id_of(number, random);
  result.title = "Document " + std::to_string(number);
  result.owner = "user-" + std::to_string(number % 97);
  result.rank = static_cast<std::int64_t>(number % 1000);
  result.price = static_cast<double>(number % 10000) + 0.5;
  const std::size_t length = bytes > 70 ? bytes - 70 : 1;
  while (result.text.size() < length) result.text += kText;
  result.text.resize(length);
  return result;
}

// Just enough msgpack for these documents.
void put_big_endian(std::string& out, std::uint64_t value, int bytes) {
  for (int shift = (bytes - 1) * 8; shift >= 0; shift -= 8) out += static_cast<char>((value >> shift) & 0xFF);
}
void put_text(std::string& out, std::string_view text) {
  if (text.size() < 32) {
    out += static_cast<char>(0xA0 | text.size());
  } else if (text.size() < 256) {
    out += '\xD9';
    put_big_endian(out, text.size(), 1);
  } else {
    out += '\xDA';
    put_big_endian(out, text.size(), 2);
  }
  out += text;
}
void encode(const Document& document, std::string& out) {
  out.clear();
  out += '\x86';
  put_text(out, "done");
  out += '\xC2';
  put_text(out, "owner");
  put_text(out, document.owner);
  put_text(out, "price");
  std::uint64_t bits = 0;
  std::memcpy(&bits, &document.price, sizeof bits);
  out += '\xCB';
  put_big_endian(out, bits, 8);
  put_text(out, "rank");
  if (document.rank < 128) {
    put_big_endian(out, static_cast<std::uint64_t>(document.rank), 1);
  } else {
    out += '\xCD';
    put_big_endian(out, static_cast<std::uint64_t>(document.rank), 2);
  }
  put_text(out, "text");
  put_text(out, document.text);
  put_text(out, "title");
  put_text(out, document.title);
}

// --------------------------------------------------------------------------------------------------------------- the work

class Floor {
 public:
  Floor(const std::string& path, const std::string& synchronous) : path_(path), db_(open(path, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE)) {
    execute(db_.get(),
            "PRAGMA page_size = 4096; PRAGMA journal_mode = WAL; PRAGMA cache_size = -65536; PRAGMA wal_autocheckpoint = 16000;"
            "PRAGMA temp_store = MEMORY");
    execute(db_.get(), ("PRAGMA synchronous = " + synchronous).c_str());
    execute(db_.get(), kTables);
  }

  double push(std::int64_t count, std::int64_t batch, std::int64_t scopes, std::size_t bytes, bool random) {
    std::vector<Document> documents;
    documents.reserve(static_cast<std::size_t>(count));
    for (std::int64_t at = 0; at < count; ++at) documents.push_back(document(next_++, scopes, bytes, random));
    for (; scopes_ < scopes; ++scopes_) {
      Statement scope(db_.get(), "INSERT INTO scopes VALUES (?1, 'scope:' || ?1, 0)");
      scope.bind(1, scopes_ + 1).run();
    }
    Writer writer(db_.get());
    const auto started = Clock::now();
    for (std::size_t at = 0; at < documents.size(); at += static_cast<std::size_t>(batch)) {
      write(writer, documents, at, std::min(documents.size(), at + static_cast<std::size_t>(batch)));
    }
    return std::chrono::duration<double>(Clock::now() - started).count();
  }

  // Prints seconds, rows and bytes.
  void scan(std::int64_t scopes) {
    const Database reader = open(path_, SQLITE_OPEN_READONLY);
    execute(reader.get(), "PRAGMA cache_size = -4096");
    Statement select(reader.get(),
                     "SELECT place, entity, id, version, created_at, updated_at, created, body FROM documents"
                     " WHERE place > ?1 AND place <= ?2 ORDER BY place");
    std::string page;
    std::size_t rows = 0;
    std::size_t bytes = 0;
    const auto started = Clock::now();
    for (std::int64_t scope = 1; scope <= scopes; ++scope) {
      page.clear();
      select.bind(1, scope << 40).bind(2, (scope << 40) | kMostCursor);
      while (select.step()) {
        const std::int64_t numbers[] = {select.integer(0), select.integer(1), select.integer(3),
                                        select.integer(4), select.integer(5), select.integer(6)};
        page.append(reinterpret_cast<const char*>(numbers), sizeof numbers);
        page += select.bytes(2);
        page += select.bytes(7);
        ++rows;
        if (page.size() >= (std::size_t{4} << 20)) {
          bytes += page.size();
          page.clear();
        }
      }
      select.reset();
      bytes += page.size();
    }
    std::cout << std::chrono::duration<double>(Clock::now() - started).count() << ' ' << rows << ' ' << bytes << '\n' << std::flush;
  }

 private:
  static constexpr std::int64_t kMostCursor = (std::int64_t{1} << 40) - 1;

  struct Writer {
    explicit Writer(sqlite3* db)
        : begin(db, "BEGIN IMMEDIATE"),
          commit(db, "COMMIT"),
          find_client(db, "SELECT last_seq FROM clients WHERE client_id = ?1"),
          find_key(db, "SELECT cursor FROM keys WHERE scope = ?1 AND entity = ?2 AND id = ?3"),
          add_document(db, "INSERT INTO documents VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)"),
          add_key(db, "INSERT INTO keys VALUES (?1, ?2, ?3, ?4)"),
          add_line(db, "INSERT INTO changelog VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)"),
          set_scope(db, "UPDATE scopes SET head = ?2 WHERE no = ?1"),
          set_client(db, "UPDATE clients SET last_seq = ?2, settled = ?3, seen_at = ?4 WHERE no = ?1"),
          add_results(db, "INSERT INTO results VALUES (?1, ?2, ?3, ?4)"),
          set_head(db, "UPDATE meta SET head = ?1") {}
    Statement begin, commit, find_client, find_key, add_document, add_key, add_line, set_scope, set_client, add_results, set_head;
  };

  void write(Writer& to, const std::vector<Document>& documents, std::size_t from, std::size_t end) {
    const std::int64_t now = std::chrono::duration_cast<std::chrono::microseconds>(Clock::now().time_since_epoch()).count();
    to.begin.run();
    if (!to.find_client.text(1, "client").step()) throw std::runtime_error("the client is gone");
    const std::int64_t first_seq = to.find_client.integer(0) + 1;
    to.find_client.reset();
    std::int64_t seq = first_seq;
    std::string body;
    std::string results;
    std::vector<std::pair<std::int64_t, std::int64_t>> heads;  // of the scopes that the batch touches
    for (std::size_t at = from; at < end; ++at, ++seq) {
      const Document& one = documents[at];
      if (to.find_key.bind(1, one.scope).bind(2, 1).text(3, one.id).step()) throw std::runtime_error("the document exists");
      to.find_key.reset();
      ++head_;
      encode(one, body);
      to.add_document.bind(1, (one.scope << 40) | head_).bind(2, 1).text(3, one.id).bind(4, 1).bind(5, now).bind(6, now);
      to.add_document.bind(7, head_).blob(8, body).run();
      to.add_key.bind(1, one.scope).bind(2, 1).text(3, one.id).bind(4, head_).run();
      to.add_line.bind(1, head_).bind(2, one.scope).bind(3, 1).text(4, one.id).bind(5, 0).bind(6, 1).bind(7, 0).bind(8, now);
      to.add_line.bind(9, 1).bind(10, seq).null(11).bind(12, 2).bind(13, now).null(14);
      to.add_line.bind(15, static_cast<std::int64_t>(mixed(static_cast<std::uint64_t>(head_)))).run();
      // A stored result: number, hash, cursor and the change with its id.
      put_big_endian(results, static_cast<std::uint64_t>(seq), 8);
      put_big_endian(results, mixed(static_cast<std::uint64_t>(seq)), 8);
      put_big_endian(results, static_cast<std::uint64_t>(head_), 8);
      put_text(results, one.id);
      if (heads.empty() || heads.back().first != one.scope) {
        heads.emplace_back(one.scope, head_);
      } else {
        heads.back().second = head_;
      }
    }
    for (const auto& [scope, head] : heads) to.set_scope.bind(1, scope).bind(2, head).run();
    to.set_client.bind(1, 1).bind(2, seq - 1).bind(3, first_seq - 1).bind(4, now).run();
    to.add_results.bind(1, 1).bind(2, seq - 1).bind(3, first_seq).blob(4, results).run();
    to.set_head.bind(1, head_).run();
    to.commit.run();
  }

  std::string path_;
  Database db_;
  std::uint64_t next_ = 0;
  std::int64_t head_ = 0;
  std::int64_t scopes_ = 0;
};

}  // namespace

int main(int argc, char** argv) {
  const std::string synchronous = argc == 3 ? argv[2] : "";
  if (synchronous != "full" && synchronous != "normal") {
    std::cerr << "usage: floor PATH full|normal\n";
    return 2;
  }
  try {
    Floor floor(argv[1], synchronous);
    std::string line;
    while (std::getline(std::cin, line)) {
      std::istringstream words(line);
      std::string command;
      words >> command;
      std::int64_t count = 0;
      std::int64_t batch = 0;
      std::int64_t scopes = 0;
      std::size_t bytes = 0;
      std::string order;
      if (command == "push" && words >> count >> batch >> scopes >> bytes >> order && count > 0 && batch > 0 && scopes > 0) {
        std::cout << floor.push(count, batch, scopes, bytes, order == "random") << '\n' << std::flush;
      } else if (command == "scan" && words >> scopes && scopes > 0) {
        floor.scan(scopes);
      } else {
        throw std::runtime_error("what is '" + line + "'?");
      }
    }
  } catch (const std::exception& error) {
    std::cerr << "floor: " << error.what() << '\n';
    return 1;
  }
  return 0;
}
