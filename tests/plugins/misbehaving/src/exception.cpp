// A C++ exception that nobody catches, as an engine's would be.
#include <stdexcept>

static void bolt() {
    throw std::runtime_error("the C++ sheep bolted");
}

// noexcept sends it to std::terminate; an exception in the frames of Rust or of the loader would be undefined.
extern "C" void misbehaving_throw() noexcept {
    bolt();
}
