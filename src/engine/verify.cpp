#include "engine/verify.h"

#include <string>
#include <utility>

#include "engine/results.h"

namespace syncline {

namespace {

std::string results_fault(const ResultRow& row) {
  try {
    return results::find(row.results, row.first_seq) && results::find(row.results, row.last_seq)
               ? std::string()
               : "its numbers are not those that it is kept under";
  } catch (const Error& error) {
    return error.what();
  }
}

}  // namespace

Report verify(Store& store, const VerifyProgress& progress) {
  Report report;
  CheckHooks hooks;
  hooks.progress = progress;
  hooks.found = [&](Problem problem) {
    ++report.found;
    if (report.problems.size() < Report::kMost) report.problems.push_back(std::move(problem));
  };
  hooks.results_fault = results_fault;
  report.checked = store.check(hooks);
  return report;
}

Repaired repair(const std::string& path) {
  CheckHooks hooks;
  hooks.results_fault = results_fault;
  return repair_sqlite(path, std::move(hooks));
}

}  // namespace syncline
