#include "module.h"

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <sstream>

#include "tensor_core.h"
#include "text.h"

namespace lgd::emulation::ptx {

class Module::Reader {
 public:
  Reader(std::string path, std::string text) : path_(std::move(path)), text_(std::move(text)) {
    blank_comments();
    name_files();
    while (skip_space(), at_ < text_.size()) {
      const std::string_view word = peek_word();
      if (word == ".section") {
        until('{');
        until('}');
      } else if (word == ".file" || word == ".version" || word == ".target" || word == ".address_size") {
        const size_t end = std::min(text_.find('\n', at_), text_.size());
        // of "sm_90a"; before anything runs
        if (word == ".target") tensor_core = std::atoi(&text_[text_.find('_', at_) + 1]) >= 90 ? hopper : ampere;
        at_ = end;
      } else if (word == ".visible" || word == ".weak") at_ += word.size();
      else if (word == ".entry") pass_kernel();
      else if (word == ".extern" || word == ".shared") shared_variable(until(';'));
      else fail("does not know ", word);
    }
  }

  std::vector<std::string> symbols() const {
    std::vector<std::string> all;
    for (const auto& [symbol, start] : starts_) all.push_back(symbol);
    return all;
  }

  Kernel read(const std::string& symbol) {
    const Start& start = starts_.at(symbol);
    at_ = start.at;
    lines_ = start.lines;
    shared_ = start.shared;
    dynamic_ = start.dynamic;
    read_kernel(symbol);
    return std::move(kernel_);
  }

 private:
  // Behind a kernel's name, and what the file declared before.
  struct Start {
    size_t at, lines;
    std::map<std::string, Variable> shared;
    std::map<std::string, uint32_t> dynamic;
  };

  template <class... Part>
  [[noreturn]] void fail(const Part&... parts) const {
    std::ostringstream text;
    (text << ... << parts);
    throw Error("DEVICE_ERROR", path_ + ":" + std::to_string(lines_ + 1) + ": the reader of PTX " + text.str());
  }

  void blank_comments() {
    for (size_t at = 0; (at = text_.find("//", at)) != std::string::npos;)
      for (; at < text_.size() && text_[at] != '\n'; ++at) text_[at] = ' ';
  }
  void skip_space() {
    while (at_ < text_.size() && std::isspace(static_cast<unsigned char>(text_[at_]))) lines_ += text_[at_++] == '\n';
  }
  std::string_view peek_word() const {
    return std::string_view(text_).substr(at_, text_.find_first_of(" \t\n(;", at_) - at_);
  }
  // What stands before the next such character, which is passed.
  std::string_view until(char end) {
    const size_t from = at_, to = text_.find(end, at_);
    if (to == std::string::npos) fail("misses a ", end);
    lines_ += size_t(std::count(text_.begin() + from, text_.begin() + to, '\n'));
    at_ = to + 1;
    return std::string_view(text_).substr(from, to - from);
  }

  std::string_view rest_of_line() {
    const size_t from = at_;
    at_ = std::min(text_.find('\n', at_), text_.size());
    return std::string_view(text_).substr(from, at_ - from);
  }
  // `.file 1 "/path/name"`; they stand at the end.
  void name_files() {
    for (size_t at = 0; (at = text_.find("\n\t.file", at)) != std::string::npos;) {
      const std::string line = text_.substr(at + 1, text_.find('\n', ++at) - at - 1);
      const size_t slash = line.rfind('/'), quote = line.rfind('"');
      files_[std::atoi(line.c_str() + std::strlen("\t.file"))] = line.substr(slash + 1, quote - slash - 1);
    }
  }
  // ".loc 2 46 88, function_name $L__info_string0, inlined_at 1 51 5"
  void read_place() {
    const std::string line(rest_of_line());
    Place place;
    std::sscanf(line.c_str(), " .loc %d %d", &place.file, &place.line);
    const size_t outer = line.find("inlined_at");
    if (outer != std::string::npos)
      std::sscanf(line.c_str() + outer, "inlined_at %d %d", &place.outer_file, &place.outer_line);
    if (place.line == 0) return;  // of no line: as before
    kernel_.places.push_back(place);
  }

  void shared_variable(std::string_view text) {
    const Variable variable = variable_of(text);
    if (starts_with(text, ".extern")) dynamic_[std::string(variable.name)] = variable.alignment;
    else shared_[std::string(variable.name)] = variable;
  }

  void pass_kernel() {
    at_ += std::strlen(".entry");
    skip_space();
    const std::string symbol(trimmed(until('(')));
    starts_.try_emplace(symbol, Start{at_, lines_, shared_, dynamic_});
    until('{');
    for (int open = 1; open > 0;) {
      const size_t brace = text_.find_first_of("{}", at_);
      if (brace == std::string::npos) fail("misses a }");
      open += text_[brace] == '{' ? 1 : -1;
      until(text_[brace]);
    }
  }

  void read_kernel(const std::string& symbol) {
    kernel_ = Kernel{};
    kernel_.symbol = symbol;
    kernel_.path = path_;
    kernel_.files = files_;
    kernel_.places = {{}};
    symbols_.clear();
    registers_.clear();
    labels_.clear();
    jumps_.clear();
    firsts_.clear();
    constants_.clear();
    uint32_t end = 0;
    std::string_view parameters = until(')');
    while (!trimmed(parameters).empty()) {
      const size_t comma = std::min(parameters.find(','), parameters.size());
      const Variable one = variable_of(parameters.substr(0, comma));
      end = aligned(end, one.alignment);
      symbols_[std::string(one.name)] = {end, 8};
      kernel_.parameters.push_back({end, one.bytes});
      end += one.bytes;
      parameters.remove_prefix(std::min(comma + 1, parameters.size()));
    }
    const std::string_view body = std::string_view(text_).substr(at_, text_.find(".entry", at_) - at_);
    // of all kernels of the file: a block gets those that its kernel names
    for (const auto& [name, variable] : shared_)
      if (body.find(name) != std::string_view::npos) place_shared(variable);
    const std::string bounds(until('{'));
    const size_t most = bounds.find(".maxntid");
    unsigned x = 0, y = 1, z = 1;
    if (most != std::string::npos && std::sscanf(bounds.c_str() + most, ".maxntid %u, %u, %u", &x, &y, &z) > 0)
      kernel_.most_threads = x * y * z;
    read_body();
    kernel_.dynamic_at = aligned(kernel_.shared_bytes, 128);
    for (const auto& [name, alignment] : dynamic_) {
      if (kernel_.dynamic_at % alignment) fail("places dynamic shared memory at multiples of 128 only");
    }
    for (const auto& [at, label] : jumps_) {
      if (!labels_.contains(label)) fail("misses the label ", label);
      kernel_.code[at].target = labels_[label];
    }
    for (size_t at = 0; at < firsts_.size(); ++at) kernel_.code[at].operands = kernel_.operands.data() + firsts_[at];
  }

  void place_shared(const Variable& variable) {
    kernel_.shared_bytes = aligned(kernel_.shared_bytes, variable.alignment);
    symbols_[std::string(variable.name)] = {first_shared_address + kernel_.shared_bytes, 4};
    kernel_.shared_bytes += variable.bytes;
  }

  void read_body() {
    scopes_.clear();
    for (;;) {
      skip_space();
      const size_t start = at_;
      if (text_[start] == '{') {
        scopes_.emplace_back();
        ++at_;
        continue;
      }
      if (text_[start] == '}') {
        ++at_;
        if (scopes_.empty()) return;
        for (const std::string& name : scopes_.back()) registers_.erase(name);
        scopes_.pop_back();
        continue;
      }
      if (text_[start] == '$') {
        labels_[std::string(trimmed(until(':')))] = uint32_t(kernel_.code.size());
        continue;
      }
      if (peek_word() == ".loc") {
        read_place();
        continue;
      }
      const uint32_t line = uint32_t(lines_) + 1;
      const std::string_view statement = trimmed(until(';'));
      if (starts_with(statement, ".reg")) declare(statement);
      else if (starts_with(statement, ".shared")) place_shared(variable_of(statement));
      else if (!statement.empty() && !starts_with(statement, ".pragma")) instruct(statement, line);
    }
  }

  Operand new_registers(uint32_t width) {
    const Operand made{kernel_.register_bytes, 0, uint8_t(width), false};
    kernel_.register_bytes += width == 0 ? 4 : width * lanes;
    kernel_.register_bytes = aligned(kernel_.register_bytes, 64);
    return made;
  }
  // ".reg .b32 %r<87>" or ".reg .b64 %tmp"; these get their place when they are met.
  void declare(std::string_view statement) {
    const auto words = words_of(statement);
    if (words.size() != 3) fail("does not know ", statement);
    const uint32_t width = bytes_of_type(words[1]);
    const size_t bracket = words[2].find('<');
    if (bracket == std::string_view::npos) {
      const std::string name(words[2]);
      if (registers_.contains(name)) fail("declares ", name, " twice");
      registers_[name] = new_registers(width);
      if (!scopes_.empty()) scopes_.back().push_back(name);
    } else widths_[std::string(words[2].substr(0, bracket))] = width;
  }

  Operand register_of(const std::string& name) {
    const auto known = registers_.find(name);
    if (known != registers_.end()) return known->second;
    if (Operand* special = special_of(name)) return special->width ? *special : *special = new_registers(4);
    const size_t digits = name.find_first_of("0123456789");
    const auto width = widths_.find(name.substr(0, digits));
    if (width == widths_.end()) fail("does not know the register ", name);
    return registers_[name] = new_registers(width->second);
  }
  Operand* special_of(std::string_view name) {
    struct Special {
      std::string_view name;
      Operand* at;
    };
    const size_t axis = name.empty() ? 0 : size_t(name.back() - 'x');
    const std::string_view base = name.substr(0, name.rfind('.'));
    for (const auto& [known, at] : {Special{"%tid", kernel_.thread},
                                    {"%ctaid", kernel_.block},
                                    {"%ntid", kernel_.block_size},
                                    {"%nctaid", kernel_.grid_size}})
      if (base == known && axis < 3) return at + axis;
    return name == "%laneid" ? &kernel_.lane : nullptr;
  }

  Operand constant_of(uint64_t bits, uint8_t width) {
    const auto key = std::pair(bits, width);
    const auto known = constants_.find(key);
    if (known != constants_.end()) return known->second;
    const Operand made{uint32_t(kernel_.constants.size()), 0, width, true};
    const size_t bytes = width == 0 ? 64 : std::max(64, width * lanes);
    kernel_.constants.resize(kernel_.constants.size() + bytes);
    char* const to = &kernel_.constants[made.at];
    if (width == 0) bits = bits & 1 ? all_lanes : 0;
    for (int lane = 0; lane < (width == 0 ? 1 : lanes); ++lane)
      std::memcpy(to + lane * width, &bits, width == 0 ? 4 : width);
    return constants_[key] = made;
  }

  // `width`: of a number.
  Operand operand_of(std::string text, uint8_t width) {
    if (const auto number = number_of(text)) return constant_of(*number, width);
    if (text[0] == '%') return register_of(text);
    const auto symbol = symbols_.find(text);
    if (symbol != symbols_.end()) return constant_of(symbol->second.first, width ? width : symbol->second.second);
    if (dynamic_.contains(text))
      return constant_of(first_shared_address + aligned(kernel_.shared_bytes, 128), width ? width : 4);
    fail("does not know the operand ", text);
  }
  // "[%rd4+-60]" without its brackets.
  Operand address_of(std::string_view text) {
    const size_t plus = text.find('+');
    Operand address = operand_of(std::string(trimmed(text.substr(0, plus))), 0);
    if (plus != std::string_view::npos) address.offset = std::atoi(std::string(text.substr(plus + 1)).c_str());
    return address;
  }

  void instruct(std::string_view statement, uint32_t line) {
    Instruction made;
    const size_t first = kernel_.operands.size();
    made.line = line;
    made.place = int(kernel_.places.size()) - 1;
    if (statement[0] == '@') {
      const size_t end = statement.find_first_of(" \t");
      made.negated = statement[1] == '!';
      made.guarded = true;
      made.guard = register_of(std::string(statement.substr(made.negated ? 2 : 1, end - (made.negated ? 2 : 1))));
      statement = trimmed(statement.substr(end));
    }
    const std::string_view name = statement.substr(0, statement.find_first_of(" \t{"));
    const Parts parts = parts_of(statement.substr(name.size()));
    if (starts_with(name, "bar.") && is_left_out(kernel_.places.back())) return;
    if (name == "bra" || name == "bra.uni") {
      made.kind = Kind::branch;
      made.operation = find_operation("bra");
      jumps_.push_back({kernel_.code.size(), parts.texts.at(0)});
    } else {
      if (made.guarded) fail("knows guards of branches only: ", statement);
      decode(made, name, parts, statement);
    }
    kernel_.code.push_back(made);
    firsts_.push_back(first);
  }

  // The barrier that LGDISTILL_EMULATION_WITHOUT names ("conv.cu:12"), to see that it is missed.
  bool is_left_out(const Place& place) const {
    const char* const wish = std::getenv("LGDISTILL_EMULATION_WITHOUT");
    const auto is = [&](int file, int line) { return file && files_.at(file) + ":" + std::to_string(line) == wish; };
    // __syncwarp() is a function of CUDA's
    return wish && (is(place.file, place.line) || is(place.outer_file, place.outer_line));
  }

  void decode(Instruction& made, std::string_view name, const Parts& parts, std::string_view statement) {
    const bool loads = starts_with(name, "ld."), stores = starts_with(name, "st.");
    if (loads || stores) return decode_memory(made, name, parts, loads);
    std::string key(name);
    if (starts_with(name, "mov.") && parts.groups.size() == 2 && parts.groups[0] != parts.groups[1])
      key += parts.groups[0] > parts.groups[1] ? " unpack" : " pack";
    const Operation* operation = find_operation(key);
    if (operation && starts_with(name, "cvt.")) {
      const int width = operand_of(parts.texts.back(), 0).width;
      if (width > operation->widths.back()) operation = find_operation(key + " of " + std::to_string(width));
    }
    if (!operation) fail("does not know the instruction ", statement);
    if (parts.texts.size() != operation->widths.size())
      fail("expects ", operation->widths.size(), " operands: ", statement);
    made.operation = operation;
    made.run = operation->run;
    made.kind = operation->kind;
    made.count = uint8_t(parts.texts.size());
    for (size_t i = 0; i < parts.texts.size(); ++i) {
      const std::string& text = parts.texts[i];
      kernel_.operands.push_back(text[0] == '[' ? address_of(std::string_view(text).substr(1, text.size() - 2))
                                                : operand_of(text, operation->widths[i]));
      if (kernel_.operands.back().width != operation->widths[i])
        fail("expects ", int(operation->widths[i]), " bytes in operand ", i, ": ", statement);
    }
  }

  // Operands: the address, then the registers.
  void decode_memory(Instruction& made, std::string_view name, const Parts& parts, bool loads) {
    const std::string& place = loads ? parts.texts.back() : parts.texts.front();
    const Operand address = address_of(std::string_view(place).substr(1, place.size() - 2));
    kernel_.operands.push_back(address);
    const size_t registers = parts.texts.size() - 1;
    int width = 0;
    for (size_t i = 0; i < registers; ++i) {
      const std::string& text = parts.texts[loads ? i : i + 1];
      const bool number = text[0] != '%';
      kernel_.operands.push_back(operand_of(text, number ? uint8_t(bytes_of_type(name.substr(name.rfind('.')))) : 0));
      if (i == 0) width = kernel_.operands.back().width;
      if (kernel_.operands.back().width != width) fail("expects registers of one width: ", name);
    }
    int count = 0;
    made.operation = find_memory_operation(name, width, address.width, count);
    if (!made.operation || count != int(registers))
      fail("does not know the instruction ", name, " with ", registers, " registers of ", width, " bytes");
    made.run = made.operation->run;
    made.kind = made.operation->kind;
    made.count = uint8_t(count);
  }

  const std::string path_;
  std::string text_;
  size_t at_ = 0, lines_ = 0;
  std::map<std::string, Start> starts_;
  std::map<int, std::string> files_;
  std::map<std::string, Variable> shared_;   // of the file
  std::map<std::string, uint32_t> dynamic_;  // with their alignment
  Kernel kernel_;                            // that is read
  std::map<std::string, std::pair<uint32_t, uint8_t>> symbols_;
  std::map<std::string, Operand> registers_;
  std::vector<std::vector<std::string>> scopes_;  // names that each inner scope declared
  std::map<std::string, uint32_t> widths_, labels_;
  std::vector<std::pair<size_t, std::string>> jumps_;
  std::vector<size_t> firsts_;  // of each instruction: its first operand
  std::map<std::pair<uint64_t, uint8_t>, Operand> constants_;
};

std::string Kernel::place_of(const Instruction& instruction) const {
  const Place& place = places[size_t(instruction.place)];
  const auto text = [&](int file, int line) { return files.at(file) + ":" + std::to_string(line); };
  if (place.file == 0) return path.substr(path.rfind('/') + 1) + ":" + std::to_string(instruction.line);
  return text(place.file, place.line) + (place.outer_file ? " < " + text(place.outer_file, place.outer_line) : "");
}

Module::Module(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  LGD_CHECK(file, "DEVICE_ERROR", "cannot read ", path);
  std::ostringstream text;
  text << file.rdbuf();
  reader_ = std::make_unique<Reader>(path, text.str());
}
Module::Module(Module&&) = default;
Module::~Module() = default;

std::vector<std::string> Module::symbols() const { return reader_->symbols(); }
Kernel Module::kernel(const std::string& symbol) { return reader_->read(symbol); }

}  // namespace lgd::emulation::ptx
