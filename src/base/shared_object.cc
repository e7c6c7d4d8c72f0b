#include "base/shared_object.h"

#include <dlfcn.h>
#include <elf.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <vector>

#include "base/utf8.h"

namespace kt {
namespace {

// Why this cannot be a whole shared object, or empty.
std::string elf_problem(const std::filesystem::path& path) {
  std::error_code ignored;
  const std::uint64_t size = std::filesystem::file_size(path, ignored);
  std::ifstream file(path, std::ios::binary);
  Elf64_Ehdr header{};
  if (!file.read(reinterpret_cast<char*>(&header), sizeof header)) return "it is too short";
  if (std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0) return "it is no ELF file";
  if (header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_ident[EI_DATA] != ELFDATA2LSB ||
      header.e_type != ET_DYN || header.e_phentsize != sizeof(Elf64_Phdr)) {
    return "it is no 64-bit shared object";
  }
  std::vector<Elf64_Phdr> segments(header.e_phnum);
  file.seekg(static_cast<std::streamoff>(header.e_phoff));
  file.read(reinterpret_cast<char*>(segments.data()),
            static_cast<std::streamsize>(segments.size() * sizeof(Elf64_Phdr)));
  const bool whole = file && std::all_of(segments.begin(), segments.end(), [&](const auto& s) {
                       return s.p_offset <= size && s.p_filesz <= size - s.p_offset;
                     });
  return whole ? std::string() : "it is cut short";
}

std::string open_error() {
  const char* text = ::dlerror();
  return text == nullptr ? "unknown reason" : printable(text);  // names of symbols of the file
}

}  // namespace

std::unique_ptr<SharedObject> SharedObject::open(const std::filesystem::path& file, Unload unload,
                                                 std::string* problem) {
  *problem = elf_problem(file);
  if (!problem->empty()) return nullptr;
  const int keep = unload == Unload::kNever ? RTLD_NODELETE : 0;
  void* handle = ::dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL | keep);
  if (handle == nullptr) {
    *problem = open_error();
    return nullptr;
  }
  return std::unique_ptr<SharedObject>(new SharedObject(handle));
}

SharedObject::~SharedObject() { ::dlclose(handle_); }

void* SharedObject::symbol(const char* name) const { return ::dlsym(handle_, name); }

}  // namespace kt
