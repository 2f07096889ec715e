// What a replica keeps beside documents and queue: who it is, where each scope stands, what was refused.
//
// Grammar  unlogged documents of the reserved scope:
//            identity / "self"           {checked, client_id, epoch, next, place, settled, successor?, successor_next?}
//            scope / its name            {cursor, epoch, loaded, open, stage?: {asked, cursor, epoch, page, pages}}
//            refused / 20 digits (place) {args, at, client_id, code, message, name, scope, seq, ts}
// Owner    value types. Threads  any.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "replica/replica.h"

namespace syncline::replica {

struct Identity {
  std::string client_id;
  std::int64_t next = 1;     // the number of the next mutation
  std::int64_t checked = 1;  // `next`, as far as it was compared with the server's last_seq: what is numbered from here on was made
                             // before that, and may meet numbers that a lost later state of this file has used
  std::int64_t settled = 0;  // up to here the queue was answered, and that is on the disk
  Place place = 1;           // of the next mutation
  std::string epoch;         // the server's, as it was last learned; empty: none yet
  // Set while the queue holds mutations under the old id whose fate is asked for: the id of what comes behind them.
  std::string successor;
  std::int64_t successor_next = 1;

  [[nodiscard]] std::string encode() const;
  static Identity decode(std::string_view body);
};

// The pages of a pull that has not ended. They lie as documents under `stage_name(scope)`.
struct Stage {
  Cursor cursor = 0;      // that was asked from
  std::string asked;      // with this epoch
  std::string epoch;      // of the pages
  std::string page;       // the token of the last
  std::int64_t pages = 0; // 0: there is none
};

struct ScopeRecord {
  Cursor cursor = 0;
  std::string epoch;
  bool open = true, loaded = false;
  Stage stage;

  [[nodiscard]] std::string encode() const;
  static ScopeRecord decode(std::string_view body);
};

std::string encode(const Refused& refused);
Refused decode_refused(std::string_view id, std::string_view body);

}  // namespace syncline::replica
