#include "engine/mutation.h"

#include "base/msgpack.h"

namespace syncline {

std::uint64_t Mutation::content_hash() const {
  std::string content;
  content.reserve(name.size() + args.size() + scope.size() + 16);
  mp::Writer writer(content);
  writer.array(3);
  if (is_void) {
    writer.nil();
  } else {
    writer.str(name);
  }
  if (args.empty()) {
    writer.nil();
  } else {
    writer.raw(args);
  }
  writer.str(scope);
  return mp::hash64(content);
}

std::set<std::string> PushRequest::scopes() const {
  std::set<std::string> out;
  for (const Mutation& mutation : mutations) {
    if (!mutation.is_void) out.insert(mutation.scope);
  }
  return out;
}

std::set<std::string> PushRequest::clients() const {
  std::set<std::string> out;
  for (const Mutation& mutation : mutations) {
    if (!mutation.client_id.empty()) out.insert(mutation.client_id);
  }
  for (const auto& [client, seq] : settled) out.insert(client);
  return out;
}

Refusal Refusal::from(const Error& error) {
  const Code code = wire_code(error.code());
  if (code != error.code()) {
    // A local fault: what it was is for the log, not for a client.
    return {std::string(code_name(code)), code == Code::unavailable ? "the server cannot do this now; try again" : "internal error", {}};
  }
  return {std::string(code_name(code)), error.what(), error.details()};
}

}  // namespace syncline
