// The distribution's static libraries are compiled for programs, not for shared objects like this
// extension: they reach variables of other libraries by distances that are fixed at link time.
// There is one such variable, glibc's hint to std::shared_ptr that the process has a single thread.
// This one takes its place for them, and says that it has several.
extern "C" {
[[gnu::visibility("hidden")]] extern const char __libc_single_threaded;
const char __libc_single_threaded = 0;
}
