// Embeddings in a file, mapped: row r is the direction of a vector of D values in binary16, behind its checksum. A row
// that was never written is zeros.
//
//   offset + r * record:  crc32c (4 bytes, of the values) | D values of 2 bytes | padding to 4 bytes
//
// Values go in before their checksum, so that a process that ends at any moment leaves rows that are whole or absent;
// after a power cut checksums tell which are.
#pragma once
#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "core/device.h"
#include "engine.h"

namespace lgd {

struct RowFile {
  // NOT_WRITABLE (no file, no room: its errno), BAD_FILE, OUT_OF_MEMORY; looks at every row
  RowFile(const RowFileOptions& options, ThreadPool& pool);
  ~RowFile();
  RowFile(const RowFile&) = delete;
  RowFile& operator=(const RowFile&) = delete;

  const int64_t rows, dimension;
  int64_t damaged = 0;  // rows whose values are not what their checksum says: they count as absent
  const std::string path;

  bool has(int64_t row) const { return present_[size_t(row)] != 0; }
  const std::vector<uint8_t>& present() const { return present_; }
  // row in [0, rows); device thread only. read() gives the values of a row that is there.
  void read(int64_t row, float* values) const;
  // Rounds values to what the file can hold, in place, and writes them where the row is absent, else takes what is
  // there. row < 0: rounds alone. Rows of zeros or with a value that is not finite are left as they are, and out of the
  // file.
  void keep(int64_t row, float* values);
  void check_length() const;  // BAD_FILE where the file became shorter, or is not to be had any more

 private:
  uint8_t* record(int64_t row) const { return data_ + size_t(row) * record_bytes_; }

  const size_t record_bytes_;
  int file_ = -1;
  uint8_t* map_ = nullptr;  // from the page of the first row
  uint8_t* data_ = nullptr;
  size_t map_bytes_ = 0, end_ = 0;
  std::vector<uint8_t> present_;
};

uint16_t to_half(float value);   // |value| <= 1; to the nearest, ties to even
float from_half(uint16_t bits);  // finite ones

}  // namespace lgd
