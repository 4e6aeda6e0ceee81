// program.cpp: looks at the ELF file of a command: no interpreter means no shim, and Go makes its system
// calls without libc.
#include "program.h"

#include <cstdlib>
#include <cstring>
#include <elf.h>
#include <fcntl.h>
#include <sstream>
#include <unistd.h>
#include <vector>

namespace revati::warp {

static std::string find_program(const std::string& command) {
  if (command.find('/') != std::string::npos) return command;
  const char* path = getenv("PATH");
  std::istringstream folders(path ? path : "/usr/bin:/bin");
  for (std::string folder; std::getline(folders, folder, ':');) {
    std::string file = folder + "/" + command;
    if (access(file.c_str(), X_OK) == 0) return file;
  }
  return "";
}

std::string why_uncovered(const std::string& command) {
  std::string file = find_program(command);
  int fd = file.empty() ? -1 : open(file.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return "";
  Elf64_Ehdr header;
  bool elf = pread(fd, &header, sizeof header, 0) == sizeof header && memcmp(header.e_ident, ELFMAG, SELFMAG) == 0;
  bool interpreter = false, go = false;
  for (int i = 0; elf && i < header.e_phnum; i++) {
    Elf64_Phdr h;
    if (pread(fd, &h, sizeof h, off_t(header.e_phoff + uint64_t(i) * sizeof h)) != sizeof h) break;
    if (h.p_type == PT_INTERP) interpreter = true;
    if (h.p_type != PT_NOTE || h.p_filesz > 65536) continue;
    std::vector<char> notes(h.p_filesz);
    if (pread(fd, notes.data(), notes.size(), off_t(h.p_offset)) != ssize_t(notes.size())) continue;
    static const char owner[] = {4, 0, 0, 0, 'G', 'o', 0, 0};  // type 4 of "Go": the build id
    for (size_t o = 0; o + sizeof owner <= notes.size(); o++)
      if (memcmp(&notes[o], owner, sizeof owner) == 0) go = true;
  }
  close(fd);
  if (!elf) return "";
  if (go) return file + " is a Go program";
  if (!interpreter) return file + " is statically linked";
  return "";
}

}  // namespace revati::warp
