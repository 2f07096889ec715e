// What a commit group has written and not yet flushed: two levels over the store.
//
// What     The lower level is what the group's finished mutations left; the upper one is the drafts that the running mutation wrote, each
//          beside the document it is for. Success merges them down (delta, version and cursor of each touched document are made there),
//          failure drops them: no savepoint. A document that ten mutations touched is one row at flush and ten log lines.
//          One flush at the end, by the leader: a second thread that put the rows of finished mutations in place while the next ones ran
//          made pushes of 100 creations a tenth faster on two idle cores, and a third slower on two busy ones.
// Owner    the group's leader; lives for one commit.
// Threads  one at a time: the member whose turn it is.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/mutation.h"
#include "engine/results.h"
#include "engine/upgrades.h"
#include "engine/workspace.h"
#include "store/store.h"

namespace syncline {

// Who and what made a change: what every log line of a mutation says.
struct Origin {
  std::string_view client_id, user, mutation;
  std::int64_t client_seq = 0;
  std::int64_t mutation_ts = 0;
};

class WriteSet final : public Workspace {
 public:
  WriteSet(WriteTx& tx, std::int64_t now, std::size_t max_document, std::shared_ptr<const Upgrader> upgrader = nullptr);

  // -- the running mutation
  [[nodiscard]] std::optional<Seen> get(std::string_view scope, std::string_view entity, std::string_view id) override;
  [[nodiscard]] std::int64_t version(std::string_view scope, std::string_view entity, std::string_view id) override;
  void set(std::string_view scope, std::string_view entity, std::string_view id, std::string body) override;
  bool remove(std::string_view scope, std::string_view entity, std::string_view id) override;
  // Both levels merged over the store.
  void scan(std::string_view scope, std::string_view entity, std::string_view prefix, const Visit& visit) override;
  [[nodiscard]] bool dirty() const noexcept { return !drafts_.empty(); }

  // -- its end
  // Merges down; at least one cursor is taken. Returns what changed; `cursor` is the last one taken.
  std::vector<ChangeNote> merge(const Origin& origin, Cursor& cursor);
  void drop() noexcept;         // forgets the upper level
  Cursor take_cursor();         // for a mutation that changed nothing, a refusal, a void
  void touch_scope(std::string_view scope, Cursor cursor);

  // -- beside the sequence: documents without cursor and log line. They go into place with the group, whatever becomes of the
  //    running mutation.
  [[nodiscard]] std::optional<std::string> unlogged(std::string_view scope, std::string_view entity, std::string_view id);
  void put_unlogged(std::string_view scope, std::string_view entity, std::string_view id, std::string body);  // empty: it goes
  // Those with an id greater than `after_id`, in byte order; `visit` must not call back into the write set.
  void scan_unlogged(std::string_view scope, std::string_view entity, std::string_view after_id, const Visit& visit);

  // -- the clients of the group
  struct Client {
    ClientRow row;
    bool fresh = false, dirty = false;
    results::Entries results;  // of this group
  };
  Client& client(std::string_view client_id);  // loads it once; row.owner empty and fresh where it is new

  // -- flush
  void flush(std::int64_t keep_unsettled_results);  // applies everything to the transaction, once
  [[nodiscard]] Cursor head() const noexcept { return head_; }
  [[nodiscard]] const std::map<std::string, Cursor, std::less<>>& touched_scopes() const noexcept { return scopes_; }
  [[nodiscard]] std::size_t mutations() const noexcept { return merges_; }
  [[nodiscard]] std::size_t bytes() const noexcept { return bytes_; }
  [[nodiscard]] std::size_t changes() const noexcept { return log_.size(); }
  [[nodiscard]] std::int64_t now() const noexcept { return now_; }
  [[nodiscard]] WriteTx& tx() noexcept { return tx_; }

 private:
  struct Entry {
    Cursor row = 0;      // the cursor of its row in the store; 0: it has none
    Cursor claimed = 0;  // the cursor that its key was put in place with, ahead of its row
    Cursor cursor = 0, created = 0;
    std::int64_t version = 0, created_at = 0, updated_at = 0;
    std::string body;
    std::string upgraded;  // what is read in place of a body of an older schema, once it was asked for
    std::string draft;     // the running mutation's body for it
    bool known = false;    // whether it has a row was asked
    bool live = false, dirty = false;
    bool drafted = false, draft_live = false;
  };
  using Documents = std::map<std::string, Entry, std::less<>>;

  const std::string& key(std::string_view scope, std::string_view entity, std::string_view id);
  Documents::iterator entry(std::string_view key);  // that of the key, made where there is none
  void know(Documents::value_type& document);       // asks the store for its row, once
  void enter(Documents::value_type& document);      // as `know`, of one that is about to be written
  std::string_view named(std::string_view name);    // a copy of what a log line is to say; the last few are remembered
  [[nodiscard]] bool outdated(std::string_view entity, Cursor cursor) const {
    return upgrader_ != nullptr && upgrader_->applies(entity, cursor);
  }
  Entry& draft(std::string_view scope, std::string_view entity, std::string_view id);

  WriteTx& tx_;
  std::int64_t now_;
  std::size_t max_document_;
  std::shared_ptr<const Upgrader> upgrader_;  // null: nothing to upgrade
  Cursor head_;
  Documents documents_;
  std::vector<Documents::iterator> drafts_;  // in order of first write
  std::vector<LogLineView> log_;             // their views: of the keys of `documents_`, of `deltas_` and `names_`
  std::deque<std::string> deltas_, names_;
  std::array<std::string_view, 4> last_names_;
  std::size_t next_name_ = 0;
  std::map<std::string, Cursor, std::less<>> scopes_;
  std::map<std::string, Client, std::less<>> clients_;
  std::map<std::string, std::string, std::less<>> unlogged_;  // written by the group; empty: gone
  std::string key_;
  std::size_t merges_ = 0, bytes_ = 0, clean_bytes_ = 0;
};

}  // namespace syncline
