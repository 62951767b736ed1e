#include "augment/pixel_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "augment/pixel_store.h"
#include "core/crc32c.h"
#include "core/error.h"
#include "core/start_thread.h"

namespace lgd {

static constexpr uintptr_t page = 4096;

PixelFile::PixelFile(PixelFileOptions options) : options_(std::move(options)) {
  const size_t count = options_.offsets.size();
  LGD_CHECK(options_.widths.size() == count && options_.heights.size() == count && options_.checksums.size() == count &&
                options_.names.size() == count + 1,
            "BAD_SHAPE", "pixelFile: widths, heights and checksums must have as many entries as offsets (", count,
            "), names one more");
  file_ = open(options_.path.c_str(), O_RDONLY | O_CLOEXEC);
  LGD_CHECK(file_ >= 0, "BAD_FILE", "cannot open ", options_.path, ": ", std::strerror(errno));
  try {
    const off_t end = length();
    LGD_CHECK(end >= 0, "BAD_FILE", "cannot read ", options_.path, ": ", std::strerror(errno));
    bytes_ = size_t(end);
    const auto ends_inside = [&](double from, double size) { return from >= 0 && from + size <= double(bytes_); };
    for (size_t i = 0; i < count; ++i) {
      LGD_CHECK(options_.widths[i] > 0 && options_.heights[i] > 0, "BAD_SHAPE", "image ", i, " of ", options_.path,
                " has no size");
      const double size = 3.0 * options_.widths[i] * options_.heights[i];
      LGD_CHECK(ends_inside(options_.offsets[i], size + double(PixelStore::overread)), "BAD_FILE", options_.path,
                " ends before its image ", i);
      LGD_CHECK(options_.names[i] <= options_.names[i + 1] &&
                    ends_inside(options_.names[i], options_.names[i + 1] - options_.names[i]),
                "BAD_FILE", options_.path, " ends before the name of its image ", i);
      pixel_bytes_ += size;
    }
    void* data = mmap(nullptr, bytes_, PROT_READ, MAP_SHARED, file_, 0);
    LGD_CHECK(data != MAP_FAILED || errno != ENODEV, "BAD_FILE", "the file system of ", options_.path,
              " maps no files into memory: copy it to a local disk");
    LGD_CHECK(data != MAP_FAILED, "OUT_OF_MEMORY", "cannot map ", options_.path, ": ", std::strerror(errno));
    data_ = static_cast<uint8_t*>(data);
    checked_ = std::make_unique<std::atomic<bool>[]>(count);
  } catch (...) {
    if (data_ != nullptr) munmap(data_, bytes_);
    close(file_);
    throw;
  }
}

PixelFile::~PixelFile() {
  {
    const std::lock_guard lock(mutex_);
    ended_ = true;
  }
  changed_.notify_all();
  if (reader_.joinable()) reader_.join();
  munmap(data_, bytes_);
  close(file_);
}

bool PixelFile::is_whole(int64_t index) const {
  return crc32c(pixels(index), image_bytes(index)) == options_.checksums[size_t(index)];
}

// A page past the end of a file that was cut would end the process with SIGBUS.
off_t PixelFile::length() const { return lseek(file_, 0, SEEK_END); }

std::string PixelFile::name(int64_t index) const {
  const size_t from = size_t(options_.names[size_t(index)]), to = size_t(options_.names[size_t(index) + 1]);
  return std::string(reinterpret_cast<const char*>(data_) + from, to - from);
}

void PixelFile::check(std::span<const int64_t> images, ThreadPool& pool) {
  const off_t now = length();
  LGD_CHECK(now >= 0, "BAD_FILE", "cannot read ", options_.path, ": ", std::strerror(errno));
  LGD_CHECK(now >= off_t(bytes_), "BAD_FILE", options_.path,
            " became shorter while it was in use: pack the images again");
  std::vector<int64_t> unknown;
  for (int64_t index : images)
    if (!checked_[size_t(index)]) unknown.push_back(index);
  pool.for_each(int64_t(unknown.size()), [&](int, int64_t i) {
    const int64_t index = unknown[size_t(i)];
    LGD_CHECK(is_whole(index), "BAD_FILE", options_.path, " is damaged: the pixels of ", name(index), " (image ", index,
              ") are not what was written. `lgdistill pack --verify` lists all that are; pack the images again");
    checked_[size_t(index)] = true;
  });
}

void PixelFile::read_ahead(std::vector<int64_t> images) {
  for (int64_t index : images)
    LGD_CHECK(index >= 0 && index < this->images(), "BAD_OPTION", "images: there is no image ", index,
              "; the store has ", this->images());
  {
    const std::lock_guard lock(mutex_);
    wanted_.push_back(std::move(images));
    if (!reader_.joinable()) reader_ = start_thread([this] { read_loop(); });
  }
  changed_.notify_all();
}

void PixelFile::read_loop() {
  for (;;) {
    std::vector<int64_t> images;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return ended_ || !wanted_.empty(); });
      if (ended_) return;
      images = std::move(wanted_.front());
      wanted_.pop_front();
    }
    if (length() < off_t(bytes_)) continue;  // check() says so
    for (int64_t index : images) {
      const auto from = reinterpret_cast<uintptr_t>(pixels(index)) / page * page;
      madvise(reinterpret_cast<void*>(from), reinterpret_cast<uintptr_t>(pixels(index)) + image_bytes(index) - from,
              MADV_WILLNEED);
    }
    for (int64_t index : images)
      if (!checked_[size_t(index)] && is_whole(index)) checked_[size_t(index)] = true;
  }
}

}  // namespace lgd
