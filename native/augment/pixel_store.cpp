#include "augment/pixel_store.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "core/crc32c.h"
#include "core/error.h"

namespace lgd {

static constexpr size_t chunk_bytes = size_t(64) << 20;

static std::string why(int error) {
  switch (error) {
    case ENOSPC: return "the disk is full";
    case EDQUOT: return "the disk quota is used up";
    case EROFS: return "the file system is read-only";
    case EFBIG: return "the file system allows no file of this size";
    default: return std::strerror(error);
  }
}

PixelStore::PixelStore(PixelStoreOptions options) : options_(std::move(options)) {
  LGD_CHECK(options_.memory_limit_bytes >= 0, "BAD_OPTION", "memoryLimitBytes must not be negative, found ",
            options_.memory_limit_bytes);
}

PixelStore::~PixelStore() {
  for (const Chunk& chunk : chunks_) munmap(chunk.data, chunk.bytes + overread);
  if (spill_ >= 0) close(spill_);
}

int64_t PixelStore::append(int width, int height, const uint8_t* rgb) {
  std::lock_guard lock(mutex_);
  LGD_CHECK(placed_.empty() && !pixel_file_, "BAD_OPTION", "images can be appended to a store of appended images only");
  const size_t bytes = size_t(width) * size_t(height) * 3;
  uint8_t* pixels = reserve(bytes);
  std::memcpy(pixels, rgb, bytes);
  images_.push_back({pixels, width, height});
  return int64_t(images_.size()) - 1;
}

void PixelStore::place(int64_t index, int width, int height, const std::function<void(uint8_t* pixels)>& fill) {
  std::unique_lock lock(mutex_);
  LGD_CHECK(images_.empty() && !pixel_file_, "BAD_OPTION", "images can be placed in a store of placed images only");
  LGD_CHECK(!placed_.contains(index), "BAD_OPTION", "the store has an image ", index, " already");
  uint8_t* pixels = reserve(size_t(width) * size_t(height) * 3);
  const auto pin = pins_;  // nobody clears the store meanwhile
  lock.unlock();
  fill(pixels);
  lock.lock();
  LGD_CHECK(placed_.try_emplace(index, Image{pixels, width, height}).second, "BAD_OPTION", "the store has an image ",
            index, " already");
}

void PixelStore::map(PixelFileOptions options) {
  std::lock_guard lock(mutex_);
  LGD_CHECK(images_.empty() && placed_.empty() && !pixel_file_, "BAD_OPTION",
            "a file can be mapped into an empty store only");
  pixel_file_ = std::make_unique<PixelFile>(std::move(options));
}

void PixelStore::clear() {
  std::lock_guard lock(mutex_);
  LGD_CHECK(pins_.use_count() == 1 && !pixel_file_, "BAD_OPTION", "the store's images are in use");
  LGD_CHECK(spilled_bytes_ == 0, "BAD_OPTION", "a store that has spilled images to disk cannot be used again");
  images_.clear();
  placed_.clear();
  free_ = chunks_;
  for (Chunk& chunk : free_) chunk.used = 0;
  memory_ = {};
  memory_bytes_ = 0;
}

uint8_t* PixelStore::reserve(size_t bytes) {
  const bool spill = double(memory_bytes_ + bytes) > options_.memory_limit_bytes;
  Chunk& chunk = spill ? file_ : memory_;
  if (chunk.bytes - chunk.used < bytes) {
    const auto fitting =
        std::find_if(free_.begin(), free_.end(), [&](const Chunk& other) { return !spill && other.bytes >= bytes; });
    if (fitting != free_.end()) {
      chunk = *fitting;
      free_.erase(fitting);
    } else {
      const size_t size = std::max(chunk_bytes, bytes);
      chunk = spill ? map_file(size) : map_memory(size);
      chunks_.push_back(chunk);
    }
  }
  uint8_t* pixels = chunk.data + chunk.used;
  chunk.used += bytes;
  (spill ? spilled_bytes_ : memory_bytes_) += bytes;
  return pixels;
}

PixelStore::Chunk PixelStore::map_memory(size_t bytes) const {
  void* data = mmap(nullptr, bytes + overread, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  LGD_CHECK(data != MAP_FAILED, "OUT_OF_MEMORY", "cannot allocate ", bytes >> 20, " MiB for decoded images after ",
            memory_bytes_ >> 20, " MiB: lower the cache's memory limit, so that the rest goes to disk");
  return {static_cast<uint8_t*>(data), bytes, 0};
}

void PixelStore::open_spill_file() {
  LGD_CHECK(!options_.spill_folder.empty(), "NOT_WRITABLE",
            "decoded images are past the memory limit and no spill folder is set");
  // stat() would ask for glibc 2.33
  const int folder = open(options_.spill_folder.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC);
  LGD_CHECK(folder >= 0, "NOT_WRITABLE", "the spill folder ", options_.spill_folder, " is not a folder");
  close(folder);
  std::string path = options_.spill_folder + "/lgdistill-pixels-XXXXXX";
  spill_ = mkostemp(path.data(), O_CLOEXEC);
  LGD_CHECK(spill_ >= 0, "NOT_WRITABLE", "cannot create a file for decoded images in ", options_.spill_folder, ": ",
            why(errno));
  unlink(path.c_str());  // at once: a killed process leaves nothing behind
  spill_path_ = std::move(path);
}

PixelStore::Chunk PixelStore::map_file(size_t bytes) {
  if (spill_ < 0) open_spill_file();
  const size_t length = (bytes + overread + 4095) / 4096 * 4096;
  // Blocks are claimed now: a hole that a full disk cannot fill would end the process with SIGBUS at the first write.
  const int failed = posix_fallocate(spill_, off_t(spill_length_), off_t(length));
  LGD_CHECK(failed == 0, "NOT_WRITABLE", "cannot grow the file of decoded images in ", options_.spill_folder, " past ",
            spill_length_ >> 20, " MiB: ", why(failed));
  void* data = mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_SHARED, spill_, off_t(spill_length_));
  LGD_CHECK(data != MAP_FAILED || errno != ENODEV, "NOT_WRITABLE", "the file system of ", options_.spill_folder,
            " maps no files into memory: choose another spill folder, on a local disk");
  LGD_CHECK(data != MAP_FAILED, "OUT_OF_MEMORY", "cannot map ", spill_path_, ": ", why(errno));
  spill_length_ += length;
  return {static_cast<uint8_t*>(data), length - overread, 0};
}

PixelStore::Image PixelStore::image(int64_t index) const {
  std::lock_guard lock(mutex_);
  if (!placed_.empty()) {
    const auto found = placed_.find(index);
    LGD_CHECK(found != placed_.end(), "BAD_OPTION", "batch.images: image ", index, " is not in the store");
    return found->second;
  }
  const int64_t count = pixel_file_ ? pixel_file_->images() : int64_t(images_.size());
  LGD_CHECK(index >= 0 && index < count, "BAD_OPTION", "batch.images: there is no image ", index, "; the store has ",
            count);
  if (pixel_file_) return {pixel_file_->pixels(index), pixel_file_->width(index), pixel_file_->height(index)};
  return images_[size_t(index)];
}

PixelStoreInfo PixelStore::info() const {
  std::lock_guard lock(mutex_);
  const int64_t count = pixel_file_ ? pixel_file_->images() : int64_t(images_.size() + placed_.size());
  return {count, double(memory_bytes_ + spilled_bytes_), double(spilled_bytes_),
          pixel_file_ ? pixel_file_->pixel_bytes() : 0};
}

void PixelStore::read_ahead(std::vector<int64_t> images) {
  if (pixel_file_) pixel_file_->read_ahead(std::move(images));
}

void PixelStore::check(std::span<const int64_t> images, ThreadPool& pool) const {
  if (pixel_file_) pixel_file_->check(images, pool);
}

PixelStorePtr make_pixel_store(const PixelStoreOptions& options) { return std::make_shared<PixelStore>(options); }

static void check_pixels(int width, int height, size_t bytes) {
  constexpr int longest = 1 << 20;  // keeps the arithmetic of the resampling in 64 bits
  LGD_CHECK(width > 0 && height > 0 && width <= longest && height <= longest, "BAD_SHAPE",
            "an image's sides must be 1 to ", longest, " pixels, found ", width, "x", height);
  LGD_CHECK(bytes == size_t(width) * size_t(height) * 3, "BAD_SHAPE", "expected ", size_t(width) * size_t(height) * 3,
            " bytes of RGB for ", width, "x", height, " pixels, found ", bytes);
}

int64_t append_pixels(const PixelStorePtr& store, int width, int height, const uint8_t* rgb, size_t bytes) {
  check_pixels(width, height, bytes);
  return store->append(width, height, rgb);
}

void place_pixels(const PixelStorePtr& store, int64_t index, int width, int height, const uint8_t* rgb, size_t bytes) {
  check_pixels(width, height, bytes);
  store->place(index, width, height, [&](uint8_t* pixels) { std::memcpy(pixels, rgb, bytes); });
}

void place_jpeg(const PixelStorePtr& store, int64_t index, std::span<const uint8_t> file,
                std::span<const uint8_t> profile, int width, int height) {
  store->place(index, width, height, [&](uint8_t* pixels) { decode_jpeg(file, profile, width, height, pixels); });
}

void clear_pixels(const PixelStorePtr& store) { store->clear(); }

void map_pixels(const PixelStorePtr& store, PixelFileOptions options) { store->map(std::move(options)); }

void read_ahead(const PixelStorePtr& store, std::vector<int64_t> images) { store->read_ahead(std::move(images)); }

uint32_t checksum(const uint8_t* bytes, size_t count, uint32_t before) { return crc32c(bytes, count, before); }

PixelStoreInfo pixel_store_info(const PixelStorePtr& store) { return store->info(); }

}  // namespace lgd
