/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* Sums over the packet itself. Needs a shim's lox_data() and lox_end() before it. */
#ifndef LOX_PAYLOAD_H
#define LOX_PAYLOAD_H

#include "checksum.h"

#define LOX_CHUNK 32
#define LOX_CHUNKS 120 /* 3840 bytes: more than an XDP frame holds */

/* Sum of `length` bytes of the packet from offset `from` on, no further than its end: what follows is Ethernet padding. */
LOX_INLINE __u64 lox_csum_rest(lox_ctx *ctx, __u32 from, __u32 length)
{
	void *end = lox_end(ctx), *at = lox_data(ctx) + (from & 0xff);
	__u64 sum = 0;

	for (int i = 0; i < LOX_CHUNKS && length >= LOX_CHUNK && at + LOX_CHUNK <= end; i++) {
		__u32 *word = at;

		sum += (__u64)word[0] + word[1] + word[2] + word[3] + word[4] + word[5] + word[6] + word[7];
		at += LOX_CHUNK;
		length -= LOX_CHUNK;
		OPAQUE(at); /* clang 14 turns the bound into one the verifier does not follow */
	}
	for (int i = 0; i < LOX_CHUNK / 2 && length >= 2 && at + 2 <= end; i++) {
		sum += *(__u16 *)at;
		at += 2;
		length -= 2;
		OPAQUE(at);
	}
	if (length && at + 1 <= end)
		sum += *(__u8 *)at;
	return sum;
}

#endif
