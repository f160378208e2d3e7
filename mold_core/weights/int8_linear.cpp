// What surrounds a product of int8 matrices: rows of x are rotated and rounded to int8, sums are scaled back.
//
// The product itself is oneDNN's, through torch, which reaches the peak of the processor. Around it, torch would write
// and read every number five times; each function here passes over memory once. Vectors are those of GCC and Clang.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

typedef float Floats __attribute__((vector_size(64)));
static_assert(__cplusplus >= 201703L, "std::vector aligns such vectors since C++17");

inline float from_bf16(uint16_t half) {
    const uint32_t bits = uint32_t(half) << 16;
    float number;
    std::memcpy(&number, &bits, 4);
    return number;
}

inline uint16_t to_bf16(float number) {
    uint32_t bits;
    std::memcpy(&bits, &number, 4);
    const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    return uint16_t((bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded);
}

// --- rotation and rounding --------------------------------------------------------------------------------------

#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLED(v, ...) __builtin_shufflevector(v, v, __VA_ARGS__)
#else
typedef int32_t Places __attribute__((vector_size(64)));
#define SHUFFLED(v, ...) __builtin_shuffle(v, Places{__VA_ARGS__})
#endif

// Four numbers times the rotation: half their sum, less the number that mirrors each.
inline Floats rotated_by_1(Floats v) {
    const Floats pairs = v + SHUFFLED(v, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
    const Floats sums = pairs + SHUFFLED(pairs, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
    return sums * 0.5f - SHUFFLED(v, 3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8, 15, 14, 13, 12);
}

inline Floats rotated_by_4(Floats v) {
    const Floats pairs = v + SHUFFLED(v, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11);
    const Floats sums = pairs + SHUFFLED(pairs, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
    return sums * 0.5f - SHUFFLED(v, 12, 13, 14, 15, 8, 9, 10, 11, 4, 5, 6, 7, 0, 1, 2, 3);
}

// Rotates numbers in groups of a power of 4; `count` vectors of 16.
void rotate(Floats* numbers, int64_t count, int64_t group) {
    for (int64_t i = 0; i < count; i++) {
        numbers[i] = rotated_by_1(numbers[i]);
        if (group >= 16) numbers[i] = rotated_by_4(numbers[i]);
    }
    for (int64_t stride = 1; 64 * stride <= group; stride *= 4)  // in vectors
        for (int64_t first = 0; first < count; first += 4 * stride)
            for (int64_t i = first; i < first + stride; i++) {
                Floats *a = numbers + i, *b = a + stride, *c = b + stride, *d = c + stride;
                const Floats half = (*a + *b + *c + *d) * 0.5f, last = *a;
                *a = half - *d;
                *d = half - last;
                const Floats second = *b;
                *b = half - *c;
                *c = half - second;
            }
}

// Writes one row, rounded to int8; returns its scale.
float round_row(const float* numbers, int64_t columns, int8_t* out) {
    float largest[16] = {};
    bool finite = true;
    int64_t column = 0;
    for (; column + 16 <= columns; column += 16)
        for (int lane = 0; lane < 16; lane++) {
            const float size = std::fabs(numbers[column + lane]);
            largest[lane] = size > largest[lane] ? size : largest[lane];
            finite &= size <= 3.4e38f;
        }
    for (; column < columns; column++) {
        largest[0] = std::max(largest[0], std::fabs(numbers[column]));
        finite &= std::fabs(numbers[column]) <= 3.4e38f;
    }
    const float scale = std::max(*std::max_element(largest, largest + 16) / 127.0f, 1e-30f);
    constexpr float ROUNDING = 12582912.0f;  // 1.5 * 2^23: adding it leaves whole numbers
    for (column = 0; column < columns; column++) {
        const float whole = (numbers[column] / scale + ROUNDING) - ROUNDING;
        out[column] = int8_t(int32_t(whole));
    }
    return finite ? scale : NAN;  // a row with infinities or NaN becomes NaN, as in floating point
}

}  // namespace

// Rotates (group > 1) and rounds rows: x float32 or bf16 [rows, columns] -> rounded [rows, columns], scales [rows].
extern "C" void mold_round_rows(const void* x, int64_t is_bf16, int64_t rows, int64_t columns, int64_t group, int8_t* rounded,
                                float* scales, int64_t threads) {
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        std::vector<Floats> memory((columns + 15) / 16);
        float* numbers = reinterpret_cast<float*>(memory.data());
#pragma omp for
        for (int64_t row = 0; row < rows; row++) {
            if (is_bf16) {
                const uint16_t* from = static_cast<const uint16_t*>(x) + row * columns;
                for (int64_t column = 0; column < columns; column++) numbers[column] = from_bf16(from[column]);
            } else {
                std::memcpy(numbers, static_cast<const float*>(x) + row * columns, columns * sizeof(float));
            }
            if (group > 1) rotate(memory.data(), int64_t(memory.size()), group);
            scales[row] = round_row(numbers, columns, rounded + row * columns);
        }
    }
}

// out [rows, columns], float32 or bf16 = sums * row scale * column scale + bias, which may be null.
extern "C" void mold_scale_sums(const int32_t* sums, const float* row_scales, const float* column_scales, const float* bias, void* out,
                                int64_t is_bf16, int64_t rows, int64_t columns, int64_t threads) {
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t row = 0; row < rows; row++) {
        const int32_t* from = sums + row * columns;
        const float scale = row_scales[row];
        if (is_bf16) {
            uint16_t* to = static_cast<uint16_t*>(out) + row * columns;
            for (int64_t i = 0; i < columns; i++)
                to[i] = to_bf16(float(from[i]) * (scale * column_scales[i]) + (bias ? bias[i] : 0.0f));
        } else {
            float* to = static_cast<float*>(out) + row * columns;
            for (int64_t i = 0; i < columns; i++) to[i] = float(from[i]) * (scale * column_scales[i]) + (bias ? bias[i] : 0.0f);
        }
    }
}
