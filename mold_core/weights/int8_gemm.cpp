// y = x times the transpose of int8 rows, for a few rows of x: what a language model needs for a token.
//
// Rows lie in panels of 64, a panel column after column: the 64 numbers of a column are 16 words of 32 bits, and word l
// holds the rows l, l + 16, l + 32 and l + 48 from its lowest byte up. So memory is read from its beginning to its end,
// a column costs one load, and every sum has a lane of its own: no sums across lanes, and x is read one number at a
// time. A sum takes its terms in the order of the columns, whatever the number of rows of x or of threads.
//
// Vectors are those of GCC and Clang, which make of them what the processor has. Bytes are spread to words by shifts,
// which every processor has; conversions of bytes would be done one by one.

#include <cstdint>

#ifdef __AVX512F__
constexpr int64_t LANES = 16;
#else
constexpr int64_t LANES = 8;
#endif
constexpr int64_t PACK_ROWS = 64, WORDS = 16;
constexpr int64_t AHEAD = 4096;  // bytes that are asked of memory before their turn

typedef int32_t Words __attribute__((vector_size(4 * LANES)));
typedef float Floats __attribute__((vector_size(4 * LANES)));

template <int ROWS>
static void multiply_panel(const float* x, const int8_t* panel, const float* scales, float* y, int64_t out, int64_t in) {
    for (int64_t first = 0; first < WORDS; first += LANES) {
        Floats sums[ROWS][4] = {};
        const int8_t* place = panel + 4 * first;
        for (int64_t column = 0; column < in; column++, place += PACK_ROWS) {
            __builtin_prefetch(place + AHEAD);
            const Words words = *reinterpret_cast<const Words*>(place);
            const Floats numbers[4] = {
                __builtin_convertvector((words << 24) >> 24, Floats),
                __builtin_convertvector((words << 16) >> 24, Floats),
                __builtin_convertvector((words << 8) >> 24, Floats),
                __builtin_convertvector(words >> 24, Floats),
            };
            for (int row = 0; row < ROWS; row++)
                for (int quarter = 0; quarter < 4; quarter++)
                    sums[row][quarter] += x[row * in + column] * numbers[quarter];
        }
        for (int row = 0; row < ROWS; row++)
            for (int quarter = 0; quarter < 4; quarter++)
                for (int64_t lane = 0; lane < LANES; lane++) {
                    const int64_t place = WORDS * quarter + first + lane;
                    y[row * out + place] = sums[row][quarter][lane] * scales[place];
                }
    }
}

template <int ROWS>
static void multiply_all(const float* x, const int8_t* panels, const float* scales, float* y, int64_t count, int64_t in,
                         int64_t threads) {
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t panel = 0; panel < count; panel++)
        multiply_panel<ROWS>(x, panels + panel * PACK_ROWS * in, scales + panel * PACK_ROWS, y + panel * PACK_ROWS, count * PACK_ROWS, in);
}

// x [rows, in], panels [count, in, 16, 4] aligned to 64 bytes, scales [64 count], y [rows, 64 count].
extern "C" void multiply(const float* x, const int8_t* panels, const float* scales, float* y, int64_t rows, int64_t count,
                         int64_t in, int64_t threads) {
    const int64_t out = count * PACK_ROWS;
    for (; rows >= 4; rows -= 4, x += 4 * in, y += 4 * out) multiply_all<4>(x, panels, scales, y, count, in, threads);
    if (rows == 3) multiply_all<3>(x, panels, scales, y, count, in, threads);
    if (rows == 2) multiply_all<2>(x, panels, scales, y, count, in, threads);
    if (rows == 1) multiply_all<1>(x, panels, scales, y, count, in, threads);
}
