// Puts a WriteBatch in place: the writing half of the store on SQLite.
//
// Owner    the store; there is one, on the writer's session.
// Threads  one at a time, inside the write transaction.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "store/sqlite_incoming.h"
#include "store/sqlite_session.h"

namespace syncline::sqlite {

// A document to be written, with the numbers of its names.
struct DocumentRow {
  const PutDocument* put = nullptr;
  std::int64_t scope = 0, entity = 0;
  Cursor previous = 0;  // the cursor its row has now; 0: it has no row
};

class Writer {
 public:
  explicit Writer(Session& session) : session_(session), incoming_(session.connection) {}

  Applied apply(const WriteBatch& batch);
  Claim claim(const DocumentKey& key, Cursor cursor);
  // Forgets what it knew of names, scopes and clients: the rows it came from may be gone.
  void rolled_back() noexcept;

 private:
  struct Client {
    std::int64_t number = 0;
    std::string owner;
  };

  void find_rows(std::span<const DocumentKey> keys, std::span<DocumentRow> rows);
  void move(const DocumentRow& row);
  void move_key(const DocumentRow& row, Cursor from);
  std::int64_t name(std::string_view text);
  std::int64_t scope(std::string_view text);
  const Client* client(std::string_view client_id);  // nullptr: it has no row; valid until the next client() or put()
  void put(const PutClient& put, Applied& applied);
  void put(std::span<const PutDocument> documents);
  void forget_scope(std::string_view name);
  void swap_names(const SwapScopes& names);
  void forget_document(const DocumentKey& key);
  void put(const PutUnlogged& put);
  void put(std::span<const LogLineView> lines);
  bool deleted(std::int64_t place);  // is there a tombstone?
  void forget_history(const DocumentKey& key, bool erase);
  void purge(const Purge& purge, Cursor head, Applied& applied);
  void purge_log(const Purge& purge, Cursor head, Applied& applied);
  void purge_tombstones(const Purge& purge, Applied& applied);
  void remove_line(Cursor cursor);
  void run(Query query, std::int64_t first, std::int64_t second);

  Session& session_;
  Incoming incoming_;
  ByName<Client> clients_;
};

}  // namespace syncline::sqlite
