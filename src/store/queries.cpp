#include "store/queries.h"

namespace syncline::sqlite {

const char* text_of(Query query) noexcept {
  switch (query) {
    case Query::begin_write: return "BEGIN IMMEDIATE";
    case Query::commit: return "COMMIT";
    case Query::rollback: return "ROLLBACK";
    // max: a row even where that of `meta` is gone, for a read keeps its snapshot by standing on it, and verify reads damaged files.
    case Query::head: return "SELECT max(head) FROM meta";

    // Documents. The eight columns and their order are what Session::read_row expects.
    case Query::find_document:
      return "SELECT d.place, d.entity, d.id, d.version, d.created_at, d.updated_at, d.created, d.body"
             " FROM keys k CROSS JOIN documents d ON d.place = (k.scope << 40 | k.cursor)"
             " WHERE k.scope = ?1 AND k.entity = ?2 AND k.id = ?3";
    case Query::scan:
      return "SELECT d.place, d.entity, d.id, d.version, d.created_at, d.updated_at, d.created, d.body"
             " FROM keys k CROSS JOIN documents d ON d.place = (k.scope << 40 | k.cursor)"
             " WHERE k.scope = ?1 AND k.entity = ?2 AND k.id >= ?3 AND k.id < ?4 ORDER BY k.id";
    case Query::changed:
      return "SELECT d.place, d.entity, d.id, d.version, d.created_at, d.updated_at, d.created, d.body"
             " FROM documents d NOT INDEXED WHERE d.place > ?1 AND d.place <= ?2 ORDER BY d.place";

    // As `changed`, of the rows that Session::left does not take while SQLite stands on them.
    case Query::changed_left:
      return "SELECT d.place, d.entity, d.id, d.version, d.created_at, d.updated_at, d.created, d.body"
             " FROM documents d NOT INDEXED WHERE d.place > ?1 AND d.place <= ?2"
             " AND syncline_left(d.place, d.entity, d.id, d.version, d.created_at, d.updated_at, d.created, d.body) ORDER BY d.place";

    case Query::unlogged:
      return "SELECT id, body, updated_at FROM unlogged WHERE scope = ?1 AND entity = ?2 AND id >= ?3 AND id < ?4 ORDER BY id";

    case Query::unlogged_ages: return "SELECT id, updated_at FROM unlogged WHERE scope = ?1 AND entity = ?2 ORDER BY id";
    case Query::oldest_tombstone:
      return "SELECT place, updated_at FROM documents INDEXED BY tombstones WHERE body IS NULL AND place > ?1 ORDER BY place LIMIT 1";
    case Query::overfull_clients:
      return "SELECT client_id, owner, last_seq, settled, seen_at FROM clients c WHERE EXISTS (SELECT 1 FROM results r"
             " WHERE r.client = c.no AND r.last_seq <= CASE WHEN c.settled > 0 THEN c.settled ELSE c.last_seq - ?1 END)";

    // The changelog. The seventeen columns and their order are what Session::read_line expects.
    case Query::log:
      return "SELECT l.cursor, l.scope, l.entity, l.id, l.op, l.version, l.previous, l.ts, l.client, c.client_id, c.owner,"
             " l.client_seq, l.user, l.mutation, l.mutation_ts, l.delta, l.hash"
             " FROM changelog l LEFT JOIN clients c ON c.no = l.client"
             " WHERE l.cursor > ?1 AND l.cursor <= ?2 AND (?3 IS NULL OR l.scope = ?3) AND (?4 IS NULL OR l.entity = ?4)"
             " AND (?5 IS NULL OR l.id = ?5) AND (?6 IS NULL OR l.client = ?6 OR l.client = ?7) ORDER BY l.cursor";
    case Query::log_newest_first:
      return "SELECT l.cursor, l.scope, l.entity, l.id, l.op, l.version, l.previous, l.ts, l.client, c.client_id, c.owner,"
             " l.client_seq, l.user, l.mutation, l.mutation_ts, l.delta, l.hash"
             " FROM changelog l LEFT JOIN clients c ON c.no = l.client"
             " WHERE l.cursor > ?1 AND l.cursor <= ?2 AND (?3 IS NULL OR l.scope = ?3) AND (?4 IS NULL OR l.entity = ?4)"
             " AND (?5 IS NULL OR l.id = ?5) AND (?6 IS NULL OR l.client = ?6 OR l.client = ?7) ORDER BY l.cursor DESC";
    case Query::log_line:
      return "SELECT l.cursor, l.scope, l.entity, l.id, l.op, l.version, l.previous, l.ts, l.client, c.client_id, c.owner,"
             " l.client_seq, l.user, l.mutation, l.mutation_ts, l.delta, l.hash"
             " FROM changelog l LEFT JOIN clients c ON c.no = l.client WHERE l.cursor = ?1";
    case Query::log_previous: return "SELECT previous FROM changelog WHERE cursor = ?1";
    case Query::log_floor:
      return "SELECT max(log_floor) FROM scopes INDEXED BY log_floors WHERE log_floor > 0 AND substr(name, 1, 1) <> '_'";
    case Query::row_cursor: return "SELECT cursor FROM keys WHERE scope = ?1 AND entity = ?2 AND id = ?3";
    case Query::highest_id: return "SELECT id FROM keys WHERE scope = ?1 AND entity = ?2 ORDER BY id DESC LIMIT 1";
    case Query::is_tombstone: return "SELECT body IS NULL FROM documents WHERE place = ?1";

    case Query::find_client:
      return "SELECT client_id, owner, last_seq, settled, seen_at FROM clients WHERE client_id = ?1";
    case Query::client_number: return "SELECT no, owner FROM clients WHERE client_id = ?1";
    case Query::find_result:
      return "SELECT first_seq, last_seq, results FROM results"
             " WHERE client = (SELECT no FROM clients WHERE client_id = ?1) AND last_seq >= ?2 ORDER BY last_seq LIMIT 1";
    case Query::find_scope: return "SELECT name, head, floor, log_floor, no FROM scopes WHERE name = ?1";
    case Query::scope_row: return "SELECT name, head, floor, log_floor FROM scopes WHERE no = ?1";
    case Query::scopes: return "SELECT name, head, floor, log_floor FROM scopes ORDER BY name";
    case Query::epochs: return "SELECT epoch, first, opened_at FROM epochs ORDER BY no";
    case Query::name_number: return "SELECT no FROM names WHERE name = ?1";
    case Query::name_text: return "SELECT name FROM names WHERE no = ?1";
    case Query::scope_number: return "SELECT no FROM scopes WHERE name = ?1";
    case Query::scope_text: return "SELECT name FROM scopes WHERE no = ?1";

    case Query::set_head: return "UPDATE meta SET head = ?1";
    case Query::add_name: return "INSERT INTO names (name) VALUES (?1) RETURNING no";
    case Query::add_scope: return "INSERT INTO scopes (name) VALUES (?1) RETURNING no";
    case Query::set_scope_head: return "UPDATE scopes SET head = ?2 WHERE no = ?1";
    case Query::rename_scope: return "UPDATE scopes SET name = ?2 WHERE no = ?1";
    case Query::raise_floor: return "UPDATE scopes SET floor = max(floor, ?2) WHERE no = ?1";
    case Query::raise_log_floor: return "UPDATE scopes SET log_floor = max(log_floor, ?2) WHERE no = ?1";
    case Query::set_log_swept: return "UPDATE scopes SET log_swept = max(log_swept, ?2) WHERE no = ?1";
    case Query::log_swept: return "SELECT log_swept FROM scopes WHERE no = ?1";
    case Query::add_client:
      return "INSERT INTO clients (client_id, owner, last_seq, settled, seen_at) VALUES (?1, ?2, ?3, ?4, ?5) RETURNING no";
    case Query::set_client: return "UPDATE clients SET last_seq = ?2, settled = ?3, seen_at = ?4 WHERE no = ?1";
    case Query::add_result: return "INSERT INTO results (client, last_seq, first_seq, results) VALUES (?1, ?2, ?3, ?4)";
    case Query::forget_results: return "DELETE FROM results WHERE client = ?1 AND last_seq <= ?2";
    case Query::add_epoch: return "INSERT INTO epochs (epoch, first, opened_at) VALUES (?1, ?2, ?3)";
    case Query::remove_row: return "DELETE FROM documents WHERE place = ?1";
    case Query::add_rows:
      return "INSERT INTO documents (place, entity, id, version, created_at, updated_at, created, body)"
             " SELECT a, b, c, d, e, f, g, h FROM incoming";
    case Query::add_keys: return "INSERT INTO keys (scope, entity, id, cursor) SELECT a, b, c, d FROM incoming";
    case Query::claim_key: return "INSERT INTO keys (scope, entity, id, cursor) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING";
    case Query::move_key: return "UPDATE keys SET cursor = ?4 WHERE scope = ?1 AND entity = ?2 AND id = ?3";
    case Query::remove_key: return "DELETE FROM keys WHERE scope = ?1 AND entity = ?2 AND id = ?3";
    case Query::remove_rows: return "DELETE FROM documents WHERE place > ?1 AND place <= ?2";
    case Query::remove_keys: return "DELETE FROM keys WHERE scope = ?1";
    case Query::put_unlogged:
      return "INSERT OR REPLACE INTO unlogged (scope, entity, id, updated_at, body) VALUES (?1, ?2, ?3, ?4, ?5)";
    case Query::remove_unlogged: return "DELETE FROM unlogged WHERE scope = ?1 AND entity = ?2 AND id = ?3";
    case Query::add_log_lines:
      return "INSERT INTO changelog (cursor, scope, entity, id, op, version, previous, ts, client, client_seq, user, mutation,"
             " mutation_ts, delta, hash) SELECT a, b, c, d, e, f, g, h, i, j, k, l, m, n, o FROM incoming";
    case Query::strip_log_line: return "UPDATE changelog SET previous = 0, delta = NULL WHERE cursor = ?1";
    case Query::remove_log_line: return "DELETE FROM changelog WHERE cursor = ?1";
    case Query::sweep_log:
      return "SELECT cursor, scope FROM changelog WHERE cursor > ?1 AND cursor <= ?2 AND scope = ?3 ORDER BY cursor LIMIT ?4";
    case Query::sweep_log_everywhere:
      return "SELECT cursor, scope FROM changelog WHERE cursor <= ?1 ORDER BY cursor LIMIT ?2";
    // INDEXED BY: without statistics the planner would walk the documents themselves.
    case Query::sweep_tombstones:
      return "SELECT place, entity, id FROM documents INDEXED BY tombstones"
             " WHERE body IS NULL AND place > ?1 AND place <= ?2 AND updated_at < ?4 ORDER BY place LIMIT ?3";
    case Query::sweep_tombstones_everywhere:
      return "SELECT place, entity, id FROM documents INDEXED BY tombstones"
             " WHERE body IS NULL AND (place & 1099511627775) <= ?1 AND updated_at < ?3 ORDER BY place LIMIT ?2";
    case Query::count_: break;
  }
  return "";
}

}  // namespace syncline::sqlite
