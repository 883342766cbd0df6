/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* Internet checksum arithmetic (RFC 1071) and its incremental update (RFC 1624). */
#ifndef LOX_CHECKSUM_H
#define LOX_CHECKSUM_H

#include "packet.h"

/* What a rewrite changed, as one's complement sums (new minus old), and where the transport checksum is. */
struct lox_change {
	__u64 addresses;
	__u64 ports;
	__u32 check; /* offset of the checksum field */
	bool v6;
	bool pseudo_header;   /* the checksum covers the addresses */
	bool zero_means_none; /* UDP (RFC 768, RFC 6935) */
	bool pad;
};

LOX_INLINE __u16 lox_csum_fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

/* The same sum in 32 bits. */
LOX_INLINE __u32 lox_csum_wrap(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	return (sum & 0xffffffff) + (sum >> 32);
}

LOX_INLINE __u64 lox_csum_diff32(__u32 from, __u32 to)
{
	return (__u64)(__u32)~from + to;
}

LOX_INLINE __u64 lox_csum_diff16(__u16 from, __u16 to)
{
	return (__u64)(__u16)~from + to;
}

LOX_INLINE __u64 lox_csum_diff128(const union lox_addr *from, const union lox_addr *to)
{
	return lox_csum_diff32(from->word[0], to->word[0]) + lox_csum_diff32(from->word[1], to->word[1]) +
	       lox_csum_diff32(from->word[2], to->word[2]) + lox_csum_diff32(from->word[3], to->word[3]);
}

LOX_INLINE __u64 lox_csum_sum128(const union lox_addr *a)
{
	return (__u64)a->word[0] + a->word[1] + a->word[2] + a->word[3];
}

LOX_INLINE __u16 lox_csum_apply(__u16 check, __u64 diff)
{
	return ~lox_csum_fold((__u64)(__u16)~check + diff);
}

/* The transport checksum after a rewrite. */
LOX_INLINE __u16 lox_csum_changed(__u16 check, const struct lox_change *c)
{
	if (c->zero_means_none && !check)
		return 0;
	check = lox_csum_apply(check, c->addresses + c->ports);
	return c->zero_means_none && !check ? 0xffff : check;
}

#endif
