/* What the files of the native core share. README.md beside this file says what the core does, and what it must not. */

#ifndef MPCHECKPOINT_CORE_H
#define MPCHECKPOINT_CORE_H

#define PY_SSIZE_T_CLEAN
#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030B0000 /* Python 3.11: the first whose stable ABI has the buffer protocol */
#endif
#include <Python.h>

#include <stddef.h>
#include <stdint.h>

/* Raised by one whenever what Python and C say to each other changes: a build that is older or newer than the package
   beside it is then not used (mpcheckpoint/_core.py). */
#define CORE_VERSION 1

/* crc.c: the CRC of zlib, with zlib's way of going on: crc is that of all bytes before. */
uint32_t crc_of(const uint8_t *data, size_t size, uint32_t crc);

#endif
