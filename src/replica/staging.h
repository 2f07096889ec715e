// Pulled pages on their way into the confirmed documents.
//
// What     A page that is not the last is staged: its documents, tombstones included, lie under a reserved scope of their own, on the
//          disk, where a later page's word on a document replaces an earlier one's. At the end they are merged into the scope; or, of a
//          pull from 0, the two scopes change names, which takes the same time for one document and for a million.
// Owner    the replica. Threads  one at a time, under its lock, inside its write transaction.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "replica/wire.h"
#include "store/store.h"

namespace syncline::replica {

std::string stage_name(std::string_view scope);

// Called before a document is written, for each in turn.
using BeforeChange = std::function<void(std::string_view entity, std::string_view id)>;

// Puts a page in place. `tombstones`: deletions are kept as such (in a stage); otherwise the document is forgotten.
void put_page(WriteTx& tx, std::string_view scope, std::string_view changes, bool tombstones, const BeforeChange& before);
// Puts what is staged in place of the scope's documents, one by one, and forgets the stage.
void merge_stage(WriteTx& tx, std::string_view scope, const BeforeChange& before);
// The scope has the stage's documents from now on, and the stage the scope's.
void swap_stage(WriteTx& tx, std::string_view scope);
void forget_scope(WriteTx& tx, std::string_view scope);

}  // namespace syncline::replica
