/* The CRC-32 of zlib: by multiplication without carries where the processor has it, else by tables, eight bytes a step.

   Rejected: linking zlib. Its headers are one more thing that a machine may lack, and for lines of a hundred bytes its
   loop takes three times as long as the first way here (README.md has the figures). */

#include "core.h"

#include <pthread.h>

#if defined(__x86_64__) && defined(__GNUC__)
#define HAS_FOLDING 1
#include <immintrin.h>
#endif

#define POLYNOMIAL 0xEDB88320u
#define STEP 8

static uint32_t tables[STEP][256];
static int can_fold;
static pthread_once_t is_prepared = PTHREAD_ONCE_INIT;

static void fill(void)
{
#ifdef HAS_FOLDING
    can_fold = __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("sse2");
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

/* Bytes are coefficients of a polynomial, and a crc is the remainder of a division. So a block may be replaced by what is
   congruent to it 16 bytes further on, and added to the block there: its halves times x^160 and x^96, each modulo the
   polynomial (here bit-reflected, as all of this crc is). The last block is then divided by the tables.
   Requires: size is a multiple of BLOCK, and not 0. */
__attribute__((target("pclmul"))) static uint32_t by_folding(const uint8_t *data, size_t size, uint32_t crc)
{
    const __m128i factors = _mm_set_epi64x(0x0ccaa009e, 0x1751997d0);
    __m128i sum = _mm_xor_si128(_mm_loadu_si128((const __m128i *)data), _mm_cvtsi32_si128((int)crc));
    for (size_t at = BLOCK; at < size; at += BLOCK) {
        __m128i low = _mm_clmulepi64_si128(sum, factors, 0x00), high = _mm_clmulepi64_si128(sum, factors, 0x11);
        sum = _mm_xor_si128(_mm_xor_si128(low, high), _mm_loadu_si128((const __m128i *)(data + at)));
    }
    uint8_t last[BLOCK];
    _mm_storeu_si128((__m128i *)last, sum);
    return by_tables(last, BLOCK, 0);
}
#endif

uint32_t crc_of(const uint8_t *data, size_t size, uint32_t crc)
{
    crc = ~crc;
#ifdef HAS_FOLDING
    size_t blocks = size & ~(size_t)(BLOCK - 1);
    if (can_fold && blocks > BLOCK) {
        crc = by_folding(data, blocks, crc);
        data += blocks;
        size -= blocks;
    }
#endif
    return ~by_tables(data, size, crc);
}
