// Codes of 4 or 8 bits with a scale for every few columns → numbers, a row at a time: each byte is looked up in a table of
// what it stands for, and a row that is still in the first cache is scaled and rounded.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

inline uint16_t to_bf16(float number) {
    uint32_t bits;
    std::memcpy(&bits, &number, 4);
    const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    return uint16_t((bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded);
}

// The number of a group is level * factor; or, rounded to a whole number of 8 bits, that times the scale of the row.
void scale_group(float* numbers, int64_t size, float factor, bool whole, float row_scale, float offset) {
    constexpr float ROUNDING = 12582912.0f;  // 1.5 * 2^23: adding it leaves whole numbers
    if (whole) {
        for (int64_t i = 0; i < size; i++) {
            const float limited = std::min(std::max(numbers[i] * factor, -127.0f), 127.0f);
            numbers[i] = ((limited + ROUNDING) - ROUNDING) * row_scale + offset;
        }
    } else {
        for (int64_t i = 0; i < size; i++) numbers[i] = numbers[i] * factor + offset;
    }
}

}  // namespace

// rows [n, bytes] of codes, `per_byte` to a byte; table [256, per_byte]; factors [n, groups]; row_scales [n] (for `whole`);
// offsets [n, groups] or null; out [n, bytes * per_byte], float32 or bf16.
extern "C" void mold_write_codes(const uint8_t* rows, int64_t n, int64_t bytes, int64_t per_byte, const float* table,
                                 const float* factors, int64_t groups, int64_t whole, const float* row_scales,
                                 const float* offsets, void* out, int64_t is_bf16, int64_t threads) {
    const int64_t columns = bytes * per_byte, size = columns / groups;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        std::vector<float> numbers(columns);
#pragma omp for
        for (int64_t row = 0; row < n; row++) {
            const uint8_t* codes = rows + row * bytes;
            if (per_byte == 2)
                for (int64_t i = 0; i < bytes; i++) std::memcpy(&numbers[2 * i], table + 2 * codes[i], 2 * sizeof(float));
            else
                for (int64_t i = 0; i < bytes; i++) numbers[i] = table[codes[i]];
            for (int64_t group = 0; group < groups; group++) {
                const int64_t place = row * groups + group;
                scale_group(&numbers[group * size], size, factors[place], whole, whole ? row_scales[row] : 1.0f,
                            offsets ? offsets[place] : 0.0f);
            }
            if (is_bf16) {
                uint16_t* to = static_cast<uint16_t*>(out) + row * columns;
                for (int64_t i = 0; i < columns; i++) to[i] = to_bf16(numbers[i]);
            } else {
                std::memcpy(static_cast<float*>(out) + row * columns, numbers.data(), columns * sizeof(float));
            }
        }
    }
}
