/* The CRC-32 of zlib: by multiplication without carries where the processor has it, else by tables, eight bytes a step.

   Rejected: linking zlib. Its headers are one more thing that a machine may lack, and for lines of a hundred bytes its
   loop takes three times as long as the first way here (README.md has the figures). */

#include "core.h"

#include <pthread.h>

#if defined(__x86_64__) && defined(__SSE2__) && defined(__GNUC__)
#define HAS_FOLDING 1
#include <immintrin.h>
#endif

#define POLYNOMIAL 0xEDB88320u
#define STEP 8

static uint32_t tables[STEP][256];
#ifdef HAS_FOLDING
static int can_fold;
#endif
static pthread_once_t is_prepared = PTHREAD_ONCE_INIT;

static void fill(void)
{
#ifdef HAS_FOLDING
    can_fold = __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("ssse3");
#endif
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t crc = byte;
        for (int bit = 0; bit < 8; bit++)
            crc = (crc >> 1) ^ (crc & 1 ? POLYNOMIAL : 0);
        tables[0][byte] = crc;
    }
    for (int step = 1; step < STEP; step++)
        for (uint32_t byte = 0; byte < 256; byte++) {
            uint32_t before = tables[step - 1][byte];
            tables[step][byte] = (before >> 8) ^ tables[0][before & 0xFF];
        }
}

void prepare_crc(void)
{
    pthread_once(&is_prepared, fill);
}

/* Four bytes as a little-endian number, wherever they lie and whatever the processor is. */
static inline uint32_t four_bytes(const uint8_t *at)
{
    return at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

/* The register after some more bytes. zlib's crc is its complement. */
static uint32_t by_tables(const uint8_t *data, size_t size, uint32_t crc)
{
    for (; size >= STEP; data += STEP, size -= STEP) {
        uint32_t low = four_bytes(data) ^ crc, high = four_bytes(data + 4);
        crc = tables[7][low & 0xFF] ^ tables[6][low >> 8 & 0xFF] ^ tables[5][low >> 16 & 0xFF] ^ tables[4][low >> 24]
            ^ tables[3][high & 0xFF] ^ tables[2][high >> 8 & 0xFF] ^ tables[1][high >> 16 & 0xFF] ^ tables[0][high >> 24];
    }
    for (; size; data++, size--)
        crc = (crc >> 8) ^ tables[0][(crc ^ *data) & 0xFF];
    return crc;
}

#ifdef HAS_FOLDING
#define BLOCK 16
#define LANES 4
#define FOLDING __attribute__((target("pclmul,ssse3")))

/* For a shuffle: taken from `BLOCK - n` on, it moves a block up by `n` bytes, from `BLOCK + n` on, down, with zeros from
   where there are no bytes. */
static const uint8_t moves[3 * BLOCK] = {
    0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80,
    0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15,
    0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80,
};

static inline __m128i block_at(const uint8_t *data)
{
    return _mm_loadu_si128((const __m128i *)data);
}

/* Add to a block what is congruent to an earlier one: its halves times the two factors. */
FOLDING static inline __m128i folded(__m128i earlier, __m128i factors, __m128i block)
{
    __m128i low = _mm_clmulepi64_si128(earlier, factors, 0x00), high = _mm_clmulepi64_si128(earlier, factors, 0x11);
    return _mm_xor_si128(_mm_xor_si128(low, high), block);
}

/* The remainder of one block. Two multiplications make 64 bits of its 128; then comes Barrett's division: two with a
   reciprocal and the polynomial, in place of the quotient's digits. */
FOLDING static inline uint32_t remainder_of(__m128i sum)
{
    const __m128i factors = _mm_set_epi64x(0x163cd6124, 0x0ccaa009e), division = _mm_set_epi64x(0x1db710641, 0x1f7011641);
    const __m128i low_half = _mm_set_epi32(0, 0, 0, -1);
    sum = _mm_xor_si128(_mm_srli_si128(sum, 8), _mm_clmulepi64_si128(sum, factors, 0x00));
    sum = _mm_xor_si128(
        _mm_srli_si128(sum, 4), _mm_clmulepi64_si128(_mm_and_si128(sum, low_half), factors, 0x10));
    __m128i quotient = _mm_clmulepi64_si128(_mm_and_si128(sum, low_half), division, 0x00);
    sum = _mm_xor_si128(sum, _mm_clmulepi64_si128(_mm_and_si128(quotient, low_half), division, 0x10));
    return (uint32_t)_mm_cvtsi128_si32(_mm_srli_si128(sum, 4));
}

/* Bytes are coefficients of a polynomial, and a crc is the remainder of a division. So a block may be replaced by what is
   congruent to it 16 bytes further on, and added to the block there: its halves times x^160 and x^96, each modulo the
   polynomial (here bit-reflected, as all of this crc is); or 64 bytes further on, times x^544 and x^480, in four lanes
   that do not wait for each other. Zeros before the first byte change nothing: they fill the first block.
   Requires: size is at least BLOCK. */
FOLDING static uint32_t by_folding(const uint8_t *data, size_t size, uint32_t crc)
{
    const __m128i next = _mm_set_epi64x(0x0ccaa009e, 0x1751997d0), lane = _mm_set_epi64x(0x1c6e41596, 0x154442bd4);
    size_t head = size % BLOCK;
    __m128i begun = _mm_cvtsi32_si128((int)crc);
    __m128i sum = _mm_shuffle_epi8(_mm_xor_si128(block_at(data), begun), block_at(moves + head));
    data += head;
    size -= head;
    /* What of the register's four bytes the head had no room for belongs to the block after it. */
    begun = _mm_shuffle_epi8(begun, block_at(moves + BLOCK + head));
    sum = folded(sum, next, _mm_xor_si128(block_at(data), begun));
    if (size >= 2 * LANES * BLOCK) {
        __m128i lanes[LANES] = {sum, block_at(data + BLOCK), block_at(data + 2 * BLOCK), block_at(data + 3 * BLOCK)};
        for (; size >= 2 * LANES * BLOCK; size -= LANES * BLOCK) {
            data += LANES * BLOCK;
            for (int each = 0; each < LANES; each++)
                lanes[each] = folded(lanes[each], lane, block_at(data + each * BLOCK));
        }
        for (int each = 1; each < LANES; each++)
            lanes[each] = folded(lanes[each - 1], next, lanes[each]);
        sum = lanes[LANES - 1];
        data += (LANES - 1) * BLOCK;
        size -= (LANES - 1) * BLOCK;
    }
    for (data += BLOCK, size -= BLOCK; size; data += BLOCK, size -= BLOCK)
        sum = folded(sum, next, block_at(data));
    return remainder_of(sum);
}
#endif

uint32_t crc_of(const uint8_t *data, size_t size, uint32_t crc)
{
#ifdef HAS_FOLDING
    if (can_fold && size >= BLOCK)
        return ~by_folding(data, size, ~crc);
#endif
    return ~by_tables(data, size, ~crc);
}
