// Every statement that runs more than once, by name: a connection prepares each when it is first used and keeps it.
//
// Owner    constants. Threads  any.
// Places   scope number << 40 | cursor is a document's place (schema.cpp).
#pragma once

#include <cstddef>
#include <cstdint>

namespace syncline::sqlite {

enum class Query : std::uint8_t {
  begin_write,
  commit,
  rollback,
  head,
  find_document,
  scan,
  changed,
  changed_left,
  unlogged,
  unlogged_ages,
  oldest_tombstone,
  overfull_clients,
  log,
  log_newest_first,
  log_line,
  log_previous,
  log_floor,
  row_cursor,
  highest_id,
  is_tombstone,
  find_client,
  client_number,
  find_result,
  find_scope,
  scope_row,
  scopes,
  epochs,
  name_number,
  name_text,
  scope_number,
  scope_text,
  set_head,
  add_name,
  add_scope,
  set_scope_head,
  rename_scope,
  raise_floor,
  raise_log_floor,
  set_log_swept,
  log_swept,
  add_client,
  set_client,
  add_result,
  forget_results,
  add_epoch,
  remove_row,
  add_rows,
  add_keys,
  claim_key,
  move_key,
  remove_key,
  remove_rows,
  remove_keys,
  put_unlogged,
  remove_unlogged,
  add_log_lines,
  remove_log_line,
  strip_log_line,
  sweep_log,
  sweep_log_everywhere,
  sweep_tombstones,
  sweep_tombstones_everywhere,
  count_,  // how many there are
};
inline constexpr std::size_t kQueries = static_cast<std::size_t>(Query::count_);

const char* text_of(Query query) noexcept;

}  // namespace syncline::sqlite
