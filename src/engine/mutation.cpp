#include "engine/mutation.h"

#include "base/msgpack.h"

namespace syncline {

namespace {

constexpr std::size_t kKept = 64u << 10;  // bytes of memory that a thread keeps for the next content

}  // namespace

std::uint64_t Mutation::content_hash() const {
  thread_local std::string content;
  content.clear();
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
  const std::uint64_t hash = mp::hash64(content);
  if (content.capacity() > kKept) std::string().swap(content);
  return hash;
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
