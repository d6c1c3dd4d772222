/* The CRC-32 of zlib, by tables, eight bytes a step.

   Rejected: linking zlib. Its headers are one more thing that a machine may lack, and for lines of a hundred bytes its
   braided loop is no faster than this one (README.md has the figures). */

#include "core.h"

#include <pthread.h>

#define POLYNOMIAL 0xEDB88320u
#define STEP 8

static uint32_t tables[STEP][256];
static pthread_once_t tables_filled = PTHREAD_ONCE_INIT;

static void fill_tables(void)
{
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

/* Four bytes as a little-endian number, wherever they lie and whatever the processor is. */
static inline uint32_t four_bytes(const uint8_t *at)
{
    return at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

uint32_t crc_of(const uint8_t *data, size_t size, uint32_t crc)
{
    pthread_once(&tables_filled, fill_tables);
    crc = ~crc;
    for (; size >= STEP; data += STEP, size -= STEP) {
        uint32_t low = four_bytes(data) ^ crc, high = four_bytes(data + 4);
        crc = tables[7][low & 0xFF] ^ tables[6][low >> 8 & 0xFF] ^ tables[5][low >> 16 & 0xFF] ^ tables[4][low >> 24]
            ^ tables[3][high & 0xFF] ^ tables[2][high >> 8 & 0xFF] ^ tables[1][high >> 16 & 0xFF] ^ tables[0][high >> 24];
    }
    for (; size; data++, size--)
        crc = (crc >> 8) ^ tables[0][(crc ^ *data) & 0xFF];
    return ~crc;
}
