// Times the CUDA kernels at the shapes of the four students' training steps (224 px, batch 256, bfloat16), after
// checking each there, and sets each against its own roofline. On a GPU; on the emulated one (small) only that it
// works. Usage: kernels [small] [--only part-of-a-name] [--rows FILE] [--tensor-tf N] [--core-tf N] [seconds=N]
// seconds=N: that a row may take. cuda_ops/progress.h says what else it takes, and how it ends where a kernel loses the
// GPU.
#include "table.h"

int main(int argc, char** argv) {
  lgd::bench::Options options;
  lgd::testing::Progress progress;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i], value = i + 1 < argc ? argv[i + 1] : "";
    if (word == "small") options.small = true;
    else if (word == "--only") options.only = value, ++i;
    else if (word == "--rows") options.rows = value, ++i;
    else if (word == "--tensor-tf") options.tensor = 1e12 * std::atof(value.c_str()), ++i;
    else if (word == "--core-tf") options.cores = 1e12 * std::atof(value.c_str()), ++i;
    else if (!progress.reads(argv[i]))
      return std::fprintf(
                 stderr,
                 "kernels [small] [--only part-of-a-name] [--rows FILE] [--tensor-tf N] [--core-tf N] [seconds=N]\n"),
             2;
  }
  lgd::bench::Table table(options, progress);
  lgd::bench::convolutions(table);
  lgd::bench::depthwise(table);
  lgd::bench::convnext(table);
  lgd::bench::elements(table);
  lgd::bench::semantic(table);
  lgd::bench::augmentation(table);
  std::printf("kernels: %d failed\n", table.progress.failures);
  return table.progress.failures ? 1 : 0;
}
