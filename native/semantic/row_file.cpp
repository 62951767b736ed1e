#include "semantic/row_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <unordered_set>

#include "core/crc32c.h"
#include "core/error.h"
#include "core/tensor.h"

namespace lgd {

static constexpr size_t page = 4096;

uint16_t to_half(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value), sign = bits >> 16 & 0x8000, size = bits & 0x7fffffff;
  // Below 2^-14 halves are multiples of 2^-24, which is what floats around 1/2 are: the addition rounds.
  if (size < 0x38800000)
    return uint16_t(sign | (std::bit_cast<uint32_t>(std::bit_cast<float>(size) + 0.5f) - 0x3f000000));
  return uint16_t(sign | ((size - 0x38000000 + 0xfff + (size >> 13 & 1)) >> 13));
}

float from_half(uint16_t bits) {
  const uint32_t sign = uint32_t(bits & 0x8000) << 16, size = bits & 0x7fff;
  if (size < 0x400) return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(float(size) * 0x1p-24f));
  return std::bit_cast<float>(sign | ((size << 13) + 0x38000000));
}

static size_t record_bytes(int64_t dimension) { return (4 + 2 * size_t(dimension) + 3) / 4 * 4; }

RowFile::RowFile(const RowFileOptions& options, ThreadPool& pool)
    : rows(options.rows),
      dimension(options.dimension),
      path(options.path),
      record_bytes_(record_bytes(options.dimension)) {
  LGD_CHECK(rows > 0 && dimension > 0 && options.offset >= 0, "BAD_SHAPE",
            "a file of rows needs rows, a dimension and an offset, found ", rows, ", ", dimension, ", ",
            options.offset);
  file_ = open(path.c_str(), O_RDWR | O_CLOEXEC);
  LGD_CHECK(file_ >= 0, "NOT_WRITABLE", "cannot open ", path, ": ", std::strerror(errno));
  try {
    const size_t offset = size_t(options.offset), bytes = size_t(rows) * record_bytes_, start = offset / page * page;
    end_ = offset + bytes;
    // Blocks are claimed now: a hole that a full disk cannot fill would end the process with SIGBUS at the first write.
    const int failed = posix_fallocate(file_, off_t(offset), off_t(bytes));
    if (failed != 0)
      throw Error("NOT_WRITABLE", concat({"cannot make ", path, " ", end_ >> 20, " MiB long: ", std::strerror(failed)}),
                  failed);
    map_bytes_ = end_ - start;
    void* data = mmap(nullptr, map_bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, file_, off_t(start));
    LGD_CHECK(data != MAP_FAILED || errno != ENODEV, "BAD_FILE", "the file system of ", path,
              " maps no files into memory: give it a place on a local disk");
    LGD_CHECK(data != MAP_FAILED, "OUT_OF_MEMORY", "cannot map ", path, ": ", std::strerror(errno));
    map_ = static_cast<uint8_t*>(data);
    data_ = map_ + (offset - start);
    present_.assign(size_t(rows), 0);
    std::atomic<int64_t> wrong{0};
    pool.for_range(rows, 256, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        uint32_t checksum;
        std::memcpy(&checksum, record(row), 4);
        if (checksum == 0) continue;
        if (checksum == crc32c(record(row) + 4, 2 * size_t(dimension))) present_[size_t(row)] = 1;
        else ++wrong;
      }
    });
    damaged = wrong;
  } catch (...) {
    if (map_) munmap(map_, map_bytes_);
    close(file_);
    throw;
  }
}

RowFile::~RowFile() {
  munmap(map_, map_bytes_);
  close(file_);
}

// A page past the end of a file that was cut would end the process with SIGBUS.
void RowFile::check_length() const {
  const off_t length = lseek(file_, 0, SEEK_END);
  LGD_CHECK(length >= 0, "BAD_FILE", "cannot read ", path, ": ", std::strerror(errno));
  LGD_CHECK(length >= off_t(end_), "BAD_FILE", path,
            " became shorter while it was in use: resume the run, which fills it again");
}

void RowFile::read(int64_t row, float* values) const {
  const uint8_t* halves = record(row) + 4;
  for (int64_t d = 0; d < dimension; ++d) {
    uint16_t bits;
    std::memcpy(&bits, halves + 2 * d, 2);
    values[d] = from_half(bits);
  }
}

void RowFile::keep(int64_t row, float* values) {
  if (row >= 0 && has(row)) return read(row, values);
  double squares = 0;
  for (int64_t d = 0; d < dimension; ++d) squares += double(values[d]) * values[d];
  if (!(squares > 0) || !std::isfinite(squares)) return;  // the loss says what is wrong with it
  const double scale = 1 / std::sqrt(squares);
  std::vector<uint16_t> halves(static_cast<size_t>(dimension));
  for (int64_t d = 0; d < dimension; ++d) {
    halves[size_t(d)] = to_half(float(values[d] * scale));
    values[d] = from_half(halves[size_t(d)]);
  }
  if (row < 0) return;
  std::memcpy(record(row) + 4, halves.data(), 2 * size_t(dimension));
  const uint32_t checksum = crc32c(record(row) + 4, 2 * size_t(dimension));
  std::atomic_signal_fence(std::memory_order_seq_cst);  // the compiler must not turn the two around
  std::memcpy(record(row), &checksum, 4);
  present_[size_t(row)] = checksum != 0;
}

// ---- engine.h -------------------------------------------------------------------------------------------------------

RowFilePtr open_rows(const DevicePtr& device, const RowFileOptions& options) {
  return std::make_shared<RowFile>(options, device->pool);
}

RowFileInfo row_file_info(const RowFilePtr& file) { return {file->present(), file->damaged}; }

static void check_rows(const RowFilePtr& file, const std::vector<int64_t>& rows, const TensorPtr& tensor,
                       bool can_be_absent) {
  LGD_CHECK(
      tensor->shape.size() == 2 && tensor->shape[0] == int64_t(rows.size()) && tensor->shape[1] == file->dimension,
      "BAD_SHAPE", "the tensor must be [", rows.size(), ",", file->dimension, "] for as many rows of ", file->path);
  for (const int64_t row : rows)
    LGD_CHECK(row < file->rows && (row >= 0 || can_be_absent), "BAD_OPTION", "rows: there is no row ", row, "; ",
              file->path, " has ", file->rows);
}

void load_rows(const RowFilePtr& file, std::vector<int64_t> rows, const TensorPtr& tensor) {
  check_rows(file, rows, tensor, false);
  tensor->device->submit("rows.load", [file, rows = std::move(rows), tensor] {
    file->check_length();
    for (const int64_t row : rows)
      LGD_CHECK(file->has(row), "BAD_OPTION", "rows: row ", row, " of ", file->path, " was not written yet");
    std::vector<float> values(rows.size() * size_t(file->dimension));
    tensor->device->pool.for_range(int64_t(rows.size()), 16, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) file->read(rows[size_t(i)], values.data() + i * file->dimension);
    });
    tensor->device->from_host(tensor->buffer.as(), values.data(), values.size() * sizeof(float));
  });
}

void keep_rows(const RowFilePtr& file, std::vector<int64_t> rows, const TensorPtr& tensor) {
  check_rows(file, rows, tensor, true);
  tensor->device->submit("rows.keep", [file, rows = std::move(rows), tensor] {
    file->check_length();
    std::vector<float> values(rows.size() * size_t(file->dimension));
    tensor->device->to_host(values.data(), tensor->buffer.as(), values.size() * sizeof(float));
    const auto keep = [&](int64_t i) { file->keep(rows[size_t(i)], values.data() + i * file->dimension); };
    // A row that is there twice is what it is the first time: two threads would write it at once.
    std::unordered_set<int64_t> known;
    std::vector<int64_t> first, again;
    for (int64_t i = 0; i < int64_t(rows.size()); ++i)
      (rows[size_t(i)] < 0 || known.insert(rows[size_t(i)]).second ? first : again).push_back(i);
    tensor->device->pool.for_range(int64_t(first.size()), 16, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) keep(first[size_t(i)]);
    });
    for (const int64_t i : again) keep(i);
    tensor->device->from_host(tensor->buffer.as(), values.data(), values.size() * sizeof(float));
  });
}

}  // namespace lgd
