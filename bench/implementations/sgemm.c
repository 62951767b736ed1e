/* The time that a BLAS needs for the matrix products of one operation, and for nothing else.
   sgemm <op> <B> <D> <K> <seconds>     prints: kernel, OpenBLAS's own description, then milliseconds of wall and processor time for each run, one run a line
   bankLoss: scores of students and teachers against two banks [2B,D] x [D,2K], then the gradient [B,2K] x [2K,D]: 6 B D K multiply-adds;
   bankUpdate: scores of teachers against one bank [B,D] x [D,K]: B D K multiply-adds. */
#include <cblas.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

char *openblas_get_corename(void);
char *openblas_get_config(void);

static double milliseconds(clockid_t clock) {
  struct timespec t;
  clock_gettime(clock, &t);
  return t.tv_sec * 1e3 + t.tv_nsec * 1e-6;
}

static float *random_values(size_t count) {
  float *values = malloc(count * sizeof(float));
  if (!values) exit(1);
  for (size_t i = 0; i < count; i++) values[i] = rand() / (float)RAND_MAX - 0.5f;
  return values;
}

int main(int count, char **arguments) {
  if (count != 6) return 2;
  const int loss = strcmp(arguments[1], "bankLoss") == 0;
  const int B = atoi(arguments[2]), D = atoi(arguments[3]), K = atoi(arguments[4]);
  const int rows = loss ? 2 * B : B, anchors = loss ? 2 * K : K;
  float *embeddings = random_values((size_t)rows * D), *banks = random_values((size_t)anchors * D);
  float *scores = random_values((size_t)rows * anchors), *sums = random_values((size_t)B * D);
  printf("%s\n%s\n", openblas_get_corename(), openblas_get_config());
  const double budget = atof(arguments[5]) * 1e3, warm = milliseconds(CLOCK_MONOTONIC) + budget / 4;
  int runs = 0;
  for (double end = warm + budget; runs < 3 || (runs < 1000 && milliseconds(CLOCK_MONOTONIC) < end);) {
    const double wall = milliseconds(CLOCK_MONOTONIC), used = milliseconds(CLOCK_PROCESS_CPUTIME_ID);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, rows, anchors, D, 1, embeddings, D, banks, D, 0, scores, anchors);
    if (loss) cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, B, D, anchors, 1, scores, anchors, banks, D, 0, sums, D);
    if (wall < warm) continue;
    printf("%.4f %.4f\n", milliseconds(CLOCK_MONOTONIC) - wall, milliseconds(CLOCK_PROCESS_CPUTIME_ID) - used);
    runs++;
  }
  return 0;
}
