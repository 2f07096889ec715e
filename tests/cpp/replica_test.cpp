// The rules of a replica, one by one, against a real engine.
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "replica_fixture.h"

namespace syncline::testing_replica {
namespace {

class ReplicaTest : public ::testing::Test {
 protected:
  testing::Folder folder;
  Server server{folder / "server"};
  Client phone{folder / "phone", "phone"};
  void SetUp() override { phone.replica->join("s"); }
};

using Strings = std::vector<std::string>;

// ------------------------------------------------------------------------------------------------- the optimistic view

TEST_F(ReplicaTest, AMutationIsVisibleAtOnceAndConfirmedByAPull) {
  phone.mutate("set", R"({"id":"a","v":1})");
  EXPECT_EQ(phone.get("a"), R"({"id":"a","v":1})");
  EXPECT_EQ(phone.confirmed("a"), "absent");
  phone.sync(server);
  EXPECT_EQ(phone.confirmed("a"), R"({"id":"a","v":1})");
  EXPECT_EQ(server.get("a"), R"({"id":"a","v":1})");
  EXPECT_TRUE(phone.replica->pending().empty());
}

TEST_F(ReplicaTest, PendingMutationsRunAgainOnTopOfWhatOthersDid) {
  phone.mutate("add", R"({"id":"n"})");
  phone.mutate("add", R"({"id":"n"})");
  server.write("s", "n", R"({"n":40})");
  phone.pull(server);
  EXPECT_EQ(phone.get("n"), R"({"n":42})");
  EXPECT_EQ(phone.confirmed("n"), R"({"n":40})");
  phone.sync(server);
  EXPECT_EQ(server.get("n"), R"({"n":42})");
  EXPECT_EQ(phone.get("n"), R"({"n":42})");
}

TEST_F(ReplicaTest, ALocalRefusalIsThrownAndQueuesNothing) {
  EXPECT_THROW(phone.mutate("boom", R"({"id":"a"})"), replica::MutationRefused);
  EXPECT_EQ(phone.get("a"), "absent");
  EXPECT_TRUE(phone.replica->pending().empty());
  EXPECT_THROW(phone.mutate("nobody", "{}"), Error);
  EXPECT_THROW(phone.mutate("retry", R"({"id":"a"})"), Error);
  EXPECT_EQ(phone.get("a"), "absent");
}

TEST_F(ReplicaTest, AFailureInAReplaySkipsItsEffectAlone) {
  phone.mutate("cas", R"({"id":"a","version":0})");
  phone.mutate("set", R"({"id":"b","v":1})");
  server.write("s", "a", R"({"v":9})");
  phone.pull(server);
  EXPECT_EQ(phone.get("a"), R"({"v":9})");
  EXPECT_EQ(phone.get("b"), R"({"id":"b","v":1})");
  EXPECT_EQ(phone.replica->pending().size(), 2u);
}

TEST_F(ReplicaTest, AScopeThatIsNotJoinedIsRefused) {
  EXPECT_EQ(testing::error_code([&] { phone.mutate("set", R"({"id":"a"})", "other"); }), "invalid_scope");
  EXPECT_EQ(testing::error_code([&] { static_cast<void>(phone.replica->view("other", false)); }), "invalid_scope");
  EXPECT_EQ(testing::error_code([&] { phone.replica->leave("other"); }), "invalid_scope");
}

TEST_F(ReplicaTest, AMutatorCannotCallItsOwnReplica) {
  phone.host.mutators["nested"] = [&](Tx&, std::string_view) { phone.mutate("set", R"({"id":"a"})"); };
  EXPECT_EQ(testing::error_code([&] { phone.mutate("nested", "{}"); }), "usage");
}

TEST_F(ReplicaTest, IdsAreTheSameHereAndThere) {
  phone.mutate("mint", R"({"v":1})");
  const auto shown = phone.all();
  ASSERT_EQ(shown.size(), 1u);
  phone.sync(server);
  EXPECT_EQ(server.all(), shown);
  EXPECT_EQ(phone.all(), shown);
}

TEST_F(ReplicaTest, AViewStaysAsItWasWhileMutationsGoOn) {
  phone.mutate("set", R"({"id":"a","v":1})");
  const auto view = phone.replica->view("s", false);
  phone.mutate("set", R"({"id":"a","v":2})");
  phone.mutate("set", R"({"id":"b","v":2})");
  EXPECT_EQ(unpack(*view->get("k", "a")), R"({"id":"a","v":1})");
  EXPECT_FALSE(view->get("k", "b").has_value());
  EXPECT_EQ(view->scan("k", "", -1).size(), 1u);
  EXPECT_EQ(phone.get("a"), R"({"id":"a","v":2})");
}

TEST_F(ReplicaTest, ScanFindAndVersionSeeBothHalves) {
  server.write("s", "a", R"({"n":1})");
  server.write("s", "b", R"({"n":2})");
  phone.pull(server);
  phone.mutate("del", R"({"id":"a"})");
  phone.mutate("set", R"({"id":"c","n":3})");
  phone.mutate("set", R"({"id":"b","n":4})");
  const auto view = phone.replica->view("s", false);
  const auto rows = view->scan("k", "", -1);
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_EQ(rows[0].id, "b");
  EXPECT_EQ(rows[1].id, "c");
  EXPECT_EQ(view->version("k", "b"), 2);
  EXPECT_EQ(view->version("k", "a"), 0);
  mp::Border border;
  border.allow_dollar_keys = true;
  EXPECT_EQ(view->find("k", {.filter = Filter(json::to_msgpack(R"({"n":{"$gte":4}})", border))}).size(), 1u);
}

// ------------------------------------------------------------------------------------------------------------- events

TEST_F(ReplicaTest, EventsAreToldOnceAndOnlyWhenDurable) {
  phone.mutate("set", R"({"id":"a","v":1})");
  EXPECT_EQ(phone.events(), Strings{});
  EXPECT_TRUE(phone.replica->unflushed());
  EXPECT_TRUE(phone.replica->flush());
  EXPECT_EQ(phone.events(), Strings{R"(a - {"id":"a","v":1})"});
  EXPECT_EQ(phone.events(), Strings{});
  EXPECT_FALSE(phone.replica->flush());
  EXPECT_FALSE(phone.replica->unflushed());
}

TEST_F(ReplicaTest, ADocumentThatTheServerConfirmsAsItWasRaisesNoEvent) {
  phone.mutate("set", R"({"id":"a","v":1})");
  phone.replica->flush();
  phone.events();
  phone.sync(server);
  EXPECT_EQ(phone.events(), Strings{"opened s"});
}

TEST_F(ReplicaTest, AnAppliedPullTellsWhatDiffersBetweenTheTwoViews) {
  server.write("s", "a", R"({"v":1})");
  server.write("s", "b", R"({"v":1})");
  phone.pull(server);
  EXPECT_EQ(phone.events(), (Strings{R"(a - {"v":1})", R"(b - {"v":1})", "opened s"}));
  phone.mutate("set", R"({"id":"b","v":7})");
  phone.replica->flush();
  EXPECT_EQ(phone.events(), Strings{R"(b {"v":1} {"id":"b","v":7})"});
  server.write("s", "a", "");
  server.write("s", "b", R"({"v":2})");  // below the pending mutation: nothing to see
  phone.pull(server);
  EXPECT_EQ(phone.events(), Strings{R"(a {"v":1} -)"});
}

TEST_F(ReplicaTest, APullFromZeroTellsOnlyWhatDiffers) {
  for (const char* id : {"a", "b", "c"}) server.write("s", id, R"({"v":1})");
  server.page_limit = 2;
  phone.pull(server);
  phone.events();
  server.write("s", "a", "");
  server.write("s", "b", R"({"v":2})");
  server.purge();  // the cursor is too old now
  phone.pull(server);
  phone.pull(server);
  EXPECT_EQ(phone.events(), (Strings{R"(b {"v":1} {"v":2})", R"(a {"v":1} -)"}));
  EXPECT_EQ(phone.all("s", true), server.all());
}

TEST_F(ReplicaTest, WhoTellsNobodyGathersNoChanges) {
  phone.replica->tell_changes(false);
  server.write("s", "a", R"({"v":1})");
  phone.pull(server);
  phone.mutate("set", R"({"id":"b","v":7})");
  phone.replica->flush();
  EXPECT_EQ(phone.events(), Strings{"opened s"});
  EXPECT_EQ(phone.get("a"), R"({"v":1})");
}

// -------------------------------------------------------------------------------------------------------------- rule 1

TEST_F(ReplicaTest, Rule1NothingLeavesBeforeItIsOnTheDisk) {
  phone.pull(server);
  phone.mutate("set", R"({"id":"a","v":1})");
  const auto request = phone.replica->next_push();
  ASSERT_TRUE(request.has_value());
  phone.crash();
  ASSERT_EQ(phone.replica->pending().size(), 1u);
  EXPECT_EQ(phone.replica->pending()[0].seq, 1);
  EXPECT_EQ(phone.get("a"), R"({"id":"a","v":1})");
}

TEST_F(ReplicaTest, WhatWasNotFlushedIsGoneAfterACrashAndItsNumberWasNeverUsed) {
  phone.pull(server);
  phone.mutate("set", R"({"id":"a","v":1})");
  phone.crash();
  EXPECT_TRUE(phone.replica->pending().empty() || phone.replica->scopes().empty());
}

TEST_F(ReplicaTest, Rule1ARefusalIsShownWhenItIsOnTheDisk) {
  phone.pull(server);
  const Place place = phone.mutate("set", R"({"id":"a","v":1})");
  server.host.mutators["set"] = [](Tx&, std::string_view) { throw Error(Code::conflict, "no"); };
  phone.push(server);
  EXPECT_EQ(phone.get("a"), "absent");
  const auto refused = phone.replica->refused();
  ASSERT_EQ(refused.size(), 1u);
  EXPECT_EQ(refused[0].code, "conflict");
  EXPECT_EQ(refused[0].place, place);
  EXPECT_EQ(phone.events(), (Strings{"opened s", R"(a - {"id":"a","v":1})", "refused 1 conflict", R"(a {"id":"a","v":1} -)"}));
  phone.crash();
  EXPECT_EQ(phone.replica->refused().size(), 1u);
  EXPECT_TRUE(phone.replica->forget_refused(place));
  EXPECT_FALSE(phone.replica->forget_refused(place));
  phone.open();
  EXPECT_TRUE(phone.replica->refused().empty());
}

// -------------------------------------------------------------------------------------------------------------- rule 2

TEST_F(ReplicaTest, Rule2ANewEpochKeepsClientIdAndNumbers) {
  phone.pull(server);
  const std::string before = phone.replica->status().client_id;
  server.back_up("b");
  phone.mutate("set", R"({"id":"a","v":1})");
  phone.push(server);
  server.restore("b");
  phone.sync(server);
  EXPECT_EQ(phone.replica->status().client_id, before);
  EXPECT_EQ(server.get("a"), R"({"id":"a","v":1})");
  phone.mutate("set", R"({"id":"b","v":1})");
  EXPECT_EQ(phone.replica->pending().back().seq, 2);
}

// -------------------------------------------------------------------------------------------------------------- rule 3

TEST_F(ReplicaTest, Rule3OnePushIsOutstandingAndOnlyItsAnswerCounts) {
  phone.pull(server);
  phone.mutate("set", R"({"id":"a","v":1})");
  const auto first = phone.replica->next_push();
  phone.mutate("set", R"({"id":"b","v":1})");
  EXPECT_FALSE(phone.replica->next_push().has_value());
  const Reply reply = server.handle(first->path, first->body, "phone");
  phone.replica->lost(first->request);
  const auto second = phone.replica->next_push();
  ASSERT_TRUE(second.has_value());
  EXPECT_EQ(second->mutations, 2);
  EXPECT_EQ(phone.replica->answer(first->request, reply.status, reply.body).next, Next::ignored);
  EXPECT_EQ(phone.deliver(server, *second).next, Next::done);
  EXPECT_EQ(phone.deliver(server, *second).next, Next::ignored);
  phone.sync(server);
  EXPECT_EQ(server.all().size(), 2u);
}

TEST_F(ReplicaTest, Rule3ANewEpochAbandonsTheOutstandingPush) {
  phone.pull(server);
  server.back_up("b");
  phone.mutate("add", R"({"id":"n"})");
  const auto push = phone.replica->next_push();
  const Reply late = server.handle(push->path, push->body, "phone");
  server.restore("b");
  phone.pull(server);
  phone.pull(server);
  EXPECT_EQ(phone.replica->answer(push->request, late.status, late.body).next, Next::ignored);
  phone.sync(server);
  EXPECT_EQ(server.get("n"), R"({"n":1})");
}

// -------------------------------------------------------------------------------------------------------------- rule 4

TEST_F(ReplicaTest, Rule4AConfirmedMutationStaysUntilItsResultCame) {
  phone.pull(server);
  phone.mutate("set", R"({"id":"a","v":1})");
  server.host.mutators["set"] = [](Tx&, std::string_view) { throw Error(Code::conflict, "no"); };
  const auto push = phone.replica->next_push();
  server.handle(push->path, push->body, "phone");
  phone.replica->lost(push->request);  // applied, the answer is lost
  phone.pull(server);
  EXPECT_EQ(phone.get("a"), "absent");  // last_seq says it is in the documents: as a refusal
  ASSERT_EQ(phone.replica->pending().size(), 1u);
  EXPECT_TRUE(phone.replica->pending()[0].confirmed);
  phone.push(server);
  EXPECT_EQ(phone.replica->refused().size(), 1u);
  EXPECT_TRUE(phone.replica->pending().empty());
}

TEST_F(ReplicaTest, Rule4AnAnsweredMutationStaysInTheViewUntilAPullHasIt) {
  phone.pull(server);
  phone.mutate("set", R"({"id":"a","v":1})");
  phone.push(server);
  EXPECT_EQ(phone.get("a"), R"({"id":"a","v":1})");
  EXPECT_EQ(phone.confirmed("a"), "absent");
  EXPECT_EQ(phone.replica->pending().size(), 1u);
  phone.pull(server);
  EXPECT_EQ(phone.confirmed("a"), R"({"id":"a","v":1})");
  EXPECT_TRUE(phone.replica->pending().empty());
}

TEST_F(ReplicaTest, Rule4TheQueueShrinksFromItsFront) {
  phone.replica->join("t");
  phone.pull(server);
  phone.pull(server, "t");
  phone.mutate("set", R"({"id":"a","v":1})");
  phone.mutate("set", R"({"id":"b","v":1})", "t");
  phone.push(server);
  phone.pull(server, "t");  // confirms the second
  EXPECT_EQ(phone.replica->pending().size(), 2u);
  phone.pull(server);
  EXPECT_EQ(phone.replica->pending().size(), 0u);
}

// -------------------------------------------------------------------------------------------------------------- rule 5

TEST_F(ReplicaTest, Rule5APullConfirmsOnlyItsOwnScope) {
  phone.replica->join("t");
  phone.pull(server);
  phone.pull(server, "t");
  phone.mutate("set", R"({"id":"a","v":1})", "t");
  const auto push = phone.replica->next_push();
  const Reply reply = server.handle(push->path, push->body, "phone");
  phone.pull(server, "s");
  EXPECT_EQ(phone.get("a", "t"), R"({"id":"a","v":1})");
  phone.replica->answer(push->request, reply.status, reply.body);
  EXPECT_EQ(phone.get("a", "t"), R"({"id":"a","v":1})");
}

TEST_F(ReplicaTest, Rule5PagesAreStagedDurablyAndAppliedAtOnce) {
  for (int n = 0; n < 5; ++n) server.write("s", "d" + std::to_string(n), R"({"v":1})");
  server.page_limit = 2;
  phone.pull_page(server);
  phone.pull_page(server);
  EXPECT_TRUE(phone.all().empty());
  EXPECT_EQ(phone.state().staged_pages, 2);
  phone.crash();
  EXPECT_EQ(phone.state().staged_pages, 2);
  server.write("s", "d0", R"({"v":2})");  // comes again, in a later page
  server.write("s", "d1", "");
  phone.pull(server);
  EXPECT_EQ(phone.all("s", true), server.all());
  EXPECT_EQ(phone.state().staged_pages, 0);
  EXPECT_EQ(phone.all().size(), 4u);
}

TEST_F(ReplicaTest, Rule5APullAboveZeroInPagesMerges) {
  for (int n = 0; n < 6; ++n) server.write("s", "d" + std::to_string(n), R"({"v":1})");
  phone.pull(server);
  phone.events();
  server.write("s", "d0", "");
  server.write("s", "d1", R"({"v":2})");
  server.write("s", "d6", R"({"v":1})");
  server.page_limit = 1;
  phone.pull_page(server);
  phone.pull_page(server);
  EXPECT_EQ(phone.all().size(), 6u);
  server.write("s", "d1", R"({"v":3})");
  phone.pull(server);
  EXPECT_EQ(phone.all("s", true), server.all());
  EXPECT_EQ(phone.events().size(), 3u);
}

TEST_F(ReplicaTest, Rule5WhatComesFromZeroReplacesTheDocuments) {
  server.write("s", "a", R"({"v":1})");
  phone.pull(server);
  server.write("s", "a", "");
  server.purge();
  phone.pull(server);
  EXPECT_TRUE(phone.all().empty());
}

// -------------------------------------------------------------------------------------------------------------- rule 6

TEST_F(ReplicaTest, Rule6ARestoredServerGetsWhatItLostAgain) {
  phone.pull(server);
  server.back_up("b");
  server.write("s", "x", R"({"v":1})");
  phone.mutate("set", R"({"id":"a","v":1})");
  phone.sync(server);
  phone.events();
  phone.mutate("set", R"({"id":"b","v":1})");
  server.restore("b");
  phone.sync(server);
  const auto told = phone.events();
  EXPECT_NE(std::find(told.begin(), told.end(), "restored s"), told.end());
  EXPECT_EQ(phone.all("s", true), server.all());
  EXPECT_EQ(server.get("b"), R"({"id":"b","v":1})");
  EXPECT_TRUE(phone.replica->pending().empty());
}

TEST_F(ReplicaTest, Rule6ARefusedMutationGoesAsAVoidInTheNextHistory) {
  phone.replica->join("t");
  phone.pull(server);
  phone.pull(server, "t");
  server.back_up("b");
  phone.mutate("set", R"({"id":"a","v":1})");
  phone.mutate("cas", R"({"id":"x","version":0})", "t");
  server.write("t", "x", R"({"v":9})");
  phone.push(server);
  ASSERT_EQ(phone.replica->refused().size(), 1u);
  EXPECT_EQ(phone.replica->pending().size(), 2u);  // the first is not confirmed
  server.restore("b");
  phone.sync(server);
  EXPECT_EQ(server.get("a"), R"({"id":"a","v":1})");
  EXPECT_EQ(server.get("x", "t"), "absent");  // it was told refused: it never runs
  EXPECT_EQ(phone.replica->refused().size(), 1u);
}

TEST_F(ReplicaTest, Rule6ACursorThatTheServerStillKnowsStaysGood) {
  server.write("s", "a", R"({"v":1})");
  phone.pull(server);
  server.reopen();
  phone.mutate("set", R"({"id":"b","v":1})");
  phone.events();
  phone.sync(server);
  EXPECT_EQ(phone.all("s", true), server.all());
  for (const std::string& told : phone.events()) EXPECT_NE(told, "restored s");
}

// -------------------------------------------------------------------------------------------------------------- rule 7

TEST_F(ReplicaTest, Rule7AGapSendsAgainFromTheFrontWithSettled) {
  phone.pull(server);
  server.back_up("b");
  phone.mutate("set", R"({"id":"a","v":1})");
  phone.sync(server);  // settled: 1
  phone.mutate("set", R"({"id":"b","v":1})");
  server.restore("b");  // knows nothing of number 1
  phone.sync(server);
  EXPECT_EQ(server.get("b"), R"({"id":"b","v":1})");
  EXPECT_TRUE(phone.replica->pending().empty());
}

TEST_F(ReplicaTest, Rule7AMutationThatIsAlwaysUnavailableIsVoidedAfterItsTries) {
  Client tablet(folder / "tablet", "tablet", {.max_tries = 3});
  tablet.replica->join("s");
  tablet.pull(server);
  server.host.mutators["set"] = server.host.mutators["retry"];
  tablet.mutate("set", R"({"id":"a","v":1})");
  tablet.mutate("add", R"({"id":"n"})");
  EXPECT_EQ(tablet.push(server).next, Next::wait);
  EXPECT_EQ(tablet.push(server).next, Next::wait);
  EXPECT_EQ(tablet.get("a"), R"({"id":"a","v":1})");
  EXPECT_EQ(tablet.push(server).next, Next::wait);
  EXPECT_EQ(tablet.get("a"), "absent");
  EXPECT_TRUE(tablet.replica->pending()[0].voided);
  EXPECT_TRUE(tablet.replica->refused().empty());  // until its number is consumed
  tablet.sync(server);
  ASSERT_EQ(tablet.replica->refused().size(), 1u);
  EXPECT_EQ(tablet.replica->refused()[0].code, "unavailable");
  EXPECT_EQ(server.get("n"), R"({"n":1})");
  EXPECT_TRUE(tablet.replica->pending().empty());
}

TEST_F(ReplicaTest, Rule7ADiscardedMutationLeavesTheViewAndGoesAsAVoid) {
  phone.pull(server);
  const Place place = phone.mutate("set", R"({"id":"a","v":1})");
  phone.mutate("set", R"({"id":"b","v":1})");
  EXPECT_TRUE(phone.replica->discard(place));
  EXPECT_FALSE(phone.replica->discard(place));
  EXPECT_EQ(phone.get("a"), "absent");
  phone.sync(server);
  EXPECT_EQ(server.get("a"), "absent");
  EXPECT_EQ(server.get("b"), R"({"id":"b","v":1})");
  EXPECT_TRUE(phone.replica->refused().empty());
  EXPECT_FALSE(phone.replica->discard(place));
}

TEST_F(ReplicaTest, Rule7AVoidedMutationThatWasAppliedAfterAllCountsAsApplied) {
  phone.pull(server);
  const Place place = phone.mutate("set", R"({"id":"a","v":1})");
  const auto push = phone.replica->next_push();
  server.handle(push->path, push->body, "phone");
  phone.replica->lost(push->request);
  EXPECT_TRUE(phone.replica->discard(place));
  EXPECT_EQ(phone.get("a"), "absent");
  phone.push(server);
  EXPECT_EQ(phone.get("a"), R"({"id":"a","v":1})");
  phone.sync(server);
  EXPECT_EQ(phone.confirmed("a"), R"({"id":"a","v":1})");
  EXPECT_TRUE(phone.replica->pending().empty());
  EXPECT_TRUE(phone.replica->refused().empty());
}

TEST_F(ReplicaTest, Rule7ABatchThatIsTooLargeIsSplitAndASingleOneVoided) {
  phone.pull(server);
  for (int n = 0; n < 4; ++n) phone.mutate("set", R"({"id":"a)" + std::to_string(n) + R"(","v":1})");
  const std::string too_large = wire::encode_error({"too_large", "no", {}}, Format::msgpack);
  auto push = phone.replica->next_push();
  EXPECT_EQ(push->mutations, 4);
  EXPECT_EQ(phone.replica->answer(push->request, 413, too_large).next, Next::done);
  push = phone.replica->next_push();
  EXPECT_EQ(push->mutations, 2);
  EXPECT_EQ(phone.replica->answer(push->request, 413, "<html>").next, Next::done);
  push = phone.replica->next_push();
  EXPECT_EQ(push->mutations, 1);
  EXPECT_EQ(phone.replica->answer(push->request, 413, too_large).next, Next::done);
  EXPECT_EQ(phone.get("a0"), "absent");
  phone.sync(server);
  EXPECT_EQ(server.all().size(), 3u);
  ASSERT_EQ(phone.replica->refused().size(), 1u);
  EXPECT_EQ(phone.replica->refused()[0].code, "too_large");
}

// -------------------------------------------------------------------------------------------------------------- rule 8

TEST_F(ReplicaTest, Rule8ForbiddenClosesTheScopeAndPermissionOpensItFromZero) {
  server.write("s", "x", R"({"v":1})");
  phone.pull(server);
  phone.mutate("set", R"({"id":"a","v":1})");
  phone.replica->flush();
  phone.events();
  server.denied.insert({"phone", "s"});
  EXPECT_EQ(phone.pull(server).next, Next::failed);
  EXPECT_FALSE(phone.state().open);
  EXPECT_EQ(phone.get("x"), "absent");
  EXPECT_EQ(phone.events(), (Strings{R"(x {"v":1} -)", "closed s"}));
  EXPECT_EQ(phone.pull(server).next, Next::failed);
  EXPECT_EQ(phone.events(), Strings{});
  EXPECT_EQ(phone.replica->pending().size(), 1u);
  server.denied.clear();
  phone.sync(server);
  EXPECT_TRUE(phone.state().open);
  EXPECT_EQ(phone.all("s", true), server.all());
  EXPECT_EQ(server.get("a"), R"({"id":"a","v":1})");
  const auto told = phone.events();
  EXPECT_NE(std::find(told.begin(), told.end(), "opened s"), told.end());
}

TEST_F(ReplicaTest, Rule8LeavingForgetsTheDocumentsAndKeepsWhatIsUnanswered) {
  server.write("s", "x", R"({"v":1})");
  phone.pull(server);
  phone.mutate("set", R"({"id":"a","v":1})");
  phone.replica->leave("s");
  EXPECT_TRUE(phone.replica->scopes().empty());
  EXPECT_EQ(phone.replica->pending().size(), 1u);
  phone.crash();
  EXPECT_TRUE(phone.replica->scopes().empty());
  EXPECT_EQ(phone.replica->pending().size(), 1u);
  phone.push(server);  // first it asks who it is: no scope is open
  EXPECT_TRUE(phone.replica->status().identified);
  phone.push(server);
  EXPECT_EQ(server.get("a"), R"({"id":"a","v":1})");
  EXPECT_TRUE(phone.replica->pending().empty());
  phone.replica->join("s");
  phone.pull(server);
  EXPECT_EQ(phone.all("s", true), server.all());
}

// -------------------------------------------------------------------------------------------------------------- rule 9

TEST_F(ReplicaTest, Rule9AForeignClientIdIsLeftAndTheSeedsStay) {
  Client tablet(folder / "tablet", "tablet", {.client_id = "taken"});
  tablet.replica->join("s");
  phone.user = "thief";
  Client thief(folder / "thief", "thief", {.client_id = "taken"});
  thief.replica->join("s");
  thief.mutate("set", R"({"id":"t","v":1})");
  thief.sync(server);

  tablet.mutate("mint", R"({"v":1})");
  const auto shown = tablet.all();
  tablet.sync(server);
  EXPECT_NE(tablet.replica->status().client_id, "taken");
  EXPECT_TRUE(tablet.replica->pending().empty());
  EXPECT_EQ(server.get(shown.begin()->first), shown.begin()->second);
  EXPECT_EQ(server.all().size(), 2u);
  const auto told = tablet.events();
  EXPECT_NE(std::find(told.begin(), told.end(), "renamed"), told.end());
}

// ------------------------------------------------------------------------------------------------------------- rule 10

TEST_F(ReplicaTest, Rule10ItLearnsLastSeqBeforeItPushes) {
  phone.mutate("set", R"({"id":"a","v":1})");
  EXPECT_FALSE(phone.replica->next_push().has_value());
  EXPECT_FALSE(phone.replica->status().identified);
  phone.pull(server);
  EXPECT_TRUE(phone.replica->status().identified);
  EXPECT_TRUE(phone.replica->next_push().has_value());
}

TEST_F(ReplicaTest, Rule10AFileThatWasSetBackLosesNothingAndAppliesNothingTwice) {
  phone.sync(server);
  phone.mutate("add", R"({"id":"n"})");  // queued in the state that is set back to
  phone.keep("old");
  phone.sync(server);
  phone.mutate("set", R"({"id":"lost","v":1})");
  phone.sync(server);
  const std::string before = phone.replica->status().client_id;
  phone.set_back("old");
  phone.mutate("add", R"({"id":"n"})");  // what comes
  phone.mutate("set", R"({"id":"new","v":1})");
  EXPECT_EQ(phone.replica->pending().size(), 3u);
  phone.sync(server);
  EXPECT_NE(phone.replica->status().client_id, before);
  EXPECT_EQ(server.get("n"), R"({"n":2})");
  EXPECT_EQ(server.get("lost"), R"({"id":"lost","v":1})");
  EXPECT_EQ(server.get("new"), R"({"id":"new","v":1})");
  EXPECT_EQ(phone.all("s", true), server.all());
  EXPECT_TRUE(phone.replica->pending().empty());
  EXPECT_TRUE(phone.replica->refused().empty());
}

TEST_F(ReplicaTest, Rule10WhatWasMadeOfflineAfterTheSetBackSurvivesAReopening) {
  phone.sync(server);
  phone.keep("old");
  phone.mutate("set", R"({"id":"x","v":1})");
  phone.mutate("set", R"({"id":"y","v":1})");
  phone.sync(server);
  phone.set_back("old");
  phone.mutate("set", R"({"id":"p","v":1})");  // numbers 1 and 2 again
  phone.mutate("set", R"({"id":"q","v":1})");
  phone.mutate("set", R"({"id":"r","v":1})");
  phone.open();
  phone.sync(server);
  EXPECT_EQ(server.all().size(), 5u);
  EXPECT_EQ(phone.all("s", true), server.all());
  EXPECT_TRUE(phone.replica->refused().empty());
}

// ------------------------------------------------------------------------------------------------------------- rule 11

TEST_F(ReplicaTest, Rule11NewsIsWhatDiffers) {
  EXPECT_TRUE(phone.replica->news("s", 0, "e"));
  server.write("s", "a", R"({"v":1})");
  phone.pull(server);
  const auto at = phone.state();
  EXPECT_FALSE(phone.replica->news("s", at.cursor, at.epoch));
  EXPECT_TRUE(phone.replica->news("s", at.cursor + 1, at.epoch));
  EXPECT_TRUE(phone.replica->news("s", at.cursor - 1, at.epoch));
  EXPECT_TRUE(phone.replica->news("s", at.cursor, "another"));
  EXPECT_FALSE(phone.replica->news("unknown", 1, "e"));
}

TEST_F(ReplicaTest, Rule11WhatIsLargerThanTheServersLimitsIsRefusedWhenItIsMade) {
  Limits limits;
  limits.max_body_bytes = 2000;
  limits.max_document_bytes = 300;
  phone.replica->learn_limits(limits);
  const std::string large(2000, 'x');
  EXPECT_EQ(testing::error_code([&] { phone.mutate("nothing", R"({"v":")" + large + R"("})"); }), "too_large");
  EXPECT_EQ(testing::error_code([&] { phone.mutate("set", R"({"id":"a","v":")" + large.substr(0, 400) + R"("})"); }), "too_large");
  EXPECT_TRUE(phone.replica->pending().empty());
  limits.max_mutations = 2;
  limits.max_document_bytes = 1000;
  phone.replica->learn_limits(limits);
  phone.pull(server);
  for (int n = 0; n < 5; ++n) phone.mutate("add", R"({"id":"n"})");
  EXPECT_EQ(phone.replica->next_push()->mutations, 2);
}

TEST_F(ReplicaTest, AFullQueueIsRateLimited) {
  Client tablet(folder / "tablet", "tablet", {.max_pending = 2});
  tablet.replica->join("s");
  tablet.mutate("add", R"({"id":"n"})");
  tablet.mutate("add", R"({"id":"n"})");
  EXPECT_EQ(testing::error_code([&] { tablet.mutate("add", R"({"id":"n"})"); }), "rate_limited");
  EXPECT_EQ(tablet.get("n"), R"({"n":2})");
}

// --------------------------------------------------------------------------------------------------- answers, the file

TEST_F(ReplicaTest, AnswersThatAreNoneAreAskedForAgain) {
  for (const auto& [status, body] : std::vector<std::pair<int, std::string>>{
           {200, ""}, {200, "\x80"}, {200, "<html>"}, {502, "<html>"}, {0, ""}, {503, wire::encode_error({"unavailable", "x", {}}, Format::msgpack)}}) {
    const auto request = phone.replica->next_pull("s");
    ASSERT_TRUE(request.has_value());
    EXPECT_EQ(phone.replica->answer(request->request, status, body).next, Next::wait) << status << body;
  }
  const auto request = phone.replica->next_pull("s");
  EXPECT_EQ(phone.replica->answer(request->request, 401, "").next, Next::unauthenticated);
  const auto again = phone.replica->next_pull("s");
  EXPECT_EQ(phone.replica->answer(again->request, 404, "").next, Next::failed);
  phone.sync(server);
  EXPECT_TRUE(phone.state().loaded);
}

TEST_F(ReplicaTest, AnAnswerThatIsCutOffAnywhereChangesNothing) {
  server.write("s", "a", R"({"v":1})");
  server.write("s", "b", R"({"v":[1,2,"three"]})");
  const auto first = phone.replica->next_pull("s");
  const Reply whole = server.handle(first->path, first->body, "phone");
  phone.replica->lost(first->request);
  for (std::size_t size = 0; size < whole.body.size(); ++size) {
    const auto request = phone.replica->next_pull("s");
    EXPECT_EQ(phone.replica->answer(request->request, 200, std::string_view(whole.body).substr(0, size)).next, Next::wait) << size;
  }
  EXPECT_TRUE(phone.all().empty());
  EXPECT_FALSE(phone.state().loaded);
}

TEST_F(ReplicaTest, ADocumentThatIsNotCanonicalIsNotTaken) {
  std::string body;
  mp::Writer writer(body);
  writer.map(5);
  writer.str("changes");
  writer.array(1);
  writer.map(7);
  const auto field = [&](const char* name) { writer.str(name); };
  field("cursor");
  writer.integer(1);
  field("entity");
  writer.str("k");
  field("id");
  writer.str("a");
  field("op");
  writer.str("create");
  field("data");
  writer.map(2);
  field("b");
  writer.integer(1);
  field("a");
  writer.integer(1);
  field("version");
  writer.integer(1);
  field("ts");
  writer.instant(1);
  writer.str("cursor");
  writer.integer(1);
  writer.str("epoch");
  writer.str("e");
  writer.str("has_more");
  writer.boolean(false);
  writer.str("last_seq");
  writer.integer(0);
  const auto request = phone.replica->next_pull("s");
  const Answered told = phone.replica->answer(request->request, 200, body);
  EXPECT_EQ(told.next, Next::wait);
  EXPECT_NE(told.message.find("canonical"), std::string::npos) << told.message;
}

TEST_F(ReplicaTest, AnEnginesFileIsNoReplicasAndTheOtherWayRound) {
  phone.replica->flush();
  const std::string path = phone.path();
  phone.replica->close();
  EXPECT_EQ(testing::error_code([&] { Engine engine(open_sqlite(path, {}), {}); }), "foreign_file");
  EXPECT_EQ(testing::error_code([&] { Engine engine(open_sqlite(path, {.read_only = true}), {.store = {.read_only = true}}); }), "foreign_file");
  server.engine->close();
  Host host;
  EXPECT_EQ(testing::error_code([&] { Replica wrong(open_sqlite(server.path(), {}), host, {}); }), "foreign_file");
}

TEST_F(ReplicaTest, EverythingSurvivesAReopening) {
  server.write("s", "x", R"({"v":1})");
  phone.pull(server);
  phone.mutate("set", R"({"id":"a","v":1})");
  phone.mutate("mint", R"({"v":2})");
  const auto shown = phone.all();
  const auto at = phone.state();
  phone.open();
  EXPECT_EQ(phone.all(), shown);
  EXPECT_EQ(phone.state().cursor, at.cursor);
  EXPECT_EQ(phone.replica->pending().size(), 2u);
  phone.sync(server);
  EXPECT_EQ(phone.all(), shown);
  EXPECT_EQ(server.all(), shown);
}

TEST_F(ReplicaTest, ThreadsMutateReadFlushAndSyncAtOnce) {
  constexpr int kEach = 60;
  constexpr int kWriters = 3;
  std::atomic<bool> done{false};
  std::vector<std::thread> writers;
  std::vector<std::thread> others;
  for (int who = 0; who < kWriters; ++who) {
    writers.emplace_back([&, who] {
      for (int n = 0; n < kEach; ++n) phone.mutate("set", R"({"id":"w)" + std::to_string(who) + "-" + std::to_string(n) + R"(","v":1})");
    });
  }
  others.emplace_back([&] {
    while (!done) {
      const auto view = phone.replica->view("s", false);
      const auto rows = view->scan("k", "", -1);
      for (const Row& row : rows) EXPECT_EQ(view->get("k", row.id), row.body);
    }
  });
  others.emplace_back([&] {
    while (!done) {
      phone.pull(server);
      phone.push(server);
      phone.replica->flush();
      phone.replica->take_events();
    }
  });
  others.emplace_back([&] {
    while (!done) {
      EXPECT_GE(phone.replica->status().pending, 0);
      static_cast<void>(phone.replica->pending());
      static_cast<void>(phone.replica->unflushed());
    }
  });
  for (std::thread& thread : writers) thread.join();
  done = true;
  for (std::thread& thread : others) thread.join();
  phone.sync(server);
  EXPECT_EQ(server.all().size(), static_cast<std::size_t>(kEach * kWriters));
  EXPECT_EQ(phone.all("s", true), server.all());
}

TEST_F(ReplicaTest, AClosedReplicaSaysSo) {
  phone.replica->close();
  phone.replica->close();
  EXPECT_EQ(testing::error_code([&] { phone.replica->flush(); }), "closed");
}

}  // namespace
}  // namespace syncline::testing_replica
