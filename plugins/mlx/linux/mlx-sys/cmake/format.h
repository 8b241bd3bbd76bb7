// std::format for compilers without it (GCC before 13): as much of it as mlx-c uses, which is "{}".
#pragma once
#ifdef __cplusplus
#include <version>
#ifdef __cpp_lib_format
#include <format>
#else
#include <sstream>
#include <string>
#include <string_view>

namespace std {
template <typename... Args>
string format(string_view pattern, const Args&... args) {
  ostringstream out;
  auto put = [&](const auto& arg) {
    auto at = pattern.find("{}");
    out << pattern.substr(0, at) << arg;
    pattern.remove_prefix(at == string_view::npos ? pattern.size() : at + 2);
  };
  (put(args), ...);
  out << pattern;
  return out.str();
}
} // namespace std
#endif
#endif
